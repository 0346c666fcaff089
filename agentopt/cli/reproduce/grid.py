"""Runs the cells of a table, each in a folder of its own, so that the grid continues wherever it was stopped."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from agentopt.api import LoadedTask, adiagnose, aevaluate, aoptimize, load
from agentopt.cli.reproduce.experiment import Cell, Column, Experiment
from agentopt.core.errors import ConfigError
from agentopt.core.files import own_file, write_atomically
from agentopt.core.observers import Observer
from agentopt.core.records import Evaluation
from agentopt.runs.config import Config, load_config
from agentopt.runs.folder import RunFolder, UnreadableRun, list_runs
from agentopt.runs.result import Result, load_result
from agentopt.runs.trial_store import recorded_trials


@dataclass(frozen=True, slots=True)
class CellResult:
    """What a table shows of one run.

    Attributes:
        run: The run's folder.
        ended: Why its search ended.
        candidate: The best candidate, in words.
        validation: Score of each trial, None unless it is complete.
        seconds: Model seconds of the trials up to and with each one, as if one example ran at a time.
        test: Test example -> the score of each repeat, None for a failed call.
        tokens: Mean output tokens of a test example.
        proposed: Number of trials by proposer.
        fallbacks: Why the fallback proposed, each reason once.
        settings: Hash of the cell's settings.
    """

    run: str
    ended: str
    candidate: str
    validation: tuple[float | None, ...]
    seconds: tuple[float, ...]
    test: dict[str, tuple[float | None, ...]]
    tokens: float
    proposed: dict[str, int]
    fallbacks: tuple[str, ...]
    settings: str


_results = TypeAdapter(CellResult)


@dataclass(frozen=True)
class Grid:
    """The runs of a table.

    Attributes:
        experiment: The table.
        file: Its file, to which its paths are relative.
        out: The folder of the grid's runs.
        data: The folder of the data files.
        settings: Settings of the user, which win over those of the table.
        observe: Receives the events of every run.
    """

    experiment: Experiment
    file: Path
    out: Path
    data: Path
    settings: Sequence[str] = ()
    observe: Observer = field(default=lambda _: None)

    def folder(self, cell: Cell) -> Path:
        """The folder of a cell."""
        return self.out / "cells" / _folder(cell.column) / _folder(cell.row) / f"seed {cell.seed}"

    def config(self, cell: Cell) -> Config:
        """The settings of a cell.

        Raises:
            ConfigError: A setting breaks a rule, or a data file is missing.
        """
        row, column = self.experiment.rows[cell.row], self.experiment.columns[cell.column]
        base = [*self.experiment.config, *column.config, *row.config]
        sources = [one if "=" in one else str(self.file.parent / one) for one in base]
        if row.experience_of and column.like:
            sources.append(f"agent.experience={self._experience(Cell(row.experience_of, column.like, cell.seed))}")
        config = load_config([*sources, *self.settings, f"seed={cell.seed}"])
        catalogue = (*(self.file.parent / name for name in self.experiment.models), *config.models)
        places = {
            "models": catalogue,
            "runs": self.folder(cell) / "runs",
            "journal": config.journal or str(self.out / "journal.db"),
            "task": {**config.task, **self._data(column, config.task)},
        }
        return config.model_copy(update=places)

    def _experience(self, cell: Cell) -> str:
        """The run of a cell that is done; its folder while it is not, which a dry run does not read."""
        found = self.finished(cell)
        return found.run if found else str(self.folder(cell))

    def _data(self, column: Column, given: Mapping[str, Any]) -> dict[str, str]:
        """The data files of a column that no setting replaces."""
        found = {}
        for key, wanted in column.data.items():
            path = (self.data / wanted.file).absolute()
            if key in given:
                continue
            if not path.is_file() and not wanted.hub:
                rule = f"the data of {column.task} are not part of the repository, and are not here"
                raise ConfigError(rule, where=path, remedy=f"get them from {wanted.get}, or set --data FOLDER")
            found[key] = str(path) if path.is_file() or not wanted.hub else wanted.hub
        return found

    def loaded(self, cell: Cell, config: Config) -> LoadedTask:
        """The task of a cell."""
        return load(self.file.parent / self.experiment.columns[cell.column].task, config)

    def finished(self, cell: Cell) -> CellResult | None:
        """The result of a cell; None if it is not done."""
        file = self.folder(cell) / "cell.json"
        if not file.is_file():
            return None
        with own_file(file, "remove it: it is written again from the run, without a call"):
            return _results.validate_json(file.read_bytes())

    async def result(self, cell: Cell) -> CellResult:
        """Run a cell, or what is left of it; a cell that is done is read.

        Raises:
            ConfigError: It was run with other settings.
            UserError: The cell breaks a rule.
        """
        config = self.config(cell)
        used = _digest(config, self.experiment, cell)
        done = self.finished(cell)
        if done and done.settings != used:
            rule = f"the cell ({cell}) was run with other settings"
            raise ConfigError(rule, where=self.folder(cell), remedy="give another folder by --out, or remove this one")
        if done:
            return done
        loaded = self.loaded(cell, config)
        chosen = await self._filtered(loaded, config) if self.experiment.rows[cell.row].filtered else loaded
        result = await self._optimized(chosen, config)
        tested = await aevaluate(
            loaded, result.best_candidate, config, callbacks=[self.observe], repeats=self.experiment.repeats
        )
        found = _measured(result, RunFolder.open(Path(result.run)), chosen, tested, used)
        if result.ended.run_cap is None:  # with a larger cap, the same command resumes it
            self.folder(cell).mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder(cell) / "cell.json", _results.dump_json(found, indent=1).decode())
        return found

    async def _filtered(self, loaded: LoadedTask, config: Config) -> LoadedTask:
        """The task with the train examples that the p1 filter chooses."""
        (diagnosis,) = await adiagnose(loaded, config, callbacks=[self.observe])
        kept = {diagnosis.examples[place] for place in diagnosis.subset}
        train = tuple(example for example in loaded.task.splits["train"] if example.id in kept)
        return loaded._replace(task=replace(loaded.task, splits={**loaded.task.splits, "train": train}))

    async def _optimized(self, loaded: LoadedTask, config: Config) -> Result:
        """The result of the run, which is begun, resumed or read."""
        begun = next(iter(list_runs(config.runs)), None)
        if isinstance(begun, UnreadableRun):
            raise begun.error
        if begun and (begun.path / "result.json").is_file():
            result = load_result(begun.path)
            if result.ended.run_cap is None:
                return result
        return await aoptimize(loaded, config, callbacks=[self.observe], resume=begun)


def _folder(name: str) -> str:
    """The name of a row or column as that of a folder; with a hash if a character is replaced."""
    plain = re.sub(r"[^\w. -]+", "-", name)
    return plain if plain == name else f"{plain} {hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _digest(config: Config, experiment: Experiment, cell: Cell) -> str:
    """Hash of what decides a cell's result: not places, nor caps, with which it may be resumed."""
    places = {"runs", "journal", "storage", "models", "task", "engine", "workers"}
    settings = config.model_dump(mode="json", exclude=places)
    settings["budget"] = config.budget.trials
    settings["agent"].pop("experience")
    settings["task"] = {key: value for key, value in config.task.items() if not key.startswith("data.")}
    row = experiment.rows[cell.row]
    text = json.dumps([settings, experiment.repeats, row.filtered, row.experience_of], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _measured(result: Result, run: RunFolder, loaded: LoadedTask, tested: Evaluation, settings: str) -> CellResult:
    trials = recorded_trials(run, loaded.task, loaded.specs)
    each = (sum(row.seconds or 0.0 for row in trial.evaluation.results) for trial in trials)
    proposers = [trial.proposer for trial in trials]
    scores: dict[str, dict[int, float | None]] = {}
    for row in tested.results:
        scores.setdefault(row.id, {})[row.repeat] = row.score
    return CellResult(
        run=result.run,
        ended=str(result.ended),
        candidate=str(result.best_candidate),
        validation=tuple(trial.score if trial.state == "complete" else None for trial in trials),
        seconds=tuple(accumulate(each)),
        test={name: tuple(of.get(repeat) for repeat in range(tested.repeats)) for name, of in scores.items()},
        tokens=tested.per_example("completion_tokens"),
        proposed={name: proposers.count(name) for name in dict.fromkeys(proposers)},
        fallbacks=result.fallbacks,
        settings=settings,
    )
