"""`--json` prints objects that follow the schema of the type that docs/json.md names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter
from rich.console import Console
from typer.main import get_command

from agentopt.cli.commands.jobs import add_job, run_now
from agentopt.cli.main import app
from agentopt.runs.result import Result
from agentopt.testing.server_process import ServerProcess
from tests.cli.recorded import SETTINGS, record_run, words, write_task

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
DOCUMENTED = re.findall(r"^\| `(.+)` \| `(agentopt\..+)\.(\w+)` \|$", PAGE, re.MULTILINE)
WITHOUT = re.findall(r"^\| `([a-z -]+)` \| (\w[^`]+) \|$", PAGE, re.MULTILINE)
FEW = (
    "task.data.limit.validation=3",
    "task.data.limit.test=3",
    "budget.trials=3",
    "strategy=random",
    "prompts.when=never",
)
QUICKSTART = ["--hosted", "large", *(part for setting in FEW for part in ("-c", setting))]
"""The quickstart on a served model in place of local ones, with few rows and trials."""
SERVED = ("quickstart", "diagnose", "judge", "record", "models check", "jobs", "reproduce")
"""Commands that call models; a loopback server answers."""
NO_SETTINGS = ("models search", "models add", "init", "jobs")
WORDS = {"TASK": "planted", "FOLDER": "made", "WORD": "haiku", "NAME": "large", "ID": "test-1"}
FURTHER = {
    "judge": {"TASK": "judged", "FILE": "labels.csv"},
    "record": {"FILE": "recorded.npz"},
    "reproduce": {"PAPER": "mine", "NAME": "toy"},
    "models add": {"MODEL": "openai/gpt-4o"},
    "jobs": {"NAME": "nightly"},
    "storage": {"FROM": "journal.db", "TO": "copied.db"},
}
"""First words of a command -> words that differ from `WORDS`."""
EXPERIMENT = {
    "title": "toy",
    "source": "nowhere",
    "shows": "trials and score",
    "config": ["budget.trials=2", "prompts.when=never"],
    "seeds": [0],
    "columns": {"words": {"task": "../../planted"}},
    "rows": {"grid": {"config": ["strategy=grid"], "paper": {"words": "1 h / .5"}}},
}
"""An experiment of `agentopt reproduce`."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    return record_run(folder, write_task(folder))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a task, a judged task and a job that has run, whose models a server in another process answers."""
    folder = tmp_path_factory.mktemp("served")
    with (
        ServerProcess(counter=folder / "received.jsonl", quality={"small": 0.3}) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("AGENTOPT_CACHE", "AGENTOPT_CONFIG", "AGENTOPT_DATA"):
            patch.setenv(name, str(folder))
        patch.delenv("AGENTOPT_JOBS_STORE", raising=False)
        patch.chdir(folder)
        write_served(folder, server.base_url)
        add_job(folder / "job.yaml", None, False, Console())
        run_now("nightly", None, Console())
        yield folder


def write_served(folder: Path, base_url: str) -> None:
    marked = "[[{{ inputs.word }}]]"
    subtask = {"name": "say", "prompt": marked, "models": ["small", "large"], "num_samples": [1, 2], "max_tokens": 8}
    splits = ("train", "validation", "test")
    shared = {"subtasks": [{**subtask, "tokens": {"prompt": 8, "completion": 8}}], "cost": {"max_units": 40}}
    shared |= {"data": {split: f"{split}.jsonl" for split in splits}}
    judge = {"kind": "judge", "model": "large", "rubric": 'Reply [[{"score": 1, "reason": "so"}]].'}
    for name, scorer in (("planted", "exact_match"), ("judged", judge)):
        task = write_task(folder, name=name)
        (task / "train.jsonl").write_text("\n".join(map(json.dumps, words("train", 4))))
        (task / "task.yaml").write_text(yaml.safe_dump({"name": name, "scorer": scorer, **shared}))
    (folder / "labels.csv").write_text("id,label\ntest-1,yes\ntest-2,no\ntest-3,yes\n")
    entry = {"base_url": base_url, "usd_per_1m_prompt": 1.0, "parameters": 1e9, "supports": {"seed": True}}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": {"small": entry, "large": entry}}))
    (folder / "configs" / "papers").mkdir(parents=True)
    (folder / "configs" / "papers" / "mine-toy.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    settings = ["strategy=grid", "budget.trials=2", "prompts.when=never", *SETTINGS[1::2]]
    job = {"name": "nightly", "task": "planted", "config": settings, "schedule": {"every": "6h"}}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))


