"""Values of official code beside ours, for one measure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VALUES = Path(__file__).parent / "values"
SHOWN = 12


@dataclass(frozen=True)
class Agreement:
    """How often we agree with the official code.

    Attributes:
        measure: Name of the measure.
        compared: Number of values.
        differences: A line for each value that differs: the case, the official value, ours, and why.
    """

    measure: str
    compared: int
    differences: Sequence[str]

    def __str__(self) -> str:
        agreed = self.compared - len(self.differences)
        return f"{self.measure}: {agreed} of {self.compared} agree ({agreed / self.compared:.2%})"

    def report(self) -> None:
        """Print the agreement, and the first differences."""
        print(self)
        for line in self.differences[:SHOWN]:
            print(f"    {line}")
        if len(self.differences) > SHOWN:
            print(f"    and {len(self.differences) - SHOWN} more of these")


def stored(name: str) -> dict[str, Any]:
    """Return the official values of a measure."""
    values: dict[str, Any] = json.loads((VALUES / f"{name}.json").read_text(encoding="utf-8"))
    return values


def store(name: str, values: Any, code: str) -> None:
    """Keep the official values, with the version of the code that gave them."""
    VALUES.mkdir(exist_ok=True)
    text = json.dumps({"code": code, "values": values}, ensure_ascii=False)
    (VALUES / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
