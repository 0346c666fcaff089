"""What a tracker records of a run: parameters, metrics, rows of trials, files. Independent of the tracker."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentopt.core.budget import Usage
from agentopt.core.database import without_password
from agentopt.core.records import Trial
from agentopt.core.yaml_text import to_yaml
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import Result

FILES = ("result.json", "best.yaml", "recommended.yaml", "report.html")
"""Files of the run's folder that are recorded, as far as they exist."""

SECRET = ("extra_headers", "query", "extra_body")
"""Fields of catalogue entries that may hold a key."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as a tracker shows it.

    Attributes:
        id: The run's id in the ledger.
        task: Name of the task.
        path: The run's folder.
        settings: The settings, without secrets.
        begun: When this session of the run began, in seconds since 1970.
    """

    id: str
    task: str
    path: Path
    settings: Mapping[str, Any]
    begun: float

    @property
    def config(self) -> str:
        """The settings as YAML."""
        return to_yaml(dict(self.settings))

    @property
    def files(self) -> list[Path]:
        """The files to record that exist."""
        return [self.path / name for name in FILES if (self.path / name).is_file()]


def tracked_run(folder: Path, begun: float) -> TrackedRun:
    """Read the run in `folder`, a session of which began at `begun`."""
    run = RunFolder.open(folder)
    task = run.path.name.rpartition("-")[0].rpartition("-")[0]  # the folder is TASK-DATE-TIME
    settings = without_secrets(run.config.model_dump(mode="json"))
    return TrackedRun(run.id, task or run.path.name, run.path, settings, begun)


def without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without what may hold a key: headers of models, and the password of the journal's URL."""
    models = [
        {key: value for key, value in entry.items() if key not in SECRET} if isinstance(entry, dict) else entry
        for entry in settings["models"]
    ]
    journal = settings["journal"]
    return {**settings, "models": models, "journal": journal and without_password(journal)}


def flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted keys with their values as text; a list is JSON."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def trial_texts(trial: Trial) -> dict[str, str]:
    """Return the parameters of a trial: its number, its proposer, and the choice for each subtask."""
    choices = dict(flattened({name: choice.to_dict() for name, choice in trial.candidate.items()}))
    return {"trial": str(trial.number), "proposer": trial.proposer, "state": trial.state, **choices}


def trial_metrics(trial: Trial) -> dict[str, float]:
    """Return the metrics of a trial on the validation split; costs are per example."""
    found = trial.evaluation
    values = {
        "validation_score": found.score,
        "scored": float(len(found.scores)),
        "cost": trial.units,
        "usd_per_example": found.usd_per_example,
        "seconds_p50": found.latency(0.5),
        "seconds": found.seconds,
    }
    return finite(values)


def spend_metrics(spent: Mapping[str, Usage]) -> dict[str, float]:
    """Return USD, calls and tokens, together and by purpose."""
    total = sum(spent.values(), Usage())
    return {
        f"spent/{purpose}/{unit}": float(getattr(usage, unit))
        for purpose, usage in {"total": total, **spent}.items()
        for unit in ("usd", "calls", "tokens")
    }


def result_metrics(result: Result) -> dict[str, float]:
    """Return the test score of each finalist with its interval, and the difference to the baseline."""
    values: dict[str, float | None] = {}
    for finalist in result.finalists:
        for role in finalist.roles:
            if test := finalist.test:
                low, high = test.interval.low, test.interval.high
                values |= {f"test/{role}/score": test.score, f"test/{role}/low": low, f"test/{role}/high": high}
            if compared := finalist.against_baseline:
                values[f"test/{role}/difference"] = compared.difference.mean
    return finite(values)


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Return the values that are finite numbers."""
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
