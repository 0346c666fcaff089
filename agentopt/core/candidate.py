"""Candidates: a model, a number of samples, a system prompt and settings for every subtask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, SkipValidation, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from agentopt.core.axes import MOST_SAMPLES, Settings, are_settings, as_pairs
from agentopt.core.demos import Demo
from agentopt.core.errors import CandidateError
from agentopt.core.field_types import check_fields
from agentopt.core.paths import as_path
from agentopt.core.pydantic_errors import rule_of
from agentopt.core.yaml_models import did_you_mean, shortened, shown
from agentopt.core.yaml_text import load_yaml


@dataclass(frozen=True, slots=True)
class SubtaskChoice:
    """The choice for one subtask: a model of the catalogue, a number of samples, a system prompt and settings.

    Attributes:
        model: Catalogue name.
        num_samples: Number of samples.
        system_prompt: The system prompt.
        settings: Those that differ from the task's, such as `{"temperature": 0.7}`; given and shown as a mapping.
        demos: The demonstrations, as many as the setting `demos`.

    Raises:
        CandidateError: A field is of another type, or `num_samples` is below 1 or above `MOST_SAMPLES`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str
    num_samples: Annotated[int, Field(strict=True)] = 1
    system_prompt: str = ""
    settings: SkipValidation[Settings] = ()  # validated below, whether it is read or built
    demos: tuple[Demo, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", as_pairs(self.settings))
        if not are_settings(self.settings):
            rule = f"`settings` must map names to strings, numbers or truth values, but got {shown(self.settings)}"
            raise CandidateError(rule, where="SubtaskChoice", remedy='write settings={"temperature": 0.7}')
        check_fields(self, "SubtaskChoice", CandidateError)
        if self.num_samples < 1:
            rule = f"`num_samples >= 1` must hold, but got {self.num_samples}"
            raise CandidateError(rule, where="SubtaskChoice", remedy="draw at least one sample")
        if self.num_samples > MOST_SAMPLES:
            rule = f"`num_samples` must be at most {MOST_SAMPLES:,}, but got {self.num_samples}"
            raise CandidateError(rule, where="SubtaskChoice", remedy="draw fewer samples")

    def __str__(self) -> str:
        return " ".join([f"{self.model} x{self.num_samples}", *(f"{name}={value}" for name, value in self.settings)])

    def to_dict(self) -> dict[str, Any]:
        """The choice as plain data; without `settings` and `demos` if there are none."""
        own = {"model": self.model, "num_samples": self.num_samples, "system_prompt": self.system_prompt}
        further = {"settings": dict(self.settings), "demos": [demo.to_dict() for demo in self.demos]}
        return own | {name: value for name, value in further.items() if value}


@dataclass(frozen=True)
class Candidate(Mapping[str, SubtaskChoice]):
    """Subtask name -> `SubtaskChoice`, in the order of the task's subtasks. Immutable and hashable.

    `str()` gives the allocation on one line, such as `find: qwen x5, answer: smollm x1`. Pydantic validates and
    serialises a candidate as a mapping, the form of `best.yaml` and `result.json`.

    Raises:
        CandidateError: `choices` are not pairs of a subtask's name and a `SubtaskChoice`, or a name is given twice.
    """

    choices: tuple[tuple[str, SubtaskChoice], ...]

    def __post_init__(self) -> None:
        pairs = self.choices
        if not isinstance(pairs, tuple) or not all(_is_pair(pair) for pair in pairs):
            rule = f"`choices` must be pairs of a subtask's name and a SubtaskChoice, but got {shown(pairs)}"
            remedy = 'write Candidate.of({"subtask": SubtaskChoice("model", 3)})'
            raise CandidateError(rule, where="Candidate", remedy=remedy)
        if len({name for name, _ in pairs}) < len(pairs):
            rule = f"each subtask must be given once, but got {', '.join(name for name, _ in pairs)}"
            raise CandidateError(rule, where="Candidate", remedy="remove the duplicates")

    @classmethod
    def of(cls, choices: Mapping[str, SubtaskChoice]) -> Candidate:
        """Build a candidate from a mapping, which gives the order.

        Raises:
            CandidateError: It does not map names to `SubtaskChoice`s.
        """
        return cls(tuple(choices.items()) if isinstance(choices, Mapping) else choices)

    def __getitem__(self, subtask: str) -> SubtaskChoice:
        for name, choice in self.choices:
            if name == subtask:
                return choice
        raise KeyError(subtask)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.choices)

    def __len__(self) -> int:
        return len(self.choices)

    def __hash__(self) -> int:
        return hash(self.choices)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self.choices == other.choices

    def __str__(self) -> str:
        return ", ".join(f"{name}: {choice}" for name, choice in self.choices)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls.of,
            handler(dict[str, SubtaskChoice]),
            serialization=core_schema.plain_serializer_function_ser_schema(cls.to_dict),
        )

    def having(self, subtask: str, **changes: Any) -> Candidate:
        """Return a copy with changed fields of one subtask's choice.

        Args:
            subtask: Name of the subtask.
            changes: Fields of `SubtaskChoice`, as in `dataclasses.replace`.

        Raises:
            CandidateError: There is no such subtask or field, or a value breaks a rule.
        """
        for name, known in [(subtask, list(self)), *((change, _CHOICES) for change in changes)]:
            if name not in known:
                rule = f"neither a subtask nor one of its fields is called {shown(name)}"
                raise CandidateError(rule, where="Candidate", remedy=did_you_mean(str(name), known))
        return Candidate(tuple((name, replace(c, **changes) if name == subtask else c) for name, c in self.choices))

    @property
    def allocation(self) -> Allocation:
        """The candidate without its prompts and settings."""
        return tuple((name, c.model, c.num_samples) for name, c in self.choices)

    @property
    def key(self) -> str:
        """A short stable name for this exact candidate, whichever examples its demonstrations are known to be of."""
        content = self.to_dict()
        for demo in (demo for choice in content.values() for demo in choice.get("demos", ())):
            demo.pop("example", None)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The candidate as plain data, for JSON and YAML."""
        return {name: choice.to_dict() for name, choice in self.choices}

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Any]]) -> Candidate:
        """Build a candidate from the data that `to_dict` returns.

        Raises:
            CandidateError: The data has another form.
        """
        return _read(data, "Candidate", "pass what `to_dict` returned")


Allocation = tuple[tuple[str, str, int], ...]
"""(subtask, model, num_samples) for every subtask: a candidate without its prompts and settings."""


_CHOICES = [field.name for field in fields(SubtaskChoice)]

_candidates = TypeAdapter(Candidate)


def load_candidate(path: Path | str) -> Candidate:
    """Load the candidate in a `best.yaml`.

    Raises:
        CandidateError: The file cannot be read or does not hold a candidate.
    """
    file = as_path(path, CandidateError)
    return _read(load_yaml(file, CandidateError), str(file), "use a best.yaml that a run wrote")


def _read(data: Any, where: str, remedy: str) -> Candidate:
    try:
        return _candidates.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        problem = shortened(f"{place}: {rule_of(first)}".partition("\n")[0])
        rule = f"a candidate maps each subtask to model, num_samples and system_prompt, but {problem}"
        raise CandidateError(rule, where=where, remedy=remedy) from error


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], SubtaskChoice)
    )
