"""A row of SRDD: the name of a piece of software, and its specification."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from agentopt import Example
from agentopt.taskfile.columns import at_least_one, text


def read(row: Mapping[str, Any], max_words: int | None = None) -> Example:
    """`name` and `task`, or the original's `Name` and `Description`; the requirement cut to `max_words`.

    Names are not unique in SRDD, so an id ends in a hash of the requirement.
    """
    if max_words is not None:
        at_least_one("max_words", max_words)
    name, requirement = text(row, "name", "Name"), text(row, "task", "Description").strip()
    digest = hashlib.sha256(requirement.encode()).hexdigest()[:8]
    shown = " ".join(requirement.split()[:max_words])
    return Example(f"{name}-{digest}", {"name": name.replace("_", " "), "requirement": shown})
