"""Paths: those that a user gives, and the folders outside a project that agentopt uses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_cache_path

from agentopt.core.errors import UserError
from agentopt.core.yaml_models import shown


def as_path(path: str | os.PathLike[str], error: type[UserError]) -> Path:
    """Return a path that a user gives as a `Path`. Raises `error` for anything else."""
    if isinstance(path, str | os.PathLike) and os.fspath(path):
        return Path(path)
    raise error(f"a path must be a text or a Path, but got {shown(path)}", remedy='pass a path such as "task"')


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of model files and the journal: $AGENTOPT_CACHE, or the user's cache folder."""
    root = environ.get("AGENTOPT_CACHE")
    return Path(root) if root else user_cache_path("agentopt")


def weights_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of model files, in the cache folder."""
    return cache_folder(environ) / "weights"
