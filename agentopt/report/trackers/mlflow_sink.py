"""Records a run in MLflow: one run with a nested run for each trial."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from agentopt.core.files import write_atomically
from agentopt.core.records import Trial
from agentopt.core.unicode_text import database_text
from agentopt.report.trackers.contents import TrackedRun, flattened, trial_metrics, trial_texts

MOST_OF_VALUE, MOST_OF_KEY, BATCH = 6000, 250, 100
"""Characters of a parameter's value and of a key, and parameters in one request: limits of MLflow's servers."""

IDS = "mlflow.json"
"""File of the run's folder with the ids of MLflow's runs."""


class MlflowSink:
    """A `Sink`. The run is continued if the run's folder has its id, and the server still has it."""

    def __init__(self, run: TrackedRun, experiment: str | None) -> None:
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # its first use of a database logs every migration
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._client, self._entities = mlflow.MlflowClient(), mlflow.entities
        self._run, self._file = run, run.path / IDS
        self._ids = self._known()
        if not self._ids:
            tags = {"agentopt.run": run.id, "agentopt.folder": database_text(str(run.path))}
            name = database_text(run.path.name)[:MOST_OF_KEY]
            self._ids = {"experiment": self._experiment(experiment)}
            self._ids["run"] = self._create(name, tags, run.begun)
        self._client.update_run(self._ids["run"], status="RUNNING")
        self._params(self._ids["run"], dict(flattened(run.settings)))

    def trial(self, trial: Trial, at: float | None) -> None:
        """Record a trial as a nested run; one of an earlier session that has ended keeps its times."""
        key = f"trial {trial.number}"
        if at is None:
            known = self._client.get_run(self._ids[key]).info.end_time if key in self._ids else None
            at = known / 1000 if known else self._run.begun
        if key not in self._ids:
            begun = at - trial.evaluation.seconds
            self._ids[key] = self._create(key, {"mlflow.parentRunId": self._ids["run"]}, begun)
        run, texts = self._ids[key], trial_texts(trial)
        for name in ("state", "proposer"):
            self._client.set_tag(run, f"agentopt.{name}", database_text(texts[name])[:MOST_OF_VALUE])
        self._params(run, {name: text for name, text in texts.items() if name != "state"})
        self._metrics(run, trial_metrics(trial), 0, at)
        self._client.set_terminated(run, "FAILED" if trial.state == "incomplete" else "FINISHED", _milliseconds(at))

    def metrics(self, values: dict[str, float], step: int, at: float) -> None:
        """Record metrics of the run."""
        self._metrics(self._ids["run"], values, step, at)

    def files(self, run: TrackedRun) -> None:
        """Record the files as artefacts."""
        self._client.log_text(self._ids["run"], database_text(run.config), "config.yaml")
        for file in run.files:
            self._client.log_artifact(self._ids["run"], str(file))

    def close(self, *, is_done: bool, at: float) -> None:
        """End the run, as killed if it has no result."""
        self._client.set_terminated(self._ids["run"], "FINISHED" if is_done else "KILLED", _milliseconds(at))

    def _known(self) -> dict[str, str]:
        """The ids in the run's folder; none if the server does not have the run."""
        from mlflow.exceptions import MlflowException

        try:
            ids: dict[str, str] = json.loads(self._file.read_text("utf-8"))
            return ids if self._client.get_run(ids["run"]).info.lifecycle_stage == "active" else {}
        except (OSError, ValueError, KeyError):
            return {}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    def _experiment(self, given: str | None) -> str:
        if given is None and (known := os.environ.get("MLFLOW_EXPERIMENT_ID")):
            return known
        name = given or os.environ.get("MLFLOW_EXPERIMENT_NAME") or database_text(self._run.task)[:MOST_OF_KEY]
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _create(self, name: str, tags: Mapping[str, str], begun: float) -> str:
        made = self._client.create_run(self._ids["experiment"], _milliseconds(begun), dict(tags), name)
        kept = {**self._ids, ("run" if "run" not in self._ids else name): made.info.run_id}
        write_atomically(self._file, json.dumps(kept))
        return str(made.info.run_id)

    def _params(self, run: str, texts: Mapping[str, str]) -> None:
        """Record the parameters that the run does not have: MLflow refuses to change one."""
        known = self._client.get_run(run).data.params
        new = [self._entities.Param(k, v) for k, v in fitting(texts).items() if k not in known]
        for first in range(0, len(new), BATCH):
            self._client.log_batch(run, params=new[first : first + BATCH])

    def _metrics(self, run: str, values: Mapping[str, float], step: int, at: float) -> None:
        when = _milliseconds(at)
        metrics: list[Any] = [self._entities.Metric(name, value, when, step) for name, value in values.items()]
        self._client.log_batch(run, metrics=metrics)


def _milliseconds(at: float) -> int:
    return round(at * 1000)


def fitting(texts: Mapping[str, str]) -> dict[str, str]:
    """Return parameters with keys and values as MLflow accepts them; a key that becomes another's gets a number."""
    found: dict[str, str] = {}
    for name, text in texts.items():
        key = first = re.sub(r"[^A-Za-z0-9_. -]", "_", name).lstrip(". ")[: MOST_OF_KEY - 10] or "_"
        number = 1
        while key.lower() in {known.lower() for known in found}:
            number += 1
            key = f"{first}_{number}"
        value = database_text(text)
        found[key] = value if len(value) <= MOST_OF_VALUE else f"{value[: MOST_OF_VALUE - 3]}..."
    return found
