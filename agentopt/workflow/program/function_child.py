"""Runs one function of a user's file on one example after another: `python -m ...function_child FILE NAME`.

Each request is an example's inputs; each reply has the function's value, or its exception. Output of the function and
of its child processes goes to stderr, and their stdin is empty. The other side is `function_process`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from agentopt.core.json_lines import serve
from agentopt.core.user_functions import Functions


def main(file: str, name: str) -> None:
    """Serve the function `name` in `file`, relative to the working directory, until stdin ends."""
    with os.fdopen(os.dup(0)) as requests, os.fdopen(os.dup(1), "w") as replies, asyncio.Runner() as runner:
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        serve(partial(_answer, Functions(Path())(f"{file}:{name}", file), runner), requests, replies)


def _answer(function: Callable[..., Any], runner: asyncio.Runner, inputs: dict[str, Any]) -> dict[str, Any]:
    try:
        value = function(inputs)
        # One event loop for all examples: clients that the file creates belong to the first.
        return {"value": runner.run(_awaited(value)) if inspect.isawaitable(value) else value}
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything; agentopt reports it
        return {"error": f"{type(error).__name__}: {error}"}


async def _awaited(value: Any) -> Any:
    return await value


if __name__ == "__main__":
    main(*sys.argv[1:])
