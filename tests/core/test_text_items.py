"""Numbers of samples that no call has: a list of all of them would take minutes and gigabytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentopt.core.axes import MOST_SAMPLES
from agentopt.core.candidate import SubtaskChoice, load_candidate
from agentopt.core.errors import CandidateError, TaskError
from agentopt.core.task_rules import check_counts
from agentopt.taskfile.schema import _counts

TOO_MANY = [MOST_SAMPLES + 1, 5_000_000, 10**30]


@pytest.mark.parametrize("count", TOO_MANY)
def test_a_number_of_samples_that_no_call_has_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(CandidateError, match="at most 10,000"):
        SubtaskChoice("m", count)
    (tmp_path / "best.yaml").write_text(f"a: {{model: m, num_samples: {count}}}\n")
    with pytest.raises(CandidateError, match="at most 10,000"):
        load_candidate(tmp_path / "best.yaml")
    with pytest.raises(TaskError, match="at most 10,000"):
        check_counts([1, count], "here")


@pytest.mark.parametrize("count", TOO_MANY)
def test_a_range_of_samples_that_no_call_has_is_refused_before_it_is_listed(count: int) -> None:
    with pytest.raises(Exception, match="at most 10,000"):
        _counts({"max": count})


def test_the_most_samples_are_accepted() -> None:
    found: Any = _counts({"max": MOST_SAMPLES})
    assert (len(found), SubtaskChoice("m", MOST_SAMPLES).num_samples) == (MOST_SAMPLES, MOST_SAMPLES)
