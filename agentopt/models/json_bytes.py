"""Parses JSON from an endpoint, whatever bytes it sends."""

from __future__ import annotations

import json
from typing import Any

from agentopt.core.errors import MalformedResponseError


def parse_json(content: bytes) -> Any:
    """Parse JSON. Bytes that are not UTF-8 are replaced.

    Raises:
        MalformedResponseError: The bytes are not JSON, or JSON too deep to be parsed.
    """
    try:
        try:
            return json.loads(content)
        except UnicodeDecodeError:
            return json.loads(content.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise MalformedResponseError(f"not JSON: {str(error)[:200]}") from error


def unwrap_error(answer: Any) -> Any:
    """Return the error body in a list, which is Gemini's form. Anything else is returned unchanged."""
    first = answer[0] if isinstance(answer, list) and answer else None
    return first if isinstance(first, dict) and first.get("error") else answer
