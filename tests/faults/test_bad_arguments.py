"""Bad arguments of every command: exit code 2 with one short message, or success, and nothing is left behind."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from attacked import SETTINGS, Share, call, fresh_copy
from mutation import HOSTILE

from agentopt.cli.main import app

CAPPED = ("-c", "budget.calls=60", "-c", "budget.seconds=20")
SOUND: dict[str, tuple[str, ...]] = {
    "": (),
    "optimize": ("task", *SETTINGS, "--dry-run"),
    "evaluate": ("judged", *SETTINGS, *CAPPED),
    "diagnose": ("task", *SETTINGS, "--dry-run"),
    "judge check": ("judged", "--labels", "labels.csv", *SETTINGS, *CAPPED),
    "runs list": (),
    "runs show": ("first",),
    "report": ("runs/first",),
    "inspect": ("runs/first", "--trial", "0"),
    "compare": ("runs/first", "runs/second"),
    "whatif": ("runs/first", "--min-score", "0.1"),
    "gate": ("runs/first", "--margin", "0.5"),
    "export": ("plain.yaml", "--task", "plain", "--to", "python", *SETTINGS),
    "reproduce": ("mine", "--table", "toy", "--configs", "papers", "--dry-run", *SETTINGS),
    "init": ("new", "--from", "task/test.csv"),
    "models list": SETTINGS,
    "models search": ("haiku",),
    "models add": ("openai/gpt-5-mini", "--file", "mine.yaml"),
    "models check": ("small", *SETTINGS),
    "jobs list": (),
    "jobs show": ("nightly",),
    "jobs add": ("job.yaml", "--replace"),
    "jobs history": ("nightly", "--limit", "3"),
    "jobs pause": ("nightly",),
    "jobs resume": ("nightly",),
    "jobs remove": ("nightly",),
    "jobs rollback": ("nightly", "1"),
    "jobs export": ("nightly", "--to", "cron"),
    "journal size": SETTINGS,
    "journal list": SETTINGS,
    "journal prune": ("--older-than", "30d", *SETTINGS),
    "journal forget": ("--model", "small", *SETTINGS),
    "journal export": SETTINGS,
    "storage check": ("data/jobs.db",),
    "storage migrate": ("data/jobs.db", "--dry-run"),
    "storage copy": ("data/jobs.db", "copied.db"),
}
"""Command -> arguments with which it works in the place."""

ENDLESS = {"serve", "worker", "jobs start"}
"""Commands that run until they are stopped: they get arguments that must be refused."""
ELSEWHERE = {"quickstart", "doctor", "models pull", "record", "jobs run-now"}
"""Commands that download, or whose inputs are those of another command."""

WORDS = [
    "--", "-", "=", "a=b", "=1", "-c", "--json", "--help", "--out", "-1", "0", "nan", "inf", "1e400", "9" * 400,
    "0x10", "a=",
    "task", "task.yaml", "job.yaml", "runs", "runs/first", "first", "nothing", "models.yaml", "small", "nightly",
    "test",
    "seed=x", "budget.usd=-1", "budget=", "task.name=", "task.subtasks.find.models=[]", "journal=", "journal=/dev/null",
    "journal=sqlite://", "journal=nosuch://x", "runs=/dev/null", "runs=task/task.yaml", "models=[nothing.yaml]",
    "data=x.csv",
    "strategy=x:y", "a.b.c.d=1", "seed=!!int x", "seed=[[[[", "seed={a: &a [*a]}", "30d", "1s",
    "99999999999999999999w", "http:",
    *(value for value in HOSTILE if isinstance(value, str) and "\0" not in value and "etc" not in value),
]  # fmt: skip
"""Arguments, as a shell may pass them: no zero bytes; half surrogate pairs are bytes that are not UTF-8."""


def commands(group: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and definition of every command."""
    found: Any = group or typer.main.get_command(app)
    for name, command in found.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


OPTIONS = {name: [option for p in command.params for option in p.opts] for name, command in commands()}


def changed_arguments(draw: random.Random, name: str) -> list[str]:
    """Sound arguments of a command with one to three changes."""
    arguments = list(SOUND[name])
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(arguments) + 1)
        match draw.choice(("option", "option", "replace", "replace", "insert", "remove", "double")):
            case "option":
                arguments += [draw.choice(OPTIONS.get(name) or ["--version"]), draw.choice(WORDS)]
            case "replace":
                arguments[at : at + 1] = [draw.choice(WORDS)]
            case "insert":
                arguments.insert(at, draw.choice(WORDS))
            case "remove":
                del arguments[at : at + 1]
            case "double":
                arguments += arguments[at:]
    return [argument for argument in arguments if argument not in ("--live", "--open")]


def test_every_command_is_attacked() -> None:
    assert {*SOUND, *ENDLESS, *ELSEWHERE} - {""} == {name for name, _ in commands()}


@pytest.mark.parametrize("name", SOUND)
def test_bad_arguments_are_refused_in_one_message_or_work(
    template: Path, tmp_path: Path, name: str, share: Share
) -> None:
    count, wrong = share(1, len(SOUND)), dict[str, Any]()
    for case in range(count):
        arguments = changed_arguments(random.Random(f"{name} {case}"), name)
        folder = fresh_copy(template, tmp_path / "place")
        outcome = call(folder, [*name.split(), *arguments])
        if found := outcome.faults((0, 1, 2, 3)):
            wrong[str(arguments)[:400]] = [*found, f"stderr: {outcome.err:.1500}", f"stdout: {outcome.out[-300:]}"]
        shutil.rmtree(folder)
    assert not wrong, f"{name}: {len(wrong)} of {count}: {json.dumps(wrong, indent=1)}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",), ("serve", "nothing"), ("serve", "runs/first", "--job", "x"), ("serve", "--job", "nothing"),
        ("serve", "runs/first", "--port", "70000"), ("serve", "runs/first", "--timeout", "nan"),
        ("serve", "runs/first", "--api-key-file", "nothing"), ("serve", "runs/first", "--api-key-file", "pipe"),
        ("serve", "runs/first", "--api-key-file", "task"), ("serve", "runs/first", "--host", "\udcff"),
        ("serve", "runs/first", "--tls-cert", "job.yaml", "--tls-key", "job.yaml"),
        ("serve", "runs/first", "--tls-cert", "nothing", "--tls-key", "pipe"), ("serve", "runs/first", "--max-body",
        "0"),
        ("worker",), ("worker", "--storage", ""), ("worker", "--storage", "job.yaml"), ("worker", "--storage",
        "nosuch://x"),
        ("worker", "--storage", "task"), ("worker", "--storage", "pipe"), ("worker", "--storage",
        "sqlite:////dev/null/x"),
        ("jobs", "start", "--slots", "0"), ("jobs", "start", "--store", "nosuch://x"), ("jobs", "start", "--store",
        "x"),
        ("jobs", "start", "--store", "sqlite:///job.yaml"), ("record", "task", "--out", "task"),
        ("record", "task", "--out", "/dev/null"), ("record", "nothing", "--out", "x.npz"), ("record", "task"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_bad_arguments_of_endless_commands_are_refused(
    template: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    folder = fresh_copy(template, tmp_path / "place")
    outcome = call(folder, arguments)
    assert not outcome.faults([2]), outcome


def test_sound_arguments_work(template: Path, tmp_path: Path) -> None:
    for name, arguments in SOUND.items():
        folder = fresh_copy(template, tmp_path / "place")
        outcome = call(folder, [*name.split(), *arguments])
        assert not outcome.faults([0]), (name, outcome)
        shutil.rmtree(folder)
