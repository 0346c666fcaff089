"""The command that installs an extra, for the remedies of missing libraries."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from urllib.parse import urlsplit


def install_command(*extras: str) -> str:
    """Return the command that installs `extras` the way this installation was made."""
    from importlib import metadata  # late: it takes a quarter of the time of --help

    try:
        direct_url = metadata.distribution("agentopt").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        direct_url = None
    return command_for(extras, direct_url)


def command_for(extras: tuple[str, ...], direct_url: str | None) -> str:
    """Return the command that installs `extras`.

    Args:
        extras: Names of extras.
        direct_url: The text of `direct_url.json` (PEP 610) of the installation; None if it came from an index.

    Returns:
        For an editable installation, the command of the README for a clone, with the clone's path unless it is the
        current folder. Otherwise the command for the package.
    """
    clone, names = _clone(direct_url), ",".join(extras)
    if clone is None:
        return f"pip install 'agentopt[{names}]'"
    here = "." if clone == Path.cwd() else str(clone)
    lock = Path(here, "requirements.lock")
    locked = f"-c {shlex.quote(str(lock))} " if lock.is_file() else ""
    return f"pip install {locked}-e {shlex.quote(f'{here}[{names}]')}"


def _clone(direct_url: str | None) -> Path | None:
    """The folder of an editable installation, if it still exists."""
    from urllib.request import url2pathname  # late, like metadata

    try:
        installed = json.loads(direct_url or "{}")
        if not installed.get("dir_info", {}).get("editable"):
            return None
        folder = Path(url2pathname(urlsplit(installed["url"]).path))
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return folder if folder.is_dir() else None
