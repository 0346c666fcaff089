"""Works on claimed runs: keeps the claim alive, records how the run ended, tells the log and the webhook.

A run has an owner, which is a process: it holds a lock file of its own name for as long as it lives. So a process on
the same machine sees at once that an owner is gone; elsewhere it is the lease that runs out.
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
from agentopt.core.errors import AgentoptError, UserError
from agentopt.jobs.champion import champions_of
from agentopt.jobs.jobfile import EventName
from agentopt.jobs.run import RunLostError, RunOfJob, RunOutcome
from agentopt.jobs.store import RUNNING, WAITING, JobRun, JobStore, KnownJob
from agentopt.jobs.webhook import deliver
from agentopt.models.base import ChatModel
from agentopt.models.redaction import redact, secrets_in


class Log(Protocol):
    """Takes one event and its fields."""

    def __call__(self, event: str, **fields: object) -> None: ...


def log_lines(event: str, **fields: object) -> None:
    """A log of JSON lines on stdout."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
    sys.stdout.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


class Body(Protocol):
    """Does the work of one run, as `RunOfJob` does."""

    @property
    def alarms(self) -> tuple[str, ...]: ...
    async def outcome(self) -> RunOutcome: ...
    def spent(self) -> Usage: ...
    def secret_variables(self) -> list[str]: ...


