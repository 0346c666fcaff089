"""A folder with every kind of file that a user may write, commands that read them, and what each call must satisfy."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from agentopt.api import optimize
from agentopt.cli import main as cli
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.plain_text import controls
from agentopt.jobs.champion import champions_of
from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import load_config

PROCESSOR_SECONDS = 10
"""Most processor time of one command. Each takes less than one second."""
LOCKS = (".lock", "-shm", "-wal")
"""Ends of the names of files that only reading a run or a database writes."""
LONGEST = 1000
"""Most characters of a message."""

PLACES = {"AGENTOPT_CACHE": "cache", "AGENTOPT_CONFIG": "config", "AGENTOPT_DATA": "data"}
SETTINGS = ("-c", "journal=journal.db", "-c", "runs=runs", "-c", "models=models.yaml")

SUBTASK = {
    "models": ["small", "large"],
    "max_tokens": 8,
    "num_samples": [1, 2],
    "tokens": {"prompt": 128, "completion": 64},
}
TASK: dict[str, Any] = {
    "name": "planted",
    "description": "Find the key, then the word.",
    "data": {
        "validation": "validation.jsonl",
        "test": "test.csv",
        "train": "train.jsonl",
        "limit": {"test": 3},
        "duplicates": 0.5,
    },
    "columns": {"id": "id", "target": "target", "inputs": ["word", "hint"], "metadata": ["kind"], "group": "kind"},
    "subtasks": [
        {
            "name": "find", "prompt": "the key of {{ inputs.word }} is [[{{ inputs.word }}]]{{ knobs.end }}", **SUBTASK,
            "description": "the key", "system_prompt": "Be brief.", "temperature": [0.5, 1.0], "stop": ["\n"],
            "top_p": 0.9,
            "knobs": {"end": ["", "!"]}, "demos": [0, 1], "effort": "low", "parse": {"kind": "text"}, "fuse": "vote",
        },
        {
            "name": "answer", "prompt": "{{ context.output }} {{ find.output }}: [[{{ find.output }}]]", **SUBTASK,
            "context": "functions.py:look_up", "parse": {"kind": "choice", "options": ["a", "b"]},
            "fuse": {"method": "vote"}, "cascade": {"models": ["small", "large"], "below": [0.5, 0.9]},
        },
    ],
    "output": "answer",
    "scorer": {"kind": "python", "function": "functions.py:right"},
    "metrics": {"found": {"subtask": "find", "scorer": "exact_match", "against": "kind"}},
    "cost": {"max_units": 600, "unit": {"parameters": 3e9, "prompt_tokens": 128, "completion_tokens": 64}},
}  # fmt: skip
EXPERIMENT: dict[str, Any] = {
    "title": "toy",
    "source": "nowhere",
    "shows": "score and tokens",
    "config": ["budget.trials=2"],
    "seeds": [0],
    "repeats": 2,
    "columns": {"words": {"task": "../task", "config": ["task.data.limit.validation=3"]}},
    "rows": {"grid": {"config": ["strategy=grid"], "paper": {"words": "none"}}},
    "notes": ["of our own"],
}
FUNCTIONS = """
def look_up(inputs, outputs):
    return outputs["find"]

def right(example, output):
    return float(output == example.target)
