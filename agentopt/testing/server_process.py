"""A loopback server in a separate process, for tests that kill the client while the server keeps running."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self


class ServerProcess:
    """A context manager that runs `python -m agentopt.testing.servers` on a free port.

    Args:
        counter: File that gets one JSON line per request.
        kind: Protocol, `openai` or `anthropic`.
        quality: Model -> probability of a correct answer; see `planted_answer`.
        faults: Fault -> probability per request; see `Faults`.
        delay: Duration of every call in seconds.
        seed: Seed of the answers and of the faults.
    """

    base_url: str
    """Base URL for clients; set inside the `with` block."""

    def __init__(
        self,
        *,
        counter: Path,
        kind: str = "openai",
        quality: Mapping[str, float] | None = None,
        faults: Mapping[str, float] | None = None,
        delay: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._counter = counter
        self._command = [sys.executable, "-m", "agentopt.testing.servers", "--kind", kind, "--counter", str(counter)]
        self._command += ["--delay", str(delay), "--seed", str(seed)]
        for flag, values in (("--quality", quality), ("--fault", faults)):
            for name, value in (values or {}).items():
                self._command += [flag, f"{name}={value}"]

    def received(self) -> list[dict[str, Any]]:
        """Return one mapping per request so far: arrived, key, model, n, seed, outcome."""
        if not self._counter.exists():
            return []
        return [json.loads(line) for line in self._counter.read_text().splitlines()]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own module
        assert self._process.stdout
        words = self._process.stdout.readline().split()
        if not words:
            raise RuntimeError(f"the loopback server did not start: exit code {self._process.wait()}")
        self.base_url = words[-1]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
