"""Results in a temporary file: an evaluation says the same of them as of results in memory."""

from __future__ import annotations

import gc
import os
import stat
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt.core.records import Evaluation, ExampleResult, Failure, SubtaskUse
from agentopt.core.result_file import BLOCK, ResultFile
from agentopt.runs.response_issues import incomplete_responses
from agentopt.runs.result import Measured
from agentopt.testing.toy import toy_task

FAILURE = Failure("content filter", "example", "refused")
UNPARSED = {"find": "find: no number"}

uses = st.builds(
    SubtaskUse,
    prompt_tokens=st.integers(0, 50),
    completion_tokens=st.integers(0, 9),
    usd=st.sampled_from([0.0, 0.25]),
    responses=st.integers(1, 4),
    cut_off=st.integers(0, 3),
    only_thought=st.integers(0, 1),
    filtered=st.integers(0, 1),
)
results = st.builds(
    lambda score, bad, **more: ExampleResult(score=score if bad is None else None, **{**more, **(bad or {})}),
    id=st.sampled_from([f"r{n}" for n in range(12)]),
    score=st.sampled_from([0.0, 1.0, 0.5, -2.0]),
    bad=st.sampled_from([None, None, {"error": "e"}, {"error": "e", "failure": FAILURE, "left_out": True}]),
    output=st.text(max_size=3),
    subtasks=st.dictionaries(st.sampled_from(["find", "answer"]), uses),
    metrics=st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([0.0, 0.25, 1.0])),
    repeat=st.integers(0, 2),
    seconds=st.sampled_from([None, 0.5, 2.0]),
    unparsed=st.sampled_from([{}, {}, UNPARSED]),
)
GROUPS = {"r0": "r0", "r1": "r0", "r7": "r0"}


def stated(evaluation: Evaluation) -> dict[str, Any]:
    """All that an evaluation says of its results."""
    names = [name for name, value in vars(Evaluation).items() if isinstance(value, property)]
    found = {name: getattr(evaluation, name) for name in names}
    found |= {"latency": evaluation.latency(0.5), "responses of find": evaluation.total("responses", "find")}
    found |= {name: (evaluation.total(name), evaluation.per_example(name)) for name in ("usd", "prompt_tokens")}
    found["orders"] = [list(found["row_scores"]), list(found["scores"]), list(found["metrics"]), list(found["errors"])]
    task = toy_task()
    found["incomplete"] = incomplete_responses(task, [(task.baseline, evaluation)])
    found["of best"] = incomplete_responses(task, [(task.baseline, evaluation)], task.baseline)
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(results, max_size=30), st.sampled_from([{}, GROUPS]), st.booleans())
def test_an_evaluation_says_the_same_of_results_in_a_file(
    listed: list[ExampleResult], groups: dict[str, str], is_read_meanwhile: bool
) -> None:
    stored = ResultFile()
    for result in listed:
        stored.append(result)
        assert not is_read_meanwhile or list(stored)[-1] == result
    one = Evaluation("test", 40, tuple(listed), "complete", groups=groups)
    other = Evaluation("test", 40, cast(tuple[ExampleResult, ...], stored), "complete", groups=groups)
    assert stated(other) == stated(one)
    assert other == one
    assert list(stored) == listed
    assert [stored[n] for n in range(-len(listed), len(listed))] == listed + listed
    assert stored[2:9:3] == listed[2:9:3]


def many(count: int) -> Sequence[ExampleResult]:
    use = SubtaskUse(10, 2, usd=0.125, responses=1)
    return [ExampleResult(f"r{n}", float(n % 3 == 0), f"output {n}", subtasks={"find": use}) for n in range(count)]


def test_results_of_many_blocks_are_read_by_index_and_in_order() -> None:
    listed = many(3 * BLOCK + 7)
    stored = ResultFile(listed)
    assert stored == listed
    assert stored == tuple(listed)
    assert stored != listed[1:]
    assert stored != [*listed[1:], listed[0]]
    for place in (0, BLOCK - 1, BLOCK, 2 * BLOCK + 3, 3 * BLOCK + 6, -1, -BLOCK):
        assert stored[place] == listed[place]
    with pytest.raises(IndexError):
        stored[len(listed)]
    of = (Evaluation("test", len(listed), tuple(r), "complete") for r in (listed, stored))
    assert len({(e.score, e.usd_per_example, Measured.of(e)) for e in of}) == 1


def open_files() -> set[tuple[int, int]]:
    """Device and number of each file without a name that this process has open; by /proc."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            file = os.fstat(int(descriptor))
            if stat.S_ISREG(file.st_mode) and not file.st_nlink:
                found.add((file.st_dev, file.st_ino))
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list the open files of a process")
def test_the_file_ends_with_the_object_and_has_no_name() -> None:
    before = open_files()
    stored = ResultFile(many(3))
    assert list(stored) == many(3)
    own = open_files() - before
    assert own
    del stored
    gc.collect()
    assert not own & open_files()


def test_a_result_in_a_file_takes_a_tenth_of_its_memory() -> None:
    ResultFile(many(2 * BLOCK))  # fills the lists of free objects
    tracemalloc.start()
    try:
        stored, count = ResultFile(), 8 * BLOCK
        for n in range(count):
            use = SubtaskUse(10 + n, 2, usd=0.125, responses=1)
            stored.append(ExampleResult(f"r{n}", float(n % 2), f"output {n}", subtasks={"find": use}))
        used, peak = tracemalloc.get_traced_memory()
        listed = list(stored)
        both, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(listed) == count
    assert used < 0.1 * (both - used)
    assert peak < 0.5 * both
