"""Fusion: several parsed values become one. Pure; the call behind `fuse` is made in `sampling`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from agentopt.core.errors import ScorerError, TaskError
from agentopt.core.registry import FUSIONS, ModelName
from agentopt.core.registry import fusion as register_fusion
from agentopt.core.task import Fusion, Value
from agentopt.core.user_functions import name_of, reporting
from agentopt.core.yaml_models import Form, broken_rule, did_you_mean
from agentopt.models.base import Message
from agentopt.workflow.templates import Template, compile_template
from agentopt.workflow.vote_stopping import StopOption

FUSION_PROMPT = """\
{{ question }}

Here are {{ answers | length }} proposed answers to the request above. Some of them may be wrong.
{% for answer in answers %}
Answer {{ loop.index }}: {{ answer }}
{%- endfor %}

Compare them and give the single best answer, in the form that the request asks for, and nothing else."""
"""The default prompt of `fuse`. A fusion prompt may read `question` and `answers`, a list of texts."""

FUSION_NAMES = frozenset({"question", "answers"})


def fuse_values(fusion: Fusion, values: Sequence[Value], inputs: Mapping[str, Any]) -> Value | None:
    """Fuse the values of one subtask's samples.

    Args:
        fusion: The method and its options.
        values: The values that were parsable, in the order they were drawn.
        inputs: The example's inputs.

    Returns:
        One value; None if there are no values. The method `fuse` needs a model call, so here it counts as `vote`.

    Raises:
        ScorerError: The method failed, such as `vote_list` on values that are not lists.
    """
    if not values:
        return None
    with reporting(f"the fusion {fusion.method} failed"):
        return FUSIONS.find(fusion.method).make(values, inputs, **fusion.given)


@register_fusion("first")
def first(values: Sequence[Value], _: Mapping[str, Any] | None = None) -> Value:
    """The value that was drawn first."""
    return values[0]


@register_fusion("vote")
def vote_of_samples(
    values: Sequence[Value],
    inputs: Mapping[str, Any],
    stop: Annotated[
        StopOption | Annotated[tuple[StopOption, ...], Field(min_length=1)] | None,
        Form("decided, a number such as 0.95, or several, such as [decided, 0.95]"),
    ] = None,
) -> Value:
    """`vote`, on samples that `sampling` stops drawing once the rule `stop` is met.

    Args:
        values: The values to vote on.
        inputs: The example's inputs.
        stop: `decided`: once the samples left cannot change the winner. A level such as 0.95: once the posterior
            probability that the leader is the likeliest value has reached it, too. Several are searched.
    """
    return vote(values)


def vote(values: Sequence[Value], _: Mapping[str, Any] | None = None) -> Value:
    """The most frequent value, the earliest of equals.

    Texts that differ only in case, white space or punctuation at the ends vote together, for the earliest of them.
    """
    return _most_frequent(values, 1)[0]


@register_fusion("vote_list", lists=True)
def vote_list(values: Sequence[Value], _: Mapping[str, Any] | None = None) -> list[Value]:
    """The commonest list length k, then the k most frequent items: how AgentTTS's released code votes on retrieval.

    An item counts once per list. The earliest wins among equals; items come in the order of their votes.
    """
    lists = [_distinct(value) for value in values]
    length = _most_frequent([len(items) for items in lists], 1)[0]
    return _most_frequent([item for items in lists for item in items], length)


@register_fusion("best_of")
def best_of(
    values: Sequence[Value], inputs: Mapping[str, Any], judge: Callable[[Mapping[str, Any], Value], float]
) -> Value:
    """The value with the highest `judge(inputs, value)`, the earliest of equals. The judge never sees the target.

    Args:
        values: The values, in the order they were drawn.
        inputs: The example's inputs.
        judge: Function of the inputs and a value; the highest result wins.
    """
    return max(values, key=lambda value: _judged(judge, inputs, value))


def _fusion_prompt(text: str) -> str:
    try:
        template = compile_template(text)
    except TaskError as error:
        raise broken_rule(error.message, error.remedy or "") from error
    for name in sorted(template.references - FUSION_NAMES):
        rule = f"a fusion prompt reads `question` and `answers`, but got `{name}`"
        raise broken_rule(rule, did_you_mean(name, FUSION_NAMES))
    return text


@register_fusion("fuse")
def fuse(
    values: Sequence[Value],
    inputs: Mapping[str, Any],
    model: ModelName | None = None,
    prompt: Annotated[str, AfterValidator(_fusion_prompt)] | None = None,
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0,
) -> Value:
    """A vote, for use without a model; with one, `sampling` makes one more call that reads all samples.

    Args:
        values: The values to vote on.
        inputs: The example's inputs.
        model: The model to call; the subtask's own by default.
        prompt: A template over `question` and `answers`.
        temperature: The sampling temperature of that call.
    """
    return vote(values, inputs)


def fusion_temperature(fusion: Fusion) -> float:
    """The sampling temperature of the call that `fuse` makes."""
    return float(fusion.options.get("temperature", 0.0))


def fusion_message(fusion: Fusion, question: str, answers: Sequence[str]) -> Message:
    """Return the user message of the `fuse` call.

    Args:
        fusion: Its prompt template, or `FUSION_PROMPT` by default.
        question: The subtask's rendered user message.
        answers: The texts of all samples.
    """
    prompt = _fusion_template(fusion.prompt or FUSION_PROMPT)
    return Message("user", prompt.render_names(question=question, answers=[answer.strip() for answer in answers]))


@lru_cache(maxsize=64)
def _fusion_template(text: str) -> Template:
    return compile_template(text)


def _judged(judge: Callable[[Mapping[str, Any], Value], float], inputs: Mapping[str, Any], value: Value) -> float:
    who = f"the judge `{name_of(judge)}` of best_of"
    with reporting(f"{who} failed"):
        merit = float(judge(inputs, value))
    if math.isnan(merit):
        raise ScorerError(f"{who} must return a number, but got nan")
    return merit


def _distinct(value: Value) -> list[Value]:
    if not isinstance(value, list | tuple):
        raise ScorerError(f"vote_list needs lists to vote on, but got {value!r}; choose a parser that gives lists")
    earliest: dict[str, Value] = {}
    for item in value:
        earliest.setdefault(vote_key(item), item)
    return list(earliest.values())


def _most_frequent(values: Sequence[Value], count: int) -> list[Value]:
    """The `count` values with the most votes, each as first written; ties go to the earliest."""
    votes = Counter(vote_key(value) for value in values)
    earliest = {vote_key(value): value for value in reversed(values)}
    return [earliest[key] for key, _ in votes.most_common(count)]


def vote_key(value: Value) -> str:
    """Return the key that values share if they vote together. 3 and 3.0 share one; booleans are not numbers."""
    if isinstance(value, str):
        folded = " ".join(value.casefold().split()).strip(" .,;:!?\"'`*")
        return f"text {folded or value.strip()}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list | tuple):
        return f"list {[vote_key(item) for item in value]}"
    try:
        return f"json {json.dumps(value, sort_keys=True)}"
    except (TypeError, ValueError):
        return f"{type(value).__name__} {value!r}"
