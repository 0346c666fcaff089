"""Trials as the user attributes of an Optuna study, and back.

The results of a trial's examples are an attribute of their own, which is parsed when they are first needed: they are
by far the largest part of a study.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, overload

from pydantic import TypeAdapter

from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.duplicates import Groups
from agentopt.core.records import EarlyStop, Evaluation, ExampleResult, Split, Trial, TrialState

Results = tuple[ExampleResult, ...]


@dataclass(frozen=True, slots=True)
class _Summary:
    """An evaluation without its results."""

    split: Split
    planned: int
    state: TrialState
    seconds: float = 0.0
    groups: Groups = field(default_factory=dict)
    stopped: EarlyStop | None = None


_summaries, _results, _evaluations = TypeAdapter(_Summary), TypeAdapter(Results), TypeAdapter(Evaluation)


class StoredResults(Sequence[ExampleResult]):
    """The results of an evaluation, which are read from JSON when they are first needed. Equal to a tuple of them.

    Args:
        text: The JSON.
        read: Reads it.
    """

    def __init__(self, text: str, read: Callable[[str], Results]) -> None:
        self._text, self._read = text, read
        self._found: Results | None = None

    def _all(self) -> Results:
        if self._found is None:
            self._found, self._text = self._read(self._text), ""
        return self._found

    @overload
    def __getitem__(self, index: int) -> ExampleResult: ...
    @overload
    def __getitem__(self, index: slice) -> Results: ...
    def __getitem__(self, index: int | slice) -> ExampleResult | Results:
        return self._all()[index]

    def __iter__(self) -> Iterator[ExampleResult]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __eq__(self, other: object) -> bool:
        return tuple(other) == self._all() if isinstance(other, tuple | StoredResults) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


def read_results(text: str) -> Results:
    """Read the results of an evaluation.

    Args:
        text: The attribute `results`.
    """
    return _results.validate_json(text)


def attributes_of(trial: Trial) -> dict[str, str]:
    """Return the attributes of a trial, each as JSON, without those that are empty.

    Args:
        trial: The trial.
    """
    of = trial.evaluation
    summary = _Summary(of.split, of.planned, of.state, of.seconds, of.groups, of.stopped)
    further = {
        "note": trial.note,
        "fallback": trial.fallback,
        "completed_in_search": trial.completed_in_search,
    }
    return {
        "candidate": json.dumps(trial.candidate.to_dict()),
        "evaluation": _summaries.dump_json(summary, exclude_defaults=True).decode(),
        "results": _results.dump_json(tuple(of.results), exclude_defaults=True).decode(),
        "proposer": json.dumps(trial.proposer),
        **{name: json.dumps(value) for name, value in further.items() if value},
    }


class TrialReader:
    """Reads the trials of one study. A choice that many candidates share is validated once.

    Args:
        read: Reads the results of a trial, when they are needed.
    """

    def __init__(self, read: Callable[[str], Results] = read_results) -> None:
        self._read = read
        self._choices: dict[str, SubtaskChoice] = {}

    def candidate(self, attributes: Mapping[str, str]) -> Candidate:
        """Read the candidate of a trial.

        Args:
            attributes: As `attributes_of` returned them, or an earlier version of it.

        Raises:
            CandidateError: It is none.
        """
        found = json.loads(attributes["candidate"])
        return Candidate.of({name: self._choice(choice) for name, choice in found.items()})

    def evaluation(self, attributes: Mapping[str, str]) -> Evaluation:
        """Read the evaluation of a trial.

        Args:
            attributes: As for `candidate`.
        """
        if "results" not in attributes:  # of an earlier version: a string that has all of it
            return _evaluations.validate_json(json.loads(attributes["evaluation"]))
        one = _summaries.validate_json(attributes["evaluation"])
        results = cast(Results, StoredResults(attributes["results"], self._read))
        return Evaluation(one.split, one.planned, results, one.state, one.seconds, one.groups, one.stopped)

    def _choice(self, data: Any) -> SubtaskChoice:
        if (key := json.dumps(data)) not in self._choices:
            self._choices[key] = Candidate.from_dict({"": data})[""]
        return self._choices[key]
