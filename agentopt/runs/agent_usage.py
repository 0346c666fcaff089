"""Worst-case and expected usage of the models that propose candidates, write system prompts or judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentopt.core.budget import Usage
from agentopt.core.task import Subtask, Task
from agentopt.evaluation.judge import JUDGE_TRIES
from agentopt.models.base import Purpose
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal import Journal
from agentopt.models.thinking_tokens import THOUGHT_TOKENS
from agentopt.prompts.reflective import SHOWN_ATTEMPTS, first_tokens
from agentopt.runs.config import Config

WRITER_PROMPT_TOKENS = 4000
"""Longest prompt of the model that writes system prompts, without the attempts: failures are cut to length."""
REPLY = 0.5
"""Share of its most tokens that a reply is expected to take, and that thoughts are."""
FULL_PROMPT_TOKENS = 4000
"""Assumed length of the agent's prompts of `full`, with either style."""


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
    long = full or (settings.style == "paper" and settings.prompt == "full")
    prompt = calls * max(settings.prompt_tokens, FULL_PROMPT_TOKENS if long else 0)
    return Usage(calls, prompt, tokens, specs[settings.model].prices.worst_usd(prompt, tokens, requests=calls))


def expected_agent_usage(
    specs: Mapping[str, ModelSpec], config: Config, worst: Usage, journal: Journal | None
) -> Usage:
    """One attempt for each proposal, with the mean lengths of the model's calls as an agent in the journal.

    Without any, prompts are those of the worst case, replies have half of their most tokens, and only a model that is
    known to think has thoughts, of half of their most tokens.

    Args:
        specs: The catalogue entry of every model that may be called.
        config: The settings of the run.
        worst: `agent_usage`.
        journal: The calls so far. None: there are none.
    """
    if config.agent.model is None or not worst.calls:
        return Usage()
    spec, calls = specs[config.agent.model], round(worst.calls * 2 / (1 + config.agent.attempts))
    return _recorded(spec, "agent", calls, journal) or _half_as_long(worst, spec, calls)


def expected_writer_usage(
    specs: Mapping[str, ModelSpec], config: Config, worst: Usage, journal: Journal | None = None
) -> Usage:
    """As many calls as in the worst case, of lengths as in `expected_agent_usage`.

    Args:
        specs: The catalogue entry of every model that may be called.
        config: The settings of the run.
        worst: The sum of `writer_usage`.
        journal: The calls so far. None: there are none.
    """
    if config.writer is None or not worst.calls:
        return Usage()
    spec = specs[config.writer]
    return _recorded(spec, "prompts", worst.calls, journal) or _half_as_long(worst, spec, worst.calls)


def expected_judge_usage(spec: ModelSpec, worst: Usage, verdicts: int, journal: Journal | None = None) -> Usage:
    """The calls of verdicts that are readable at once, of lengths as in `expected_agent_usage`.

    Args:
        spec: The judge's entry.
        worst: The worst case of one verdict: `JUDGE_TRIES` times that of its calls.
        verdicts: Number of verdicts.
        journal: The calls so far. None: there are none.
    """
    once = (worst.calls, worst.prompt_tokens, REPLY * worst.completion_tokens)
    calls, prompt, reply = (round(amount * verdicts / JUDGE_TRIES) for amount in once)
    assumed = Usage(calls, prompt, reply, spec.prices.usd(prompt, reply, requests=calls))
    return _recorded(spec, "judge", calls, journal) or assumed


def _recorded(spec: ModelSpec, purpose: Purpose, calls: int, journal: Journal | None) -> Usage | None:
    """The usage of calls with the mean lengths of those in the journal; None if there are none."""
    if journal is None or not (found := journal.mean_call(spec.name, purpose)):
        return None
    prompt, completion = (round(calls * mean) for mean in found)
    return Usage(calls, prompt, completion, spec.prices.usd(prompt, completion, requests=calls))


def _half_as_long(worst: Usage, spec: ModelSpec, calls: int) -> Usage:
    share, room = calls / worst.calls, _tokens_of_thoughts(spec, worst.calls)
    thoughts = round(REPLY * share * room) if spec.has_effort else 0
    prompt, completion = round(share * worst.prompt_tokens), round(REPLY * share * (worst.completion_tokens - room))
    usd = spec.prices.usd(prompt, completion + thoughts, requests=calls, reasoning_tokens=thoughts)
    return Usage(calls, prompt, completion + thoughts, usd)


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


def prompted_subtasks(task: Task, config: Config) -> Sequence[Subtask]:
    """The subtasks whose system prompts are optimised."""
    names = config.prompts.subtasks
    return task.subtasks if names is None else [task[name] for name in names]


def phases_of(config: Config) -> int:
    """Number of phases of prompt optimisation."""
    return {"never": 0, "both": 2}.get(config.prompts.when, 1)


def prompt_writing(task: Task, specs: Mapping[str, ModelSpec], config: Config) -> Usage:
    """Worst-case usage of the model that writes system prompts, in all phases of the run.

    Args:
        task: The task.
        specs: The catalogue entry of every model that may be called.
        config: The settings of the run.
    """
    written = config.prompts.rounds * config.prompts.batch_size
    each = (writer_usage(specs, config, s.system_prompt, written) for s in prompted_subtasks(task, config))
    return sum(each, Usage()) * phases_of(config)


def _tokens_of_thoughts(spec: ModelSpec, calls: int) -> int:
    """What a hosted model may use to think in `calls` calls of the agent or the writer; see `ThinkingTokens`."""
    return 0 if spec.weights else calls * THOUGHT_TOKENS
