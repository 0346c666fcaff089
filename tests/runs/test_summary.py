"""Notes of a result on what was chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentopt.core.candidate import Candidate
from agentopt.core.records import Evaluation, ExampleResult, Trial, TrialState
from agentopt.runs.summary import cheaper_note, nothing_right_note
from agentopt.search.posterior import choose
from agentopt.testing.synthetic_landscape import SyntheticLandscape

SPACE = SyntheticLandscape(0).space
CHEAP, MIDDLE, DEAR = sorted(SPACE.candidates(), key=SPACE.units)[:: (len(SPACE.candidates()) - 1) // 2]
ROWS = 400


def trial(number: int, candidate: Candidate, score: float, state: TrialState = "complete") -> Trial:
    results = tuple(ExampleResult(f"e{i:03}", float(i < score * ROWS)) for i in range(ROWS))
    return Trial(number, candidate, Evaluation("validation", ROWS, results, state), "test", SPACE.units(candidate))


def note(*trials: Trial, run: str = "runs/a") -> str | None:
    choice = choose(SPACE, trials)
    assert choice is not None
    return cheaper_note(choice, trials, "units", Path(run))


@pytest.mark.parametrize("run", ["runs/a", "runs/a b"])
def test_a_trial_that_is_cheaper_than_the_baseline_and_as_good_is_named_if_the_best_is_dearer(run: str) -> None:
    found = note(trial(0, MIDDLE, 0.5), trial(1, DEAR, 1.0), trial(2, CHEAP, 0.7), run=run)
    assert found is not None
    assert found.startswith(f"trial 2 costs {SPACE.units(CHEAP):.1f} units, the baseline {SPACE.units(MIDDLE):.1f}; ")
    quoted = "'runs/a b'" if " " in run else run
    assert f"`agentopt whatif {quoted} --min-score 0." in found


@pytest.mark.parametrize(
    "others",
    [
        [trial(1, DEAR, 1.0)],
        [trial(1, DEAR, 1.0), trial(2, CHEAP, 0.3)],
        [trial(1, DEAR, 1.0), trial(2, CHEAP, 0.9, "pruned")],
        [trial(1, DEAR, 0.5), trial(2, CHEAP, 1.0)],
        [],
    ],
    ids=["none", "cheaper and worse", "stopped early", "the best is cheaper", "the baseline alone"],
)
def test_there_is_no_such_note_without_such_a_trial(others: list[Trial]) -> None:
    assert note(trial(0, MIDDLE, 0.5), *others) is None


@pytest.mark.parametrize("state", ["pruned", "incomplete"])
def test_a_baseline_above_all_others_has_no_such_note(state: TrialState) -> None:
    assert note(trial(0, CHEAP, 1.0, state), trial(1, DEAR, 0.2), trial(2, MIDDLE, 0.1)) is None


def test_a_baseline_without_a_score_is_compared_with_nothing() -> None:
    failed = replace(trial(0, MIDDLE, 0.5), evaluation=Evaluation("validation", ROWS, (), "incomplete"))
    assert note(failed, trial(1, DEAR, 1.0), trial(2, CHEAP, 0.7)) is None


@pytest.mark.parametrize(
    ("scores", "is_noted"),
    [((0.0,), True), ((0.0, 0.0, 0.0), True), ((0.0, 1 / ROWS), False), ((0.5,), False), ((), False)],
)
def test_a_run_in_which_nothing_is_right_says_where_to_look(scores: tuple[float, ...], is_noted: bool) -> None:
    trials = [
        trial(i, candidate, score)
        for i, (candidate, score) in enumerate(zip((CHEAP, MIDDLE, DEAR), scores, strict=False))
    ]
    found = nothing_right_note(trials, Path("runs/a b"))
    assert (found is not None) is is_noted
    assert found is None or "`agentopt inspect 'runs/a b'`" in found


def test_responses_that_could_not_be_parsed_have_their_own_note() -> None:
    plain = trial(0, CHEAP, 0.0)
    results = tuple(replace(result, unparsed={"answer": "no number"}) for result in plain.evaluation.results)
    assert (
        nothing_right_note([replace(plain, evaluation=replace(plain.evaluation, results=results))], Path("a")) is None
    )
