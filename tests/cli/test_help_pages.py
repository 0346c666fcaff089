"""The help of every command is plain English."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from agentopt.cli.main import commands


def names_of(command: Any, *above: str) -> Iterator[tuple[str, ...]]:
    """The words of every command below one."""
    inner = getattr(command, "commands", {})
    for name in inner:
        yield from names_of(inner[name], *above, name)
    if not inner:
        yield above


@pytest.mark.parametrize("words", list(names_of(commands())), ids=" ".join)
def test_values_are_not_named_by_their_python_types(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands()([*words, "--help"], prog_name="agentopt")
    shown = capsys.readouterr().out
    assert "--help" in shown
    assert not re.search("<[A-Za-z]", shown)
