"""Stores the trials of a run in one Optuna study, and selects the best of them.

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
from agentopt.core.comparison import compare
from agentopt.core.records import Evaluation, Trial
from agentopt.core.stats import verdict
from agentopt.search.base import Proposal, SearchSpace

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
        self._space = space
        self._study = optuna.load_study(study_name=STUDY_NAME, storage=_storage(path))
        self.trials: list[Trial] = [_from_optuna(t, space) for t in self._study.get_trials(deepcopy=False)]

    def add(self, proposal: Proposal, evaluation: Evaluation) -> Trial:
        """Record a finished trial; it is on disk when this returns."""
        trial = Trial(
            len(self.trials),
            proposal.candidate,
            evaluation,
            proposal.proposer,
            self._space.units(proposal.candidate),
            proposal.note,
            proposal.fallback,
        )
        self._study.add_trial(_to_optuna(trial, self._space))
        self.trials.append(trial)
        return trial

    def find(self, candidate: Candidate, *, unfinished: bool = False) -> Trial | None:
        """The last trial of `candidate`, or None; an incomplete one only with `unfinished`."""
        found = (t for t in reversed(self.trials) if t.candidate == candidate)
        return next((t for t in found if unfinished or t.state != "incomplete"), None)

    @property
    def unfinished(self) -> list[Trial]:
        """The last trial of every candidate that has only incomplete ones."""
        last = {trial.candidate: trial for trial in self.trials if self.find(trial.candidate) is None}
        return list(last.values())


def complete(trials: Sequence[Trial]) -> list[Trial]:
    """The trials of which every example was scored."""
    return [trial for trial in trials if trial.state == "complete"]


def comparable_scores(trials: Sequence[Trial]) -> dict[int, float]:
    """Trial number -> mean score of each complete trial, over the examples that none of them left out."""
    left_out = {example for trial in complete(trials) for example in trial.evaluation.left_out}
    means = {}
    for trial in complete(trials):
        scores = [score for example, score in trial.evaluation.scores.items() if example not in left_out]
        means[trial.number] = sum(scores) / len(scores) if scores else float("-inf")
    return means


def highest_score(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the highest comparable score; of equals the cheaper, then the earlier one."""
    scores = comparable_scores(trials)
    return min(complete(trials), key=lambda t: (-scores[t.number], t.units, t.number), default=None)


def recommended_trial(trials: Sequence[Trial], *, seed: int = 0) -> Trial | None:
    """The cheapest complete trial that is not significantly worse than the best one, by the paired comparison."""
    best = highest_score(trials)
    if best is None:
        return None
    scores = comparable_scores(trials)
    for trial in sorted(complete(trials), key=lambda t: (t.units, -scores[t.number], t.number)):
        if trial is best:
            break
        difference = compare(best.evaluation, trial.evaluation, seed=seed)
        if difference is None or verdict(difference) != "better":
            return trial
    return best


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """The complete trials that no cheaper or equally expensive trial beats in score, cheapest first."""
    scores, front = comparable_scores(trials), list[Trial]()
    for trial in sorted(complete(trials), key=lambda t: (t.units, -scores[t.number], t.number)):
        if not front or scores[trial.number] > scores[front[-1].number]:
            front.append(trial)
    return front


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
