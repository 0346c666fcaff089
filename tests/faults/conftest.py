"""The place that is attacked, and the number of cases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacked import Share, add_champions, add_run, call, write_place

from agentopt.testing.server_process import ServerProcess

SHORT = 35
"""Cases of each suite in the short form. Every kind has at least one."""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place with a run and champions, whose models are a loopback server."""
    folder = tmp_path_factory.mktemp("attacked") / "place"
    counter = tmp_path_factory.mktemp("server") / "requests.jsonl"
    with ServerProcess(counter=counter, quality={"small": 0.5, "large": 1.0}) as server:
        write_place(folder, server.base_url)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            add_run(folder)
            shutil.copytree(folder / "runs" / "first", folder / "runs" / "second")
        assert call(folder, ("jobs", "add", "job.yaml")).code == 0
        add_champions(folder)
        yield folder


@pytest.fixture
def share(request: pytest.FixtureRequest) -> Share:
    """The number of cases of one test: its share of `--cases`, which the suites have together, or of the short form."""
    total = int(request.config.getoption("--cases") or SHORT)
    return lambda weight, all_weights: -(-total * weight // all_weights)
