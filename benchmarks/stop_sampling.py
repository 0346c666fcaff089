"""Replays the stopping of votes on recorded samples: score against all samples, and the share of samples used.

    python -m benchmarks.stop_sampling [FILE ...] [--rewards FOLDER] [--no-planted]
    python -m benchmarks.stop_sampling --record tasks/quickstart --samples 8 --splits validation test --out FILE

FILE is a recording of this command; those of `landscapes/samples` unless given. `--rewards` reads a folder of
`*_train.npz` files with right-or-wrong rewards but no answers: the vote then lies between two bounds, wrong answers
that all agree and wrong answers that all differ.
Planted tables, whose answers are drawn at random, are replayed too; they are no measurement of a model.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from agentopt.api import load
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.records import Score, Split
from agentopt.core.task import Example, Subtask, Task, Unparsable, Value
from agentopt.models.base import ChatModel, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.session import open_session
from agentopt.runs.config import load_config
from agentopt.workflow.base import Draw, SubtaskAnswer
from agentopt.workflow.fusion import vote_key
from agentopt.workflow.graph import Workflow
from agentopt.workflow.parsers import python
from agentopt.workflow.vote_stopping import Stop, Vote, steps

LANDSCAPES = Path(__file__).parent / "landscapes"
SAMPLES = LANDSCAPES / "samples"
"""Recordings of this command, of tasks with a landscape."""
STOPS: tuple[Stop, ...] = ("decided", 0.99, 0.95, 0.9, 0.8, 0.7)
LOSS, SHARE = 0.005, 0.6
"""The target: at most this loss of score, with at most this share of the samples."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SampleTable:
    """The votes of all samples of several settings on the same examples, and what each sample would score.

    Attributes:
        name: What was sampled.
        settings: One label for each setting, such as a subtask and a model.
        votes: Shape (settings, examples, samples): a number for each value, those of one example equal if they vote
            together; -1 for a sample that cannot be parsed.
        scores: Of the same shape: the score of the sample's value if it wins.
    """

    name: str
    settings: tuple[str, ...]
    votes: NDArray[np.int64]
    scores: Floats

    def save(self, path: Path) -> None:
        """Write the table to a compressed file."""
        about = json.dumps({"name": self.name, "settings": self.settings})
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(
                file, about=np.array(about), votes=self.votes.astype(np.int16), scores=self.scores.astype(np.float32)
            )

    @classmethod
    def load(cls, path: Path) -> SampleTable:
        """Read a table that `save` wrote."""
        with np.load(path, allow_pickle=False) as held:
            about = json.loads(str(held["about"]))
            votes, scores = held["votes"].astype(np.int64), held["scores"].astype(np.float64)
        return cls(about["name"], tuple(about["settings"]), votes, scores)


class Replay(NamedTuple):
    """The outcome of one rule: means over settings and examples."""

    score: float
    """Score of the winners."""
    samples: float
    """Samples drawn, as a share of all."""
    requests: float
    """Steps, each of them one request at an endpoint with `n`."""
    same: float
    """Share of votes with the winner of all samples."""


def replay(table: SampleTable, stop: Stop | None) -> Replay:
    """Replay a rule on every vote of a table.

    Args:
        table: The recorded samples.
        stop: The rule; None draws all samples at once.
    """
    cells = [_one(table.votes[place], table.scores[place], stop) for place in np.ndindex(table.votes.shape[:2])]
    return Replay(*np.mean(cells, axis=0))


def _one(numbers: NDArray[np.int64], scores: Floats, stop: Stop | None) -> Replay:
    votes = [None if number < 0 else str(number) for number in numbers]
    sizes = (len(votes),) if stop is None else steps(votes, stop)
    won, of_all = _winner(votes[: sum(sizes)]), _winner(votes)
    score = 0.0 if won is None else float(scores[votes.index(won)])
    return Replay(score, sum(sizes) / len(votes), len(sizes), won == of_all)


