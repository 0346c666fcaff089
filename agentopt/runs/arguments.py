"""The arguments of the Python functions: a value of another type is refused before anything is read or spent."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path

from agentopt.core.candidate import Candidate, load_candidate
from agentopt.core.errors import CandidateError, ConfigError, UserError
from agentopt.core.paths import as_path
from agentopt.core.yaml_models import shown
from agentopt.models.base import ChatModel
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.run_lease import up_to_date


def as_config(config: Config | None, run: RunFolder | None = None) -> Config:
    """Return the settings; the default is those of `run`, or the defaults.

    Raises:
        ConfigError: `config` is something else.
    """
    if config is None:
        return run.config if run else Config()
    if isinstance(config, Config):
        return config
    remedy = "write load_config(FILE)" if isinstance(config, str | PathLike) else "write Config(...)"
    remedy = "write Config(**settings)" if isinstance(config, dict) else remedy
    raise ConfigError(f"`config` must be a Config, but got {shown(config)}", remedy=remedy)


def as_candidate(candidate: Candidate | Path | str) -> Candidate:
    """Return a candidate; a path is that of a file such as `best.yaml`.

    Raises:
        CandidateError: `candidate` is something else, or the file does not hold a candidate.
    """
    if isinstance(candidate, Candidate):
        return candidate
    if isinstance(candidate, str | PathLike):
        return load_candidate(candidate)
    remedy = "pass config=..." if isinstance(candidate, Config) else "pass a Candidate, or the path of a best.yaml"
    raise CandidateError(f"`candidate` must be a Candidate or a path, but got {shown(candidate)}", remedy=remedy)


def as_candidates(candidates: Iterable[Candidate | Path | str]) -> tuple[Candidate, ...]:
    """Return candidates, of which each may be given by the path of its file.

    Raises:
        CandidateError: `candidates` is not a list, or holds something else.
    """
    if isinstance(candidates, Mapping | str | PathLike) or not isinstance(candidates, Iterable):
        rule = f"`warm_start` must be a list of candidates, but got {shown(candidates)}"
        raise CandidateError(rule, remedy="pass a list, such as warm_start=[candidate]")
    return tuple(map(as_candidate, candidates))


def as_run(run: RunFolder | Path | str | None, config: Config | None = None) -> RunFolder | None:
    """Return a run, which may be given by its folder; that of an unfinished run in a storage is brought up to date.

    Args:
        run: The run.
        config: Settings that may have another way to its storage.

    Raises:
        ConfigError: It is not a run, or its storage cannot be used.
    """
    if isinstance(run, RunFolder) or run is None:
        return run
    path = as_path(run, ConfigError)
    up_to_date(path, config.storage if isinstance(config, Config) else None)
    return RunFolder.open(path)


def check_provider(provider: ChatModel | None) -> None:
    """Raise `UserError` unless `provider` is None or has an async method `generate`."""
    generate = getattr(provider, "generate", None)
    if provider is None or (inspect.iscoroutinefunction(generate) and not isinstance(provider, type)):
        return
    rule = f"`provider` must be an object with an async method `generate`, but got {shown(provider)}"
    raise UserError(rule, remedy="pass a ChatModel, such as agentopt.models.scripted.ScriptedModel(reply)")
