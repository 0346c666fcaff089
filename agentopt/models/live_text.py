"""Passes the text of one choice on while it is generated.

`LIVE` holds the receiver of the current call. It is a context variable, because the call passes through cache, budget
and retries, none of which reads the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from agentopt.models.thoughts import split_thought

_PARTIAL_TAG = re.compile(r"^[ \t]*(?:[<\u25c1]\s?[\w:]*\s?|\[[A-Z]*|<\|[^\n]*)\Z", re.IGNORECASE | re.MULTILINE)
"""What may be the beginning of a thought."""


class LiveText:
    """Receives the text of one choice, and forwards what is certainly part of the answer.

    Thoughts, white space at the ends and a possible beginning of a thought are held back. After a failed attempt of
    which a part was forwarded, nothing more is: the rest is taken from the response.

    Args:
        forward: Receives each part.

    Attributes:
        forwarded_thought: Whether a forwarded part turned out to be a thought: the text has a closing tag without an
            opening one.
    """

    def __init__(self, forward: Callable[[str], None]) -> None:
        self.forwarded_thought = False
        self._forward = forward
        self._received = self._forwarded = ""
        self._is_open = True

    def begin(self) -> None:
        """Start an attempt."""
        self._received = ""
        self._is_open = not self._forwarded

    def receive(self, delta: str) -> None:
        """Receive the next part of the text."""
        self._received += delta
        _, answer = split_thought(self._received)
        sure = _PARTIAL_TAG.sub("", answer.lstrip()).rstrip()
        self.forwarded_thought |= self._is_open and not sure.startswith(self._forwarded[: len(sure)])
        if self._is_open and len(sure) > len(self._forwarded) and sure.startswith(self._forwarded):
            self._forward(sure[len(self._forwarded) :])
            self._forwarded = sure


LIVE: ContextVar[LiveText | None] = ContextVar("live_text", default=None)
"""The receiver of the current call; None if nobody reads the text before it is complete."""


@contextmanager
def only_live_if(is_live: bool) -> Iterator[None]:
    """Hide the receiver from the calls in this block unless `is_live`."""
    token = LIVE.set(LIVE.get() if is_live else None)
    try:
        yield
    finally:
        LIVE.reset(token)
