"""Every claim of the package that rests on statistics, simulated with known truth."""
