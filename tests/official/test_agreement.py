"""Our measures agree with the official ones on inputs of our own, whose official values are stored.

The code that gave the values is fetched by hand, named in the environment variable `AGENTOPT_OFFICIAL`, and never part
of the repository; without it the stored values are not checked again.
"""

from __future__ import annotations

import os
from pathlib import Path

import nltk
import pytest

from agentopt.core.paths import weights_folder
from agentopt.evaluation.checkers.instructions import Benchmark, Instructions
from benchmarks.official import answers, instructions, mathematics
from benchmarks.official.agreement import stored
from benchmarks.official.instruction_rows import IFBENCH, IFEVAL

CODE = os.environ.get("AGENTOPT_OFFICIAL", "")
OUTPUTS = 150
BENCHMARKS: list[Benchmark] = ["ifeval", "ifbench"]


@pytest.fixture
def nltk_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """NLTK's data, if it was fetched before: a test fetches nothing."""
    folder = weights_folder().with_name("nltk_data")
    if not (folder / "tokenizers" / "punkt_tab" / "english").is_dir():
        pytest.skip("NLTK's punkt_tab is not in the cache; `agentopt evaluate tasks/ifeval` fetches it")
    monkeypatch.setattr(nltk.data, "path", [str(folder)])


@pytest.mark.parametrize("kind", answers.MEASURES)
def test_answers_graphs_and_plans_are_scored_as_by_the_official_scripts(kind: str) -> None:
    for agreement in answers.compare(kind):
        unexplained = [line for line in agreement.differences if line.startswith("not explained")]
        assert not unexplained
        assert agreement.compared >= 300


@pytest.mark.parametrize("count", [40, pytest.param(480, marks=pytest.mark.slow)])
def test_the_reader_of_mathematics_is_right_on_varied_answers(count: int) -> None:
    against, ours, alone = mathematics.compare(count)
    assert ours.compared == count
    assert not ours.differences
    assert len(ours.differences) < len(alone.differences)
    assert all(line.startswith("ours is right") for line in against.differences)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_instructions_are_checked_as_by_the_benchmarks_own_code(benchmark: Benchmark, nltk_data: None) -> None:
    for agreement in instructions.compare(benchmark, OUTPUTS):
        assert agreement.compared == OUTPUTS
        assert not agreement.differences


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_ten_thousand_outputs_agree_in_999_of_1000(benchmark: Benchmark, nltk_data: None) -> None:
    for agreement in instructions.compare(benchmark, 10_000):
        assert agreement.compared == 10_000
        assert len(agreement.differences) <= 10


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_instruction_of_the_stored_values_is_followed_by_some_output_or_other(benchmark: Benchmark) -> None:
    names = list(IFEVAL if benchmark == "ifeval" else IFBENCH)
    values = stored(benchmark)["values"]
    followed = {names[number % len(names)] for number, digit in enumerate(values) if digit != "0"}
    assert len(values) == 10_000
    assert len(followed) > 0.6 * len(names)


@pytest.mark.skipif(not CODE, reason="AGENTOPT_OFFICIAL does not name a folder of the official code")
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_stored_values_are_those_of_the_official_code(benchmark: Benchmark, nltk_data: None) -> None:
    Instructions(benchmark).check("", [], "")
    assert instructions.official(benchmark, OUTPUTS, Path(CODE)) == stored(benchmark)["values"][:OUTPUTS]
