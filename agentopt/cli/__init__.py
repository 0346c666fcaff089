"""The command line: `main` and `jobs` parse, `commands` run."""
