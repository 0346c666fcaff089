"""Tests of atomic file writes."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentopt.core.files import file_size, folder_size, write_atomically, write_output


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


@pytest.fixture(params=[0o000, 0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_output_that_the_user_named_has_the_permissions_that_open_gives(tmp_path: Path, umask: int) -> None:
    """An exported file is read by programs of other users, unless the umask forbids it."""
    write_output(tmp_path / "output", "x")
    (tmp_path / "plain").write_text("x")
    assert mode_of(tmp_path / "output") == mode_of(tmp_path / "plain") == 0o666 & ~umask


def test_other_files_are_readable_by_their_user_alone(tmp_path: Path, umask: int) -> None:
    """Champions and files of a run hold prompts: no umask opens them, nor does a replaced file that was open."""
    (tmp_path / "replaced").write_text("x")
    (tmp_path / "replaced").chmod(0o644)
    for name in ("new", "replaced"):
        write_atomically(tmp_path / name, "y")
    assert {mode_of(tmp_path / name) for name in ("new", "replaced")} == {0o600}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_previous_content_and_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    path.write_text("previous")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    place: Any = os if call == "fsync" else Path
    monkeypatch.setattr(place, call, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "previous"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", "x")


def test_the_size_of_a_folder_is_that_of_its_files_with_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "one.whl").write_bytes(b"x" * 3)
    (tmp_path / "a" / "b" / "two.whl").write_bytes(b"x" * 4)
    (tmp_path / "a" / "log").write_bytes(b"x" * 50)
    assert (folder_size(tmp_path, ".whl"), folder_size(tmp_path), folder_size(tmp_path / "absent")) == (7, 57, 0)
    assert (file_size(tmp_path / "one.whl"), file_size(tmp_path / "a"), file_size(tmp_path / "absent")) == (3, 0, 0)


def test_a_folder_is_measured_while_its_folders_are_created_moved_and_deleted(tmp_path: Path) -> None:
    """As pip does in its temporary folder, of which the size is the progress of a download."""
    (tmp_path / "kept").write_bytes(b"x" * 5)
    done = threading.Event()

    def churn() -> None:
        for number in range(30):
            for name in "abcdef":
                (tmp_path / f"{name}{number}" / "inner").mkdir(parents=True)
            (tmp_path / f"a{number}").rename(tmp_path / f"moved{number}")
            for name in ("moved", *"bcdef"):
                shutil.rmtree(tmp_path / f"{name}{number}")
        done.set()

    thread = threading.Thread(target=churn)
    thread.start()
    sizes = set()
    while not done.is_set():
        sizes.add(folder_size(tmp_path))
    thread.join()
    assert sizes == {5}


def test_a_file_is_written_in_parts_and_keeps_its_content_if_a_part_fails(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    write_output(file, (f"{n}\n" for n in range(3)))
    assert file.read_text() == "0\n1\n2\n"
    with pytest.raises(ZeroDivisionError):
        write_output(file, (f"{1 / n}" for n in (1, 0)))
    assert [path.name for path in tmp_path.iterdir()] == ["lines"]
    assert file.read_text() == "0\n1\n2\n"
