"""Frames of pandas with the trials and the examples of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agentopt.core.candidate import Candidate
from agentopt.core.errors import UserError
from agentopt.core.records import Evaluation, SubtaskUse
from agentopt.runs.folder import RunFolder
from agentopt.runs.run_record import read_record
from agentopt.runs.trial_store import recorded_evaluations


def frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Return a `pandas.DataFrame`.

    Args:
        rows: Column -> value of each row.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise UserError("a frame needs pandas, which is not installed", remedy="pip install pandas") from error
    return DataFrame(list(rows))


def trial_row(trial: Any, on_front: bool) -> dict[str, Any]:
    """Return the row of a trial.

    Args:
        trial: A `TrialLine`, whose module imports this one.
        on_front: Whether it is on the Pareto front.
    """
    names = ("proposer", "state", "score", "shrunk", "scored", "planned", "units")
    return {
        "trial": trial.number,
        **{name: getattr(trial, name) for name in names},
        **{name: getattr(trial.measures, name, None) for name in ("usd", "seconds_p50", "seconds_p95")},
        "pareto": on_front,
        **{f"{name}.model": choice.model for name, choice in trial.candidate.items()},
        **{f"{name}.num_samples": choice.num_samples for name, choice in trial.candidate.items()},
        **{f"{name}.{of}": value for name, choice in trial.candidate.items() for of, value in choice.settings},
    }


def example_rows(run: str, trials: Mapping[int, tuple[Candidate, str, int]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each example of each evaluation of a run, repeats apart.

    Args:
        run: The run's folder.
        trials: Number of a trial -> its candidate, its state and its number of scores.
    """
    folder = RunFolder.open(Path(run))
    found = recorded_evaluations(folder.trials)
    for number, (candidate, state, scored) in trials.items():
        for of, evaluation in found:
            if of == candidate and (evaluation.state, len(evaluation.scores)) == (state, scored):
                yield from _rows(number, evaluation)
                break
    for number, tested in sorted(read_record(folder.record).tests.items()):
        yield from _rows(number, tested)


def _rows(trial: int, evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for result in evaluation.results:
        use = sum(result.subtasks.values(), SubtaskUse())
        yield {
            "trial": trial,
            "split": evaluation.split,
            "example": result.id,
            "repeat": result.repeat,
            "score": result.score,
            "output": result.output,
            "feedback": result.feedback,
            "error": result.error,
            "prompt_tokens": use.prompt_tokens,
            "completion_tokens": use.completion_tokens,
            "usd": use.usd + use.fusion_usd,
            "seconds": result.seconds,
            **{f"metric.{name}": value for name, value in result.metrics.items()},
        }
