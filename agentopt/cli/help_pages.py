"""The help of commands that have subcommands: sections in the order of use, and no line is cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from typer import TyperException
from typer.core import TyperGroup

from agentopt.core.plain_text import one_line

LONGEST = 400
"""More characters than the first sentence of any command has; click cuts longer ones."""


VALUES = {"int": "N", "float": "X", "path": "PATH"}
"""Type of an option, as typer names it -> what its help has in place of it."""


def _name_values(command: Any, ctx: Any) -> None:
    """Name the values of options in English, in place of `<list[str]>` or `<int range>`; an argument has its name."""
    for parameter in command.params:
        if not hasattr(parameter, "display_type"):  # an earlier version of typer
            continue
        if parameter.param_type_name == "argument":
            parameter.display_type = lambda ctx: ""
        elif parameter.metavar is None:
            parameter.metavar = VALUES.get(parameter.display_type(ctx).strip("<>").removesuffix(" range"), "TEXT")


class UncutGroup(TyperGroup):
    """Lists its commands with the whole first sentence of their help."""

    sections: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Heading -> names of commands. Commands in none of them are listed below `Commands`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command whose help names the values of its options."""
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            _name_values(found, ctx)
        return found

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections."""
        listed = {name for names in self.sections.values() for name in names}
        others = [name for name in self.list_commands(ctx) if name not in listed]
        width = max(map(len, self.commands))
        for heading, names in {**self.sections, "Commands": others}.items():
            found = [(name, command) for name in names if (command := self.commands.get(name)) and not command.hidden]
            if found:
                lines = [(name.ljust(width), command.get_short_help_str(LONGEST)) for name, command in found]
                with formatter.section(heading):
                    formatter.write_dl(lines)


MOST_OF_A_MISTAKE = 500
"""Characters of the message of a wrong option or argument, which has the argument in full."""


@contextmanager
def _short_mistakes() -> Iterator[None]:
    try:
        yield
    except TyperException as mistake:
        if isinstance(message := getattr(mistake, "message", None), str):
            mistake.message = one_line(message, MOST_OF_A_MISTAKE)
        raise


class MainGroup(UncutGroup):
    """The commands of `agentopt`."""

    sections: ClassVar[dict[str, tuple[str, ...]]] = {
        "Start": ("quickstart", "init", "doctor", "models"),
        "Search": ("optimize", "worker", "diagnose", "evaluate", "judge"),
        "Inspect": ("runs", "report", "inspect", "compare", "whatif"),
        "Deploy": ("gate", "export", "serve", "jobs"),
        "Maintain": ("journal", "storage", "record", "reproduce"),
    }

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """Parse the arguments before the command; messages about them are short."""
        with _short_mistakes():
            return super().make_context(info_name, args, *more, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; messages about its arguments are short."""
        with _short_mistakes():
            return super().invoke(ctx)
