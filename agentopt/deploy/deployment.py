"""A candidate and its task, loaded for serving or export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentopt.api import load
from agentopt.core.called_models import called_models
from agentopt.core.candidate import Candidate, load_candidate
from agentopt.core.errors import ConfigError
from agentopt.core.task import Subtask, Task
from agentopt.deploy.pareto_front import FrontCandidate, front_of
from agentopt.evaluation.candidate_check import checked_candidate
from agentopt.models.catalog import ModelSpec
from agentopt.models.request_fitting import refused_at
from agentopt.runs.candidate_file import find_candidate
from agentopt.runs.config import Config
from agentopt.runs.example_costs import ExampleCosts
from agentopt.runs.result import load_result


@dataclass(frozen=True)
class Deployment:
    """A candidate with its task.

    Attributes:
        task: The task.
        folder: The task's folder.
        file: The file of the candidate.
        candidate: Its content.
        specs: Catalogue name -> entry, of every model that the task may use.
        config: The configuration.
        refused: Model -> the parameters that the candidate's run found its endpoint to refuse, as
            `models.fitting.refusal` names them.
        front: The candidates of the run's Pareto front, for requests with a budget; empty outside of a run.
        measures: USD and latency of the candidate on the validation split, as its run measured them.
    """

    task: Task
    folder: Path
    file: Path
    candidate: Candidate
    specs: Mapping[str, ModelSpec]
    config: Config
    refused: Mapping[str, frozenset[str]] = field(default_factory=dict)
    front: tuple[FrontCandidate, ...] = ()
    measures: ExampleCosts | None = None

    @property
    def title(self) -> str:
        """One line for the head of exported files. Characters of the task's name that could end it are replaced."""
        name = "".join(c if c.isprintable() and c not in '"\\' else " " for c in self.task.name)
        title = f"Task {name}, candidate {self.candidate.key}, written by `agentopt export`"
        is_measured = self.measures and (self.measures.usd or self.measures.seconds_p50 is not None)
        return f"{title}; measured on the validation split: {self.measures}" if is_measured else title

    def models(self, candidate: Candidate | None = None) -> tuple[str, ...]:
        """Names of the models that the candidate calls, including those of fusions and cascades, each once."""
        return called_models(self.task, candidate or self.candidate)

    def refused_by(self, model: str, subtask: Subtask) -> frozenset[str]:
        """Return the parameters that a model's endpoint refuses in calls of a subtask.

        Args:
            model: Catalogue name.
            subtask: The subtask with the candidate's settings.
        """
        names, spec = self.refused.get(model, frozenset()), self.specs[model]
        own = subtask.effort if spec.has_effort else None
        return refused_at(names, None if "reasoning_effort" in names else own or spec.reasoning_effort)


def find_deployment(source: Path, task: Path | None = None, settings: Sequence[str] = ()) -> Deployment:
    """Load a candidate and its task.

    Args:
        source: The folder of a run, of which `best.yaml` is loaded, or the file of a candidate.
        task: Folder of the task; by default the run's task.
        settings: Files and `key=value` settings, which override those of the run. The run's budget, which was for its
            search, is dropped.

    Raises:
        UserError: Something is missing, or the candidate does not fit the task.
    """
    if not source.exists():
        raise ConfigError("there is no such file or folder", where=source, remedy="see `agentopt runs list`")
    found = find_candidate(source, settings)
    folder = task or (found.run.task if found.run else None)
    if folder is None:
        reason = "the task of its run was built in Python" if found.run else "the file is not in the folder of a run"
        rule = f"a candidate needs its task folder, but {reason}"
        raise ConfigError(rule, where=source, remedy="add --task with the task's folder")
    if task is None and not folder.exists():
        rule = f"the task of its run is no longer at {folder}"
        raise ConfigError(rule, where=source, remedy="add --task with the task's folder")
    deployment = deploy(found.path, folder, found.config)
    if found.run is None or not (found.run.path / "result.json").exists():
        return deployment
    result = load_result(found.run.path)
    refused = {model: frozenset(names) for model, names in result.refused_parameters.items()}
    front = front_of(result, deployment.task, deployment.specs)
    measures = next((line.measures for line in result.trials if line.candidate == deployment.candidate), None)
    return replace(deployment, refused=refused, front=front, measures=measures)


def deploy(file: Path, folder: Path, config: Config) -> Deployment:
    """Load the candidate in `file` and the task in `folder`. Raises `UserError` if they do not fit together.

    Args:
        file: File of the candidate.
        folder: Folder of the task.
        config: The configuration.
    """
    loaded, specs = load(folder, config, agent=False)
    candidate = checked_candidate(load_candidate(file), loaded)
    return Deployment(loaded, folder, file, candidate, specs, config)
