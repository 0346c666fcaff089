"""`python -m agentopt` is the `agentopt` command."""

from agentopt.cli import main

main()
