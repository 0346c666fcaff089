"""One JSON line for each (arm, model, seed) that is done, so that a second start makes the missing ones only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers.protocol import Prompt


@dataclass(frozen=True)
class Key:
    """One run, and the settings that its test score depends on."""

    arm: str
    model: str
    seed: int
    cap: int
    examples: int
    samples: int


@dataclass(frozen=True)
class Outcome:
    """One run of one arm, and the test of the prompt that it found."""

    key: Key
    prompt: Prompt
    validation: float | None
    requests: int
    calls: int
    """Counted at the server."""
    refused: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """Of the optimisation, up to its end or its first refused call."""
    test_seconds: float
    ended: str
    notes: tuple[str, ...]
    test: Mapping[str, float]
    """Test example -> mean score; empty if the arm failed."""
    failed: str | None = None

    def line(self) -> str:
        """The outcome as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, line: str) -> Outcome:
        """The outcome in a line of JSON."""
        body = json.loads(line)
        read = {"key": Key(**body["key"]), "prompt": Prompt.read(body["prompt"]), "notes": tuple(body["notes"])}
        return cls(**{**body, **read})


class Results:
    """The file of outcomes.

    Args:
        file: Created on the first outcome.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, outcome: Outcome) -> None:
        """Append an outcome."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(outcome.line())

    def of(self, keys: Sequence[Key]) -> list[Outcome]:
        """The last outcome of each key that has one, in the order of the keys."""
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        last = {outcome.key: outcome for outcome in map(Outcome.read, lines)}
        return [last[key] for key in keys if key in last]

    def missing(self, keys: Sequence[Key]) -> list[Key]:
        """The keys without an outcome, or whose last outcome is a failure."""
        done = {outcome.key for outcome in self.of(keys) if not outcome.failed}
        return [key for key in keys if key not in done]
