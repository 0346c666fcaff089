"""Atomic file writes."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's content atomically and durably.

    The content is written to a draft in the same folder, synced to disk and renamed over `path`, so that a concurrent
    reader sees either the old or the new content. When the function returns, the new content survives a crash of the
    machine.

    Args:
        path: The file to write. Its folder must exist.
        content: Text, written as UTF-8 without newline translation, or bytes.

    Raises:
        OSError: The file cannot be written. The previous content is unchanged and no draft is left.
    """
    data = content.encode() if isinstance(content, str) else content
    # A random name, because in containers every process may have the same id.
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.new")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Sync a rename to disk, on systems that can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
