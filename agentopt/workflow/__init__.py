"""One example through a task: templates, sampling, parsers, fusion, the graph of subtasks, user programs."""
