"""Reads the agent's answer: finds the JSON, repairs what is unambiguous, drops what cannot be run, says why.

Nothing here raises on what a model may write; a reply without anything to run has a `problem` to tell it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentopt.candidate import Candidate, SubtaskChoice
from agentopt.search.base import Proposal, SearchSpace, SubtaskSpace
from agentopt.search.moves import with_fewer_samples


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


class _UnreadableError(ValueError):
    """A candidate that names no allowed choice."""


def read_reply(text: str, space: SearchSpace, tried: Collection[Candidate], count: int) -> Reply:
    """At most `count` affordable, distinct candidates that are not in `tried`, and what was wrong with the rest."""
    found = _find_candidates(text, space)
    if not found:
        return Reply(unreadable=1, detail="no JSON object with a list of candidates")
    reason = _find_reason(text)
    reply = Reply()
    for entry in found:
        if len(reply.proposals) == count:
            break
        reply = _with_entry(reply, entry, space, tried, reason)
    return reply


def _with_entry(reply: Reply, entry: Any, space: SearchSpace, tried: Collection[Candidate], reason: str) -> Reply:
    try:
        asked, notes = _candidate(entry, space)
    except _UnreadableError as error:
        return replace(reply, unreadable=reply.unreadable + 1, detail=reply.detail or str(error))
    candidate = with_fewer_samples(space, asked)
    if candidate is None:
        detail = f"{_short(asked)} costs {space.units(asked):.4g} of {space.max_units:.4g} units"
        return replace(reply, infeasible=reply.infeasible + 1, detail=reply.detail or detail)
    if candidate in tried or any(candidate == p.candidate for p in reply.proposals):
        return replace(reply, repeats=reply.repeats + 1, detail=reply.detail or f"{_short(candidate)} is not new")
    if candidate != asked:
        notes = [*notes, "samples lowered to fit the cost"]
    note = "; ".join([reason, *notes]) if reason else "; ".join(notes)
    return replace(reply, proposals=(*reply.proposals, Proposal(candidate, "agent", note)))


def _short(candidate: Candidate) -> str:
    return ", ".join(f"{name} {choice.model} x{choice.num_samples}" for name, choice in candidate.items())


def _candidate(entry: Any, space: SearchSpace) -> tuple[Candidate, list[str]]:
    if not isinstance(entry, Mapping):
        raise _UnreadableError("a candidate must be an object with one entry per stage")
    by_name = {str(key).casefold(): value for key, value in entry.items()}
    choices, notes = {}, []
    for subtask in space.subtasks:
        if subtask.name.casefold() not in by_name:
            raise _UnreadableError(f"a candidate lacks the stage {subtask.name}")
        choices[subtask.name], repairs = _choice(by_name[subtask.name.casefold()], subtask)
        notes += repairs
    return Candidate.of(choices), notes


def _choice(value: Any, subtask: SubtaskSpace) -> tuple[SubtaskChoice, list[str]]:
    if not isinstance(value, Mapping):
        raise _UnreadableError(f"{subtask.name} must be an object with model and num_samples")
    model = _model(value.get("model"), subtask)
    count = _count(value.get("num_samples"), subtask)
    repairs = [
        f"{subtask.name}: {asked} read as {taken}"
        for asked, taken in ((value["model"], model), (value["num_samples"], count))
        if asked != taken
    ]
    return SubtaskChoice(model, count, subtask.system_prompt), repairs


def _model(value: Any, subtask: SubtaskSpace) -> str:
    """The model meant: its name, else its name in other letters' case, else the only name that starts like it."""
    wanted = str(value).strip().casefold()
    exact = [m for m in subtask.models if m.casefold() == wanted]
    alike = exact or [m for m in subtask.models if wanted and (_starts(m, wanted) or _starts(wanted, m))]
    if value in subtask.models:
        return str(value)
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
    for value in _json_values(text):
        if isinstance(value, Mapping) and isinstance(value.get("candidates"), list):
            return list(value["candidates"])
        if isinstance(value, Mapping) and names <= {str(key).casefold() for key in value}:
            alone.append(value)
        if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            return value
    return alone


def _find_reason(text: str) -> str:
    reasons = (v.get("reason") for v in _json_values(text) if isinstance(v, Mapping))
    return next((r.strip() for r in reasons if isinstance(r, str)), "")[:120]


def _json_values(text: str) -> Iterator[Any]:
    """Every outermost JSON object or array in the text; where one is broken, those inside it."""
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        if text[place] not in "{[":
            place += 1
            continue
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        yield value
