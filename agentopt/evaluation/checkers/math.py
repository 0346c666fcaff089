"""Answers to mathematical problems, read and compared by math-verify: fractions, commas, units, \\boxed{...}.

Owns the process in which that happens, and what it means when it gives no answer in time: nothing readable, and not
the same. Used by the tasks aime, gsm8k, svamp and multiarith.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import select
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentopt.core.errors import ScorerError
from agentopt.core.records import Score
from agentopt.core.task import Example, Value
from agentopt.evaluation.scorers import NOTHING_PARSABLE
from agentopt.workflow import parsers
from agentopt.workflow.parsers import shown

SECONDS = 5.0
"""How much processor time one reading or comparison may take."""

WAITING = 12
"""How many times as long it may take in all, on a machine that is busy with others."""

START_SECONDS = 120.0
"""How long the process may take to load its libraries on a busy machine."""

LAST_CHARACTERS = 4000
"""How much of a response is read, from its end: that is where the answer is."""


class MathProcess:
    """The process, started when it is first asked and again when it did not answer in time. For many threads."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def read(self, text: str) -> str | None:
        """The last answer in the text, in plain form; None where there is none, or it cannot be read in time."""
        value = self._ask({"read": text[-LAST_CHARACTERS:]})
        return None if value is None else str(value)

    def agree(self, target: str, answer: str) -> bool:
        """Whether the answer is the target; not where that cannot be told in time."""
        return bool(self._ask({"agree": [target, answer[-LAST_CHARACTERS:]]}))

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, question: dict[str, Any]) -> Any:
        with self._lock:
            process = self._process = self._process or self._started()
            answer = self._exchange(process, question, WAITING * self._seconds)
            if answer is None:
                self.close()
            return answer and answer["value"]

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", str(Path(__file__).with_name("mathprocess.py")), str(self._seconds)]
        process = subprocess.Popen(  # noqa: S603 - our own file
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True
        )
        if self._exchange(process, {"agree": ["1", "1"]}, START_SECONDS) is None:
            process.kill()
            process.communicate()
            raise ScorerError("math-verify cannot be used: its process ended, or gave no answer, at the start")
        return process

    @staticmethod
    def _exchange(process: subprocess.Popen[str], question: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """Its answer, or None when it ended or the time was over."""
        assert process.stdin
        assert process.stdout
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            # One question has one line for an answer, so nothing can lie in the buffer unseen.
            if select.select([process.stdout], [], [], seconds)[0] and (line := process.stdout.readline()):
                answer: dict[str, Any] = json.loads(line)
                return answer
        return None


@lru_cache(maxsize=1)
def shared() -> MathProcess:
    """The one process of this program, ended with it."""
    process = MathProcess()
    atexit.register(process.close)
    return process


_last_number = parsers.number()


def answer(response: str) -> str:
    """A parser: the final answer that a response gives, in plain form, so that equal answers vote together.

    Raises `Unparsable` where there is neither mathematics nor a number.
    """
    found = shared().read(response)
    return str(_last_number(response)) if found is None else found


async def score(example: Example, output: Value) -> Score:
    """A scorer: 1 when the output is the target's quantity, else 0."""
    if example.target is None:
        raise ScorerError(f"example {example.id} has no target to judge by")
    if output is None:
        return Score(0.0, NOTHING_PARSABLE)
    target, got = str(example.target), str(output)
    if await asyncio.to_thread(shared().agree, target, got):
        return Score(1.0)
    return Score(0.0, f"expected {target}, got {shown(got)}")
