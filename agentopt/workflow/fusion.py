"""Fusion: several parsed values become one. Pure; the call behind `fuse` is made in `scaling`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from agentopt.core.errors import AgentoptError, ScorerError
from agentopt.core.task import Fusion, Value
from agentopt.models.base import Message
from agentopt.workflow.templates import Template, compile_template

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
    """One value out of those that were parsable, in the order they were drawn; None when there are none.

    `fuse` needs a model, so here it counts as `vote`. Raises `ScorerError` when `vote_list` gets what is no list,
    or when the judge of `best_of` fails.
    """
    if not values:
        return None
    if fusion.method == "first":
        return first(values)
    if fusion.method == "vote_list":
        return vote_list(values)
    if fusion.method == "best_of" and fusion.judge:
        return best_of(values, inputs, fusion.judge)
    return vote(values)


def first(values: Sequence[Value]) -> Value:
    """The value that was drawn first."""
    return values[0]


def vote(values: Sequence[Value]) -> Value:
    """The most frequent value, the earliest of equals.

    Texts that differ only in case, white space or punctuation at the ends vote together, for the earliest of them.
    """
    return _most_frequent(values, 1)[0]


def vote_list(values: Sequence[Value]) -> list[Value]:
    """The commonest list length k, then the k most frequent items: how AgentTTS's released code votes on retrieval.

    An item counts once per list. The earliest wins among equals; items come in the order of their votes.
    """
    lists = [_distinct(value) for value in values]
    length = _most_frequent([len(items) for items in lists], 1)[0]
    return _most_frequent([item for items in lists for item in items], length)


def best_of(
    values: Sequence[Value], inputs: Mapping[str, Any], judge: Callable[[Mapping[str, Any], Value], float]
) -> Value:
    """The value that the judge gives most, the earliest of equals. The judge never sees the target."""
    return max(values, key=lambda value: _judged(judge, inputs, value))


def fusion_message(fusion: Fusion, question: str, answers: Sequence[str]) -> Message:
    """The user message of the call behind `fuse`: the question and all answers.

    `question` is the subtask's rendered user message, `answers` the texts of all samples.
    """
    prompt = _fusion_template(fusion.prompt or FUSION_PROMPT)
    return Message("user", prompt.render_names(question=question, answers=[answer.strip() for answer in answers]))


@lru_cache(maxsize=64)
def _fusion_template(text: str) -> Template:
    return compile_template(text)


def _judged(judge: Callable[[Mapping[str, Any], Value], float], inputs: Mapping[str, Any], value: Value) -> float:
    name = getattr(judge, "__name__", repr(judge))
    try:
        merit = float(judge(inputs, value))
    except AgentoptError:
        raise
    except Exception as error:  # a user's function may raise anything; it is told as its failure
        raise ScorerError(f"the judge `{name}` of best_of failed: {type(error).__name__}: {error}") from error
    if math.isnan(merit):
        raise ScorerError(f"the judge `{name}` of best_of must return a number, but got nan")
    return merit


def _distinct(value: Value) -> list[Value]:
    if not isinstance(value, list | tuple):
        raise ScorerError(f"vote_list needs lists to vote on, but got {value!r}; choose a parser that gives lists")
    earliest: dict[str, Value] = {}
    for item in value:
        earliest.setdefault(vote_key(item), item)
    return list(earliest.values())


def _most_frequent(values: Sequence[Value], count: int) -> list[Value]:
    """The `count` values with most votes, each as it was first written; among equals the earliest."""
    votes = Counter(vote_key(value) for value in values)
    earliest = {vote_key(value): value for value in reversed(values)}
    return [earliest[key] for key, _ in votes.most_common(count)]


def vote_key(value: Value) -> str:
    """What two values must share to vote together. Numbers by size, so 3 and 3.0 agree; truth values are none."""
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
