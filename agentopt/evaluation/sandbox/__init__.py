"""Running a program that a model wrote, where it can harm nobody: `runner.Sandbox`."""
