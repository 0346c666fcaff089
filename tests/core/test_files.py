"""Tests of atomic file writes."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from agentopt.core.files import write_atomically


@pytest.mark.parametrize(
    ("content", "written"),
    [("", b""), ("two\nlines\r\n", b"two\nlines\r\n"), ("é", "é".encode()), (b"\xff\x00", b"\xff\x00")],
)
def test_the_content_is_written_byte_for_byte(tmp_path: Path, content: str | bytes, written: bytes) -> None:
    path = tmp_path / "file"
    path.write_text("the previous content, which is longer")
    write_atomically(path, content)
    assert path.read_bytes() == written
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_that_open_gives(tmp_path: Path) -> None:
    """A champion is read by programs of other users, so the private mode of temporary files must not leak."""
    write_atomically(tmp_path / "atomic", "x")
    (tmp_path / "plain").write_text("x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("atomic", "plain")}
    assert len(modes) == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_previous_content_and_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    path.write_text("previous")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "previous"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", "x")
