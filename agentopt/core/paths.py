"""Paths: those that a user gives, and the folders outside a project that agentopt uses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_cache_path

from agentopt.core.errors import UserError
from agentopt.core.yaml_models import shortened, shown


def as_path(path: str | os.PathLike[str], error: type[UserError]) -> Path:
    """Return the path of something to read, as a `Path`.

    Args:
        path: The path, which need not exist.
        error: Class of the exception to raise.

    Raises:
        UserError: `error`: `path` is something else, or the system cannot look it up.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise error(f"a path must be a string or a Path, but got {shown(path)}", remedy='pass a path such as "task"')
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # reported by the reader, which knows what is missing
    except (OSError, ValueError) as problem:  # no permission, too long a name, a zero byte
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise error(f"cannot be read: {reason}", where=shortened(str(path)), remedy="check the path") from problem
    return Path(path)


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of model files and the journal: $AGENTOPT_CACHE, or the user's cache folder."""
    root = environ.get("AGENTOPT_CACHE")
    return Path(root) if root else user_cache_path("agentopt")


def weights_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of model files, in the cache folder."""
    return cache_folder(environ) / "weights"
