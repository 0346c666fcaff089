"""`--json` prints objects that follow the schema of the type that docs/report.md names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from tests.cli.recorded import SETTINGS, record_run, write_task

DOCUMENTED = re.findall(
    r"^\| `(.+)` \| `(agentopt\..+)\.(\w+)` \|$",
    (Path(__file__).parents[2] / "docs" / "report.md").read_text(),
    re.MULTILINE,
)


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


@pytest.mark.parametrize(("command", "module", "name"), DOCUMENTED, ids=[command for command, *_ in DOCUMENTED])
def test_the_output_follows_the_documented_schema(
    console_script: Callable[..., tuple[int, str, str]],
    recorded: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    module: str,
    name: str,
) -> None:
    monkeypatch.chdir(recorded.parents[1])
    words = command.replace("RUN...", "RUN").replace("RUN", recorded.name).replace("ID", "test-1").split()
    code, out, err = console_script(*words, "--json", *SETTINGS)
    assert (code, err) == (0, "")
    schema = closed(TypeAdapter(getattr(import_module(module), name)).json_schema(mode="serialization"))
    jsonschema.validate(json.loads(out), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(out), "further": 1}, schema)


def test_every_documented_command_is_tested() -> None:
    assert [command.split()[0] for command, *_ in DOCUMENTED] == ["inspect", "inspect", "compare", "runs", "runs"]
