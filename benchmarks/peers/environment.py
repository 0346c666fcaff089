"""The peers' own virtual environment, made once for each version of `requirements.txt`, and how an arm is started."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from agentopt.core.errors import UserError

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
ROOT = Path(__file__).parents[2]

OFFLINE: Mapping[str, str] = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPIK_TRACK_DISABLE": "true",
    "OPIK_ANALYTICS_ENABLE": "false",
    "OPIK_SENTRY_ENABLE": "false",
    "OPIK_URL_OVERRIDE": "http://127.0.0.1:9/api",
    "OPIK_OPTIMIZER_NO_BANNER": "1",
    "DO_NOT_TRACK": "1",
    "NO_PROXY": "127.0.0.1",
}
"""No telemetry, no price list from the network, no Opik server (port 9 discards)."""


async def peers_python(cache: Path) -> Path:
    """Return the interpreter of the peers' environment in `cache`; create the environment on first use.

    Raises:
        UserError: pip failed.
    """
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    place = cache / f"peers-{digest}"
    python, done = place / "bin" / "python", place / "installed"
    if not done.exists():
        shutil.rmtree(place, ignore_errors=True)
        await _run(sys.executable, "-m", "venv", str(place))
        await _run(str(python), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS))
        done.touch()
    return python


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, printed = await process.communicate()
    if process.returncode:
        tail = printed.decode(errors="replace").strip().splitlines()[-1:]
        rule = f"the peers' environment cannot be made: {' '.join(command)} ended with {process.returncode}: {tail}"
        raise UserError(rule, remedy="make the package index reachable for pip, or leave the peers out with --arms")


def arm_environment(home: Path) -> dict[str, str]:
    """The environment variables of an arm's process, whose libraries keep their caches in `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    return {**kept, **OFFLINE, "PYTHONPATH": str(ROOT), "HOME": str(home), "DSPY_CACHEDIR": str(home / "dspy")}
