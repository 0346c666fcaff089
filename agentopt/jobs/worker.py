"""Executes claimed runs: renews the lease, records the outcome, writes the log and sends webhooks.

The owner of a run is a process. It holds a lock file named after its id while it is alive, so that another process on
the same machine can detect immediately that an owner is dead; on other machines its lease has to expire.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.budget import Usage
from agentopt.core.errors import AgentoptError, RunLostError, UserError
from agentopt.core.files import private_folder
from agentopt.core.plain_text import visible_json
from agentopt.core.usd_text import USD_DIGITS
from agentopt.jobs.champion import champions_of
from agentopt.jobs.jobfile import EventName
from agentopt.jobs.outcome import RunOutcome
from agentopt.jobs.run import RunOfJob
from agentopt.jobs.store import JobStore
from agentopt.jobs.tables import RUNNING, WAITING, JobRun, KnownJob
from agentopt.jobs.webhook import deliver
from agentopt.models.base import ChatModel
from agentopt.models.redaction import redact, secrets_in


class Log(Protocol):
    """Logs one event and its fields."""

    def __call__(self, event: str, **fields: object) -> None: ...


def log_lines(event: str, **fields: object) -> None:
    """Write the event to stdout as one JSON line."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
    sys.stdout.write(visible_json(json.dumps(line, ensure_ascii=False, default=str)) + "\n")
    sys.stdout.flush()


class RunBody(Protocol):
    """The work of one run. `RunOfJob` implements it."""

    @property
    def alarms(self) -> tuple[str, ...]: ...
    async def outcome(self) -> RunOutcome: ...
    def spent(self) -> Usage: ...
    def secret_variables(self) -> list[str]: ...


