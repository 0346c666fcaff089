"""Reads the agent's replies: finds the JSON, repairs unambiguous mistakes, and drops the rest with a reason.

No reply raises an exception; one without a usable candidate has a `problem` for the next prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from agentopt.core.axes import Axis, SettingValue, canonical
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import SHOWN
from agentopt.core.errors import AgentoptError
from agentopt.core.json_text import repaired_json_values
from agentopt.search.agent_prompts import ADVICE_LENGTH, DIRECTIONS, ROLES, labels
from agentopt.search.base import Proposal, SearchSpace, SubtaskSpace
from agentopt.search.neighbourhood import with_fewer_samples


@dataclass(frozen=True, slots=True)
class Reply:
    """The usable candidates of one reply, and the reasons why others were dropped."""

    proposals: tuple[Proposal, ...] = ()
    """Affordable, distinct, untried candidates."""
    unreadable: int = 0
    """Number of candidates that name no allowed choice."""
    infeasible: int = 0
    """Number of candidates above the cost limit, also with the smallest sample counts."""
    repeats: int = 0
    """Number of candidates that were tried before, or occur twice."""
    detail: str = ""
    """The first problem, for the agent's next attempt and the log."""

    cut_off: str = ""
    """What cut the reply off, such as `at agent.max_tokens (512)`; empty if it is whole."""

    @property
    def problem(self) -> str:
        """Why there are no (more) usable candidates, in words; empty if nothing was wrong."""
        if self.cut_off:
            return f"the reply was cut off {self.cut_off}"
        if self.infeasible and not self.repeats:
            return f"only infeasible candidates ({self.detail})"
        if self.repeats and not self.infeasible:
            return f"only candidates that were tried before ({self.detail})"
        if self.repeats:
            return f"only infeasible candidates and ones that were tried before ({self.detail})"
        return f"the reply could not be read ({self.detail})" if self.unreadable else ""


def read_guidelines(text: str, space: SearchSpace) -> str:
    """The guidelines in a reply as one line, without unreadable parts; empty if nothing is readable."""
    answer = next((value for value in repaired_json_values(text) if isinstance(value, Mapping)), {})
    given = {str(key).casefold(): value for key, value in answer.items()}
    label_of = labels(space)
    preferences = ((s.name, _preference(given.get(s.name.casefold()), s, label_of)) for s in space.subtasks)
    lines = [f"{name}: {preference}" for name, preference in preferences if preference]
    favoured = str(given.get("spend")).casefold()
    lines += [f"spend more on {s.name}" for s in space.subtasks if s.name.casefold() == favoured]
    advice = given.get("advice")
    if isinstance(advice, str) and advice.strip():
        lines.append(" ".join(advice.split())[:ADVICE_LENGTH])
    return "; ".join(lines)


def _preference(value: Any, subtask: SubtaskSpace, label_of: Mapping[str, str]) -> str:
    if not isinstance(value, Mapping):
        return ""
    words = []
    with suppress(UnreadableError):
        words.append(label_of[read_model(value.get("model"), subtask, label_of)])
    if value.get("samples") in DIRECTIONS:
        words.append(f"{value['samples']} samples")
    return ", ".join(words)


class UnreadableError(AgentoptError):
    """A candidate that names no allowed choice."""


def read_reply(
    text: str, space: SearchSpace, tried: Collection[Candidate], count: int, *, proposer: str = "agent"
) -> Reply:
    """Read the candidates in a reply.

    Args:
        text: The model's reply.
        space: The search space.
        tried: Candidates that have a trial.
        count: Most candidates to read.
        proposer: The `Proposal.proposer` of the candidates.
    """
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
        written, notes = _candidate(entry, space)
    except UnreadableError as error:
        return replace(reply, unreadable=reply.unreadable + 1, detail=reply.detail or str(error))
    candidate = with_fewer_samples(space, written)
    if candidate is None:
        measure, most = next(limit for limit in space.limits if space.cost(written, limit[0]) > limit[1])
        shown, name = SHOWN[measure]
        detail = f"{written} costs {shown * space.cost(written, measure):.4g} of {shown * most:.4g} {name}"
        return replace(reply, infeasible=reply.infeasible + 1, detail=reply.detail or detail)
    if candidate in tried or any(candidate == p.candidate for p in reply.proposals):
        return replace(reply, repeats=reply.repeats + 1, detail=reply.detail or f"{candidate} is not new")
    if candidate != written:
        notes = [*notes, "samples lowered to fit the cost"]
    return replace(reply, proposals=(*reply.proposals, Proposal(candidate, proposer, "; ".join(notes))))


