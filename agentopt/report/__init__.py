"""Shows runs to people: while they go on, and when they are done."""
