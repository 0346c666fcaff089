"""Worst-case usage of the model that proposes candidates and of the one that writes system prompts."""

from __future__ import annotations

from collections.abc import Mapping

from agentopt.core.budget import Usage
from agentopt.models.catalog import ModelSpec
from agentopt.models.room_to_think import THOUGHT_TOKENS
from agentopt.prompts.reflective import SHOWN_ATTEMPTS, first_tokens
from agentopt.runs.config import Config

WRITER_PROMPT_TOKENS = 4000
"""Longest prompt of the model that writes system prompts, without the attempts: failures are cut to length."""
FULL_PROMPT_TOKENS = 4000
"""Assumed length of the agent's prompts of style `full`."""


def agent_usage(specs: Mapping[str, ModelSpec], config: Config, trials: int) -> Usage:
    """Guidelines and every attempt at a proposal, for as many rounds as the trials allow.

    If the trials are shared, a turn may be one candidate, and the agent is called once before them; prompts of style
    `full` need no guidelines.

    Args:
        specs: The catalogue entry of every model that may be called.
        config: The settings of the run.
        trials: Number of trials.
    """
    settings = config.agent
    if not config.calls_model or not settings.model:
        return Usage()
    shared = config.strategy == "agent" and settings.style == "shared"
    full, prior = shared and settings.prompt == "full", int(shared and settings.prior)
    rounds = trials if shared else -(-trials // config.search.batch_size)
    calls = prior + rounds * (settings.attempts + (not full))
    tokens = prior * settings.max_tokens + rounds * settings.attempts * settings.max_tokens
    tokens += 0 if full else rounds * settings.guideline_tokens
    tokens += _tokens_of_thoughts(specs[settings.model], calls)
    prompt = calls * max(settings.prompt_tokens, FULL_PROMPT_TOKENS if full else 0)
    return Usage(calls, prompt, tokens, specs[settings.model].prices.worst_usd(prompt, tokens, requests=calls))


def writer_usage(specs: Mapping[str, ModelSpec], config: Config, seed_prompt: str, written: int) -> Usage:
    """A call for each proposal; a reply as long as the first request allows.

    Args:
        specs: The catalogue entry of every model that may be called.
        config: The settings of the run.
        seed_prompt: The system prompt to improve.
        written: Number of proposals.
    """
    if config.writer is None:
        return Usage()
    reply = first_tokens(seed_prompt, config.prompts.max_length)
    prompt = written * (WRITER_PROMPT_TOKENS + SHOWN_ATTEMPTS * reply)
    completion = written * reply + _tokens_of_thoughts(specs[config.writer], written)
    return Usage(
        written, prompt, completion, specs[config.writer].prices.worst_usd(prompt, completion, requests=written)
    )


def _tokens_of_thoughts(spec: ModelSpec, calls: int) -> int:
    """What a hosted model may use to think in `calls` calls of the agent or the writer; see `RoomToThink`."""
    return 0 if spec.weights else calls * THOUGHT_TOKENS
