"""How the threehop task reads a name out of a response."""

from __future__ import annotations

import re


def last_name(response: str) -> str | None:
    """The last capitalised word: in "Ada works for Ben." it is Ben. None (unparsable) if there is none."""
    names = re.findall(r"\b[A-Z][a-z]+\b", response)
    return names[-1] if names else None
