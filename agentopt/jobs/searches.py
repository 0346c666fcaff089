"""The searches of one run of a job: resumes the interrupted one, or starts one from what earlier runs found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from agentopt.api import LoadedTask, aoptimize
from agentopt.core.budget import Caps
from agentopt.core.candidate import Candidate
from agentopt.core.errors import ConfigError
from agentopt.core.events import Event, FallbackUsed, NotStored, RunDone, RunStarted, Stopping, TrialDone
from agentopt.core.files import write_atomically
from agentopt.core.ties import ranked
from agentopt.jobs.snapshot import Snapshot
from agentopt.jobs.store import JobStore
from agentopt.jobs.tables import JobRun
from agentopt.models.base import ChatModel
from agentopt.runs.config import BudgetConfig
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import Result, load_result

SNAPSHOT_FILE = "snapshot.txt"
"""File in a search's run folder that holds the hash of the snapshot."""


@dataclass
class Searches:
    """The searches of one run.

    Attributes:
        run: The run; its `folders` are the searches so far.
        store: Where they are recorded.
        log: Logs (kind of event, message).
        provider: Makes the model calls in place of the catalogue's transports.
    """

    run: JobRun
    store: JobStore
    log: Callable[[str, str], None]
    provider: ChatModel | None = None

    async def search(self, snapshot: Snapshot, champion: Candidate, caps: Caps, warm_start: int) -> Result:
        """Resume the interrupted search, or start one from the champion and the best candidates of earlier runs.

        Args:
            snapshot: The job's inputs.
            champion: The champion, which is evaluated first.
            caps: Of a search that is started.
            warm_start: Most candidates of earlier runs that are evaluated after the champion.
        """

        def observe(event: Event) -> None:
            if isinstance(event, RunStarted):
                self._note_folder(event.folder, snapshot)
            if isinstance(event, RunStarted | TrialDone | FallbackUsed | RunDone | Stopping | NotStored):
                self.log(event.kind, event.message)

        loaded = LoadedTask(snapshot.task, snapshot.specs)
        if folder := self._resumable(snapshot):
            # The run folder keeps no password of the databases.
            kept = RunFolder.open(folder).config.with_places_of(snapshot.config)
            return await aoptimize(loaded, kept, resume=folder, provider=self.provider, callbacks=[observe])
        trials = caps.trials or snapshot.config.budget.trials
        given = [champion, *self._archive()][: max(1, min(1 + warm_start, trials // 2))]
        budget = BudgetConfig(usd=caps.usd, tokens=caps.tokens, calls=caps.calls, seconds=caps.seconds, trials=trials)
        config = snapshot.config.model_copy(update={"budget": budget})
        start = [candidate for candidate in given if candidate != snapshot.task.baseline]
        return await aoptimize(loaded, config, warm_start=start, provider=self.provider, callbacks=[observe])

    def folders(self) -> list[Path]:
        """The existing folders of the run's searches."""
        return [folder for folder in self.run.folders if (folder / "config.yaml").exists()]

    def _archive(self) -> list[Candidate]:
        """Candidates of earlier searches, newest search first: its Pareto front, then its other trials by score."""
        found: list[Candidate] = []
        for run in self.store.history(self.run.job, limit=20):
            if run.folder is None or run.id == self.run.id:
                continue
            with suppress(ConfigError):  # an unfinished run, or a removed folder
                found += _ranked(load_result(run.folder))
        return list(dict.fromkeys(found))

    def _note_folder(self, folder: Path, snapshot: Snapshot) -> None:
        """Record the search in `folder` and its snapshot."""
        write_atomically(folder / SNAPSHOT_FILE, snapshot.hash)
        folders = tuple(dict.fromkeys([*self.run.folders, folder]))
        self.run = replace(self.run, folders=folders)
        self.store.note_folders(self.run.id, self.run.owner, folders)

    def _resumable(self, snapshot: Snapshot) -> Path | None:
        """The folder of the interrupted search, if there is one and the snapshot is unchanged.

        If it has changed, a new search is needed; responses that both need come from the journal.
        """
        for folder in self.folders()[-1:]:
            note = folder / SNAPSHOT_FILE
            if note.exists() and note.read_text(encoding="utf-8") == snapshot.hash:
                return folder
        return None


def _ranked(result: Result) -> list[Candidate]:
    """The Pareto front by descending score, then the other complete trials by score."""
    front = [line for line in result.trials if line.number in result.pareto]
    rest = [line for line in result.trials if line.state == "complete" and line.number not in result.pareto]
    by_shrunk = ranked(front, lambda line: line.shrunk or line.score or 0.0, lambda line: line.units)
    return [line.candidate for line in (*by_shrunk, *ranked(rest, lambda t: t.score or 0.0, lambda t: t.units))]
