"""Atomic writes, checks of output files that a user names, damaged files, and sizes of files that may be deleted."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from agentopt.core.errors import ConfigError, UserError
from agentopt.core.pydantic_errors import rule_of
from agentopt.core.yaml_models import shortened

PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
"""Permissions of what holds prompts, responses or settings: only the user may read it, whatever the umask is."""


def private_opener(path: str, flags: int) -> int:
    """Open a file for the builtin `open`; if it is created, only the user may read it."""
    return os.open(path, flags, PRIVATE)


def create_private(path: Path) -> None:
    """Create an empty file that only the user may read, unless it exists, for a library that opens it by name.

    A file that exists is not opened: closing it would release the locks that SQLite has on it in this process.
    Source: https://www.sqlite.org/howtocorrupt.html, section 2.2.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE))


def private_folder(path: Path) -> None:
    """Create a folder, and those above it, that only the user may read; existing ones are not changed."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    path.mkdir(exist_ok=True)


def check_writable(file: Path, *, new_folder: bool = False) -> None:
    """Check that an output file can be written, before anything is spent on its content. It is not changed.

    Args:
        file: The file. It may exist.
        new_folder: Whether its folder is created when it is written.

    Raises:
        UserError: It is a folder, a device or a pipe, its folder does not exist, or no file can be created there.
    """
    with _as_user_error(file):
        if file.is_dir():
            raise UserError("a file is written, but this is a folder", where=file, remedy="name a file in it")
        if file.exists() and not file.is_file():
            rule = "a file is written, but this is a device or a pipe"
            raise UserError(rule, where=file, remedy="name a file in a folder of yours")
        folder = next((above for above in file.parents if above.exists()), file.parent) if new_folder else file.parent
        draft = _draft(folder / file.name)
        draft.touch(exist_ok=False)
        draft.unlink()


def other_than_file(path: Path) -> str | None:
    """What a path is in place of a file, whose reading may not end; None for a file, or if there is nothing.

    Args:
        path: The path.
    """
    with suppress(OSError, ValueError):  # a zero byte in the name is a ValueError
        kind = stat.S_IFMT(path.stat().st_mode)
        return None if kind == stat.S_IFREG else _KINDS.get(kind, "something else")
    return None


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def write_output(file: Path, content: str | Iterable[str]) -> None:
    """Write an output file that a user named, atomically. Raises `UserError` if it cannot be written.

    Args:
        file: The file. Its folder must exist.
        content: Its text, whole or in parts.
    """
    with _as_user_error(file):
        write_atomically(file, content, mode=0o666)


@contextmanager
def own_file(path: Path, remedy: str, *failures: type[Exception]) -> Iterator[None]:
    """Raise `ConfigError` if the block cannot read a file that agentopt wrote: it was damaged or changed by hand.

    Args:
        path: The file.
        remedy: How to go on without it.
        failures: What the block may raise besides `OSError`, `ValueError` (also that of pydantic and JSON), `KeyError`
            and `TypeError`.
    """
    expected: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, TypeError, *failures)
    try:
        yield
    except expected as error:
        raise ConfigError(f"is damaged: {shortened(_reason(error))}", where=path, remedy=remedy) from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), rule_of(first))))
    return error.message if isinstance(error, UserError) else str(error)


@contextmanager
def _as_user_error(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        rule = f"cannot be written: {(error.strerror or str(error)).lower()}"
        raise UserError(rule, where=file, remedy="name a file in an existing folder") from error


def write_atomically(path: Path, content: str | bytes | Iterable[str], *, mode: int = PRIVATE) -> None:
    """Replace a file's content atomically and durably.

    The content is written to a draft in the same folder, synced to disk and renamed over `path`, so that a concurrent
    reader sees either the old or the new content. When the function returns, the new content survives a crash of the
    machine.

    Args:
        path: The file to write. Its folder must exist.
        content: Text, whole or in parts, written as UTF-8 without newline translation; or bytes.
        mode: Permissions of the file, from which the process's umask is subtracted.

    Raises:
        OSError: The file cannot be written. The previous content is unchanged and no draft is left, as after an error
            of an iterable.
    """
    parts = (content,) if isinstance(content, str | bytes) else content
    draft = _draft(path)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.writelines(part.encode() if isinstance(part, str) else part for part in parts)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def file_size(path: Path) -> int:
    """Return the size of a file in bytes; 0 if there is none, which another process may just have deleted."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def folder_size(folder: Path, suffix: str = "") -> int:
    """Return the size of a folder's files, while other processes may create, move and delete any of it.

    Args:
        folder: The folder. Its subfolders are included.
        suffix: The end of the names of the files that count.

    Returns:
        Bytes.
    """
    # Not Path.rglob: before Python 3.13 it fails if a folder is deleted between being found and being listed.
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names if name.endswith(suffix))
    return sum(map(file_size, found))


def _draft(path: Path) -> Path:
    # A random name, because in containers every process may have the same id.
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.new")


def _sync_folder(folder: Path) -> None:
    """Sync a rename to disk, on systems that can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
