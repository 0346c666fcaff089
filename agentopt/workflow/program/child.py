"""Runs one function of a user's file, example after example: `python -m agentopt.workflow.program.child FILE NAME`.

Reads the inputs of an example as a line of JSON and answers with a line of JSON: what the function returned, or what
it raised. What the function prints, or what is printed by what it starts, goes to stderr, and neither has anything to
read on stdin. See `workers`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentopt.core.user_functions import Functions


def main(file: str, name: str) -> None:
    """Serve the function `name` in `file`, relative to the working directory, until stdin ends."""
    with os.fdopen(os.dup(0)) as examples, os.fdopen(os.dup(1), "w") as replies, asyncio.Runner() as runner:
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        function = Functions(Path())(f"{file}:{name}", file)
        for line in examples:
            reply = _answer(function, json.loads(line), runner)
            print(json.dumps(reply, default=str), file=replies, flush=True)


def _answer(function: Callable[..., Any], inputs: dict[str, Any], runner: asyncio.Runner) -> dict[str, Any]:
    try:
        value = function(inputs)
        # One event loop for all examples: clients that the file made belong to the first.
        return {"value": runner.run(_awaited(value)) if inspect.isawaitable(value) else value}
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything; agentopt is told what
        return {"error": f"{type(error).__name__}: {error}"}


async def _awaited(value: Any) -> Any:
    return await value


if __name__ == "__main__":
    main(*sys.argv[1:])
