"""Console output that the commands share, and the exit of an interrupted command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentopt.cli.interrupts import INTERRUPTED, second_interrupt_ends
from agentopt.core.errors import AgentoptError
from agentopt.core.plain_text import visible, visible_json
from agentopt.core.unicode_text import well_formed
from agentopt.core.usd_text import rounded_usd

if TYPE_CHECKING:
    from logging import LogRecord

    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Failure:
    """What `--json` prints if a command fails before it has a result.

    Attributes:
        error: The message, as on stderr.
        exit_code: The command's exit code.
    """

    error: str
    exit_code: int


class CommandError(AgentoptError):
    """An error that ends a command with an exit code of its own.

    Args:
        cause: The error.
        exit_code: The code.
    """

    def __init__(self, cause: AgentoptError, exit_code: int) -> None:
        super().__init__("\n".join([str(cause), *getattr(cause, "__notes__", ())]))
        self.exit_code = exit_code


def database_failure(error: Exception) -> str | None:
    """Why a database failed, such as that its file is damaged; None for any other error.

    Args:
        error: An exception that ended a command.
    """
    if "sqlalchemy" not in sys.modules:
        return None
    from sqlalchemy.exc import DatabaseError, OperationalError

    # Of the subclasses, the others are mistakes in the program's own statements.
    if not isinstance(error, DatabaseError) or type(error) not in (DatabaseError, OperationalError):
        return None
    return str(error.orig).partition("\n")[0]


def stdout_console() -> Console:
    """Return a console on stdout: as wide as `COLUMNS` or the terminal, or 160 columns wide in a pipe or file."""
    from agentopt.report.safe_console import VisibleConsole

    # A pipe has no width. A table folded at Rich's default of 80 columns is hard to read in a log.
    has_width = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return VisibleConsole(width=None if has_width else 160)


def stderr_console() -> Console:
    """Return a console on stderr."""
    from agentopt.report.safe_console import VisibleConsole

    return VisibleConsole(stderr=True)


def print_plain(console: Console, text: str) -> None:
    """Print `text` verbatim: no markup, no highlighting, no line breaks added."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def as_json_text(value: Any) -> str:
    """A value, with the dataclasses in it, as indented JSON; infinite numbers are the texts `Infinity`, `-Infinity`.

    Amounts in USD are rounded. Half a surrogate pair, which a model may answer and UTF-8 lacks, is a question
    mark; control characters are escapes.
    """
    from pydantic_core import to_jsonable_python

    data = rounded_usd(to_jsonable_python(value, inf_nan_mode="strings"))
    return visible_json(well_formed(json.dumps(data, ensure_ascii=False, indent=2)))


def print_json(value: Any, form: Any = None) -> None:
    """Print a value as JSON, in the form of its type's schema (docs/json.md).

    Args:
        value: The value.
        form: Its type. Default: its class.
    """
    from pydantic import TypeAdapter

    data = TypeAdapter(form or type(value)).dump_python(value, mode="json")
    print(as_json_text(data))  # noqa: T201 - the command's output


def notes_console(console: Console, *, as_json: bool) -> Console:
    """Return the console for notes beside a result: that of the result, or stderr if the result is JSON."""
    return stderr_console() if as_json else console


def exit_with(message: str, code: int) -> None:
    """Print the error message of a command on stderr, and exit."""
    print(visible(f"agentopt: {message}"), file=sys.stderr)  # noqa: T201 - the error message of the command
    sys.exit(code)


def ignore_interrupted_tasks() -> None:
    """Let asyncio log no task that a second Ctrl-C ended: nobody retrieves its exception, so it prints a traceback."""
    import logging

    logging.getLogger("asyncio").addFilter(_is_no_interrupt)


def _is_no_interrupt(record: LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt))


@contextmanager
def interruptible(progress: Console) -> Iterator[None]:
    """Turn Ctrl-C in the block into a hint on `progress` and exit code 130. A second Ctrl-C ends the process."""
    ignore_interrupted_tasks()
    hint = "stopped; run the command again to resume: answers that were stored are not paid again"
    try:
        with second_interrupt_ends(lambda: hint):
            yield
    except KeyboardInterrupt:
        print_plain(progress, hint)
        sys.exit(INTERRUPTED)
