"""A local model: a GGUF file, served by the embedded engine in a process that this module starts, watches and stops."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from agentopt.core.errors import CatalogError, PermanentModelError, TransientModelError
from agentopt.models.base import Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.compute_slot import ComputeSlot, shared_slot
from agentopt.models.engine import physical_cores
from agentopt.models.hosted import HostedModel
from agentopt.models.weights import Progress, fetch

START_SECONDS = 300.0
"""A large file on a slow disk takes minutes to load."""
RESTARTS = 1
"""How often an engine that died is started again."""
SETTLE_CHECKS = 10
"""How often, a tenth of a second apart, to look whether an engine that broke a connection is dead."""
LAST_WORDS = 2000
"""Bytes of an engine's standard error that are quoted."""


class LocalModel:
    """A `ChatModel` for an entry with `weights`. Nothing is fetched or started before the first call.

    `weights_path` is used as it is; without it the file is fetched into `cache_dir` (default: the user's cache). When
    the engine dies, calls in flight raise `TransientModelError` and the next call starts it again, once; after that,
    and where it cannot start, `PermanentModelError` with its last words. Raises `CatalogError` where the engine is not
    installed, `WeightsError` where the file cannot be had. Calls take turns with those of other local models in
    `slot` (default: the event loop's). Belongs to one event loop until `aclose`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        weights_path: Path | None = None,
        cache_dir: Path | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
        slot: ComputeSlot | None = None,
    ) -> None:
        if spec.weights is None:
            raise CatalogError(f"a local model needs weights, but {spec.name!r} has none", remedy="add a GGUF file")
        self.spec, self._weights = spec, spec.weights
        self._path, self._cache_dir, self._progress = weights_path, cache_dir, progress
        self._slot = slot
        self._engine: _Engine | None = None
        self._starting = asyncio.Lock()
        self._deaths: list[str] = []

    @property
    def pid(self) -> int | None:
        """The engine's process, while there is one."""
        return self._engine.process.pid if self._engine else None

    async def generate(self, request: Request) -> Response:
        """One attempt."""
        engine = await self._started()
        try:
            async with (self._slot or shared_slot()).hold(self):
                return await engine.model.generate(request)
        except TransientModelError:
            await engine.process.settled()
            raise

    async def prepare(self, model: str) -> None:
        """Have the file. What was fetched of it when this is cancelled is kept for the next time."""
        async with self._starting:
            await self._file()

    async def aclose(self) -> None:
        """Stop the engine; the next call starts it anew."""
        async with self._starting:
            await self._drop()
            self._deaths.clear()

    async def _started(self) -> _Engine:
        async with self._starting:
            if self._engine and not self._engine.process.is_alive:
                self._deaths.append(self._engine.process.last_words())
                await self._drop()
            if self._engine is None:
                self._engine = await self._start()
            return self._engine

    async def _start(self) -> _Engine:
        if len(self._deaths) > RESTARTS:
            raise PermanentModelError(
                f"the engine of {self.spec.name} died {len(self._deaths)} times; its last words: {self._deaths[-1]}"
            )
        process = EngineProcess(await self._file(), self.spec)
        try:
            return _Engine.of(self.spec, process, await process.address())
        except BaseException:
            process.stop()
            raise

    async def _file(self) -> Path:
        if self._path is None:
            self._path = await fetch(self._weights, cache_dir=self._cache_dir, progress=self._progress)
        return self._path

    async def _drop(self) -> None:
        engine, self._engine = self._engine, None
        if engine:
            await engine.aclose()


@dataclass(frozen=True, slots=True)
class _Engine:
    """A process that serves, and the clients that talk to it."""

    process: EngineProcess
    model: HostedModel
    tokenizer: httpx.AsyncClient

    @classmethod
    def of(cls, spec: ModelSpec, process: EngineProcess, address: str) -> _Engine:
        # No proxy from the environment: the server is on this machine.
        headers = {"Authorization": f"Bearer {process.api_key}"}
        tokenizer = httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=spec.timeout_seconds)

        async def count_tokens(text: str) -> int:
            answer = await tokenizer.post("/tokenize", json={"content": text})
            return len(answer.raise_for_status().json()["tokens"])

        served = spec.model_copy(update={"base_url": f"{address}/v1", "weights": None})
        return cls(process, HostedModel(served, api_key=process.api_key, count_tokens=count_tokens), tokenizer)

    async def aclose(self) -> None:
        self.process.stop()
        await self.model.aclose()
        await self.tokenizer.aclose()


class EngineProcess:
    """The child process. It is stopped when this object is, at the end of the interpreter, or when the parent dies."""

    def __init__(self, weights: Path, spec: ModelSpec) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise CatalogError(
                f"the model {spec.name!r} needs the embedded engine, which is not installed",
                remedy="pip install 'agentopt[local]'",
            )
        self.api_key = secrets.token_urlsafe(32)
        self._name = spec.name
        settings = {
            "path": str(weights),
            "api_key": self.api_key,
            "context_length": spec.context_length,
            # A request with n choices needs n slots at once.
            "parallel": max(spec.concurrency, spec.max_choices),
            "threads": physical_cores(),
            "parent": os.getpid(),
        }
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        # Started from the thread of the event loop: the kernel ends the child when the thread that started it ends.
        self._child = subprocess.Popen(
            [sys.executable, "-m", "agentopt.models.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            # Ctrl-C in a terminal goes to a whole group of processes; the engine has answers to finish.
            start_new_session=True,
        )
        self.stop = weakref.finalize(self, _stop, self._child, self._stderr)
        assert self._child.stdin
        self._child.stdin.write(json.dumps(settings).encode() + b"\n")
        self._child.stdin.flush()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        return self.stop.alive and self._child.poll() is None

    async def settled(self) -> None:
        """Return once it is known whether a call failed because the child was dying.

        Its connections break before it counts as dead: freeing a large model's memory takes a moment.
        """
        for _ in range(SETTLE_CHECKS):
            if not self.is_alive:
                return
            await asyncio.sleep(0.1)

    async def address(self) -> str:
        """Where it serves, once the model is loaded. Raises `PermanentModelError` with its last words."""
        assert self._child.stdout
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await asyncio.to_thread(self._child.stdout.readline)
        except TimeoutError:
            raise PermanentModelError(
                f"the engine of {self._name} did not load its file in {START_SECONDS:g} s"
            ) from None
        if not line:
            self._child.wait()
            raise PermanentModelError(f"the engine of {self._name} did not start; its last words: {self.last_words()}")
        return str(json.loads(line)["address"])

    def last_words(self) -> str:
        """The exit code, and the end of what the child wrote to its standard error."""
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, end - LAST_WORDS))
        words = self._stderr.read().decode(errors="replace").strip()
        return f"exit code {self._child.returncode}; {words or 'nothing was said'}"


def _stop(child: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout, stderr):
        if stream:
            with suppress(OSError):  # what was still to be written to a dead child is lost anyway
                stream.close()