def closed(schema: Any) -> Any:
    """The schema with every object's further keys refused, so that an undocumented one is found."""
    if isinstance(schema, dict):
        inner = {key: closed(value) for key, value in schema.items()}
        return {"additionalProperties": False, **inner} if "properties" in schema else inner
    return [closed(part) for part in schema] if isinstance(schema, list) else schema


def schema_of(module: str, name: str) -> Any:
    return closed(TypeAdapter(getattr(import_module(module), name)).json_schema(mode="serialization"))


@pytest.mark.parametrize(("command", "module", "name"), DOCUMENTED, ids=[command for command, *_ in DOCUMENTED])
def test_the_output_follows_the_documented_schema(
    console_script: Callable[..., tuple[int, str, str]],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    module: str,
    name: str,
) -> None:
    schema = schema_of(module, name)
    is_served = command.startswith(SERVED)
    folder = request.getfixturevalue("served") if is_served else request.getfixturevalue("recorded").parents[1]
    monkeypatch.chdir(folder)
    replaced = next((further for start, further in FURTHER.items() if command.startswith(start)), {})
    run = {} if is_served else {"RUN": request.getfixturevalue("recorded").name}
    arguments = [{**WORDS, **run, **replaced}.get(word, word) for word in command.split()]
    if command == "optimize TASK":
        arguments = ["optimize", "--resume", run["RUN"]]  # every answer is in the journal
    arguments += QUICKSTART if command == "quickstart" else []
    code, out, _ = console_script(*arguments, "--json", *([] if command.startswith(NO_SETTINGS) else SETTINGS))
    assert code == 0
    assert "\x1b" not in out
    found = json.loads(out)
    jsonschema.validate(found, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(with_further_key(found), schema)


def with_further_key(found: Any) -> Any:
    return {**found, "further": 1} if isinstance(found, dict) else [with_further_key(part) for part in found]


def commands(command: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command of the tree under its full name."""
    command = command or get_command(app)
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part, inner in command.commands.items():
        yield from commands(inner, f"{name} {part}".strip())


def test_the_page_lists_the_properties_that_no_document_has() -> None:
    section = PAGE.partition("## What only Python has")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    in_document = TypeAdapter(Result).json_schema(mode="serialization")["properties"]
    properties = {name for name, value in vars(Result).items() if isinstance(value, property) and name[0] != "_"}
    assert sorted(listed) == sorted(properties - in_document.keys())


def test_every_command_has_json_or_a_documented_reason() -> None:
    tree = {name: any("--json" in of.opts for of in command.params) for name, command in commands()}
    assert sorted(name for name, has in tree.items() if not has) == sorted(name for name, _ in WITHOUT)
    documented = {name for name in tree if any(f"{row} ".startswith(f"{name} ") for row, *_ in DOCUMENTED)}
    assert documented == {name for name, has in tree.items() if has}


@pytest.mark.parametrize("words", [["runs", "show"], ["inspect"], ["gate"], ["whatif"], ["evaluate"], ["optimize"]])
def test_a_failure_is_a_document_too(
    console_script: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = console_script(*words, "nowhere", "--json", "-c", "runs=runs")
    found = json.loads(out)
    jsonschema.validate(found, schema_of("agentopt.cli.output", "Failure"))
    assert (code, found["exit_code"], err) == (2, 2, f"agentopt: {found['error']}\n")
