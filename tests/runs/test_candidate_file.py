"""Where the file of a candidate is found, and what is suggested if it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentopt.core.errors import ConfigError
from agentopt.runs.candidate_file import find_candidate
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.testing.toy import toy_task


@pytest.mark.parametrize(
    ("files", "name", "remedy"),
    [
        (("best.yaml", "recommended.yaml"), "bes.yaml", "did you mean 'best.yaml'?"),
        (("best.yaml", "recommended.yaml"), "winner", "known: "),
        ((), "best.yaml", "resume="),
    ],
)
def test_a_candidate_that_a_run_does_not_have_has_a_fitting_remedy(
    tmp_path: Path, files: tuple[str, ...], name: str, remedy: str
) -> None:
    run = RunFolder.create(toy_task(), Config(runs=tmp_path))
    for file in files:
        (run.path / file).write_text("find: {}\n")
    with pytest.raises(ConfigError) as failure:
        find_candidate(run.path / name)
    assert remedy in str(failure.value)
