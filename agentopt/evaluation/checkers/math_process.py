"""The child process that reads and compares mathematics (`python -m ...math_process SECONDS`).

It is a separate process because an answer may need endless computation (9^9^9), and math-verify's time limits are
signals, which only a main thread receives. The only importer of math_verify.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
from typing import Any

from agentopt.core.json_lines import serve

MAX_MEMORY_BYTES = 2**30
"""Address space of the process."""


def read(text: str) -> str | None:
    """Return the last answer in the text, in plain form; None if math-verify finds none."""
    found = _parsed(text)
    if not found:
        return None
    first, written = found[0], found[-1]
    if getattr(first, "is_Integer", False) or getattr(first, "is_Rational", False):
        return str(first)
    return f"{float(first):.15g}" if getattr(first, "is_Float", False) else str(written)


def agree(target: str, answer: str) -> bool:
    """Return whether two answers, each in plain form, are the same quantity."""
    from math_verify import verify

    return bool(verify(_parsed(_as_latex(target)), _parsed(_as_latex(answer)), timeout_seconds=None))


def _as_latex(answer: str) -> str:
    """Wrap an answer in dollars unless it is a plain number: math-verify reads LaTeX between dollars only."""
    return answer if re.fullmatch(r"[-+]?[\d,]*\.?\d+%?", answer) or "$" in answer else f"${answer}$"


def _parsed(text: str) -> list[Any]:
    from math_verify import parse

    parsed: list[Any] = parse(text, parsing_timeout=None)
    return parsed


def _bound_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


def _bound_time(seconds: float) -> None:
    """Let the kernel end this process after `seconds` more of processor time, rounded up to whole seconds."""
    import resource

    used = time.process_time()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds), hard))


def main(seconds: float) -> None:
    """Answer requests from stdin until it ends.

    Args:
        seconds: Processor time of each request, however busy the machine is (Linux only).
    """
    logging.disable(logging.WARNING)
    bounded = sys.platform.startswith("linux")
    if bounded:
        _bound_memory()
    agree("1", "1")  # loading the libraries does not count as time of a request

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if bounded:
            _bound_time(seconds)
        return {"value": agree(*request["agree"]) if "agree" in request else read(request["read"])}

    serve(answer, sys.stdin, sys.stdout)


if __name__ == "__main__":
    main(float(sys.argv[1]))
