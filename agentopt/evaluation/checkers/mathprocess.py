"""The process that reads and compares mathematics: one JSON question a line, one JSON answer a line.

A process of its own, because an answer may ask for a number that no computer finishes (9^9^9), and math-verify's own
time limits are signals, which only a main thread gets. The only importer of math_verify.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import time
from typing import Any

MOST_BYTES = 2**30


def read(text: str) -> str | None:
    """The last answer that the text gives, in plain form; None where math-verify finds none."""
    found = _parsed(text)
    if not found:
        return None
    first, written = found[0], found[-1]
    if getattr(first, "is_Integer", False) or getattr(first, "is_Rational", False):
        return str(first)
    return f"{float(first):.15g}" if getattr(first, "is_Float", False) else str(written)


def agree(target: str, answer: str) -> bool:
    """Whether two answers, each in plain form, are the same quantity."""
    from math_verify import verify

    return bool(verify(_parsed(_as_latex(target)), _parsed(_as_latex(answer)), timeout_seconds=None))


def _as_latex(answer: str) -> str:
    """What is no plain number must stand between dollars to be read as LaTeX."""
    return answer if re.fullmatch(r"[-+]?[\d,]*\.?\d+%?", answer) or "$" in answer else f"${answer}$"


def _parsed(text: str) -> list[Any]:
    from math_verify import parse

    parsed: list[Any] = parse(text, parsing_timeout=None)
    return parsed


def _bound_memory() -> None:
    """No answer may take all of the machine's memory."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))


def _bound_time(seconds: float) -> None:
    """End this process when it has had `seconds` of processor time from now on, whole seconds rounded up."""
    import resource

    used = time.process_time()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds), hard))


def main(seconds: float) -> None:
    """Answer until the questions end. A question may take `seconds` of processor time, however busy the machine is."""
    logging.disable(logging.WARNING)
    bounded = sys.platform.startswith("linux")
    if bounded:
        _bound_memory()
    agree("1", "1")  # what the libraries load when they are first used is on nobody's time
    for line in sys.stdin:
        if bounded:
            _bound_time(seconds)
        question = json.loads(line)
        value = agree(*question["agree"]) if "agree" in question else read(question["read"])
        print(json.dumps({"value": value}), flush=True)  # noqa: T201 - the answer is what it is for


if __name__ == "__main__":
    main(float(sys.argv[1]))
