"""Trackers: observers that record a run in MLflow or Weights & Biases. `agentopt.trackers`."""

from __future__ import annotations

from collections.abc import Callable

from agentopt.report.trackers.tracker import Tracker


def mlflow(experiment: str | None = None) -> Tracker:
    """Return a tracker for MLflow, at `MLFLOW_TRACKING_URI`.

    Args:
        experiment: Name of the experiment. Default: `MLFLOW_EXPERIMENT_ID` or `MLFLOW_EXPERIMENT_NAME`, else the task's
            name.

    Raises:
        UserError: MLflow is not installed.
    """
    from agentopt.report.trackers.mlflow_sink import MlflowSink

    return Tracker("mlflow", lambda run: MlflowSink(run, experiment))


def wandb(project: str | None = None) -> Tracker:
    """Return a tracker for Weights & Biases; `WANDB_MODE=offline` keeps the run on disk.

    Args:
        project: Name of the project. Default: `WANDB_PROJECT`, else `agentopt`.

    Raises:
        UserError: The client of Weights & Biases is not installed.
    """
    from agentopt.report.trackers.wandb_sink import WandbSink

    return Tracker("wandb", lambda run: WandbSink(run, project))


TRACKERS: dict[str, Callable[[], Tracker]] = {"mlflow": mlflow, "wandb": wandb}
"""Tracker by its name on the command line."""
