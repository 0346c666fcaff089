"""The console of the commands, on which control characters of data and of models are visible."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from agentopt.core.plain_text import visible


class VisibleConsole(Console):
    """Prints the control characters of every text and of every cell of a table as escapes such as `\\x1b`."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a text to Rich's `Text`; see `rich.console.Console.render_str`."""
        return super().render_str(visible(text), **options)
