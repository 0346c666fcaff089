"""A row of SRDD: the name of a piece of software, and what it should do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from agentopt import Example


def read(row: Mapping[str, Any], max_words: int | None = None) -> Example:
    """`name` and `task`, or the original's `Name` and `Description`; the requirement cut to `max_words`.

    Names stand more than once in SRDD, so an id ends in a hash of the requirement.
    """
    name = row["name"] if "name" in row else row["Name"]
    requirement = (row["task"] if "task" in row else row["Description"]).strip()
    digest = hashlib.sha256(requirement.encode()).hexdigest()[:8]
    shown = " ".join(requirement.split()[:max_words])
    return Example(f"{name}-{digest}", {"name": name.replace("_", " "), "requirement": shown})
