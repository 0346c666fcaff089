"""Records a run in Weights & Biases: one run, with a table that has a row for each trial."""

from __future__ import annotations

import os
from typing import Any

from agentopt.core.records import Trial
from agentopt.core.unicode_text import well_formed
from agentopt.report.trackers.contents import TrackedRun, trial_metrics, trial_texts


class WandbSink:
    """A `Sink`. The run's id is that of agentopt, so a resumed run continues the same one."""

    def __init__(self, run: TrackedRun, project: str | None) -> None:
        import wandb

        self._wandb = wandb
        self._trials: dict[int, dict[str, Any]] = {}
        self._of = wandb.init(
            project=project or os.environ.get("WANDB_PROJECT") or "agentopt",
            id=run.id,
            name=well_formed(run.path.name)[:128],
            config={name: _clean(value) for name, value in run.settings.items()},
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
            dir=None if "WANDB_DIR" in os.environ else str(run.path),
        )
        self._of.define_metric("*", step_metric="trial")

    def trial(self, trial: Trial, at: float | None) -> None:
        """Keep a trial for the table."""
        self._trials[trial.number] = {**trial_texts(trial), **trial_metrics(trial)}

    def metrics(self, values: dict[str, float], step: int, at: float) -> None:
        """Record metrics of the run."""
        self._of.log({"trial": step, "_timestamp": at, **values})

    def files(self, run: TrackedRun) -> None:
        """Record the table of trials, and the files as an artefact."""
        rows = [self._trials[number] for number in sorted(self._trials)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = self._wandb.Table(
            columns=[well_formed(name) for name in names],
            data=[[_clean(row.get(name)) for name in names] for row in rows],
        )
        self._of.log({"trials": table})
        artefact = self._wandb.Artifact(f"run-{run.id}", type="agentopt-run")
        with artefact.new_file("config.yaml") as file:
            file.write(well_formed(run.config))
        for path in run.files:
            artefact.add_file(str(path))
        self._of.log_artifact(artefact)

    def close(self, *, is_done: bool, at: float) -> None:
        """End the run, as failed if it has no result."""
        self._of.finish(exit_code=0 if is_done else 1)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {well_formed(str(name)): _clean(inner) for name, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list) else value
