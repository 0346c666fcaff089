"""What each command of the command line does: call `api`, show what came of it. One module a command."""
