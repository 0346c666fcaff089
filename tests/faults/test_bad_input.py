"""Bad input: mutated files of every kind give exit code 2 with one short message, or work, and leave nothing behind.

The short form runs with all tests; `pytest tests/faults -k bad --cases 5000` is the long one.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from attacked import SETTINGS, Share, call, fresh_copy
from mutation import as_json, changed_data, changed_text

DRY = ("optimize", "task", *SETTINGS, "--dry-run")
CAPPED = ("-c", "budget.calls=60", "-c", "budget.seconds=20")
CALLS, GATES = (0, 1, 2), (0, 1, 2, 3)
"""Exit codes of commands that call models, which may fail, and of gates."""


@dataclass(frozen=True)
class Attack:
    """A file that is mutated, and a command that reads it.

    Attributes:
        file: Its path in the place.
        command: Arguments of the command.
        codes: The exit codes that are right.
        by_text: Whether the text is mutated, too. Not if an address might become that of another machine.
        weight: How many cases it has, relative to the others.
    """

    file: str
    command: tuple[str, ...]
    codes: Sequence[int] = (0, 2)
    by_text: bool = True
    weight: int = 1

    @property
    def name(self) -> str:
        return f"{self.file} in {' '.join(part for part in self.command if part not in (*SETTINGS, '-c'))}"


MODELLED = (*SETTINGS, *CAPPED)
PLAIN = ("export", "plain.yaml", "--task", "plain", *SETTINGS, "--to")
EXPORT = ("export", "candidate.yaml", "--task", "task", *SETTINGS, "--to")
CHAMPION = "data/jobs/nightly/champion.yaml"
ARCHIVE = "data/jobs/nightly/champions"

ATTACKS = [
    Attack("task/task.yaml", DRY, weight=8),
    Attack("task/task.yaml", ("evaluate", "task", *MODELLED), CALLS),
    Attack("task/task.yaml", ("diagnose", "task", *SETTINGS, "--dry-run")),
    *(Attack(file, (*PLAIN, "python"), weight=2) for file in ("plain/task.yaml", "models.yaml", "plain.yaml")),
    Attack("models.yaml", (*PLAIN, "litellm")),
    Attack("config.yaml", ("optimize", "task", "-c", "config.yaml", "--dry-run"), weight=4),
    Attack("config.yaml", ("evaluate", "task", "-c", "config.yaml", *CAPPED), CALLS),
    Attack("config.yaml", ("runs", "list", "-c", "config.yaml"), weight=2),
    Attack("config.yaml", ("journal", "size", "-c", "config.yaml"), weight=2),
    Attack("models.yaml", DRY),
    Attack("models.yaml", ("models", "list", *SETTINGS), weight=4),
    Attack("models.yaml", ("evaluate", "task", *MODELLED), CALLS, by_text=False),
    Attack("models.yaml", ("models", "check", "small", *SETTINGS), CALLS, by_text=False),
    Attack("candidate.yaml", ("evaluate", "task", "--candidate", "candidate.yaml", *MODELLED), CALLS),
    Attack("candidate.yaml", ("gate", "candidate.yaml", "--task", "task", *MODELLED), GATES),
    Attack("candidate.yaml", ("gate", "runs/first", "--against", "candidate.yaml", *CAPPED), GATES),
    *(Attack("candidate.yaml", (*EXPORT, to), weight=2) for to in ("yaml", "litellm")),
    Attack("job.yaml", ("jobs", "add", "job.yaml", "--replace"), weight=8),
    *(Attack(f"task/{name}", DRY, weight=2) for name in ("validation.jsonl", "test.csv", "train.jsonl")),
    Attack("task/test.csv", ("evaluate", "task", *MODELLED), CALLS),
    Attack("judged/test.jsonl", ("evaluate", "judged", *MODELLED), CALLS),
    *(Attack(f"task/{name}", ("init", "new", "--from", f"task/{name}")) for name in ("validation.jsonl", "test.csv")),
    Attack("traces.jsonl", ("init", "new", "--from", "traces.jsonl")),
    Attack("labels.csv", ("judge", "check", "judged", "--labels", "labels.csv", *MODELLED), CALLS),
    Attack("prices.yaml", ("whatif", "runs/first", "--prices", "prices.yaml")),
    *(Attack(CHAMPION, ("jobs", *of)) for of in (("show", "nightly"), ("rollback", "nightly", "1"), ("list",))),
    *(Attack(f"{ARCHIVE}/0002.json", ("jobs", of, "nightly")) for of in ("show", "rollback")),
    Attack(f"{ARCHIVE}/0001.yaml", ("jobs", "rollback", "nightly", "1")),
    Attack("runs/first/config.yaml", ("runs", "list")),
    Attack("runs/first/config.yaml", ("optimize", "--resume", "runs/first", *CAPPED), CALLS),
    Attack("runs/first/result.json", ("runs", "show", "runs/first")),
    Attack("runs/first/result.json", ("gate", "runs/first"), GATES),
    Attack("runs/first/best.yaml", ("export", "runs/first", "--to", "yaml")),
    Attack("runs/first/record.jsonl", ("report", "runs/first")),
    Attack("runs/first/demos.json", ("optimize", "--resume", "runs/first", *CAPPED), CALLS),
    Attack("runs/first/trials.db", ("inspect", "runs/first")),
]


def mutated(draw: random.Random, content: bytes, file: str, by_text: bool) -> bytes:
    """Mutated content of a file: of its values, or of its text."""
    parsed = _parsed(content, file)
    if parsed is None or (by_text and draw.random() < 0.4):
        return changed_text(draw, content)
    if file.endswith(".jsonl"):
        return (
            b"\n".join(json.dumps(line, default=str).encode() for line in _as_list(changed_data(draw, parsed))) + b"\n"
        )
    return as_json(changed_data(draw, parsed))


def _as_list(data: Any) -> list[Any]:
    return data if isinstance(data, list) else [data]


def _parsed(content: bytes, file: str) -> Any:
    if file.endswith(".jsonl"):
        return [json.loads(line) for line in content.splitlines()]
    if file.endswith((".yaml", ".json")):
        return yaml.safe_load(content)
    return None


def faults_of(template: Path, folder: Path, attack: Attack, seed: str) -> list[str]:
    """What is wrong with one case; the folder is removed."""
    draw = random.Random(seed)
    fresh_copy(template, folder)
    file = folder / attack.file
    content = mutated(draw, file.read_bytes(), attack.file, attack.by_text)
    file.write_bytes(content)
    outcome = call(folder, attack.command)
    found = outcome.faults(attack.codes)
    if found:
        found.append(f"stderr: {outcome.err:.1500}")
        found.append(f"stdout: {outcome.out[-300:]}")
    shutil.rmtree(folder)
    return found


@pytest.mark.parametrize("number", range(len(ATTACKS)))
def test_a_mutated_file_is_refused_in_one_message_or_works(
    template: Path, tmp_path: Path, number: int, share: Share
) -> None:
    attack = ATTACKS[number]
    count = share(attack.weight, sum(other.weight for other in ATTACKS))
    wrong: dict[str, list[str]] = {}
    for case in range(count):
        seed = f"{attack.name} {case}"
        if found := faults_of(template, tmp_path / "place", attack, seed):
            wrong[seed] = found
    assert not wrong, f"{attack.name}: {len(wrong)} of {count}: {json.dumps(wrong, indent=1)}"


def test_unchanged_files_work(template: Path, tmp_path: Path) -> None:
    for attack in {attack.command: attack for attack in ATTACKS}.values():
        folder = fresh_copy(template, tmp_path / "place")
        outcome = call(folder, attack.command)
        assert not outcome.faults([code for code in attack.codes if code != 2]), (attack.name, outcome)
        shutil.rmtree(folder)
