"""The folders outside a project that agentopt uses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of model files and the journal: $AGENTOPT_CACHE, or the user's cache folder."""
    root = environ.get("AGENTOPT_CACHE")
    return Path(root) if root else user_cache_path("agentopt")


def weights_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of model files, in the cache folder."""
    return cache_folder(environ) / "weights"
