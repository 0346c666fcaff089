"""The SHA-256 of a user's file of weights, computed once per version of the file."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from agentopt.core.paths import cache_folder


def sha256_of(file: str) -> str | None:
    """Return the SHA-256 of a file as hexadecimal text; None if it cannot be read.

    The digest of a file of several gigabytes takes seconds, so it is kept in the cache folder until the file's size
    or time of modification changes.
    """
    path = Path(file).expanduser()
    try:
        found = path.stat()
        return _digest(path.absolute(), found.st_size, found.st_mtime_ns) if path.is_file() else None
    except OSError:
        return None


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    version = {"file": str(path), "size": size, "mtime_ns": mtime_ns}
    record = cache_folder() / "digests" / f"{hashlib.sha256(str(path).encode(errors='replace')).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # not computed yet
        kept = json.loads(record.read_text(encoding="utf-8"))
        if {key: kept[key] for key in version} == version:
            return str(kept["sha256"])
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    with suppress(OSError):  # a cache that is not writable costs computing it again
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({**version, "sha256": digest}), encoding="utf-8")
    return digest
