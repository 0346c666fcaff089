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
from pydantic import TypeAdapter
from typer.main import get_command

from agentopt.cli.main import app
from tests.cli.recorded import SETTINGS, record_run, write_task

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
DOCUMENTED = re.findall(r"^\| `(.+)` \| `(agentopt\..+)\.(\w+)` \|$", PAGE, re.MULTILINE)
WITHOUT = re.findall(r"^\| `([a-z -]+)` \| (\w[^`]+) \|$", PAGE, re.MULTILINE)
CALLING = ("quickstart", "diagnose", "judge", "record", "models add", "models check")
"""Commands that call models or need more than the recorded task has; of these, the schema is built."""
NO_SETTINGS = ("models search", "init")
WORDS = {"TASK": "planted", "FOLDER": "made", "WORD": "haiku", "NAME": "large", "ID": "test-1"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    return record_run(folder, write_task(folder))


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
    recorded: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    module: str,
    name: str,
) -> None:
    schema = schema_of(module, name)
    if command.startswith(CALLING):
        return
    monkeypatch.chdir(recorded.parents[1])
    words = [{**WORDS, "RUN": recorded.name}.get(word, word) for word in command.split()]
    if command == "optimize TASK":
        words = ["optimize", "--resume", recorded.name]  # every answer is in the journal
    code, out, _ = console_script(*words, "--json", *([] if command.startswith(NO_SETTINGS) else SETTINGS))
    assert code == 0
    assert "\x1b" not in out
    jsonschema.validate(json.loads(out), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(out), "further": 1}, schema)


def commands(command: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command of the tree under its full name."""
    command = command or get_command(app)
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part, inner in command.commands.items():
        yield from commands(inner, f"{name} {part}".strip())


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
