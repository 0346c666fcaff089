"""Trials are stored as Optuna stores them, read as they were added, and their results are parsed when needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from filelock import FileLock
from pydantic import TypeAdapter

from agentopt.core.candidate import Candidate
from agentopt.core.cost import SubtaskCost
from agentopt.core.database import open_engine
from agentopt.core.errors import ConfigError, JournalError
from agentopt.core.outages import TIDY_SECONDS, WAIT_SECONDS, Patience
from agentopt.core.records import EarlyStop, Evaluation, ExampleResult, Failure, SubtaskUse, Trial
from agentopt.runs.folder import StudyPlace
from agentopt.runs.studies import add_trial, open_study
from agentopt.runs.trial_store import TrialStore, recorded_evaluations
from agentopt.search.base import Proposal, SearchSpace, SubtaskSpace
from agentopt.search.optuna_trials import to_frozen_trial

SIZES = {"small": 3e9, "large": 7e9}
SPACE = SearchSpace((SubtaskSpace("answer", tuple(SIZES), (1, 3), "", SubtaskCost(256, 64, SIZES)),))
CANDIDATES = [SPACE.candidate({"answer": choice}) for choice in (("small", 1), ("large", 1), ("large", 3))]
RESULTS = (
    ExampleResult("1", 1.0, "an answer", metrics={"f1": 0.1}, subtasks={"answer": SubtaskUse(7, 3, 1 / 3, 1e-7)}),
    ExampleResult("2", 0.0, unparsed={"answer": "no number"}, judgements=(0.25, 0.5), repeat=1, seconds=0.1),
    ExampleResult("3", None, error="refused", failure=Failure("content filter", "example", "no")),
)
EVALUATIONS = [
    Evaluation("validation", 3, RESULTS, "complete", 1.5, {"1": "1", "2": "1"}),
    Evaluation("validation", 3, RESULTS[:1], "pruned", 0.5, stopped=EarlyStop("worse", "trial 0", 21.0)),
    Evaluation("validation", 3, (), "incomplete"),
]


@pytest.fixture(params=["file", "sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StudyPlace:
    """A study in a file of its own, and one in a storage of each dialect."""
    if request.param == "file":
        return StudyPlace(tmp_path / "trials.db")
    database = tmp_path / "storage.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return StudyPlace(database, "run")


def filled(place: StudyPlace) -> list[Trial]:
    store = TrialStore(place, SPACE)
    for candidate, evaluation in zip(CANDIDATES, EVALUATIONS, strict=True):
        store.add(Proposal(candidate, "grid", "a note", completed_in_search=evaluation.state == "pruned"), evaluation)
    return store.trials


def test_trials_are_read_as_they_were_added(place: StudyPlace) -> None:
    added = filled(place)
    read = TrialStore(place, SPACE).trials
    assert read == added
    assert [trial.evaluation for trial in read] == EVALUATIONS
    assert recorded_evaluations(place) == [(trial.candidate, trial.evaluation) for trial in reversed(added)]
    first = read[0].evaluation.results
    assert (first[0], first[1:], len(first), list(first)) == (RESULTS[0], RESULTS[1:], 3, list(RESULTS))
    assert replace(read[0].evaluation, seconds=0.0) == replace(EVALUATIONS[0], seconds=0.0)


def test_optuna_reads_what_its_own_method_would_have_stored(place: StudyPlace) -> None:
    trials, study = filled(place), open_study(place)
    ours = study.get_trials()
    with_times = {"datetime_start": None, "datetime_complete": None}
    for stored, trial in zip(ours, trials, strict=True):
        study.add_trial(to_frozen_trial(SPACE, trial, user_attrs=stored.user_attrs))
    theirs = study.get_trials()[len(ours) :]
    assert [trial.number for trial in ours + theirs] == list(range(6))
    for one, other in zip(ours, theirs, strict=True):
        assert _fields(one) | with_times == _fields(other) | with_times
        assert one.datetime_complete
        assert abs((other.datetime_complete - one.datetime_complete).total_seconds()) < 600  # type: ignore[operator]


def _fields(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    kept = ["state", "values", "params", "distributions", "user_attrs", "system_attrs", "intermediate_values"]
    return {name: getattr(trial, name) for name in kept}


def test_a_study_of_an_earlier_version_is_read_and_continued(place: StudyPlace) -> None:
    open_study(place)
    engine, whole = open_engine(place.database), TypeAdapter(Evaluation)
    for number, (candidate, evaluation) in enumerate(zip(CANDIDATES[:2], EVALUATIONS[:2], strict=True)):
        trial = Trial(number, candidate, evaluation, "grid", 1.0)
        attributes = {
            "candidate": json.dumps(candidate.to_dict()),
            "evaluation": json.dumps(whole.dump_json(evaluation).decode()),
            "proposer": '"grid"',
            "note": '""',
        }
        add_trial(engine, place, to_frozen_trial(SPACE, trial), attributes)
    engine.dispose()
    store = TrialStore(place, SPACE)
    assert [trial.evaluation for trial in store.trials] == EVALUATIONS[:2]
    store.add(Proposal(CANDIDATES[2], "grid"), EVALUATIONS[2])
    assert [trial.evaluation for trial in TrialStore(place, SPACE).trials] == EVALUATIONS


def test_a_study_whose_tables_are_of_another_optuna_is_refused_also_after_others_were_opened(place: StudyPlace) -> None:
    for _ in range(2):
        open_study(place)
    engine = open_engine(place.database)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'v9.9.9.a'"))
    engine.dispose()
    with pytest.raises(RuntimeError, match="no longer compatible"):
        open_study(place)


def test_a_second_study_of_a_process_is_a_file_of_its_own_in_wal_mode(tmp_path: Path) -> None:
    one, other = (StudyPlace(tmp_path / name) for name in ("one.db", "other.db"))
    open_study(one)
    open_study(other)
    assert Path(other.database).stat().st_mode & 0o777 == 0o600
    assert Path(other.database).read_bytes()[18:20] == b"\2\2", "the versions of a file in WAL mode"
    filled(one)
    assert TrialStore(other, SPACE).trials == []


class Waiter:
    """A clock that only waits move, and what happens at a time."""

    def __init__(self, at: float = float("inf"), event: Callable[[], object] = lambda: None) -> None:
        self.now, self._at, self._event = 0.0, at, event

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._at:
            self._event()

    def patience(self, *, is_ending: bool = False) -> Patience:
        return Patience(lambda: is_ending, clock=lambda: self.now, sleep=self.sleep)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[FileLock]:
    """The lock under which another process creates the tables of `storage.db`."""
    with FileLock(tmp_path / "storage.db.lock") as lock:
        yield lock


@pytest.mark.parametrize(("is_ending", "seconds"), [(False, WAIT_SECONDS), (True, TIDY_SECONDS)])
def test_tables_that_another_process_creates_are_waited_for_until_the_limit(
    tmp_path: Path, locked: FileLock, is_ending: bool, seconds: float
) -> None:
    waiter = Waiter()
    message = r"tables of the storage are locked.*for more than 60 s: .*storage\.db\.lock\n  remedy: end that process"
    with waiter.patience(is_ending=is_ending).applied(), pytest.raises(JournalError, match=message):
        open_study(StudyPlace(tmp_path / "storage.db", "run"))
    assert seconds <= waiter.now <= seconds + 2


def test_a_study_is_opened_once_another_process_has_created_the_tables(tmp_path: Path, locked: FileLock) -> None:
    waiter = Waiter(WAIT_SECONDS / 2, locked.release)
    with waiter.patience().applied():
        assert not open_study(StudyPlace(tmp_path / "storage.db", "run")).get_trials()
    assert waiter.now >= WAIT_SECONDS / 2
    assert not FileLock(tmp_path / "storage.db.lock", timeout=0).acquire().lock.release()


def test_results_are_parsed_when_they_are_needed_and_a_damaged_one_is_one_message(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path / "trials.db")
    filled(place)
    engine = open_engine(place.database)
    with engine.begin() as connection:
        damage = "UPDATE trial_user_attributes SET value_json = '[{\"id\": 1' WHERE key = 'results' AND trial_id = 1"
        connection.execute(sa.text(damage))
    engine.dispose()
    damaged, whole, _ = TrialStore(place, SPACE).trials
    assert (damaged.state, whole.evaluation.results) == ("complete", RESULTS[:1])
    with pytest.raises(ConfigError, match=r"trials\.db: is damaged.*\n.*remove the file and resume"):
        _ = damaged.score


def test_candidates_share_the_choices_that_are_equal(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path / "trials.db")
    store, prompts = TrialStore(place, SPACE), ("one", "two")
    candidates = [Candidate.of({"answer": replace(CANDIDATES[0]["answer"], system_prompt=p)}) for p in prompts]
    for candidate in candidates:
        store.add(Proposal(candidate, "grid"), EVALUATIONS[0])
    assert [trial.candidate for trial in TrialStore(place, SPACE).trials] == candidates
