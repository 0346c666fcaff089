"""Agreement with the official measures: our inputs, the values of the official code, and what we measure."""