@dataclass(frozen=True)
class JobWorker:
    """One process that works on runs. `lease` is in seconds, `now` in seconds since the epoch.

    `provider` answers in place of the catalogue's transports, `body` does the work of a run. Make it with `as_owner`.
    """

    store: JobStore
    data: Path
    owner: str
    now: Callable[[], float]
    log: Log = log_lines
    lease: float = 60.0
    provider: ChatModel | None = None
    body: Callable[..., Body] = RunOfJob
    _at_work: set[str] = field(default_factory=set)

    def claim(self, name: str, due: float) -> None:
        """Enter a due time in the store, unless somebody has done so; whoever has time takes it from there."""
        if run := self.store.claim(name, due, self.now()):
            self._tell("run_due", run)

    def claim_now(self, name: str) -> JobRun:
        """A run that a person asked for: one that waits or was interrupted, or a new one."""
        for run in self.orphans(name):
            if taken := self.take_over(run):
                return taken
        run = self.store.claim_now(name, self.owner, self.now(), self.lease)
        self._tell("run_started_by_hand", run)
        return run

    def orphans(self, name: str | None = None) -> list[JobRun]:
        """Open runs that nobody works on: not yet, or not any more."""
        return [run for run in self.store.open_runs(name) if run.id not in self._at_work and self._is_orphan(run)]

    def take_over(self, run: JobRun) -> JobRun | None:
        """An orphan as one's own; None where another was quicker."""
        taken = self.store.take_over(run, self.owner, self.now(), self.lease)
        if taken:
            self._tell("run_claimed" if run.state == WAITING else "run_taken_over", taken)
        return taken

    async def work(self, run: JobRun) -> JobRun:
        """Bring a run that is one's own to its end, and return it as it was recorded.

        A cancellation lets the calls that were sent finish, and leaves the run to be taken over.
        """
        if not run.open:
            return run
        self._at_work.add(run.id)
        try:
            return await self._work(run)
        finally:
            # Where its end could not be recorded, it is an orphan once its lease has run out, like others' runs.
            self._at_work.discard(run.id)

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

    def _body(self, known: KnownJob, run: JobRun) -> Body:
        def say(event: str, message: str) -> None:
            self.log(event, job=run.job, run=run.id, message=self._clean(message, body))

        champions = champions_of(run.job, self.data)
        body = self.body(known, run, self.store, champions, say, self.now, self.provider)
        return body

    async def _outcome(self, body: Body, run: JobRun) -> RunOutcome:
        try:
            return await body.outcome()
        except RunLostError:  # the run goes on elsewhere, so it has not failed
            raise
        except AgentoptError as error:
            return RunOutcome("failed", str(error), body.alarms)
        except Exception as error:  # noqa: BLE001 - what breaks one run, in a user's scorer say, must not end the daemon
            self.log("traceback", job=run.job, run=run.id, message=self._clean(traceback.format_exc(), body))
            return RunOutcome("failed", f"{type(error).__name__}: {error}", body.alarms)

    async def _while_held(self, run: JobRun, work: Coroutine[Any, Any, RunOutcome]) -> RunOutcome:
        """What the work comes to, while the claim is kept alive: from a thread, because a scorer that blocks the event
        loop must not cost it. Where the claim is lost all the same, the work is cancelled and `RunLostError` raised.
        """
        over, lost = threading.Event(), threading.Event()
        loop, working = asyncio.get_running_loop(), asyncio.ensure_future(work)

        def renew() -> None:
            while not over.wait(self.lease / 4):
                try:
                    mine = self.store.renew(run.id, self.owner, self.now() + self.lease)
                except SQLAlchemyError as error:  # the lease outlasts a short outage, and the next turn tries again
                    self.log("store_failed", job=run.job, run=run.id, message=type(error).__name__)
                    continue
                if not mine:
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

    async def _end(self, known: KnownJob, run: JobRun, outcome: RunOutcome, body: Body) -> JobRun:
        message, alarm = (self._clean(text, body) for text in (outcome.message, "; ".join(outcome.alarms)))
        number = outcome.champion.number if outcome.champion else None
        values = {"state": outcome.state, "message": message, "alarm": alarm or None, "champion": number}
        spent = body.spent()
        if not self.store.finish(run.id, self.owner, self.now(), values, spent):
            self.log("run_lost", job=run.job, run=run.id)
            return run
        if outcome.snapshot and outcome.champion:
            champion = None if outcome.by_hand else outcome.champion.candidate.key
            self.store.settle(run.job, outcome.snapshot, champion)
        told = {"job": run.job, "run": run.id, **values, "calls": spent.calls, "usd": spent.usd}
        self.log("run_ended", **told)
        await self._report(known, run, outcome, {**told, "task": str(known.job.task)})
        return self.store.run(run.id)

    async def _report(self, known: KnownJob, run: JobRun, outcome: RunOutcome, data: dict[str, Any]) -> None:
        target, before = known.job.webhook, self.store.outcome_before(run)
        happened = list[EventName]()
        if outcome.alarms:
            self.log("alarm", job=run.job, run=run.id, message=data["alarm"])
            if before is None or before.alarm != data["alarm"]:
                happened.append("alarm")
        # A cap that is spent, or a provider that is down, is news once, not at every due time.
        news = before is None or before.state != outcome.state
        if outcome.state == "promoted" or (outcome.state in ("failed", "refused", "undecided") and news):
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

    def _clean(self, text: str, body: Body) -> str:
        """`text` without any key: a provider may quote the one it was sent, a user's function the environment."""
        return redact(text, secrets_in(os.environ, *map(os.environ.get, body.secret_variables())))

    def _tell(self, event: str, run: JobRun) -> None:
        due = datetime.fromtimestamp(run.due, UTC).isoformat(timespec="milliseconds")
        if run.open:
            self.log(event, job=run.job, run=run.id, due=due)
        else:
            self.log("run_skipped", job=run.job, run=run.id, due=due, message=run.message)

    def _is_orphan(self, run: JobRun) -> bool:
        given_up = run.state != RUNNING or run.lease < self.now() or is_free(_owner_file(self.data, run.owner))
        # A process that was only suspended still holds its run folder; with both at it, calls would be paid twice.
        return given_up and not (run.folder and (run.folder / ".lock").exists() and not is_free(run.folder / ".lock"))


@contextmanager
def as_owner(store: JobStore, data: Path, now: Callable[[], float], **options: Any) -> Iterator[JobWorker]:
    """A worker of a new owner, whose lock file says that it lives. `options` are the worker's other fields."""
    owner = uuid.uuid4().hex
    file = _owner_file(data, owner)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file, timeout=0, thread_local=False):
        try:
            yield JobWorker(store, data, owner, now, **options)
        finally:
            # Its runs are over or given up by now, so nobody will ask again whether it lives.
            file.unlink(missing_ok=True)


def is_free(file: Path) -> bool:
    """Whether a lock file is there and nobody holds it: its owner lived on this machine, and is gone."""
    if not file.exists():
        return False
    try:
        with FileLock(file, timeout=0):
            return True
    except Timeout:
        return False


def _owner_file(data: Path, owner: str) -> Path:
    return data / "owners" / f"{owner}.lock"
