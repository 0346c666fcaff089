"""One module per command: calls `agentopt.api` or a room, and prints the result."""
