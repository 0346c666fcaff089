"""Memory and time of a task of many rows: loading, an evaluation, and the same evaluation again after it was killed.

    python -m benchmarks.million [ROWS] [--journal] [--killed-after SHARE] [--parquet]

The rows are short questions in a JSONL file, or a Parquet file, and the model answers at once, so that what is
measured is ours alone. Each step is a process; its peak memory is that of `resource.getrusage`. `load` includes the
notes on repeated rows and the fingerprint. `evaluate` calls the model directly. With `--journal`, the evaluation of
`agentopt evaluate` is killed at a share of the rows, and then repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from agentopt.api import LoadedTask, aevaluate, load
from agentopt.core.events import Event, ExampleDone
from agentopt.core.fingerprint import fingerprint
from agentopt.core.row_notes import row_notes
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.base import Choice, Request, Response
from agentopt.runs.config import Config
from agentopt.runs.response_issues import incomplete_responses
from agentopt.runs.result import Measured

TASK = """
name: million
data: {validation: validation.jsonl, test: TEST}
subtasks:
  - {name: add, models: [smollm2-135m], num_samples: [1], prompt: "{{ inputs.question }}", max_tokens: 8}
scorer: exact_match
"""
SECONDS = 3_600
"""Most seconds of a step."""


@dataclass(frozen=True)
class Step:
    """What one process measured."""

    seconds: float
    peak_mb: float
    detail: str = ""


class AtOnce:
    """A model that answers at once, and keeps nothing. A fifth of the answers is right."""

    async def generate(self, request: Request) -> Response:
        text = request.messages[-1].content
        number = int(text.split()[1].rstrip(":"))
        return Response((Choice(right(number) if number % 5 == 0 else "no", 2),) * request.n, 12)

    async def reject(self, request: Request) -> None:
        """Do nothing: nothing is kept."""

    async def aclose(self) -> None:
        """Do nothing."""


def right(number: int) -> str:
    return str(number % 997 + number % 89)


def question(number: int) -> str:
    return f"Row {number}: what is {number % 997} plus {number % 89}? Answer with the number alone."


def write_task(folder: Path, rows: int, *, is_parquet: bool) -> None:
    """Write the task with so many test rows."""
    name = "test.parquet" if is_parquet else "test.jsonl"
    (folder / "task.yaml").write_text(TASK.replace("TEST", name))
    given = [{"question": f"Row -{n}: what is it?", "target": "0"} for n in range(1, 21)]
    (folder / "validation.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in given))
    if is_parquet:
        import pyarrow as pa  # noqa: TID251
        import pyarrow.parquet as pq  # noqa: TID251

        texts = {"question": [question(n) for n in range(rows)], "target": [right(n) for n in range(rows)]}
        pq.write_table(pa.table(texts), folder / name)
        return
    with (folder / name).open("w") as file:
        for n in range(rows):
            file.write(f"{json.dumps({'question': question(n), 'target': right(n)})}\n")


def opened(folder: Path) -> tuple[LoadedTask, Config]:
    config = Config(journal=str(folder / "journal.db"))
    return load(folder, config, agent=False), config


def step_load(folder: Path, _: float) -> str:
    source, _config = opened(folder)
    notes = row_notes(source.task)
    return f"{len(source.task.splits['test'])} rows, {len(notes)} notes, {fingerprint(source.task)}"


def step_evaluate(folder: Path, _: float) -> str:
    source, _config = opened(folder)
    evaluator = Evaluator(source.task, AtOnce(), source.specs)
    return outcome(source, asyncio.run(evaluator.evaluate(source.task.baseline, "test")))


def step_journal(folder: Path, killed_after: float) -> str:
    source, config = opened(folder)
    last, done = int(killed_after * len(source.task.splits["test"])), 0

    def observe(event: Event) -> None:
        nonlocal done
        done += isinstance(event, ExampleDone)
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)

    evaluating = aevaluate(source, None, config, split="test", callbacks=[observe], provider=AtOnce())
    return outcome(source, asyncio.run(evaluating))


def outcome(source: LoadedTask, evaluation: object) -> str:
    from agentopt.core.records import Evaluation

    assert isinstance(evaluation, Evaluation)
    found = Measured.of(evaluation)
    assert found
    issues = incomplete_responses(source.task, [(source.task.baseline, evaluation)])
    costs = evaluation.per_example("prompt_tokens")
    return f"score {found.score:.4f} of {found.n}, {costs:g} prompt tokens a row, {len(issues)} issues"


STEPS = {"load": step_load, "evaluate": step_evaluate, "journal": step_journal}


def measure(step: str, folder: Path, killed_after: float) -> Step:
    started = time.monotonic()
    detail = STEPS[step](folder, killed_after)
    return Step(time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, detail)


def in_process(step: str, folder: Path, killed_after: float = 0.0) -> Step | None:
    """The measurement of a step in a new process; None if it was killed."""
    command = [sys.executable, "-m", "benchmarks.million", "--step", step, str(folder), str(killed_after)]
    done = subprocess.run(  # noqa: S603 - our own module
        command, stdout=subprocess.PIPE, timeout=SECONDS, check=False
    )
    if done.returncode == -signal.SIGKILL:
        return None
    if done.returncode:
        raise SystemExit(f"the step {step} ended with {done.returncode}")
    return Step(**json.loads(done.stdout.splitlines()[-1]))


def show(name: str, rows: int, found: Step | None, seconds: float) -> None:
    if found is None:
        print(f"| {name} | {seconds:.1f} | | | killed |", flush=True)
        return
    each = 1e6 * found.seconds / rows
    print(f"| {name} | {found.seconds:.1f} | {each:.1f} | {found.peak_mb:.0f} | {found.detail} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--journal", action="store_true")
    parser.add_argument("--killed-after", type=float, default=0.5)
    parser.add_argument("--parquet", action="store_true")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step, folder, killed_after = arguments.step
        print(json.dumps(asdict(measure(step, Path(folder), float(killed_after)))))
        return
    with tempfile.TemporaryDirectory() as given:
        write_task(Path(given), arguments.rows, is_parquet=arguments.parquet)
        print("| step | seconds | us a row | peak MB | |\n|---|---|---|---|---|")
        steps = [("load", 0.0), ("evaluate", 0.0)]
        steps = [*steps, ("journal", arguments.killed_after), ("journal", 0.0)] if arguments.journal else steps
        for name, killed_after in steps:
            started = time.monotonic()
            found = in_process(name, Path(given), killed_after)
            show(name, arguments.rows, found, time.monotonic() - started)


if __name__ == "__main__":
    main()
