"""The file of an experiment: rows (strategies), columns (datasets) and seeds of a table, and the paper's figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from agentopt.core.errors import ConfigError
from agentopt.core.yaml_models import Count, Strict, Text, broken_rule, did_you_mean, validate
from agentopt.core.yaml_text import load_yaml


class DataFile(Strict):
    """A data file that is not part of the repository."""

    file: Text
    """Its name in the data folder."""
    get: Text
    """Where a user gets it."""
    hub: Text | None = None
    """The same rows on the Hugging Face hub, which are read if the file is not there."""


class Column(Strict):
    """A dataset of the table."""

    task: Text
    """The task folder, relative to the file of the experiment."""
    config: tuple[Text, ...] = ()
    """Files relative to the experiment's, and `key=value` settings."""
    data: dict[Text, DataFile] = Field(default_factory=dict)
    """Dotted key of the task file -> the file that it names, such as `data.source`."""
    like: Text | None = None
    """The column of a similar task, whose run rows with `experience_of` are shown."""


class Row(Strict):
    """A strategy of the table."""

    config: tuple[Text, ...] = ()
    """Files relative to the experiment's, and `key=value` settings."""
    filtered: bool = False
    """Whether prompts are optimised on the train examples alone that `diagnose` chooses (p1)."""
    experience_of: Text | None = None
    """The row whose run on the similar task is `agent.experience`."""
    paper: dict[Text, Text] = Field(default_factory=dict)
    """Column -> the paper's figure as text; a column that is missing has none."""


class Experiment(Strict):
    """A table of a paper."""

    title: Text
    """Heading of the table."""
    source: Text
    """The paper and the place of its figures."""
    shows: Literal["trials and score", "score and tokens"]
    """What a cell has: trials to the optimum and the test score, or the test score and the output tokens."""
    models: tuple[Text, ...] = ()
    """Catalogue files, relative to this one."""
    config: tuple[Text, ...] = ()
    """Settings of every run: files relative to this one, and `key=value`."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds of every row and column."""
    repeats: Count = 1
    """Independent repeats of every test example (avg@N)."""
    columns: Annotated[dict[Text, Column], Field(min_length=1)]
    """Name -> dataset."""
    rows: Annotated[dict[Text, Row], Field(min_length=1)]
    """Name -> strategy."""
    notes: tuple[Text, ...] = ()
    """What differs from the paper; printed below the table."""

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name, row in self.rows.items():
            _known(row.paper, self.columns, f"rows.{name}.paper")
            if row.experience_of is not None:
                _known([row.experience_of], self.rows, f"rows.{name}.experience_of")
                if self.rows[row.experience_of].experience_of is not None:
                    rule = f"rows.{name}.experience_of must be a row without experience, but got {row.experience_of!r}"
                    raise broken_rule(rule, "name a row that needs no other one")
        for name, column in self.columns.items():
            _known([column.like] if column.like else [], self.columns, f"columns.{name}.like")
        if any(row.experience_of for row in self.rows.values()) and not all(c.like for c in self.columns.values()):
            raise broken_rule("a row with `experience_of` needs `like` in every column", "add `like: COLUMN`")
        return self


def _known(names: Any, known: Mapping[str, Any], where: str) -> None:
    for name in names:
        if name not in known:
            raise broken_rule(f"{where}: there is no {name!r}", did_you_mean(name, list(known)))


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the table.

    Attributes:
        row: Name of its row.
        column: Name of its column.
        seed: Its seed.
    """

    row: str
    column: str
    seed: int

    def __str__(self) -> str:
        return f"{self.row}, {self.column}, seed {self.seed}"


def cells_of(experiment: Experiment) -> Iterator[Cell]:
    """Every cell, those that other cells need first.

    Args:
        experiment: The experiment.
    """
    rows = sorted(experiment.rows, key=lambda name: experiment.rows[name].experience_of is not None)
    for seed in experiment.seeds:
        for row in rows:
            yield from (Cell(row, column, seed) for column in experiment.columns)


def find_experiment(paper: str, table: str, folder: Path) -> tuple[Experiment, Path]:
    """The experiment in `PAPER-TABLE.yaml`, and its file.

    Args:
        paper: Such as `agenttts`.
        table: Such as `1`.
        folder: The folder of the experiments.

    Raises:
        ConfigError: There is no such file, or it breaks a rule.
    """
    stems = sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []
    known = [stem.removeprefix(f"{paper}-") for stem in stems if stem.startswith(f"{paper}-")]
    if not known:
        remedy = "run the command in a checkout of the repository, or give the folder by --configs"
        raise ConfigError(f"there is no experiment of {paper!r}", where=folder, remedy=remedy)
    if table not in known:
        raise ConfigError(f"{paper} has no table {table!r}", where=folder, remedy=did_you_mean(table, known))
    file = folder / f"{paper}-{table}.yaml"
    return validate(Experiment, load_yaml(file, ConfigError), file, ConfigError), file
