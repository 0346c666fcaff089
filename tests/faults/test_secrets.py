"""Secrets: a canary of each kind is in no byte that is written or printed, and private files are the user's alone."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from attacked import SETTINGS, Outcome, call, fresh_copy

KEY, PASSWORD, TOKEN, SECRET, HEADER, SERVED = (f"canary-{name}-9f3b71" for name in ("k", "p", "t", "s", "h", "a"))
CANARIES = (KEY, PASSWORD, TOKEN, SECRET, HEADER, SERVED)
URL = f"postgresql://me:{PASSWORD}@127.0.0.1:9/journal"
GIVEN = {"models.yaml", "job.yaml", "keys.txt", "data/jobs.db"}
"""Files in which the user writes a secret, and the jobs' store, which has the webhook's address."""


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with a canary everywhere a secret can be given, under a umask that hides nothing."""
    folder = fresh_copy(template, tmp_path / "place")
    for name in ("data", "cache", "runs"):
        shutil.rmtree(folder / name)
    (folder / "journal.db").unlink()
    catalog = yaml.safe_load((folder / "models.yaml").read_text())
    for entry in catalog["models"].values():
        entry |= {"extra_headers": {"X-Secret": HEADER}, "api_key_env": "THE_KEY"}
    (folder / "models.yaml").write_text(yaml.safe_dump(catalog))
    job = yaml.safe_load((folder / "job.yaml").read_text())
    job["webhook"]["url"] = f"http://127.0.0.1:9/{TOKEN}"
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    (folder / "keys.txt").write_text(f"{SERVED}\n")
    monkeypatch.setenv("THE_KEY", KEY)
    monkeypatch.setenv("HOOK", f"whsec_{SECRET}")
    return folder


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def leaks(folder: Path, outcomes: list[Outcome]) -> list[str]:
    """Where a canary was found: files, and outputs by their numbers."""
    files = [path for path in folder.rglob("*") if path.is_file() and str(path.relative_to(folder)) not in GIVEN]
    found = [f"{path}: {canary}" for path in files for canary in CANARIES if canary.encode() in path.read_bytes()]
    printed = [(number, f"{outcome.out}{outcome.err}{outcome.raised}") for number, outcome in enumerate(outcomes)]
    return found + [f"output {number}: {text}" for number, text in printed for canary in CANARIES if canary in text]


SHORT = ("-c", "budget.trials=2", "-c", "prompts.when=never", "-c", "strategy=random")
SOUND = [
    ("evaluate", "plain", *SETTINGS),
    ("optimize", "plain", *SETTINGS, *SHORT),
    ("optimize", "plain", *SETTINGS, *SHORT, "--json"),
    ("report", "RUN", "--every-trial"),
    ("runs", "show", "RUN", "--json"),
    ("inspect", "RUN", "--json"),
    ("export", "RUN", "--to", "yaml"),
    ("models", "list", *SETTINGS),
    ("models", "list", *SETTINGS, "--json"),
    ("models", "check", "small", *SETTINGS),
    ("jobs", "add", "job.yaml"),
    ("jobs", "run-now", "nightly"),
    ("jobs", "show", "nightly", "--json"),
    ("jobs", "list", "--json"),
    ("jobs", "export", "nightly", "--to", "kubernetes"),
    ("journal", "export", *SETTINGS),
]
REFUSED = [
    ("evaluate", "plain", *SETTINGS, "-c", f"journal={URL}"),
    ("optimize", "plain", *SETTINGS, "-c", f"storage={URL}"),
    ("journal", "size", "-c", f"journal={URL}"),
    ("storage", "check", URL),
    ("storage", "copy", "journal.db", URL),
    ("worker", "--storage", URL),
    ("jobs", "list", "--store", URL),
    ("jobs", "add", "with_password.yaml"),
    ("models", "add", "openai/x", "--base-url", f"http://me:{PASSWORD}@127.0.0.1:9/v1", "--file", "mine.yaml"),
    ("evaluate", "plain", "-c", "journal=journal.db", "-c", "models=with_user.yaml"),
    ("export", "RUN", "--to", "litellm"),
    ("export", "RUN", "--to", "python"),
    ("serve", "nothing", "--api-key-file", "keys.txt"),
]


def test_no_secret_is_written_or_printed(place: Path) -> None:
    job = yaml.safe_load((place / "job.yaml").read_text())
    job["config"] = [*job["config"], f"journal={URL}"]
    (place / "with_password.yaml").write_text(yaml.safe_dump(job))
    catalog = {"models": {"small": {"base_url": f"http://me:{PASSWORD}@127.0.0.1:9/v1"}}}
    (place / "with_user.yaml").write_text(yaml.safe_dump(catalog))
    outcomes = []
    for arguments in [*SOUND, *REFUSED]:
        run = next(iter(sorted((place / "runs").glob("*"))), place) if "RUN" in arguments else place
        outcomes.append(call(place, [str(run) if part == "RUN" else part for part in arguments]))
    codes = [outcome.code for outcome in outcomes]
    assert all(code in (0, 1, 4) for code in codes[: len(SOUND)]), list(zip(SOUND, outcomes, strict=False))
    assert codes[len(SOUND) :] == [2] * len(REFUSED), list(zip(REFUSED, outcomes[len(SOUND) :], strict=True))
    for name in ("with_password.yaml", "with_user.yaml"):
        (place / name).unlink()
    assert leaks(place, outcomes) == []


def test_private_files_are_readable_by_the_user_alone(place: Path, no_umask: None) -> None:
    before = set(place.rglob("*"))
    for arguments in (
        SOUND[0],
        SOUND[1],
        ("report", "RUN"),
        ("jobs", "add", "job.yaml"),
        ("jobs", "run-now", "nightly"),
    ):
        run = next(iter(sorted((place / "runs").glob("*"))), place) if "RUN" in arguments else place
        outcome = call(place, [str(run) if part == "RUN" else part for part in arguments])
        assert not outcome.faults((0, 1, 4)), outcome
    made = set(place.rglob("*")) - before - {place / "runs"}
    assert {"journal.db", "jobs.db", "trials.db", "log.jsonl", "config.yaml", "result.json"} <= {p.name for p in made}
    open_to_others = {
        str(path.relative_to(place)): oct(path.stat().st_mode)
        for path in made
        if stat.S_IMODE(path.stat().st_mode) & 0o077 and path.name != "report.html"
    }
    assert open_to_others == {}
