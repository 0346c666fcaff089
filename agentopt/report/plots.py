"""Figures of a run as `plotly.graph_objects.Figure`: those of its page, for notebooks and scripts.

Each function takes a `Result`, the folder of a finished run, or a `RunArchive`, which may be of a run that is going on
or was stopped. They need the extra `plots`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentopt.core.budget import Usage
from agentopt.core.cost import CostMeasure
from agentopt.core.errors import UserError
from agentopt.core.extras import install_command
from agentopt.core.task_rules import unknown_subtask
from agentopt.core.yaml_models import shown
from agentopt.prompts.diagnosis import Diagnosis
from agentopt.prompts.outcome import RaceRewards
from agentopt.report import figures
from agentopt.runs.archive import RunArchive, spend_of
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import Result, TrialLine, load_result
from agentopt.runs.run_record import PromptsEntry, read_record

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Run = Result | RunArchive | Path | str
"""What the functions draw: a result, an archive, or the folder of a finished run."""


def history(run: Run) -> Figure:
    """Score of each trial by its proposer, and the best score so far.

    Args:
        run: A `Result`, the folder of a finished run, or a `RunArchive`.

    Returns:
        The figure. A point's `customdata` is the number of its trial, as in `pareto_front`.

    Raises:
        UserError: No trial has a score, plotly is not installed, or `run` is none of the three.
    """
    return _drawn(figures.best_so_far(_trials(run).lines), "no trial has a score")


def pareto_front(run: Run) -> Figure:
    """Shrunk score against cost of the complete trials, with the Pareto front.

    Args:
        run: A `Result`, the folder of a finished run, or a `RunArchive`.

    Raises:
        UserError: No trial is complete, plotly is not installed, or `run` is none of the three.
    """
    found = _trials(run)
    return _drawn(figures.pareto(found.lines, found.front, found.cost_in, found.beyond), "no trial is complete")


def samples(run: Run, subtask: str) -> Figure:
    """Mean score of the trials by number of samples and model of one subtask.

    Args:
        run: A `Result`, the folder of a finished run, or a `RunArchive`.
        subtask: Name of the subtask.

    Raises:
        UserError: The trials have one model and number of samples only, plotly is not installed, or `run` is none of
            the three.
        TaskError: There is no such subtask.
    """
    lines = _trials(run).lines
    known = [name for name, _ in lines[0].candidate.items()] if lines else []
    if subtask not in known:
        raise unknown_subtask(subtask, known)
    return _drawn(figures.scaling(lines, subtask), f"all trials have one model and number of samples of {subtask}")


def spend(run: Run) -> Figure:
    """Spend by purpose and model, in USD if a model has a price, else in tokens.

    Args:
        run: A `Result`, the folder of a finished run, or a `RunArchive`. The journal must still exist.

    Raises:
        UserError: Nothing was spent, plotly is not installed, or `run` is none of the three.
        ConfigError: The run's folder is gone.
    """
    found = figures.spend(_spent(run), figures.models_of(_trials(run).lines))
    return _drawn(found, "the journal has no call of this run")


def rewards(run: Run, subtask: str) -> Figure:
    """Mean reward of each system prompt on each training example, in the last prompt optimisation of a subtask.

    Args:
        run: A `Result`, the folder of a finished run, or a `RunArchive`.
        subtask: Name of the subtask.

    Raises:
        UserError: Its system prompts were not compared, plotly is not installed, or `run` is none of the three.
        ConfigError: The run's folder is gone.
    """
    of_subtask = [entry for entry in _prompts(run) if entry.report.subtask == subtask]
    drawn = [found for i, entry in enumerate(of_subtask) if (found := figures.race(f"race-{i}", entry))]
    return _drawn(drawn[-1] if drawn else None, f"the run compared no system prompts of {shown(subtask)}")


def diagnosis(found: Diagnosis) -> Figure:
    """Mean reward of each system prompt on each training example, in the pilot of a diagnosis.

    Args:
        found: What `agentopt.diagnose` returned for one subtask.

    Raises:
        UserError: plotly is not installed, or `found` is no `Diagnosis`.
    """
    if not isinstance(found, Diagnosis):
        rule = f"a plot of a diagnosis needs a Diagnosis, but got {shown(found)}"
        raise UserError(rule, remedy="`agentopt.diagnose` returns a list of them: pass one")
    drawn = RaceRewards(tuple(found.system_prompts), tuple(found.system_prompts.values()), found.examples, found.mean)
    title = f"Rewards of the system prompts of {found.subtask}: {found.verdict}"
    return _drawn(figures.heat_map("diagnosis", title, drawn), "")


@dataclass(frozen=True, slots=True)
class _Trials:
    lines: Sequence[TrialLine]
    front: Sequence[int]
    cost_in: CostMeasure
    beyond: Collection[int]


def _trials(run: Run) -> _Trials:
    match run:
        case RunArchive():
            return _Trials(run.lines, run.front, run.cost_in, run.beyond_limits)
        case Result():
            return _Trials(run.trials, run.pareto, run.cost_in, run.beyond_limits)
        case Path() | str():
            return _trials(load_result(run))
        case _:
            raise _refused(run)


def _spent(run: Run) -> Mapping[tuple[str, str], Usage]:
    return run.spent if isinstance(run, RunArchive) else spend_of(_folder(run))[0]


def _prompts(run: Run) -> tuple[PromptsEntry, ...]:
    return run.prompts if isinstance(run, RunArchive) else read_record(_folder(run).record).prompts


def _folder(run: Result | Path | str) -> RunFolder:
    match run:
        case Result():
            return RunFolder.open(run.run)
        case Path() | str():
            return RunFolder.open(run)
        case _:
            raise _refused(run)


def _refused(run: object) -> UserError:
    rule = f"a plot needs a Result, a RunArchive or the folder of a run, but got {shown(run)}"
    return UserError(rule, remedy="pass what `agentopt.optimize` returned, or the path of its folder")


def _drawn(figure: figures.Figure | None, why_not: str) -> Figure:
    if figure is None:
        raise UserError(f"there is nothing to draw: {why_not}", remedy="see `agentopt runs show RUN`")
    try:
        from plotly.graph_objects import Figure
    except ImportError as error:
        raise UserError("plots need plotly, which is not installed", remedy=install_command("plots")) from error
    drawn = Figure(figure.spec)
    return drawn.update_layout(title={"text": figure.title}, margin={"t": 90})