@dataclass(frozen=True)
class JobWorker:
    """Claims and executes runs for one process. Create it with `as_owner`.

    Attributes:
        store: The jobs and their runs.
        data: The data folder.
        owner: Id of the process.
        now: The clock, in seconds since the epoch.
        log: Receives events.
        lease: Seconds after which a run that is not renewed may be taken over.
        provider: Makes the model calls in place of the catalogue's transports.
        body: Makes the work of a run.
    """

    store: JobStore
    data: Path
    owner: str
    now: Callable[[], float]
    log: Log = log_lines
    lease: float = 60.0
    provider: ChatModel | None = None
    body: Callable[..., RunBody] = RunOfJob
    _executing: set[str] = field(default_factory=set)

    def claim(self, name: str, due: float) -> None:
        """Add the run of a due time to the store, unless another process has; any worker may execute it."""
        if run := self.store.claim(name, due, self.now()):
            self._log_claim("run_due", run)

    def claim_now(self, name: str) -> JobRun:
        """Claim a run at a user's request: a waiting or interrupted run of the job, or a new one."""
        for run in self.orphans(name):
            if taken := self.take_over(run):
                return taken
        run = self.store.claim_now(name, self.owner, self.now(), self.lease)
        self._log_claim("run_started_by_hand", run)
        return run

    def orphans(self, name: str | None = None) -> list[JobRun]:
        """Open runs with no live owner (unclaimed or abandoned), oldest first."""
        return [run for run in self.store.open_runs(name) if run.id not in self._executing and self._is_orphan(run)]

    def take_over(self, run: JobRun) -> JobRun | None:
        """Become the owner of an orphan; None if another process has."""
        taken = self.store.take_over(run, self.owner, self.now(), self.lease)
        if taken:
            self._log_claim("run_claimed" if run.state == WAITING else "run_taken_over", taken)
        return taken

    async def work(self, run: JobRun) -> JobRun:
        """Execute a run that this process owns.

        If cancelled, calls in flight are awaited and the run is marked as interrupted, to be resumed by any worker.

        Returns:
            The run as recorded in the store.

        Raises:
            UserError: The job was removed meanwhile, or its stored file is not valid.
        """
        if not run.open:
            return run
        self._executing.add(run.id)
        try:
            return await self._work(run)
        finally:
            # If the outcome could not be recorded, the run becomes an orphan when its lease expires.
            self._executing.discard(run.id)

    async def _work(self, run: JobRun) -> JobRun:
        try:
            known = self.store.job(run.job)
        except UserError as error:
            self.store.finish(run.id, self.owner, self.now(), {"state": "failed", "message": str(error)}, run.spent)
            raise
        body = self._body(known, run)
        try:
            outcome = await self._while_held(run, self._outcome(body, run))
        except asyncio.CancelledError:
            self.store.interrupt(run.id, self.owner, self.now(), body.spent())
            self.log("run_interrupted", job=run.job, run=run.id)
            raise
        except RunLostError as error:
            self.log("run_lost", job=run.job, run=run.id, message=str(error))
            return run
        return await self._end(known, run, outcome, body)

    def _body(self, known: KnownJob, run: JobRun) -> RunBody:
        def log(event: str, message: str) -> None:
            self.log(event, job=run.job, run=run.id, message=self._redacted(message, body))

        champions = champions_of(run.job, self.data)
        body = self.body(known, run, self.store, champions, log, self.now, self.provider)
        return body

    async def _outcome(self, body: RunBody, run: JobRun) -> RunOutcome:
        try:
            return await body.outcome()
        except RunLostError:  # another process continues the run, so it has not failed
            raise
        except AgentoptError as error:
            return RunOutcome("failed", str(error), body.alarms)
        except Exception as error:  # noqa: BLE001 - any error of one run, such as in a user's scorer, must not end the daemon
            self.log("traceback", job=run.job, run=run.id, message=self._redacted(traceback.format_exc(), body))
            return RunOutcome("failed", f"{type(error).__name__}: {error}", body.alarms)

    async def _while_held(self, run: JobRun, work: Coroutine[Any, Any, RunOutcome]) -> RunOutcome:
        """Await the work and renew the lease meanwhile, in a thread, because a scorer may block the event loop.

        If the lease is lost, the work is cancelled and `RunLostError` raised.
        """
        over, lost = threading.Event(), threading.Event()
        loop, working = asyncio.get_running_loop(), asyncio.ensure_future(work)

        def renew() -> None:
            while not over.wait(self.lease / 4):
                try:
                    renewed = self.store.renew(run.id, self.owner, self.now() + self.lease)
                except SQLAlchemyError as error:  # the lease outlasts a short outage; retried at the next turn
                    self.log("store_failed", job=run.job, run=run.id, message=type(error).__name__)
                    continue
                if not renewed:
                    lost.set()
                    loop.call_soon_threadsafe(working.cancel)
                    return

        thread = threading.Thread(target=renew, name=f"lease {run.id}", daemon=True)
        thread.start()
        try:
            return await working
        except asyncio.CancelledError:
            if not lost.is_set():
                raise
            raise RunLostError("another process took this run over") from None
        finally:
            over.set()
            await asyncio.shield(asyncio.to_thread(thread.join))

    async def _end(self, known: KnownJob, run: JobRun, outcome: RunOutcome, body: RunBody) -> JobRun:
        message, alarm = (self._redacted(text, body) for text in (outcome.message, "; ".join(outcome.alarms)))
        number = outcome.champion.number if outcome.champion else None
        values = {"state": outcome.state, "message": message, "alarm": alarm or None, "champion": number}
        spent = body.spent()
        if not self.store.finish(run.id, self.owner, self.now(), values, spent):
            self.log("run_lost", job=run.job, run=run.id)
            return run
        if outcome.snapshot and outcome.champion:
            champion = None if outcome.by_hand else outcome.champion.candidate.key
            self.store.settle(run.job, outcome.snapshot, champion)
        fields = {"job": run.job, "run": run.id, **values, "calls": spent.calls, "usd": round(spent.usd, USD_DIGITS)}
        self.log("run_ended", **fields)
        await self._report(known, run, outcome, {**fields, "task": str(known.job.task)})
        return self.store.run(run.id)

    async def _report(self, known: KnownJob, run: JobRun, outcome: RunOutcome, data: dict[str, Any]) -> None:
        target, before = known.job.webhook, self.store.outcome_before(run)
        happened = list[EventName]()
        if outcome.alarms:
            self.log("alarm", job=run.job, run=run.id, message=data["alarm"])
            if before is None or _without_figures(before.alarm or "") != _without_figures(data["alarm"]):
                happened.append("alarm")
        # A spent cap or an unavailable provider is reported once, not at every due time.
        changed = before is None or before.state != outcome.state
        if outcome.state == "promoted" or (outcome.state in ("failed", "refused", "undecided") and changed):
            happened.append(outcome.state)
        for event in happened:
            if target is None or event not in target.events:
                continue
            try:
                await deliver(target, event, f"msg_{run.id}_{event}", data)
            except AgentoptError as error:
                self.log("webhook_failed", job=run.job, run=run.id, message=str(error))
            else:
                self.log("webhook_sent", job=run.job, run=run.id, message=event)

    def _redacted(self, text: str, body: RunBody) -> str:
        """Redact secrets: a provider may quote the key it received, a user's function the environment."""
        return redact(text, secrets_in(os.environ, *map(os.environ.get, body.secret_variables())))

    def _log_claim(self, event: str, run: JobRun) -> None:
        due = datetime.fromtimestamp(run.due, UTC).isoformat(timespec="milliseconds")
        if run.open:
            self.log(event, job=run.job, run=run.id, due=due)
        else:
            self.log("run_skipped", job=run.job, run=run.id, due=due, message=run.message)

    def _is_orphan(self, run: JobRun) -> bool:
        abandoned = run.state != RUNNING or run.lease < self.now() or is_free(_owner_file(self.data, run.owner))
        # A suspended process still holds the lock of its run folder; if both ran it, calls would be paid twice.
        return abandoned and not (run.folder and (run.folder / ".lock").exists() and not is_free(run.folder / ".lock"))


def _without_figures(alarms: str) -> list[str]:
    """The alarms without what is in parentheses, which may differ in every run."""
    return [alarm.partition(" (")[0] for alarm in alarms.split("; ")]


@contextmanager
def as_owner(store: JobStore, data: Path, now: Callable[[], float], **options: Any) -> Iterator[JobWorker]:
    """A worker of a new owner, which holds its lock file until the block ends. `options` are further fields.

    Args:
        store: The jobs and runs.
        data: The data folder.
        now: The clock.
    """
    owner = uuid.uuid4().hex
    file = _owner_file(data, owner)
    private_folder(file.parent)
    with FileLock(file, timeout=0, thread_local=False):
        try:
            yield JobWorker(store, data, owner, now, **options)
        finally:
            # Its runs have ended or are marked as interrupted, so the file is no longer needed.
            file.unlink(missing_ok=True)


def is_free(file: Path) -> bool:
    """Whether a lock file exists and is not held: its owner was a process on this machine and is dead."""
    if not file.exists():
        return False
    try:
        with FileLock(file, timeout=0):
            return True
    except Timeout:
        return False


def _owner_file(data: Path, owner: str) -> Path:
    return data / "owners" / f"{owner}.lock"
