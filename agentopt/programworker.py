"""Runs one function of a user's file in a process of its own: `python -m agentopt.programworker FILE NAME`.

For functions that find their endpoint in the environment, which a process has only one of. Reads the inputs as JSON
on stdin and prints what the function returns as JSON; what the function itself prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from agentopt.taskdata import Functions


def main(file: str, name: str) -> None:
    """Call the function `name` in `file`, relative to the working directory."""
    inputs = json.load(sys.stdin)
    with redirect_stdout(sys.stderr):
        value = Functions(Path())(f"{file}:{name}", file)(inputs)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
    json.dump(value, sys.stdout, ensure_ascii=False, default=str)


async def _awaited(value: object) -> object:
    return await value  # type: ignore[misc]


if __name__ == "__main__":
    main(*sys.argv[1:])
