"""The records and rules that every other room uses: task, candidate, trial, cost, budget, statistics, errors."""
