"""Outputs of a workflow as texts, for scorers and judges."""

from __future__ import annotations

import json

from agentopt.core.task import Value

NOTHING_PARSABLE = "no response had the requested format"
"""Feedback for a missing output."""


def as_text(value: Value) -> str:
    """Return an output as the text that it is compared by: a text unchanged, a whole number without `.0`, else JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # a user's parser may return what JSON cannot represent
        return str(value)
