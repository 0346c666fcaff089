"""A local model: a GGUF file served by the embedded engine, in a child process started and stopped here."""

from __future__ import annotations

import asyncio
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
from agentopt.core.events import FileProgress
from agentopt.models.base import Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.compute_slot import ComputeSlot, shared_slot
from agentopt.models.engine import check_installed, physical_cores
from agentopt.models.hosted import HostedModel
from agentopt.models.weight_files import fetch

START_SECONDS = 300.0
"""Time limit for loading a file; a large one on a slow disk takes minutes."""
RESTARTS = 1
"""Number of times an engine that died is restarted."""
SETTLE_CHECKS = 10
"""Checks, 0.1 s apart, for whether an engine that broke a connection has died."""
STDERR_TAIL_BYTES = 2000
"""Bytes of stderr quoted in an error."""


class LocalModel:
    """A `ChatModel` for an entry with `weights`. The file is fetched, and the engine started, on the first call.

    When the engine dies, calls in flight raise `TransientModelError` and the next call restarts it, once; after that,
    and if it cannot start, calls raise `PermanentModelError` with its stderr tail. An instance belongs to one event
    loop until `aclose`.

    Args:
        spec: A catalogue entry with `weights`.
        weights_path: The file to use; fetched into `cache_dir` unless given.
        cache_dir: Folder for fetched files; the user's cache unless given.
        progress: Called with the progress of a download, from another thread.
        slot: Shared with the other local models; that of the event loop unless given.

    Raises:
        CatalogError: The entry has no weights, or (on the first call) the engine is not installed.
        WeightsError: On the first call, if the file cannot be fetched.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        weights_path: Path | None = None,
        cache_dir: Path | None = None,
        progress: Callable[[FileProgress], None] = lambda _: None,
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
        """Process id of the engine; None while it is not running."""
        return self._engine.process.pid if self._engine else None

    async def generate(self, request: Request) -> Response:
        """Make one attempt."""
        engine = await self._started()
        try:
            async with (self._slot or shared_slot()).hold(self):
                return await engine.model.generate(request)
        except TransientModelError:
            await engine.process.wait_if_dying()
            raise

    async def prepare(self, model: str) -> None:
        """Fetch the file. If cancelled, the part downloaded so far is kept for the next attempt."""
        async with self._starting:
            await self._file()

    async def aclose(self) -> None:
        """Stop the engine; the next call starts it again."""
        async with self._starting:
            await self._drop()
            self._deaths.clear()

    async def _started(self) -> _Engine:
        async with self._starting:
            if self._engine and not self._engine.process.is_alive:
                self._deaths.append(self._engine.process.stderr_tail())
                await self._drop()
            if self._engine is None:
                self._engine = await self._start()
            return self._engine

    async def _start(self) -> _Engine:
        if len(self._deaths) > RESTARTS:
            raise PermanentModelError(
                f"the engine of {self.spec.name} died {len(self._deaths)} times; its stderr tail: {self._deaths[-1]}"
            )
        process = EngineProcess(await self._file(), self.spec)
        try:
            return _Engine.connect(self.spec, process, await process.address())
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
    """An engine process and its HTTP clients."""

    process: EngineProcess
    model: HostedModel
    tokenizer: httpx.AsyncClient

    @classmethod
    def connect(cls, spec: ModelSpec, process: EngineProcess, address: str) -> _Engine:
        # No proxy from the environment: the server is on this machine.
        headers = {"Authorization": f"Bearer {process.api_key}"}
        tokenizer = httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=spec.timeout_seconds)

        async def count_tokens(text: str) -> int:
            answer = await tokenizer.post("/tokenize", json={"content": text})
            return len(answer.raise_for_status().json()["tokens"])

        supports = spec.supports.model_copy(update={} if spec.supports.seed is False else {"seed": True})
        served = spec.model_copy(update={"base_url": f"{address}/v1", "weights": None, "supports": supports})
        return cls(process, HostedModel(served, api_key=process.api_key, count_tokens=count_tokens), tokenizer)

    async def aclose(self) -> None:
        self.process.stop()
        await self.model.aclose()
        await self.tokenizer.aclose()


class EngineProcess:
    """The engine's child process.

    It ends with `stop()`, when this object is garbage-collected, when the interpreter exits, or when the parent dies.

    Args:
        weights: The model file.
        spec: The catalogue entry: context length and concurrency.

    Raises:
        CatalogError: The engine is not installed.
    """

    def __init__(self, weights: Path, spec: ModelSpec) -> None:
        check_installed(spec.name)
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
        # Started from the event loop's thread: the kernel kills the child when the thread that started it ends.
        self._child = subprocess.Popen(
            [sys.executable, "-m", "agentopt.models.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            # Ctrl-C in a terminal goes to the whole process group, but the engine must finish its answers.
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

    async def wait_if_dying(self) -> None:
        """Wait up to one second for the child to exit, after a call failed.

        Its connections break before the process exits, because freeing a large model's memory takes a moment.
        """
        for _ in range(SETTLE_CHECKS):
            if not self.is_alive:
                return
            await asyncio.sleep(0.1)

    async def address(self) -> str:
        """Return the server's URL, once the model is loaded.

        Raises:
            PermanentModelError: The engine did not start; contains its stderr tail.
        """
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
            raise PermanentModelError(
                f"the engine of {self._name} did not start; its stderr tail: {self.stderr_tail()}"
            )
        return str(json.loads(line)["address"])

    def stderr_tail(self) -> str:
        """Return the exit code and the last bytes of stderr."""
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, end - STDERR_TAIL_BYTES))
        tail = self._stderr.read().decode(errors="replace").strip()
        return f"exit code {self._child.returncode}; {tail or 'stderr is empty'}"


def _stop(child: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout, stderr):
        if stream:
            with suppress(OSError):  # unwritten input for a dead child is lost anyway
                stream.close()
