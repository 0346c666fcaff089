"""`python -m agentopt` is the `agentopt` command."""

from agentopt.cli.main import main

main()
