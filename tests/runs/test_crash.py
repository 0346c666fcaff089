"""A run that is killed and resumed pays for nothing twice and has the result of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from agentopt.api import optimize
from agentopt.runs.config import load_config
from agentopt.runs.result import load_result
from agentopt.testing.server_process import ServerProcess

MODELS = {"small": 3e9, "large": 7e9, "agent": 7e9}
QUALITY = {"small": 0.35, "large": 0.8}
SIZES = {"train": 6, "validation": 24, "test": 24}
PROMPTS = (
    "{subtasks: [find], user_prompts: 6, repeats: 2, k_top: 2, rounds: 2, batch_size: 2, responses: 12, filter: p1}"
)
"""A small prompt optimisation."""


def write_task(folder: Path, base_url: str) -> Path:
    """A two-subtask task whose right answers are between marks in its prompts, and the catalogue for it."""
    task = folder / "task"
    task.mkdir(parents=True)
    shared = {"models": ["small", "large"], "max_tokens": 8, "num_samples": [1, 2, 3, 5, 8]}
    lengths = {"tokens": {"prompt": 128, "completion": 64}}
    spec = {
        "name": "planted",
        "data": {split: f"{split}.jsonl" for split in SIZES},
        "subtasks": [
            {"name": "find", "prompt": "the key of {{ inputs.word }} is [[{{ inputs.word }}]]", **shared, **lengths},
            {
                "name": "answer",
                "prompt": "the word behind {{ find.output }}: [[{{ find.output }}]]",
                **shared,
                **lengths,
            },
        ],
        "scorer": {"kind": "exact_match"},
        "cost": {"max_units": 60},
    }
    (task / "task.yaml").write_text(yaml.safe_dump(spec))
    for split, count in SIZES.items():
        rows = [{"id": f"{split}{i}", "word": f"{split}-{i}", "target": f"{split}-{i}"} for i in range(count)]
        (task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = {
        name: {
            "base_url": base_url,
            "supports": {"seed": True},
            "parameters": size,
            "concurrency": 16,
            "max_choices": 8,
        }
        for name, size in MODELS.items()
    }
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
    return task


def command(task: Path, folder: Path, *settings: str) -> list[str]:
    """The command line of a run whose journal, runs and catalogue are all in `folder`, or of its resumption."""
    made = [path.parent for path in (folder / "runs").glob("*/config.yaml")]
    where = ["--resume", str(made[0])] if made else [str(task)]
    options = [part for setting in (*places(folder), *settings) for part in ("-c", setting)]
    return [sys.executable, "-m", "agentopt", "optimize", *where, *options]


def places(folder: Path) -> list[str]:
    """Settings of a run whose journal, runs and catalogue are all in `folder`."""
    return [f"journal={folder}/journal.db", f"runs={folder}/runs", f"models=[{folder}/models.yaml]"]


def request_counts(server: ServerProcess) -> Counter[tuple[str, int]]:
    """How often each choice was requested."""
    return Counter((line["key"], line["seed"] + i) for line in server.received() for i in range(line["n"]))


def await_requests(server: ServerProcess, count: int) -> None:
    """Wait until the server has got so many."""
    deadline = time.monotonic() + 60
    while len(server.received()) < count:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.01)


def lost_in_flight(folder: Path) -> int:
    """Calls that were entered in the ledger, but whose process died before it could settle them."""
    with sqlite3.connect(folder / "journal.db") as journal:
        return int(journal.execute("select count(*) from ledger where outcome = 'in flight'").fetchone()[0])


@pytest.mark.parametrize(("kills", "delay"), [(1, 0.1), pytest.param(20, 0.2, marks=pytest.mark.faults)])
def test_a_run_killed_at_random_moments_repays_only_what_was_in_flight(
    tmp_path: Path, kills: int, delay: float
) -> None:
    rng = random.Random(kills)
    settings = ("agent.model=agent", "agent.attempts=1", "budget.trials=9", "search.batch_size=3", f"prompts={PROMPTS}")
    quiet = {**os.environ, "AGENTOPT_CACHE": str(tmp_path / "cache")}
    with ServerProcess(counter=tmp_path / "calm.jsonl", quality=QUALITY, delay=0.02) as calm:
        folder = tmp_path / "calm"
        undisturbed = optimize(write_task(folder, calm.base_url), load_config([*places(folder), *settings]))
        assert max(request_counts(calm).values()) == 1

    with ServerProcess(counter=tmp_path / "stormy.jsonl", quality=QUALITY, delay=delay) as stormy:
        folder = tmp_path / "stormy"
        task = write_task(folder, stormy.base_url)
        for _ in range(kills):
            process = subprocess.Popen(
                command(task, folder, *settings), env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            await_requests(stormy, len(stormy.received()) + rng.randint(1, 24))
            time.sleep(rng.uniform(0, 2 * delay))
            process.send_signal(signal.SIGKILL)
            _, output = process.communicate()
            assert process.returncode == -signal.SIGKILL, output
        subprocess.run(command(task, folder, *settings), check=True, env=quiet, stdout=subprocess.DEVNULL)
        result = load_result(next((folder / "runs").iterdir()))
        again = sum(times - 1 for times in request_counts(stormy).values())
        choices_per_call = 8
        assert again <= lost_in_flight(folder) * choices_per_call

    assert result.best_candidate == undisturbed.best_candidate
    assert result.prompts == undisturbed.prompts
    assert [t.candidate for t in result.trials] == [t.candidate for t in undisturbed.trials]
    # The ledger may count a call that was entered but never sent; it never misses one that was.
    assert len(stormy.received()) <= result.total.calls <= len(stormy.received()) + lost_in_flight(folder)
    summary = f"{kills} kills, {len(stormy.received())} requests, {again} choices requested again"
    print(f"{summary}, {lost_in_flight(folder)} calls in flight at a kill")
