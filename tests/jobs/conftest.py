from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def only_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No catalogue, cache or data folder but the test's."""
    for name in ("AGENTOPT_CACHE", "AGENTOPT_DATA", "AGENTOPT_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
