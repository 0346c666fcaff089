"""Names of the proposers of trials that are not the agent."""

BASELINE, ARCHIVE, PROMPTS = "baseline", "archive", "prompts before"
"""Proposers of the trials before the search: trial 0, the warm start from earlier runs, and optimised prompts."""

INITIAL = "initial"
"""Proposer of the agent's first trials."""

SURROGATE, FALLBACK = "surrogate", "fallback"
"""Proposers of the trials without the agent: of the surrogate's own turns, and those in place of the agent."""

PROMPTS_AFTER = "prompts after"
"""Proposer of the trial with prompts that were optimised after the search."""

WITHOUT_AGENT = (BASELINE, ARCHIVE, PROMPTS, INITIAL, SURROGATE, FALLBACK, PROMPTS_AFTER)
"""All of them."""
