"""Recorded landscapes: every affordable allocation of a task, evaluated once on real models and replayed for free.

A file holds the search space and, for every candidate and example, the score and the usage. Searches on it are exact,
cost nothing, and can be repeated on resampled examples to model noise.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopt.core.axes import Axis
from agentopt.core.candidate import Candidate
from agentopt.core.cost import CostMeasure, Price, SubtaskCost, Unit
from agentopt.core.errors import AgentoptError, UserError
from agentopt.core.events import Event
from agentopt.core.records import Evaluation, ExampleResult, Split, SubtaskUse, Trial
from agentopt.core.task import Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.session import Session
from agentopt.search.base import Proposal, SearchSpace, SubtaskSpace
from agentopt.search.from_task import needs_measuring, search_space
from agentopt.search.proposer_names import BASELINE

FORMAT = 1
"""Version of the file format; files of other versions are rejected."""
MOST = 20_000
"""Most candidates that can be recorded."""
_NOT_RECORDED = {
    *("responses", "requests", "cut_off", "filtered", "only_thought", "escalated"),
    *("cached_tokens", "reasoning_tokens", "seconds"),
}
USES = tuple(f.name for f in fields(SubtaskUse) if f.name not in _NOT_RECORDED and not f.name.startswith("big_"))
"""The usage that is recorded with each score, summed over the subtasks."""

_UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error)
"""What numpy and JSON raise on files that are empty, truncated, damaged, or of another kind."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Landscape:
    """Scores and usage of every affordable candidate of one task on the same examples."""

    name: str
    """Name of the task."""
    about: str
    """A description of the recording and its models."""
    space: SearchSpace
    """The search space."""
    examples: tuple[str, ...]
    """Ids of the examples."""
    scores: Floats
    """Scores of shape (candidates, examples), candidates in the order of `space.candidates()`."""
    uses: dict[str, Floats]
    """For each name in `USES` an array of the shape of `scores`."""

    @cached_property
    def _row(self) -> dict[Candidate, int]:
        return {candidate: row for row, candidate in enumerate(self.space.candidates())}

    def exact(self, candidate: Candidate) -> float:
        """The mean score over the examples.

        Raises:
            KeyError: The candidate is not in the space.
        """
        return float(self.scores[self._row[candidate]].mean())

    @cached_property
    def optimum(self) -> float:
        """The highest mean score of any candidate."""
        return float(self.scores.mean(axis=1).max())

    def resampled(self, seed: int) -> Landscape:
        """Resample the examples with replacement, which models the noise of another validation split.

        Args:
            seed: Seed of the sample.
        """
        drawn = np.random.default_rng(seed).integers(len(self.examples), size=len(self.examples))
        names = tuple(f"{self.examples[i]}#{position}" for position, i in enumerate(drawn))
        uses = {name: array[:, drawn] for name, array in self.uses.items()}
        return replace(self, examples=names, scores=self.scores[:, drawn], uses=uses)

    def evaluation(self, candidate: Candidate) -> Evaluation:
        """The recorded evaluation of a candidate; the usage of each example is in one entry, `all`."""
        row = self._row[candidate]
        results = tuple(
            ExampleResult(
                example,
                float(self.scores[row, i]),
                subtasks={"all": SubtaskUse(**{name: _number(self.uses[name][row, i]) for name in USES})},
            )
            for i, example in enumerate(self.examples)
        )
        return Evaluation("validation", len(results), results, "complete")

    def save(self, path: Path) -> None:
        """Write the landscape to a compressed file.

        Args:
            path: The file; its folder is created.

        Raises:
            UserError: The file cannot be written.
        """
        about = {"format": FORMAT, "name": self.name, "about": self.about, "examples": self.examples}
        text = json.dumps({**about, "space": asdict(self.space)})
        arrays: dict[str, Any] = {k: _small(v) for k, v in {"scores": self.scores, **self.uses}.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                np.savez_compressed(file, about=np.array(text), **arrays)
        except OSError as error:
            remedy = "choose a path that can be written"
            raise UserError(f"the landscape cannot be written: {error}", where=path, remedy=remedy) from error

    @classmethod
    def load(cls, path: Path) -> Landscape:
        """Read a landscape from a file.

        Args:
            path: A file that `save` wrote.

        Raises:
            UserError: The file cannot be read, holds no landscape, or has another format version.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
                about = json.loads(str(held["about"]))
                version = about["format"]
                arrays = {name: held[name].astype(np.float64) for name in ("scores", *USES)}
        except _UNREADABLE as error:
            remedy = "record one with `agentopt record TASK --out FILE`"
            # numpy's message would be misleading: it suggests to unpickle any file that it does not recognise.
            reason = getattr(error, "strerror", None) or "it is empty, truncated, damaged or of another kind"
            raise UserError(f"the file holds no landscape: {reason}", where=path, remedy=remedy) from error
        if version != FORMAT:
            rule = f"a landscape's format must be {FORMAT}, but got {version}"
            raise UserError(rule, where=path, remedy="record it again with this version")
        scores = arrays.pop("scores")
        return cls(about["name"], about["about"], _space(about["space"]), tuple(about["examples"]), scores, arrays)


def _number(value: np.float64) -> Any:
    return int(value) if value == int(value) else float(value)


def _small(array: Floats) -> NDArray[Any]:
    """The array in single precision if that loses nothing, as for scores of 0 and 1 and counts of tokens."""
    less = array.astype(np.float32)
    return less if np.array_equal(less, array) else array


def _space(data: dict[str, Any]) -> SearchSpace:
    read = data.get("measure", "units")
    measure: CostMeasure = "usd" if read == "USD per 1M examples" else read  # as it was called before
    limits = {name: data.get(name) for name in ("max_units", "max_usd", "max_seconds")}
    return SearchSpace(tuple(_subtask(s, measure) for s in data["subtasks"]), measure=measure, **limits)


def _subtask(data: dict[str, Any], measure: CostMeasure) -> SubtaskSpace:
    given = data["cost"].get("prices")
    prices = None if given is None else {model: Price(**price) for model, price in given.items()}
    read = {"unit": Unit(**data["cost"]["unit"]), "prices": prices, "measure": measure}
    cost = SubtaskCost(**{**data["cost"], **read})
    lists = {name: tuple(data.get(name, ())) for name in ("models", "num_samples", "reads")}
    axes = tuple(Axis(a["name"], tuple(a["values"]), a["kind"]) for a in data.get("settings", ()))
    lacks = {model: tuple(names) for model, names in data.get("lacks", {}).items()}
    return SubtaskSpace(**{**data, **lists, "cost": cost, "settings": axes, "lacks": lacks, "demos": ()})


class LandscapeRunner:
    """A `Runner` that looks scores up in a landscape.

    Args:
        landscape: The landscape.
        max_trials: Number of trials, including the baseline, which is recorded as trial 0.

    Attributes:
        events: The events that the search emitted.
    """

    def __init__(self, landscape: Landscape, max_trials: int) -> None:
        self.events: list[Event] = []
        self._landscape, self._max_trials = landscape, max_trials
        self._trials: dict[Candidate, Trial] = {}
        self._add(Proposal(landscape.space.baseline, BASELINE))

    @property
    def trials(self) -> Sequence[Trial]:
        return tuple(self._trials.values())

    @property
    def trials_left(self) -> int:
        return max(0, self._max_trials - len(self._trials))

    async def run(self, proposal: Proposal) -> Trial:
        return self._trials.get(proposal.candidate) or self._add(proposal)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def _add(self, proposal: Proposal) -> Trial:
        candidate = proposal.candidate
        units, evaluation = self._landscape.space.units(candidate), self._landscape.evaluation(candidate)
        trial = Trial(
            len(self._trials), candidate, evaluation, proposal.proposer, units, proposal.note, proposal.fallback
        )
        self._trials[candidate] = trial
        return trial


async def record(
    task: Task,
    session: Session,
    *,
    split: Split = "validation",
    seed: int = 0,
    on_candidate: Callable[[int, int], None] = lambda done, total: None,
) -> Landscape:
    """Evaluate every affordable candidate of a task on one split.

    The journal makes the recording resumable. It also makes it cheap: samples are nested, so candidates with many
    samples share theirs with the others.

    Args:
        task: The task.
        session: Its models, journal and budget.
        split: The split to evaluate on.
        seed: Seed of the samples.
        on_candidate: Called with (candidates done, candidates in all) after each one.

    Raises:
        UserError: The space has more than `MOST` affordable candidates.
        AgentoptError: An example could not be scored.
        BudgetExceeded: A cap is reached.
    """
    evaluator = Evaluator(task, session.model, session.specs, seed=seed)
    measured = await evaluator.evaluate(task.baseline) if needs_measuring(task) else None
    space = search_space(task, session.specs, measured).with_demos({})  # none are bootstrapped
    candidates = _recordable(space, task)
    # Most samples first: then each prompt is sent once, for all of its samples.
    order = sorted(candidates, key=lambda c: -sum(choice.num_samples for choice in c.values()))
    found: dict[Candidate, Evaluation] = {}
    for candidate in order:
        found[candidate] = _whole(await evaluator.evaluate(candidate, split))
        on_candidate(len(found), len(order))
    examples = sorted(next(iter(found.values())).scores)
    tables = [_table(found[candidate], examples) for candidate in candidates]
    arrays = {name: np.array([table[name] for table in tables], dtype=np.float64) for name in ("scores", *USES)}
    models = ", ".join(dict.fromkeys(model for s in space.subtasks for model in s.models))
    about = f"{split} split of {task.name}, {len(examples)} examples, recorded on {models}"
    return Landscape(task.name, about, space, tuple(examples), arrays.pop("scores"), arrays)


def _recordable(space: SearchSpace, task: Task) -> list[Candidate]:
    candidates = space.candidates() if space.size <= 50 * MOST else []
    if not 0 < len(candidates) <= MOST:
        raise UserError(
            f"at most {MOST} affordable candidates can be recorded, but the space has {space.size}",
            where=f"task {task.name}",
            remedy="allow fewer sample counts, such as num_samples: [1, 2, 3, 5, 8]",
        )
    return candidates


def _whole(evaluation: Evaluation) -> Evaluation:
    failed = [result for result in evaluation.results if result.score is None]
    if failed or evaluation.state != "complete":
        example, error = failed[0].id, failed[0].error
        raise AgentoptError(
            f"a landscape needs a score of every example, but {example} has none: {error}\n"
            "  remedy: fix the cause and record again; the journal keeps all responses"
        )
    return evaluation


def _table(evaluation: Evaluation, examples: Sequence[str]) -> dict[str, list[float]]:
    """Map `scores` and each name in `USES` to the values of the examples."""
    by_id = {result.id: result for result in evaluation.results}
    scores = evaluation.scores
    table = {"scores": [scores[example] for example in examples]}
    for name in USES:
        table[name] = [sum(getattr(use, name) for use in by_id[e].subtasks.values()) for e in examples]
    return table
