"""The command that installs an extra."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentopt.core.extras import command_for, install_command


def direct_url(folder: Path, **info: object) -> str:
    return json.dumps({"url": folder.as_uri(), "dir_info": info})


@pytest.mark.parametrize("name", ["clone", "my clone", "Zoë's"])
def test_an_editable_installation_is_extended_as_the_readme_does(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / name
    clone.mkdir()
    url = direct_url(clone, editable=True)
    assert command_for(("jobs",), url).startswith("pip install -e ")
    (clone / "requirements.lock").touch()
    elsewhere = command_for(("serve", "jobs"), url)
    assert elsewhere.startswith("pip install -c ")
    assert name.partition("'")[0] in elsewhere
    assert "[serve,jobs]" in elsewhere
    monkeypatch.chdir(clone)
    assert command_for(("serve", "jobs"), url) == "pip install -c requirements.lock -e '.[serve,jobs]'"


@pytest.mark.parametrize(
    "installed",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"url": "file:///no/such/folder", "dir_info": {"editable": true}}',
        '{"dir_info": {"editable": true}}',
        '{"url": "file:///tmp", "dir_info": {}}',
        '{"url": "file:///tmp", "dir_info": {"editable": false}}',
        '{"url": "https://example.com/agentopt.whl", "archive_info": {}}',
    ],
)
def test_any_other_installation_is_extended_by_the_name_of_the_package(installed: str | None) -> None:
    assert command_for(("jobs",), installed) == "pip install 'agentopt[jobs]'"
    assert command_for(("serve", "jobs"), installed) == "pip install 'agentopt[serve,jobs]'"


def test_this_installation_has_a_command() -> None:
    assert install_command("data").startswith("pip install ")
    assert install_command("data").endswith("[data]'")
