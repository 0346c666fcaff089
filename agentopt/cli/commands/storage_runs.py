"""Copies runs into a storage: of another storage, or of a folder."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agentopt.cli.storage_places import Place
from agentopt.core.database import names_in, open_engine
from agentopt.core.errors import ConfigError
from agentopt.models.lease import Lease
from agentopt.runs.folder import RunFolder, StudyPlace
from agentopt.runs.run_store import FILES, RunStore, open_store, stored_runs
from agentopt.runs.studies import copy_study, has_study
from agentopt.search.checkpoints import copy_checkpoints


@dataclass(frozen=True, slots=True)
class CopiedRun:
    """A run that was copied.

    Attributes:
        run: Its name.
        trials: Number of its trials.
        checkpoints: Number of the states of its search.
    """

    run: str
    trials: int
    checkpoints: int


def copy_stored_runs(source: Place, target: Place) -> list[CopiedRun]:
    """Copy the trials and the states of the searches of all runs in a storage. Its tables are copied already.

    Args:
        source: The storage.
        target: The storage that is written.

    Raises:
        ConfigError: The target has other trials of a run.
    """
    engine = open_engine(source)
    try:
        with engine.connect() as connection:
            if stored_runs.name not in names_in(connection):
                return []
        runs = [(run.run, run.name) for run in RunStore(engine).runs()]
    finally:
        engine.dispose()
    return [
        _copied(name, StudyPlace(source, run), (source, run), StudyPlace(target, run), (target, run))
        for run, name in runs
    ]


def copy_run(run: RunFolder, target: Place) -> CopiedRun:
    """Copy a run from its folder into a storage.

    Args:
        run: The run, which has no storage.
        target: The storage.

    Raises:
        ConfigError: A process works on the run, or the target has it in another state.
    """
    located = replace(run, config=run.config.model_copy(update={"storage": str(target), "journal": str(target)}))
    with run.locked(), open_store(str(target)) as (store, engine):
        lease = Lease(engine, uuid.uuid4().hex)
        lease.start()
        try:
            store.take(run, lease)
            files = {name: run.path / name for name in FILES if (run.path / name).is_file()}
            _check_unchanged(store.changes(run.id), files)
            copied = _copied(run.path.name, run.trials, run.checkpoints, located.trials, located.checkpoints)
            for name, path in files.items():
                text = located.request if name == "config.yaml" else path.read_text(encoding="utf-8")
                store.write(run.id, lease.member, name, text, is_copy=True)
        finally:
            store.release(run.id, lease.member)
            lease.end()
    return copied


def _check_unchanged(stored: Mapping[str, int], files: Collection[str]) -> None:
    """Check that no process has worked on the run in the storage, and changed a file."""
    later = [name for name, changes in stored.items() if changes or name not in files]
    if later:
        rule = f"the target has a later state of the run: {', '.join(later)} changed there"
        raise ConfigError(rule, remedy="resume the run there, or copy into an empty database")


def _copied(
    name: str,
    study: StudyPlace,
    checkpoints: tuple[Place, str],
    to_study: StudyPlace,
    to_checkpoints: tuple[Place, str],
) -> CopiedRun:
    trials = copy_study(study, to_study) if has_study(study) else 0
    place = checkpoints[0]
    has_state = not isinstance(place, Path) or place.exists()
    try:
        states = asyncio.run(copy_checkpoints(checkpoints, to_checkpoints)) if has_state else 0
    except ConfigError as error:
        error.add_note(f"  run: {name}")
        raise
    return CopiedRun(name, trials, states)
