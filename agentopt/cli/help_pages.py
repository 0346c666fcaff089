"""The help of commands that have subcommands: sections in the order of use, and no line is cut."""

from __future__ import annotations

from typing import Any, ClassVar

from typer.core import TyperGroup

LONGEST = 400
"""More characters than the first sentence of any command has; click cuts longer ones."""


class UncutGroup(TyperGroup):
    """Lists its commands with the whole first sentence of their help."""

    sections: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Heading -> names of commands. Commands in none of them are listed below `Commands`."""

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


class MainGroup(UncutGroup):
    """The commands of `agentopt`."""

    sections: ClassVar[dict[str, tuple[str, ...]]] = {
        "Start": ("quickstart", "init", "doctor", "models"),
        "Search": ("optimize", "worker", "diagnose", "evaluate", "judge"),
        "Inspect": ("runs", "report", "inspect", "compare", "whatif"),
        "Deploy": ("gate", "export", "serve", "jobs"),
        "Maintain": ("journal", "storage", "record"),
    }
