"""Fields of the catalogue, the task and the candidate are literals in exported files, whatever characters they have."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from attacked import SETTINGS, call, fresh_copy

HOSTILE = [
    '"""\nimport pathlib; pathlib.Path("OWNED").touch()\n"""',
    "'''\nimport pathlib; pathlib.Path('OWNED').touch()\n'''",
    '"); __import__("pathlib").Path("OWNED").touch()  #',
    "'); __import__('pathlib').Path('OWNED').touch()  #",
    '{__import__("pathlib").Path("OWNED").touch()}',
    "\\", '\\"""', "{name!r}", "%s{0}", "a\nOWNED: true\nb", "x: &a [*a]", "\u2028OWNED", "#", "\x1b[31m",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_run_nothing_in_an_exported_module(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    folder = fresh_copy(template, tmp_path / "place")
    catalog = yaml.safe_load((folder / "models.yaml").read_text())
    entry = catalog["models"]["small"]
    entry |= {"model": text, "api_key_env": text, "extra_body": {text: text}}
    catalog["models"] = {text: entry, "large": catalog["models"]["large"]}
    (folder / "models.yaml").write_text(json.dumps(catalog))
    task = yaml.safe_load((folder / "plain" / "task.yaml").read_text())
    task |= {"name": text, "description": text}
    for subtask in task["subtasks"]:
        subtask |= {"models": [text], "system_prompt": text, "description": text, "stop": [text]}
    (folder / "plain" / "task.yaml").write_text(json.dumps(task))
    candidate = {name: {"model": text, "num_samples": 1, "system_prompt": text} for name in ("find", "answer")}
    (folder / "plain.yaml").write_text(json.dumps(candidate))
    monkeypatch.chdir(folder)
    for to, name in (("python", "exported.py"), ("litellm", "router.yaml")):
        command = ("export", "plain.yaml", "--task", "plain", "--to", to, "--out", name, *SETTINGS)
        outcome = call(folder, command)
        assert not outcome.faults([0]), outcome
    router = yaml.safe_load((folder / "router.yaml").read_text())
    assert list(router) == ["model_list"]
    assert text in json.dumps(router["model_list"], ensure_ascii=False) or json.dumps(text)[1:-1] in json.dumps(router)
    module = spec_from_file_location("exported_by_attack", folder / "exported.py")
    assert module
    assert module.loader
    loaded = module_from_spec(module)
    monkeypatch.setitem(sys.modules, "exported_by_attack", loaded)
    module.loader.exec_module(loaded)
    assert [subtask.system_prompt for subtask in loaded.SUBTASKS] == [text, text]
    assert not list(folder.rglob("OWNED"))
