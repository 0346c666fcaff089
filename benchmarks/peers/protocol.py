"""What an arm's process reads and writes: one JSON job on stdin, then one JSON report per line on stdout.

The last report has the best prompt that the arm had, so an arm that is stopped at its cap loses nothing. Standard
library only: the peers' environment does not have agentopt.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any
from urllib.parse import urlsplit

CAP_REACHED = "cap_reached"
"""`error.code` of a call that is refused because the arm has made all of its calls."""

Messages = Sequence[Mapping[str, str]]


class CapReached(Exception):  # noqa: N818 - the normal end of an arm
    """The endpoint refused a call: the arm has made all of its calls."""


@dataclass(frozen=True)
class Row:
    """One example: the rendered user prompt and the expected answer."""

    id: str
    question: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """What an arm found: a system prompt, and examples of (question, answer) shown before the question."""

    system: str
    demos: tuple[tuple[str, str], ...] = ()

    def messages(self, question: str) -> list[dict[str, str]]:
        """The conversation that puts `question`."""
        shown = [
            message
            for asked, answer in self.demos
            for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
        ]
        return [{"role": "system", "content": self.system}, *shown, {"role": "user", "content": question}]

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Prompt:
        """The prompt in a report or in a line of results."""
        return cls(str(body["system"]), tuple((str(asked), str(answer)) for asked, answer in body["demos"]))


@dataclass(frozen=True)
class Job:
    """What one arm has to do, the same for every arm but for `options`."""

    options: Mapping[str, Any]
    """The arm's own settings."""
    base_url: str
    """OpenAI-compatible endpoint of this run, which counts the calls. `POST BASE_URL/score` scores an answer."""
    model: str
    """Name of the only model."""
    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    seed_prompt: str
    temperature: float
    """Of a call of the task, as `max_tokens` and `stop` are."""
    max_tokens: int
    stop: tuple[str, ...]
    calls: int
    """All model calls that the arm may make; a request for n choices is n calls."""
    seed: int

    def line(self) -> str:
        """The job as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, line: str) -> Job:
        """The job in a line of JSON."""
        body = json.loads(line)
        rows = {split: tuple(Row(**row) for row in body[split]) for split in ("train", "validation")}
        return cls(**{**body, **rows, "stop": tuple(body["stop"])})


class Arm:
    """The arm's side: the job, model calls without a client library, scores, and reports.

    Args:
        job: What to do.
        reports: Where the reports go.
    """

    def __init__(self, job: Job, reports: IO[str]) -> None:
        self.job, self._reports = job, reports

    def report(self, prompt: Prompt, score: float | None, note: str = "") -> None:
        """Report the best prompt so far, with its score on the validation rows that the arm used."""
        line = {"prompt": asdict(prompt), "score": score, "note": note}
        print(json.dumps(line), file=self._reports, flush=True)

    def answer(self, messages: Messages) -> str:
        """Make one call of the task. Raises `CapReached`."""
        job = self.job
        return self.chat(messages, temperature=job.temperature, max_tokens=job.max_tokens, stop=list(job.stop))

    def chat(self, messages: Messages, **parameters: Any) -> str:
        """Make one model call. Raises `CapReached`."""
        body = self._post("chat/completions", {"model": self.job.model, "messages": list(messages), **parameters})
        return str(body["choices"][0]["message"]["content"] or "")

    def score(self, row: str, output: str) -> tuple[float, str]:
        """Score the answer to a train or validation row. Returns the score and the feedback; it is not a model call."""
        body = self._post("score", {"id": row, "output": output})
        return float(body["score"]), str(body["feedback"])

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        place = urlsplit(self.job.base_url)
        connection = http.client.HTTPConnection(place.netloc)
        try:
            connection.request("POST", f"{place.path}/{path}", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            failure = answer["error"]
            raise (CapReached if failure["code"] == CAP_REACHED else RuntimeError)(failure["message"])
        return answer


def start() -> Arm:
    """Read the job. What libraries print from now on goes to stderr."""
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return Arm(Job.read(sys.stdin.readline()), reports)