def _candidate(entry: Any, space: SearchSpace) -> tuple[Candidate, list[str]]:
    if not isinstance(entry, Mapping):
        raise UnreadableError("a candidate must be an object with one entry per subtask")
    role, nested = entry.get("role"), entry.get("choices")
    if isinstance(nested, Mapping) and "choices" not in {s.name.casefold() for s in space.subtasks}:
        entry = nested
    by_name = {str(key).casefold(): value for key, value in entry.items()}
    label_of = labels(space)
    choices, notes = {}, [role] if role in ROLES else []
    for subtask in space.subtasks:
        if subtask.name.casefold() not in by_name:
            raise UnreadableError(f"a candidate lacks the subtask {subtask.name}")
        choices[subtask.name], repairs = _choice(by_name[subtask.name.casefold()], subtask, label_of)
        notes += repairs
    return Candidate.of(choices), notes


def _choice(value: Any, subtask: SubtaskSpace, label_of: Mapping[str, str]) -> tuple[SubtaskChoice, list[str]]:
    value, written_settings = _without_settings(value, subtask)
    written_model, written_count = _model_and_count(value, subtask)
    model = read_model(written_model, subtask, label_of)
    count = read_count(written_count, subtask)
    settings = {axis.name: _setting(written_settings, axis, subtask) for axis in subtask.settings}
    repairs = [
        f"{subtask.name}: {written} read as {taken}"
        for written, taken in ((written_model, model), (written_count, count))
        if written not in (taken, label_of.get(str(taken)), str(taken))
    ]
    return subtask.choice(model, count, settings), repairs


def _without_settings(value: Any, subtask: SubtaskSpace) -> tuple[Any, dict[str, Any]]:
    """The value without the settings in it, and these: `name=value` after the count, or further keys of an object."""
    if isinstance(value, Mapping):
        inside = value.get("settings")
        return value, {**value, **(inside if isinstance(inside, Mapping) else {})}
    if not isinstance(value, str) or not subtask.settings:
        return value, {}
    found = re.findall(r"[\s,;]+([A-Za-z_.]\w*(?:\.\w+)*)\s*=\s*([^\s,;]+)", value)
    return re.split(r"[\s,;]+[A-Za-z_.][\w.]*\s*=", value)[0], dict(found)


def _setting(written: Mapping[str, Any], axis: Axis, subtask: SubtaskSpace) -> SettingValue:
    """The value of an axis; the first if none is written, and the nearest of a numeric one."""
    if axis.name not in written:
        return axis.values[0]
    value = canonical(written[axis.name])
    for known in axis.values:
        if value == known or str(value).casefold() == str(known).casefold():
            return known
    if axis.kind == "numeric":
        with suppress(TypeError, ValueError, OverflowError):
            return min(axis.values, key=lambda known: abs(float(known) - float(value)))
    allowed = ", ".join(map(str, axis.values))
    raise UnreadableError(f"{axis.name} of {subtask.name} must be one of {allowed}, but got {str(value)[:20]!r}")


def _model_and_count(value: Any, subtask: SubtaskSpace) -> tuple[Any, Any]:
    """Both as written: from "model xN" as requested, or from an object or a pair, which models also write."""
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\S.*?)\s+[x*]?\s*(\S+)\s*", value)):
        return found[1], found[2]
    if isinstance(value, Mapping):
        return value.get("model"), value.get("num_samples", value.get("samples", value.get("n")))
    if isinstance(value, list) and len(value) == 2:
        return value[0], value[1]
    raise UnreadableError(f'{subtask.name} must be written as "model xN", but got {str(value)[:40]!r}')


def read_model(value: Any, subtask: SubtaskSpace, label_of: Mapping[str, str]) -> str:
    """The model with this name or label, ignoring case, or else the only one that shares a prefix with it.

    Args:
        value: As written in a reply.
        subtask: The subtask, whose models are allowed.
        label_of: Model -> its label.

    Raises:
        UnreadableError: There is none, or several are alike.
    """
    if value in subtask.models:
        return str(value)
    wanted = str(value).strip().casefold()
    exact = [m for m in subtask.models if wanted in (m.casefold(), label_of[m].casefold())]
    alike = exact or [m for m in subtask.models if wanted and (_starts(m, wanted) or _starts(wanted, m))]
    if len(alike) != 1:
        raise UnreadableError(f"{subtask.name} has no model {str(value)[:40]!r}, only {', '.join(subtask.models)}")
    return alike[0]


def _starts(text: str, prefix: str) -> bool:
    return text.casefold().startswith(prefix.casefold())


def read_count(value: Any, subtask: SubtaskSpace) -> int:
    """The nearest allowed sample count; the number may be written as a string.

    Args:
        value: As written in a reply.
        subtask: The subtask, whose sample counts are allowed.

    Raises:
        UnreadableError: It is no number.
    """
    try:
        wanted = float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError, OverflowError):
        wanted = float("nan")
    if not math.isfinite(wanted):
        raise UnreadableError(f"num_samples of {subtask.name} must be a number, but got {str(value)[:20]!r}")
    return min(subtask.num_samples, key=lambda count: abs(count - wanted))


def _find_candidates(text: str, space: SearchSpace) -> list[Any]:
    """The candidates in an object, a bare list, fences or prose; of a reply that was cut off, the complete ones."""
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
