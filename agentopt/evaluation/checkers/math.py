"""Parses and compares answers to mathematical problems with math-verify: fractions, commas, units, \\boxed{...}.

Both happen in a separate process; after a timeout an answer counts as unreadable or different. Used by the tasks aime,
gsm8k, svamp and multiarith.
"""

from __future__ import annotations

import asyncio
import atexit
import sys
import threading
from functools import lru_cache
from typing import Any

from agentopt.core.errors import ScorerError
from agentopt.core.json_lines import JsonLinesProcess, NoReply
from agentopt.core.records import Score
from agentopt.core.task import Example, Value
from agentopt.evaluation.outputs import NOTHING_PARSABLE
from agentopt.workflow import parsers
from agentopt.workflow.final_answer import final_answer, single_number, without_denied
from agentopt.workflow.number_text import join_digits
from agentopt.workflow.parsers import shown

SECONDS = 5.0
"""Processor time of one reading or comparison."""

WALL_FACTOR = 12
"""Wall-clock time of one reading or comparison, as a multiple of its processor time: the machine may be busy."""

START_SECONDS = 120.0
"""Wall-clock time in which the process loads its libraries on a busy machine."""

LAST_CHARACTERS = 4000
"""Characters of a response that are read, counted from its end, which contains the answer."""


class MathProcess:
    """A process that reads and compares mathematics; it is restarted after a timeout. Thread-safe.

    Args:
        seconds: Processor time of one reading or comparison.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: JsonLinesProcess | None = None

    def read(self, text: str) -> str | None:
        """Return the last answer in the text, in plain form; None if there is none or reading it takes too long."""
        value = self._call({"read": text[-LAST_CHARACTERS:]})
        return None if value is None else str(value)

    def agree(self, target: str, answer: str) -> bool:
        """Return whether the answer equals the target; False if comparing them takes too long."""
        return bool(self._call({"agree": [target, answer[-LAST_CHARACTERS:]]}))

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _call(self, request: dict[str, Any]) -> Any:
        with self._lock:
            process = self._process = self._process or self._started()
            try:
                return process.call(request, WALL_FACTOR * self._seconds)["value"]
            except NoReply:
                self.close()
                return None

    def _started(self) -> JsonLinesProcess:
        # -P: the folder of this file has a `math.py`, and the working directory may have anything.
        command = [sys.executable, "-P", "-m", "agentopt.evaluation.checkers.math_process", str(self._seconds)]
        process = JsonLinesProcess(command)
        try:
            process.call({"agree": ["1", "1"]}, START_SECONDS)
        except NoReply as failure:
            process.close()
            raise ScorerError("math-verify cannot be used: its process ended or timed out while starting") from failure
        return process


@lru_cache(maxsize=1)
def shared() -> MathProcess:
    """The process that all tasks of this interpreter share; it ends at exit."""
    process = MathProcess()
    atexit.register(process.close)
    return process


_last_number = parsers.number()


def answer(response: str) -> str:
    """Parse the final answer of a response into plain form, so that equal answers vote together.

    A number is read as `final_answer` defines; anything else, such as a root or a sum, by math-verify.

    Raises:
        Unparsable: If the response has neither mathematics nor a number, or its answer is several numbers.
    """
    response = without_denied(response[-LAST_CHARACTERS:])
    final = final_answer(response)
    number = single_number(final)
    if number is not None:
        return number.exact
    found = shared().read(rf"\boxed{{{final.text}}}" if final.is_boxed else join_digits(response))
    return str(_last_number(response)) if found is None else found


async def score(example: Example, output: Value) -> Score:
    """Score 1 if the output is the same quantity as the target, else 0.

    Raises:
        ScorerError: If the example has no target.
    """
    if example.target is None:
        raise ScorerError(f"example {example.id} has no target to compare with")
    if output is None:
        return Score(0.0, NOTHING_PARSABLE)
    target, got = str(example.target), str(output)
    if await asyncio.to_thread(shared().agree, target, got):
        return Score(1.0)
    return Score(0.0, f"expected {target}, got {shown(got)}")
