"""Runs one arm: starts its process, passes the job, reads its reports, and ends it after the cap or the time limit."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.endpoint import Meter
from benchmarks.peers.environment import arm_environment
from benchmarks.peers.protocol import Job, Prompt

GRACE_SECONDS = 60.0
"""Time for an arm to end after its first refused call."""
TAIL = 400
"""Characters of an arm's log that are quoted when it fails."""


@dataclass(frozen=True)
class Found:
    """What became of one run of an arm."""

    prompt: Prompt
    """The last one reported; the seed prompt if the arm reported none."""
    validation: float | None
    """The arm's own score of it, on the rows that the arm used."""
    ended: str
    notes: tuple[str, ...]
    failed: str | None = None
    """Why there is no result; None if it ended by itself or at its cap."""


async def run_arm(command: Sequence[str], job: Job, meter: Meter, *, log: Path, limit: float) -> Found:
    """Run an arm until it ends.

    Args:
        command: Starts the process.
        job: What it has to do.
        meter: Counts its calls.
        log: File for what it and its libraries print.
        limit: Most seconds.
    """
    with tempfile.TemporaryDirectory() as home, log.open("w", encoding="utf-8") as printed:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=printed,
            env=arm_environment(Path(home)),
            limit=2**24,
            start_new_session=True,
        )
        reports = asyncio.create_task(_reports(process, job))
        is_late = not await _ends(process, meter, limit)
        lines = await reports
    return _found(lines, job, meter, process.returncode or 0, is_late, log)


async def _reports(process: asyncio.subprocess.Process, job: Job) -> list[str]:
    assert process.stdin
    assert process.stdout
    with suppress(BrokenPipeError, ConnectionResetError):  # it ended at once; its exit code shows it
        process.stdin.write(job.line().encode() + b"\n")
        await process.stdin.drain()
    return [line.decode() async for line in process.stdout]


async def _ends(process: asyncio.subprocess.Process, meter: Meter, limit: float) -> bool:
    """Wait for the process, and kill its group when its time is up. Returns whether it ended by itself."""
    ended, full = asyncio.create_task(process.wait()), asyncio.create_task(meter.full.wait())
    try:
        await asyncio.wait((ended, full), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if full.done():
            await asyncio.wait((ended,), timeout=GRACE_SECONDS)
        return ended.done()
    finally:
        full.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await ended


def _found(lines: Sequence[str], job: Job, meter: Meter, code: int, is_late: bool, log: Path) -> Found:
    reports = [json.loads(line) for line in lines]
    prompt = Prompt.read(reports[-1]["prompt"]) if reports else Prompt(job.seed_prompt)
    validation = reports[-1]["score"] if reports else None
    notes = tuple(report["note"] for report in reports if report["note"])
    if meter.refused:
        return Found(prompt, validation, "cap reached", notes)
    if is_late:
        return Found(prompt, validation, "time limit", notes, failed="the time limit passed before the cap")
    if code:
        tail = " ".join(log.read_text(encoding="utf-8", errors="replace")[-TAIL:].split())
        return Found(prompt, validation, "failed", notes, failed=f"exit code {code}: {tail}")
    return Found(prompt, validation, "ended", notes)
