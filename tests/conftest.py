"""Hypothesis without deadlines, because an example's duration depends on the machine; and the console script."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

settings.register_profile("agentopt", deadline=None)
settings.load_profile("agentopt")


@pytest.fixture
def console_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Calls the console script in this process, which is much faster than starting one: (exit code, stdout, stderr)."""
    from agentopt.cli import main as cli

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["agentopt", *arguments])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)