"""
ENTRY = {
    "supports": {"seed": True}, "max_choices": 4, "usd_per_1m_prompt": 1.0, "usd_per_1m_completion": 2.0,
    "context_length": 8000, "max_attempts": 2, "backoff_seconds": 0.01, "concurrency": 4, "timeout_seconds": 5.0,
    "requests_per_minute": 60000, "reasoning_effort": "low", "extra_headers": {"X-Title": "test"},
    "api_key_env": "KEY_OF_SMALL",
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "strategy": "random", "seed": 3, "response_seed": 1, "failed_examples": "zero",
    "budget": {"usd": 5, "tokens": 10**7, "calls": 500, "seconds": 600, "trials": 3},
    "search": {"batch_size": 2, "tolerance": 0.02, "early_stopping": 0.05},
    "agent": {"model": "small", "max_calls": 5, "max_usd": 1.0},
    "prompts": {"when": "never", "rounds": 1, "subtasks": ["find"], "max_length": 300},
    "models": ["models.yaml"], "batch": False, "journal": "journal.db", "engine": "local", "workers": 2, "runs": "runs",
    "task": {"data.limit.test": 4},
}  # fmt: skip
JOB: dict[str, Any] = {
    "name": "nightly", "task": "task", "config": ["strategy=random", "journal=journal.db", "models=[models.yaml]"],
    "schedule": {"cron": "0 3 * * *", "time_zone": "Europe/Berlin"},
    "caps": {"per_run": {"usd": 1, "calls": 100, "seconds": 60, "trials": 4}, "per_month": {"usd": 20,
    "tokens": 10**6}},
    "promotion": {"confidence": 0.9, "cheaper_by": 0.1, "margin": 0.02, "max_cost_ratio": 2}, "canary": 0.1,
    "warm_start": 2,
    "webhook": {"url": "http://127.0.0.1:9/hook", "secret_env": "HOOK", "events": ["promoted", "alarm"]},
}  # fmt: skip
CHOICE = {"model": "small", "num_samples": 2, "system_prompt": "Be brief."}
CANDIDATE: dict[str, Any] = {
    "find": {**CHOICE, "settings": {"temperature": 1.0, "knobs.end": "!"}},
    "answer": {**CHOICE, "model": "large", "num_samples": 1},
}
JUDGED = {
    "name": "judged", "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
    "subtasks": [{"name": "answer", "prompt": "[[{{ inputs.word }}]]", "models": ["small"], "num_samples": [1]}],
    "scorer": {
        "kind": "judge", "model": "large", "rubric": 'The word must be repeated. [[{"reason": "it is", "score": 1}]]',
    },
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "name": "plain", "data": TASK["data"], "columns": TASK["columns"], "scorer": "exact_match",
    "subtasks": [
        {**SUBTASK, "name": "find", "prompt": "[[{{ inputs.word }}]]", "parse": {"kind": "json",
        "schema": {"type": "string"}}},
        {**SUBTASK, "name": "answer", "prompt": "[[{{ find.output }}]]", "parse": {"kind": "number"}, "fuse": "vote"},
    ],
}  # fmt: skip
PLAIN_CANDIDATE = {
    name: {"model": "small", "num_samples": 3, "system_prompt": "Be brief."} for name in ("find", "answer")
}
PRICES = {"models": {"small": {"usd_per_1m_prompt": 3.0, "usd_per_1m_completion": 6.0}}}


Share = Callable[[int, int], int]
"""Weight of a test and the sum of all weights -> its number of cases."""


def rows(split: str, count: int = 4) -> list[dict[str, str]]:
    return [
        {"id": f"{split}{i}", "word": f"{split} {i}", "hint": "h", "kind": f"{split} {i}", "target": "ab"[i % 2]}
        for i in range(count)
    ]


def json_lines(found: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in found)


def csv_text(found: Sequence[Mapping[str, str]]) -> str:
    return "\n".join([",".join(found[0]), *(",".join(row.values()) for row in found)]) + "\n"


def write_place(folder: Path, base_url: str) -> None:
    """Write one file of every kind, a finished run and a champion into a folder."""
    for name in ("task", "judged", "plain", "papers", *PLACES.values()):
        (folder / name).mkdir(parents=True)
    documents = {"task/task.yaml": TASK, "config.yaml": CONFIG, "job.yaml": JOB, "candidate.yaml": CANDIDATE}
    documents["papers/mine-toy.yaml"] = EXPERIMENT
    entries = {
        name: {**ENTRY, "base_url": base_url, "parameters": size} for name, size in (("small", 3e9), ("large", 7e9))
    }
    documents |= {"models.yaml": {"models": entries}, "prices.yaml": PRICES, "judged/task.yaml": JUDGED}
    documents |= {"plain/task.yaml": PLAIN, "plain.yaml": PLAIN_CANDIDATE}
    for name, content in documents.items():
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
    for task in ("task", "plain"):
        for name in ("train", "validation"):
            (folder / task / f"{name}.jsonl").write_text(json_lines(rows(name)))
        (folder / task / "test.csv").write_text(csv_text(rows("test")))
    (folder / "task" / "functions.py").write_text(FUNCTIONS)
    for name in ("validation", "test"):
        (folder / "judged" / f"{name}.jsonl").write_text(json_lines(rows(name)))
    (folder / "labels.csv").write_text("id,output,label\n" + "".join(f"test{i},out {i},{i % 2}\n" for i in range(4)))
    traces = [
        {"type": "GENERATION", "traceId": f"t{i}", "name": "answer", "input": f"question {i}", "output": "ab"[i % 2]}
        for i in range(12)
    ]
    (folder / "traces.jsonl").write_text(json_lines(traces))


def add_run(folder: Path) -> None:
    """Run an optimisation in a place, as `runs/first`, with a scripted model; the working folder must be the place."""
    model = ScriptedModel(_answer)
    config = load_config(["config.yaml", "prompts.when=never"])
    optimize("task", config, provider=model)
    (made,) = (folder / "runs").iterdir()
    made.rename(folder / "runs" / "first")


def add_champions(folder: Path) -> None:
    """Store two champions of the job `nightly`, which must have been added."""
    champions = champions_of("nightly", folder / "data")
    for count in (1, 2):
        choices = {name: SubtaskChoice("small", count) for name in ("find", "answer")}
        champions.promote(Candidate.of(choices), time="2026-11-27T03:00:00Z", run=f"run{count}", reason="better")


def _answer(request: Request, repeat: int) -> str:
    return "a" if repeat % 2 else "b"


class TookTooLong(BaseException):
    """A command used more processor time than it may."""


@dataclass(frozen=True)
class Outcome:
    """Exit code, output and the changed files of one command; `raised` is an exception that it did not handle."""

    code: int
    out: str
    err: str
    changed: tuple[str, ...]
    raised: str = ""

    def faults(self, codes: Sequence[int]) -> list[str]:
        """What is wrong with the outcome, if only the exit codes `codes` are right."""
        found = [self.raised] if self.raised else []
        if self.code not in codes and not self.raised:
            found.append(f"exit code {self.code}")
        if "Traceback" in self.err or "Traceback" in self.out:
            found.append("a traceback is printed")
        if self.code == 2:
            if self.err.count("agentopt: ") != 1 and not self.err.startswith(("Usage: ", "Error: ")):
                found.append("not one message")
            if len(self.err) > LONGEST:
                found.append(f"the message has {len(self.err)} characters")
            if self.changed:
                found.append(f"files have changed: {', '.join(self.changed)}")
        if control := [c for c in self.out + self.err if controls(c) and c != "\n"]:
            found.append(f"control characters are printed: {control[:3]}")
        return found


def call(folder: Path, arguments: Sequence[str]) -> Outcome:
    """Call the command line in this process, in a folder."""
    before = listing(folder)
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors) for errors in ("strict", "backslashreplace")
    )
    code, raised = 0, ""
    with _in(folder), _bounded(), redirect_stdout(out), redirect_stderr(err):
        sys.argv = ["agentopt", *arguments]
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        except (Exception, TookTooLong) as error:  # noqa: BLE001 - no command may raise any
            code, raised = -1, _in_short(error)
    for stream in (out, err):
        stream.flush()
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    after = listing(folder)
    changed = tuple(sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)))
    return Outcome(code, texts[0], texts[1], changed, raised)


def _in_short(error: BaseException) -> str:
    traceback, place = error.__traceback__, ""
    while traceback:
        code = traceback.tb_frame.f_code
        if "/agentopt/" in code.co_filename:
            place = f"{Path(code.co_filename).name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return f"{type(error).__name__} at {place}: {error!s:.200}"


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of every file and folder, but for the times of folders."""
    found: dict[str, tuple[int, int]] = {}
    for place, folders, files in os.walk(folder):
        found |= {os.path.join(place, name): (0, 0) for name in folders}
        for name in files:
            if name.endswith(LOCKS):
                continue
            status = os.lstat(os.path.join(place, name))
            found[os.path.join(place, name)] = (status.st_size, status.st_mtime_ns)
    return {os.path.relpath(name, folder): value for name, value in found.items()}


@contextmanager
def _in(folder: Path) -> Iterator[None]:
    """Make a folder the working folder and the home of agentopt's files."""
    before, environ, arguments = Path.cwd(), dict(os.environ), sys.argv
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    os.environ.update({"KEY_OF_SMALL": "key-of-small", **{name: str(folder / place) for name, place in PLACES.items()}})
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environ)
        sys.argv = arguments
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise `TookTooLong` in the block after a bound of processor time, or if it waits for what never comes."""

    def stop(number: int, frame: FrameType | None) -> None:
        reason = f"uses {PROCESSOR_SECONDS} s of processor time" if number == signal.SIGPROF else "waits without end"
        raise TookTooLong(reason)

    timers = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGALRM: signal.ITIMER_REAL}
    before = {number: signal.signal(number, stop) for number in timers}
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 10 * PROCESSOR_SECONDS)
    try:
        yield
    finally:
        for number, timer in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def fresh_copy(template: Path, folder: Path) -> Path:
    """A copy of a place, with the named pipe that files cannot be copied from."""
    shutil.copytree(template, folder)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "task" / "pipe")
    return folder
