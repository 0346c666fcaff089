"""The base class of events, and the functions that observe them: a log file, users' callbacks, several at once."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from agentopt.core.errors import AgentoptError, CallbackError, UserError
from agentopt.core.files import private_opener
from agentopt.core.user_functions import name_of
from agentopt.core.yaml_models import shown


@dataclass(frozen=True, slots=True)
class Event(ABC):
    """Base class of the events. `kind` is the event's name in `log.jsonl`."""

    kind: ClassVar[str]
    logged: ClassVar[bool] = True
    """Whether the event is written to `log.jsonl`."""

    @property
    @abstractmethod
    def message(self) -> str:
        """The event in one line, for people."""


Observer = Callable[[Event], None]
"""Receives every event of a run, in order, on the thread of the event loop."""


def log_to(path: Path) -> Observer:
    """An observer that appends a JSON line to `path` for every event that is `logged`."""

    def write(event: Event) -> None:
        if not event.logged:
            return
        line = {"time": datetime.now(UTC).isoformat(), "event": event.kind, "message": event.message}
        # UTF-8 has no form for half a surrogate pair, which a cut response may end with; JSON has one.
        with open(path, "a", encoding="utf-8", errors="backslashreplace", opener=private_opener) as log:
            log.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


def of_callbacks(callbacks: Iterable[Observer]) -> Observer:
    """One observer that passes every event to each of the user's callbacks, in order.

    It raises `CallbackError` if one of them fails: the responses so far are in the journal, so nothing is lost.

    Raises:
        UserError: `callbacks` is not a list of functions, or one of them is async.
    """
    if not isinstance(callbacks, Iterable) or isinstance(callbacks, str | Mapping):
        rule = f"`callbacks` must be a list of functions, but got {shown(callbacks)}"
        raise UserError(rule, remedy="pass a list, such as callbacks=[print]")
    callbacks = tuple(callbacks)
    for callback in callbacks:
        if not callable(callback) or _is_async(callback):
            rule = f"a callback must be a function that is not async, but got {shown(callback)}"
            raise UserError(rule, remedy="pass a function of one event, such as callbacks=[print]")

    def observe(event: Event) -> None:
        for callback in callbacks:
            try:
                callback(event)
            except AgentoptError:
                raise
            except Exception as error:  # a user's function may raise anything
                problem = f"{name_of(callback)}` failed on {event.kind}: {type(error).__name__}: {error}"
                remedy = "correct it and resume the run; answers that were paid for are kept"
                raise CallbackError(f"the callback `{problem}\n  remedy: {remedy}") from error

    return observe


@asynccontextmanager
async def closing(callbacks: Iterable[Observer]) -> AsyncIterator[None]:
    """On exit, await the `aclose` of each callback that has one, such as a tracker."""
    try:
        yield
    finally:
        for callback in callbacks:
            if inspect.iscoroutinefunction(close := getattr(callback, "aclose", None)):
                await close()


def _is_async(function: object) -> bool:
    of_class = getattr(type(function), "__call__", None)  # noqa: B004 - an object may have an async __call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(of_class)


def broadcast(*observers: Observer) -> Observer:
    """One observer that passes every event to each of `observers`, in order."""

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe
