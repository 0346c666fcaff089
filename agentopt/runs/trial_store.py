"""Stores the trials of a run in one Optuna study, and finds the one to beat.

A trial is written once, when it is finished, so a killed run leaves no partial trial. The study can be opened with any
Optuna tool; what Optuna has no field for (the evaluation, the proposer) is in the trials' user attributes.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from agentopt.core.candidate import Candidate
from agentopt.core.records import BestSoFar, Evaluation, Trial
from agentopt.search.base import Proposal, SearchSpace
from agentopt.search.posterior import TOLERANCE, Choice, choose

if TYPE_CHECKING:
    import optuna

STUDY_NAME = "agentopt"
_evaluations = TypeAdapter(Evaluation)


class TrialStore:
    """The trials of one run, in memory and in an Optuna storage.

    Args:
        path: The SQLite file, `trials.db` of the run's folder. It is created if it does not exist.
        space: The search space, for Optuna's distributions and the trials' costs.
    """

    def __init__(self, path: Path, space: SearchSpace) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self._study = optuna.load_study(study_name=STUDY_NAME, storage=_storage(path))
        self.trials: list[Trial] = [_from_optuna(t, space) for t in self._study.get_trials(deepcopy=False)]

    def add(self, proposal: Proposal, evaluation: Evaluation) -> Trial:
        """Record a finished trial; it is on disk when this returns."""
        trial = Trial(
            len(self.trials),
            proposal.candidate,
            evaluation,
            proposal.proposer,
            self.space.units(proposal.candidate),
            proposal.note,
            proposal.fallback,
        )
        self._study.add_trial(_to_optuna(trial, self.space))
        self.trials.append(trial)
        return trial

    def find(self, candidate: Candidate, *, unfinished: bool = False) -> Trial | None:
        """The finished trial of `candidate`, or None; with `unfinished`, its last trial if none is finished.

        Of a pruned trial and the one that completed it, this is the pruned one: a replayed search sees what it saw.
        """
        found = [t for t in self.trials if t.candidate == candidate]
        finished = (t for t in found if t.state != "incomplete")
        return next(finished, found[-1] if unfinished and found else None)

    def choice(self, tolerance: float = TOLERANCE) -> Choice | None:
        """The best and the recommended trial; None if none is complete."""
        return choose(self.space, self.trials, tolerance=tolerance)

    @property
    def best_so_far(self) -> BestSoFar | None:
        """The best trial and its shrunk score, for events."""
        choice = self.choice()
        return BestSoFar(choice.best.number, choice.best_score) if choice else None

    @property
    def unfinished(self) -> list[Trial]:
        """The last trial of every candidate that has only incomplete ones."""
        last = {trial.candidate: trial for trial in self.trials if self.find(trial.candidate) is None}
        return list(last.values())


def highest_score(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the highest raw score over the examples that none left out; of equals the cheaper one.

    Early stopping compares with it: that a trial cannot catch up is a statement about raw scores on the same rows.
    What a run returns is chosen by `search.posterior.choose`.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    left_out = {example for trial in complete for example in trial.evaluation.left_out}

    def rank(trial: Trial) -> tuple[float, float, int]:
        scores = [score for example, score in trial.evaluation.scores.items() if example not in left_out]
        return -sum(scores) / len(scores) if scores else float("inf"), trial.units, trial.number

    return min(complete, key=rank, default=None)


def _storage(path: Path) -> optuna.storages.RDBStorage:
    """The storage at `path`. A new one is built under another name first, so that a kill leaves no partial schema."""
    import optuna

    new = not path.exists()
    if new:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not named by the process id: in a container, the next process often has the same one.
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        storage = optuna.storages.RDBStorage(f"sqlite:///{draft}")
        optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize")
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        storage.engine.dispose()
        os.replace(draft, path)
    waiting = {"connect_args": {"timeout": 60}}  # while another process, or an Optuna tool, reads
    return optuna.storages.RDBStorage(
        f"sqlite:///{path}", engine_kwargs=waiting, skip_table_creation=True, skip_compatibility_check=new
    )


def _to_optuna(trial: Trial, space: SearchSpace) -> optuna.trial.FrozenTrial:
    from agentopt.search.optuna_trials import to_frozen_trial

    return to_frozen_trial(
        space,
        trial,
        user_attrs={
            "candidate": trial.candidate.to_dict(),
            "evaluation": _evaluations.dump_json(trial.evaluation).decode(),
            "proposer": trial.proposer,
            "note": trial.note,
            "fallback": trial.fallback,
        },
    )


def _from_optuna(frozen: optuna.trial.FrozenTrial, space: SearchSpace) -> Trial:
    attributes = frozen.user_attrs
    candidate = Candidate.from_dict(attributes["candidate"])
    evaluation = _evaluations.validate_json(attributes["evaluation"])
    return Trial(
        frozen.number,
        candidate,
        evaluation,
        attributes["proposer"],
        space.units(candidate),
        attributes["note"],
        attributes.get("fallback", ""),  # version 0.1.0 did not record it
    )
