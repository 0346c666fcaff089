"""What a run leaves for its report beside its trials, as data: one JSON line for each entry of `record.jsonl`.

Entries are appended when they happen, so that a run that was killed has them too. A resumed run may append an entry
again; `read_record` returns the last one.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from agentopt.core.budget import Caps
from agentopt.core.files import private_opener
from agentopt.core.message_text import counted
from agentopt.core.plain_text import one_line
from agentopt.core.records import Evaluation
from agentopt.core.stop_reason import StopReason
from agentopt.prompts.outcome import RaceRewards
from agentopt.runs.prompt_report import PromptReport

_log = logging.getLogger(__name__)

# An interval that the data does not bound has infinite ends, which JSON has no numbers for.
_IN_JSON = ConfigDict(ser_json_inf_nan="strings")


@dataclass(frozen=True, slots=True)
class GuidelinesEntry:
    """Guidelines that the search agent wrote after `trials` trials; the text is empty if its reply was unreadable."""

    text: str
    trials: int
    kind: Literal["guidelines"] = "guidelines"


@dataclass(frozen=True, slots=True)
class PromptsEntry:
    """The optimisation of one subtask's system prompt; `rewards` is None if nothing was drawn."""

    __pydantic_config__: ClassVar[ConfigDict] = _IN_JSON

    report: PromptReport
    rewards: RaceRewards | None = None
    kind: Literal["prompts"] = "prompts"


@dataclass(frozen=True, slots=True)
class TestEntry:
    """The evaluation of a finalist on the test split."""

    __test__: ClassVar[bool] = False  # not a class of tests, whatever pytest takes its name for

    trial: int
    roles: tuple[str, ...]
    evaluation: Evaluation
    kind: Literal["test"] = "test"


@dataclass(frozen=True, slots=True)
class CapEntry:
    """A part of the run that met one of the run's caps, which was `cap` then."""

    part: Literal["search", "test"]
    cap: float
    stopped: StopReason
    kind: Literal["cap"] = "cap"


Entry = GuidelinesEntry | PromptsEntry | TestEntry | CapEntry
_entries: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The entries of a run.

    Attributes:
        guidelines: In the order in which the agent wrote them.
        prompts: The optimisations of system prompts, in order.
        tests: Trial number -> its evaluation on the test split.
        caps: The caps that ended the search or the test, in order.
    """

    guidelines: tuple[GuidelinesEntry, ...] = ()
    prompts: tuple[PromptsEntry, ...] = ()
    tests: dict[int, Evaluation] = field(default_factory=dict)
    caps: tuple[CapEntry, ...] = ()


def append_entry(path: Path, entry: Entry) -> None:
    """Append an entry; a text that is no valid Unicode is written with replacements.

    Args:
        path: The file, which is created if it does not exist.
        entry: The entry.
    """
    line = json.dumps(_entries.dump_python(entry, mode="json"), ensure_ascii=False)
    with open(path, "ab+", opener=private_opener) as file:
        if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n":
            file.write(b"\n")  # after a line that was cut by a kill
        file.write(line.encode(errors="replace") + b"\n")  # a cut response may end with half a surrogate pair


def read_record(path: Path) -> RunRecord:
    """Read the entries of a run. Lines that cannot be read are left out, and so is a missing file.

    A warning is logged unless only the last line was cut by a kill.

    Args:
        path: The file.
    """
    guidelines: dict[tuple[int, str], GuidelinesEntry] = {}
    prompts: dict[tuple[str, str], PromptsEntry] = {}
    tests: dict[int, Evaluation] = {}
    caps: list[CapEntry] = []
    for entry in _read(path):
        match entry:
            case GuidelinesEntry():
                guidelines[entry.trials, entry.text] = entry
            case PromptsEntry():
                prompts[entry.report.subtask, entry.report.phase] = entry
            case TestEntry():
                tests[entry.trial] = entry.evaluation
            case CapEntry():
                caps.append(entry)
    return RunRecord(tuple(guidelines.values()), tuple(prompts.values()), tests, tuple(caps))


def as_first_met(path: Path, part: Literal["search", "test"], stopped: StopReason, caps: Caps) -> StopReason:
    """How a part of the run met a cap at first; recorded, because the resumed part meets it after other calls.

    Args:
        path: The file.
        part: The part.
        stopped: Why it ended now. Returned unless the record has the same cap with the same value.
        caps: The caps of the run.
    """
    if stopped.run_cap is None:
        return stopped
    cap = getattr(caps, stopped.run_cap)
    for entry in read_record(path).caps:
        if (entry.part, entry.cap, entry.stopped.cap) == (part, cap, stopped.cap):
            return entry.stopped
    append_entry(path, CapEntry(part, cap, stopped))
    return stopped


def _read(path: Path) -> list[Entry]:
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    found, unreadable = [], 0
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            found.append(_entries.validate_json(line))
        except ValidationError:
            unreadable += number < len(lines)  # the last one was cut by a kill
    if unreadable:
        _remark(path, unreadable)
    return found


@cache
def _remark(path: Path, unreadable: int) -> None:
    """Log how many lines are left out, once for each file and number."""
    _log.warning("%s: left out %s, which cannot be read", one_line(str(path)), counted(unreadable, "line"))
