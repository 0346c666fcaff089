"""What a run tells while it goes on: to the live view, to `log.jsonl`, to whoever passes an observer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Kind = Literal[
    "fetching",
    "run_started",
    "search_started",
    "trial_started",
    "example_done",
    "trial_done",
    "fall_back",
    "note",
    "prompts_started",
    "prompts_fall_back",
    "prompts_done",
    "test_started",
    "run_done",
]


@dataclass(frozen=True, slots=True)
class Event:
    """`message` is for people; `data` holds the objects the event is about."""

    kind: Kind
    message: str
    data: dict[str, Any] = field(default_factory=dict)


Observer = Callable[[Event], None]


def log_to(path: Path) -> Observer:
    """An observer that appends one JSON line per event, examples left out; `read_line` reads it."""

    def write(event: Event) -> None:
        if event.kind == "example_done":
            return
        line = {"time": datetime.now(UTC).isoformat(), "event": event.kind, "message": event.message}
        # Half an emoji is no text that a file takes; with a backslash it is one that JSON does.
        with path.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


def read_line(line: str) -> tuple[str, str] | None:
    """The kind and the message of a line of the log; None for one that a kill cut short, with what came after it."""
    try:
        event = json.loads(line)
        return str(event["event"]), str(event["message"])
    except (ValueError, KeyError, TypeError):
        return None


def tell(*observers: Observer) -> Observer:
    """One observer that passes every event on to all of them."""

    def pass_on(event: Event) -> None:
        for observer in observers:
            observer(event)

    return pass_on