def _winner(votes: Sequence[Vote]) -> Vote:
    """The most frequent vote, the earliest of equals; None without any."""
    parsed = [vote for vote in votes if vote is not None]
    return max(parsed, key=parsed.count, default=None)


# ---- tables


def planted(
    name: str, *, skill: tuple[float, float], wrong: float, samples: int, examples: int = 2000, seed: int = 0
) -> SampleTable:
    """Draw a table: each example has its own probability of a right answer, and a distribution of wrong ones.

    Args:
        name: Its name.
        skill: Parameters of the beta distribution of the probability of a right answer.
        wrong: Share of the wrong answers that agree on one value; the others are spread over 20 values.
        samples: Samples of each example.
        examples: Number of examples.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    right = rng.random((1, examples, samples)) < rng.beta(*skill, size=(1, examples, 1))
    common = rng.random(right.shape) < wrong
    votes = np.where(right, 0, np.where(common, 1, rng.integers(2, 22, right.shape)))
    return SampleTable(name, ("planted",), votes, right.astype(np.float64))


def planted_tables() -> Iterator[SampleTable]:
    """Easy, mixed and hard questions, with few and with many samples."""
    for samples in (8, 40):
        yield planted(f"planted, easy, {samples} samples", skill=(4, 1), wrong=0.5, samples=samples)
        yield planted(f"planted, mixed, {samples} samples", skill=(1, 1), wrong=0.5, samples=samples)
        yield planted(f"planted, hard, {samples} samples", skill=(2, 3), wrong=0.8, samples=samples)


def bounds_from_rewards(folder: Path) -> Iterator[SampleTable]:
    """Tables of right-or-wrong rewards: wrong answers that all agree, and wrong answers that all differ."""
    for file in sorted(folder.glob("*_train.npz")):
        with np.load(file, allow_pickle=False) as held:
            rewards = held["rewards"].astype(np.float64)
        settings = tuple(f"system prompt {i}" for i in range(len(rewards)))
        different = np.broadcast_to(np.arange(1, rewards.shape[2] + 1), rewards.shape)
        for which, wrong in (("agree", np.ones_like(different)), ("differ", different)):
            name = f"{file.stem}, wrong answers {which}, {rewards.shape[2]} samples"
            yield SampleTable(name, settings, np.where(rewards > 0, 0, wrong).astype(np.int64), rewards)


def lacking(folder: Path = LANDSCAPES) -> list[str]:
    """The landscapes of which no samples are recorded."""
    return [file.stem for file in sorted(folder.glob("*.npz")) if not (folder / SAMPLES.name / file.name).exists()]


# ---- recording


class Recorder:
    """A `ChatModel` that keeps the responses which it forwards."""

    def __init__(self, inner: ChatModel) -> None:
        self.seen: list[tuple[Request, Response]] = []
        self._inner = inner

    async def generate(self, request: Request) -> Response:
        response = await self._inner.generate(request)
        self.seen.append((request, response))
        return response

    async def aclose(self) -> None:
        """Nothing to close: the session owns the model."""


async def record(
    task: Task,
    model: ChatModel,
    specs: dict[str, ModelSpec],
    *,
    samples: int,
    splits: Sequence[Split] = ("validation",),
) -> SampleTable:
    """Draw the samples of each subtask with each model; the subtasks before it have the same model.

    The requests are those of `agentopt record` with the same seed, so its journal answers them.

    Args:
        task: The task.
        model: The client.
        specs: Model name -> spec.
        samples: Samples of each subtask.
        splits: The splits whose examples are sampled.
    """
    examples = [example for split in splits for example in task.splits[split]]
    recorder = Recorder(model)
    workflow, columns = Workflow(task, recorder, specs), dict[str, list[tuple[list[int], list[float]]]]()
    for name in task.models:
        choices = {s.name: SubtaskChoice(_own(s, name), samples, s.system_prompt) for s in task.subtasks}
        for example in examples:
            answers: list[SubtaskAnswer] = []
            recorder.seen.clear()
            await workflow.run(Candidate.of(choices), example, Draw(), on_answer=answers.append)
            for answer in answers:
                label = f"{answer.subtask}, {answer.model}"
                column = await _column(task, example, task[answer.subtask], _choices(recorder.seen, answer))
                columns.setdefault(label, []).append(column)
    whole = {label: column for label, column in columns.items() if len(column) == len(examples)}
    votes, scores = (np.array([[cell[part] for cell in column] for column in whole.values()]) for part in (0, 1))
    return SampleTable(f"{task.name}, {samples} samples", tuple(whole), votes, scores)


def _own(subtask: Subtask, name: str) -> str:
    return name if name in subtask.models else subtask.models[0]


def _choices(seen: Iterable[tuple[Request, Response]], answer: SubtaskAnswer) -> Response:
    return next(r for q, r in seen if q.model == answer.model and q.messages[-1].content == answer.user_message)


async def _column(task: Task, example: Example, subtask: Subtask, response: Response) -> tuple[list[int], list[float]]:
    """The votes and scores of one example; an earlier subtask's sample scores 1 if it votes for the winner of all."""
    values = [_value(subtask, choice.text) for choice in response.choices]
    votes = [None if value is None else vote_key(value) for value in values]
    if subtask.name == task.output_subtask:
        scores = [0.0 if value is None else await _score(task, example, value) for value in values]
    else:
        scores = [float(vote is not None and vote == _winner(votes)) for vote in votes]
    return [-1 if vote is None else votes.index(vote) for vote in votes], scores


