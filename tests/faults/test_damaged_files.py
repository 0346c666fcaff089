"""Damaged files and full disks: one message with the way out, or a repair, and never a traceback."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from attacked import SETTINGS, call, fresh_copy

Fault = Callable[[bytes], bytes]


def flipped(content: bytes) -> bytes:
    """The content with 40 other bytes at random places."""
    draw, changed = random.Random(7), bytearray(content)
    for _ in range(40 if content else 0):
        changed[draw.randrange(len(changed))] ^= 1 + draw.randrange(255)
    return bytes(changed)


FAULTS: dict[str, Fault] = {
    "emptied": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-3],
    "flipped bytes": flipped,
    "zeroes": lambda content: bytes(len(content)),
    "zeroes at its end": lambda content: content[: -len(content) // 3] + bytes(len(content) // 3),
}

RUN = "runs/first"
CAPPED = ("-c", "budget.calls=60", "-c", "budget.seconds=20")
READS: dict[str, tuple[tuple[str, ...], ...]] = {
    f"{RUN}/config.yaml": (("runs", "list"), ("runs", "show", RUN)),
    f"{RUN}/result.json": (("runs", "show", RUN), ("runs", "list"), ("report", RUN)),
    f"{RUN}/best.yaml": (("export", RUN, "--to", "yaml"),),
    f"{RUN}/trials.db": (("inspect", RUN), ("report", RUN), ("optimize", "--resume", RUN, *CAPPED)),
    f"{RUN}/demos.json": (("optimize", "--resume", RUN, *CAPPED),),
    f"{RUN}/record.jsonl": (("report", RUN),),
    f"{RUN}/log.jsonl": (("report", RUN), ("optimize", "--resume", RUN, *CAPPED)),
    "journal.db": (("journal", "size", *SETTINGS), ("evaluate", "plain", *SETTINGS), ("report", RUN)),
    "data/jobs.db": (("jobs", "list"), ("jobs", "show", "nightly")),
    "data/jobs/nightly/champion.yaml": (("jobs", "list"), ("jobs", "show", "nightly")),
    "data/jobs/nightly/champions/0001.json": (("jobs", "show", "nightly"),),
}


def some(kinds: Iterable[str], faults: Iterable[Any]) -> list[ParameterSet]:
    """Every kind with every fault. The default run has one fault of each kind, and each fault about equally often."""
    kinds, faults = list(kinds), list(faults)
    drawn = random.Random(1).sample(faults, len(faults))
    return [
        pytest.param(kind, fault, marks=[] if fault == drawn[number % len(drawn)] else pytest.mark.faults)
        for number, kind in enumerate(kinds)
        for fault in faults
    ]


@pytest.mark.parametrize(("file", "fault"), some(READS, FAULTS))
def test_a_damaged_file_is_one_message_or_is_repaired(template: Path, tmp_path: Path, file: str, fault: str) -> None:
    for number, command in enumerate(READS[file]):
        folder = fresh_copy(template, tmp_path / f"place{number}")
        for beside in ("-wal", "-shm"):
            (folder / f"{file}{beside}").unlink(missing_ok=True)
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(FAULTS[fault](content))
        outcome = call(folder, command)
        # An emptied database is a new one, whose tables are created.
        outcome = replace(outcome, changed=tuple(name for name in outcome.changed if not name.endswith(".db")))
        assert not outcome.faults((0, 1, 2)), (command, outcome)
        if outcome.code:
            assert "remedy: " in outcome.err or "mistakes" in outcome.err, (command, outcome)


CHAMPION_FILES = ("champion.yaml", "champions/0001.json", "champions/0002.json", "champions/0002.yaml")


@pytest.mark.parametrize(("file", "fault"), some(CHAMPION_FILES, FAULTS))
def test_a_damaged_champion_or_record_does_not_prevent_a_rollback(
    template: Path, tmp_path: Path, file: str, fault: str
) -> None:
    folder = fresh_copy(template, tmp_path / "place")
    path = folder / "data" / "jobs" / "nightly" / file
    path.write_bytes(FAULTS[fault](path.read_bytes()))
    outcome = call(folder, ("jobs", "rollback", "nightly", "1"))
    assert not outcome.faults([0]), (file, outcome)
    assert (folder / "data/jobs/nightly/champion.yaml").read_bytes() == (
        folder / "data/jobs/nightly/champions/0001.yaml"
    ).read_bytes()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """In the block, no file can grow beyond a size, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITES: dict[str, tuple[str, ...]] = {
    "run": (
        "optimize",
        "plain",
        *SETTINGS,
        "-c",
        "strategy=random",
        "-c",
        "budget.trials=2",
        "-c",
        "prompts.when=never",
    ),
    "journal": ("evaluate", "plain", *SETTINGS, "-c", "journal=new.db"),
    "jobs": ("jobs", "add", "job.yaml", "--store", "sqlite:///new.db"),
    "report": ("report", RUN),
    "export": ("export", "plain.yaml", "--task", "plain", "--to", "python", "--out", "module.py", *SETTINGS),
    "record": ("record", "plain", "--out", "plain.npz", *SETTINGS, *CAPPED),
    "task": ("init", "new", "--from", "task/test.csv"),
}


@pytest.mark.parametrize(("name", "size"), some(WRITES, (0, 100, 5_000, 60_000)))
def test_a_full_disk_is_one_message(template: Path, tmp_path: Path, name: str, size: int) -> None:
    folder = fresh_copy(template, tmp_path / "place")
    with full_disk(size):
        outcome = call(folder, WRITES[name])
    assert not [fault for fault in outcome.faults((0, 1, 2)) if "changed" not in fault], outcome


@pytest.mark.parametrize("out", ["task", "/dev/null", "nothing/x.npz/y", "task/task.yaml/x.npz", "x" * 300])
def test_record_checks_its_file_before_it_spends(template: Path, tmp_path: Path, out: str) -> None:
    folder = fresh_copy(template, tmp_path / "place")
    outcome = call(folder, ("record", "plain", "--out", out, *SETTINGS, *CAPPED))
    assert outcome.code in (0, 2)
    assert not outcome.faults([2] if out != "nothing/x.npz/y" else [0, 1, 2]), outcome
