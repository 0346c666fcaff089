"""Progress bars of counted work: shown in a terminal, also inside another live display, and nowhere else."""

from __future__ import annotations

import io

from rich.console import Console
from rich.live import Live

from agentopt.report.bars import reading_bar


def test_reading_is_shown_in_a_terminal_from_its_first_call_on() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    with reading_bar(console) as show:
        assert screen.getvalue() == ""
        show(500_000, 4_000_000)
        show(2_000_000, 4_000_000)
    assert "reading rows" in screen.getvalue()
    assert "2.0/4.0 MB" in screen.getvalue()


def test_reading_is_shown_beside_the_status_of_a_run() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    with Live("status", console=console, auto_refresh=False) as live, reading_bar(console) as show:
        show(1, 2)
        live.refresh()
    assert "reading rows" in screen.getvalue()


def test_nothing_is_written_to_a_pipe() -> None:
    screen = io.StringIO()
    with reading_bar(Console(file=screen)) as show:
        show(1, 2)
    assert screen.getvalue() == ""