def _value(subtask: Subtask, text: str) -> Value | None:
    try:
        return python(subtask.parse)(text)
    except Unparsable:
        return None


async def _score(task: Task, example: Example, value: Value) -> float:
    score: Any = task.scorer(example, value)
    scored: Score = await score if inspect.isawaitable(score) else score
    return scored.value


async def _record(task: Path, samples: int, splits: Sequence[Split], settings: Sequence[str]) -> SampleTable:
    config = load_config(settings)
    loaded, specs = load(task, config, agent=False)
    run = f"samples of {loaded.name} {uuid.uuid4().hex}"
    async with open_session(specs, run, caps=config.budget.caps(), journal=config.journal) as session:
        return await record(loaded, session.model, dict(specs), samples=samples, splits=splits)


# ---- the table


def print_table(table: SampleTable) -> None:
    """Print every rule on one table of samples, and whether the target is reached."""
    whole = replay(table, None)
    print(f"\n{table.name} ({len(table.settings)} settings, {table.votes.shape[1]} examples): all {whole.score:.4f}\n")
    print("| stop | score | difference | samples | requests | same winner | target |\n|---|---|---|---|---|---|---|")
    for stop in STOPS:
        found = replay(table, stop)
        loss = found.score - whole.score
        reached = "yes" if loss >= -LOSS and found.samples <= SHARE else "no"
        print(
            f"| {stop} | {found.score:.4f} | {loss:+.4f} | {found.samples:.0%} | {found.requests:.1f} "
            f"| {found.same:.1%} | {reached} |"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stop_sampling", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rewards", type=Path, help="a folder of reward files")
    parser.add_argument("--no-planted", action="store_true", help="replay recorded tables only")
    parser.add_argument("--record", type=Path, metavar="TASK", help="record the samples of a task")
    parser.add_argument("--splits", nargs="+", choices=get_args(Split), default=["validation"])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--out", type=Path)
    parser.add_argument("-s", "--set", action="append", default=[], dest="settings")
    given = parser.parse_args(arguments)
    if given.record:
        if given.out is None:
            parser.error("--record needs --out FILE")
        asyncio.run(_record(given.record, given.samples, given.splits, given.settings)).save(given.out)
        given.files.append(given.out)
    given.files = given.files or sorted(SAMPLES.glob("*.npz"))
    for name in lacking():
        print(f"{name}: no per-sample answers; --record tasks/{name} --samples N --out FILE records them")
    rewards = bounds_from_rewards(given.rewards) if given.rewards else ()
    for table in (*map(SampleTable.load, given.files), *rewards, *(() if given.no_planted else planted_tables())):
        print_table(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
