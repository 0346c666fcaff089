"""What a run tells while it goes on: to the live view, to `log.jsonl`, to whoever passes an observer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Kind = Literal[
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
    """An observer that appends one JSON line per event, examples left out."""

    def write(event: Event) -> None:
        if event.kind == "example_done":
            return
        line = {"time": datetime.now(UTC).isoformat(), "event": event.kind, "message": event.message}
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


def tell(*observers: Observer) -> Observer:
    """One observer that passes every event on to all of them."""

    def pass_on(event: Event) -> None:
        for observer in observers:
            observer(event)

    return pass_on
