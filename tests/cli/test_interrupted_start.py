"""Ctrl-C while the command line loads ends it with exit code 130, SIGTERM with 143, and without a traceback.

Before the first line of agentopt runs, Ctrl-C is Python's own matter: each signal here comes during an import after it.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROGRAM = """
import os, runpy, signal, sys
from importlib.abc import MetaPathFinder
{before}
class Interrupt(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            {wrapped}
sys.meta_path.insert(0, Interrupt())
sys.argv = ["agentopt", *{arguments!r}]
{start}
"""
SENT = "os.kill(os.getpid(), signal.SIGINT)"
IN_DATACLASS = f"exec({SENT!r})"
IN_CLASS_BODY = f'type("Body", (), {{"of": type("Field", (), {{"__set_name__": lambda *_: {SENT}}})()}})'
AS_MODULE = 'runpy.run_module("agentopt", run_name="__main__", alter_sys=True)'
AS_SCRIPT = "from agentopt.__main__ import main; sys.exit(main())"
TERMINATED = "os.kill(os.getpid(), signal.SIGTERM)"
IGNORED = "signal.signal(signal.SIGINT, signal.SIG_IGN)"  # as a shell starts the background processes of a script
DRY_RUN = ["optimize", "task", "--dry-run"]


MODULES = pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("agentopt.cli.main", ["--version"]),
        ("typer", ["--help"]),
        ("agentopt.cli.worker_app", DRY_RUN),
        ("agentopt.cli.commands.optimize", DRY_RUN),
        ("agentopt.core.task", DRY_RUN),
    ],
)


def outcome(**parts: object) -> tuple[int, str, str]:
    """The exit code and the output of a process that receives SIGINT during an import."""
    program = PROGRAM.format(**parts)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@MODULES
@pytest.mark.parametrize("wrapped", [SENT, IN_DATACLASS, IN_CLASS_BODY])
def test_ctrl_c_while_modules_load(module: str, arguments: list[str], wrapped: str) -> None:
    end = outcome(module=module, arguments=arguments, wrapped=wrapped, start=AS_MODULE, before="")
    assert end == (130, "", "")


@MODULES
def test_ctrl_c_while_the_console_script_loads(module: str, arguments: list[str]) -> None:
    end = outcome(module=module, arguments=arguments, wrapped=SENT, start=AS_SCRIPT, before=IGNORED)
    assert end == (130, "", "")


@pytest.mark.parametrize("start", [AS_MODULE, AS_SCRIPT])
def test_sigterm_while_a_command_loads(start: str) -> None:
    end = outcome(
        module="agentopt.cli.commands.optimize", arguments=DRY_RUN, wrapped=TERMINATED, start=start, before=IGNORED
    )
    assert end == (143, "", "")


def test_the_console_script_is_the_function_that_ends_without_a_traceback() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"agentopt": "agentopt.__main__:main"}
