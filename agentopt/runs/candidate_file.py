"""The file of a candidate, with the settings that it was found with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentopt.core.errors import ConfigError
from agentopt.core.yaml_models import did_you_mean
from agentopt.runs.config import BudgetConfig, Config, load_config
from agentopt.runs.folder import RunFolder


@dataclass(frozen=True, slots=True)
class CandidateFile:
    """A candidate's file and the configuration to use it with.

    Attributes:
        path: The file.
        run: The run in whose folder the file is; None if it is in no run's folder.
        config: The run's settings without its budget, which was for its search, overridden by those of the user.
    """

    path: Path
    run: RunFolder | None
    config: Config


def find_candidate(source: Path, settings: Sequence[str] = ()) -> CandidateFile:
    """Find the file of a candidate and its configuration. The file itself is not read.

    Args:
        source: The folder of a run, whose candidate is in `best.yaml`, or the file of a candidate.
        settings: Files and `key=value` settings, which override those of the run.

    Raises:
        ConfigError: The folder holds no finished run, or the settings break a rule.
    """
    is_run = source.is_dir()
    run = RunFolder.open(source) if is_run else RunFolder.around(source)
    path = source / "best.yaml" if is_run else source
    if run and not path.is_file():
        rule = f"the run has no {path.name}" + (": it is not finished" if is_run else "")
        known = [file.name for file in run.path.glob("*.yaml") if file.name != "config.yaml"]
        raise ConfigError(rule, where=run.path, remedy=did_you_mean(path.name, known) if known else run.resuming)
    base = run.config.model_copy(update={"budget": BudgetConfig()}) if run else None
    return CandidateFile(path, run, load_config(settings, base))
