"""Reads the agent's answers: finds the JSON, repairs what is unambiguous, drops what cannot be used, says why.

Nothing here raises on what a model may write; a reply without anything to run has a `problem` to tell it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.json_text import repaired_json_values
from agentopt.search.agent_prompts import ADVICE_LENGTH, DIRECTIONS, labels
from agentopt.search.base import Proposal, SearchSpace, SubtaskSpace
from agentopt.search.neighbourhood import with_fewer_samples


@dataclass(frozen=True, slots=True)
class Reply:
    """What an answer holds: candidates to run, and how many were unreadable, too costly, or tried before.

    `detail` describes the first thing that was wrong, for the agent's next attempt and the log.
    """

    proposals: tuple[Proposal, ...] = ()
    unreadable: int = 0
    infeasible: int = 0
    repeats: int = 0
    detail: str = ""

    @property
    def problem(self) -> str:
        """Why there is nothing (more) to run, in words; empty when nothing was wrong."""
        if self.infeasible and not self.repeats:
            return f"only infeasible candidates ({self.detail})"
        if self.repeats and not self.infeasible:
            return f"only repeats of what was tried ({self.detail})"
        if self.repeats:
            return f"only repeats and infeasible candidates ({self.detail})"
        return f"unusable JSON ({self.detail})" if self.unreadable else ""


def read_guidelines(text: str, space: SearchSpace) -> str:
    """The guidelines as one line; what is unreadable is left out, so the line is empty where nothing is readable."""
    answer = next((value for value in repaired_json_values(text) if isinstance(value, Mapping)), {})
    given = {str(key).casefold(): value for key, value in answer.items()}
    called = labels(space)
    stages = ((s.name, _preference(given.get(s.name.casefold()), s, called)) for s in space.subtasks)
    lines = [f"{name}: {preference}" for name, preference in stages if preference]
    favoured = str(given.get("spend")).casefold()
    lines += [f"spend more on {s.name}" for s in space.subtasks if s.name.casefold() == favoured]
    advice = given.get("advice")
    if isinstance(advice, str) and advice.strip():
        lines.append(" ".join(advice.split())[:ADVICE_LENGTH])
    return "; ".join(lines)


def _preference(value: Any, subtask: SubtaskSpace, called: Mapping[str, str]) -> str:
    if not isinstance(value, Mapping):
        return ""
    words = []
    with suppress(_UnreadableError):
        words.append(called[_model(value.get("model"), subtask, called)])
    if value.get("samples") in DIRECTIONS:
        words.append(f"{value['samples']} samples")
    return ", ".join(words)


class _UnreadableError(ValueError):
    """A candidate that names no allowed choice."""


def read_reply(
    text: str, space: SearchSpace, tried: Collection[Candidate], count: int, *, proposer: str = "agent"
) -> Reply:
    """At most `count` affordable, distinct candidates that are not in `tried`, and what was wrong with the rest."""
    found = _find_candidates(text, space)
    if not found:
        return Reply(unreadable=1, detail="no JSON object with a list of candidates")
    reply = Reply()
    for entry in found:
        if len(reply.proposals) == count:
            break
        reply = _with_entry(reply, entry, space, tried, proposer)
    return reply


def _with_entry(reply: Reply, entry: Any, space: SearchSpace, tried: Collection[Candidate], proposer: str) -> Reply:
    try:
        asked, notes = _candidate(entry, space)
    except _UnreadableError as error:
        return replace(reply, unreadable=reply.unreadable + 1, detail=reply.detail or str(error))
    candidate = with_fewer_samples(space, asked)
    if candidate is None:
        detail = f"{asked} costs {space.units(asked):.4g} of {space.max_units:.4g} units"
        return replace(reply, infeasible=reply.infeasible + 1, detail=reply.detail or detail)
    if candidate in tried or any(candidate == p.candidate for p in reply.proposals):
        return replace(reply, repeats=reply.repeats + 1, detail=reply.detail or f"{candidate} is not new")
    if candidate != asked:
        notes = [*notes, "samples lowered to fit the cost"]
    return replace(reply, proposals=(*reply.proposals, Proposal(candidate, proposer, "; ".join(notes))))


def _candidate(entry: Any, space: SearchSpace) -> tuple[Candidate, list[str]]:
    if not isinstance(entry, Mapping):
        raise _UnreadableError("a candidate must be an object with one entry per stage")
    by_name = {str(key).casefold(): value for key, value in entry.items()}
    called = labels(space)
    choices, notes = {}, []
    for subtask in space.subtasks:
        if subtask.name.casefold() not in by_name:
            raise _UnreadableError(f"a candidate lacks the stage {subtask.name}")
        choices[subtask.name], repairs = _choice(by_name[subtask.name.casefold()], subtask, called)
        notes += repairs
    return Candidate.of(choices), notes


def _choice(value: Any, subtask: SubtaskSpace, called: Mapping[str, str]) -> tuple[SubtaskChoice, list[str]]:
    asked_model, asked_count = _model_and_count(value, subtask)
    model = _model(asked_model, subtask, called)
    count = _count(asked_count, subtask)
    repairs = [
        f"{subtask.name}: {asked} read as {taken}"
        for asked, taken in ((asked_model, model), (asked_count, count))
        if asked not in (taken, called.get(str(taken)), str(taken))
    ]
    return SubtaskChoice(model, count, subtask.system_prompt), repairs


def _model_and_count(value: Any, subtask: SubtaskSpace) -> tuple[Any, Any]:
    """Both as written: from "model xN", as asked for, or from an object or a pair, as models like to write it."""
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\S.*?)\s+[x*]?\s*(\S+)\s*", value)):
        return found[1], found[2]
    if isinstance(value, Mapping):
        return value.get("model"), value.get("num_samples", value.get("samples"))
    if isinstance(value, list) and len(value) == 2:
        return value[0], value[1]
    raise _UnreadableError(f'{subtask.name} must be written as "model xN", but got {str(value)[:40]!r}')


def _model(value: Any, subtask: SubtaskSpace, called: Mapping[str, str]) -> str:
    """The model meant: its name or label, in any letters' case, else the only name that starts like it."""
    if value in subtask.models:
        return str(value)
    wanted = str(value).strip().casefold()
    exact = [m for m in subtask.models if wanted in (m.casefold(), called[m].casefold())]
    alike = exact or [m for m in subtask.models if wanted and (_starts(m, wanted) or _starts(wanted, m))]
    if len(alike) != 1:
        raise _UnreadableError(f"{subtask.name} has no model {str(value)[:40]!r}, only {', '.join(subtask.models)}")
    return alike[0]


def _starts(text: str, prefix: str) -> bool:
    return text.casefold().startswith(prefix.casefold())


def _count(value: Any, subtask: SubtaskSpace) -> int:
    """The nearest allowed sample count; numbers written as text are read."""
    try:
        wanted = float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError, OverflowError):
        wanted = float("nan")
    if not math.isfinite(wanted):
        raise _UnreadableError(f"num_samples of {subtask.name} must be a number, but got {str(value)[:20]!r}")
    return min(subtask.num_samples, key=lambda count: abs(count - wanted))


def _find_candidates(text: str, space: SearchSpace) -> list[Any]:
    """The candidates, however wrapped: in an object, a bare list, fences or prose, or whole ones of a cut-off list."""
    names = {s.name.casefold() for s in space.subtasks}
    alone: list[Any] = []
    for value in repaired_json_values(text):
        if isinstance(value, Mapping) and isinstance(value.get("candidates"), list):
            return list(value["candidates"])
        if isinstance(value, Mapping) and names <= {str(key).casefold() for key in value}:
            alone += [value] if value not in alone else []
        if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            return value
    return alone
