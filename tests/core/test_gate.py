"""The gate's four verdicts, the rows it needs, and what a number of rows can show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.gate import Gate, gate, rows_needed
from agentopt.core.power import SMALLEST, minimal_detectable_difference, power_advice, power_notes
from agentopt.core.stats import paired_difference, verdict
from agentopt.testing.toy import toy_task


def compared(won: int, lost: int, same: int, margin: float = 0.02) -> Gate:
    a, b = pair(won, lost, same)
    return gate(a, b, margin=margin)


def pair(won: int, lost: int, same: int) -> tuple[dict[str, float], dict[str, float]]:
    a, b = [1.0] * won + [0.0] * lost + [1.0] * same, [0.0] * won + [1.0] * lost + [1.0] * same
    return ({f"e{i}": score for i, score in enumerate(scores)} for scores in (a, b))  # type: ignore[return-value]


# ---- the gate


@pytest.mark.parametrize(
    ("won", "lost", "same", "expected", "code"),
    [
        (20, 2, 100, "superior", 0),
        (2, 20, 100, "inferior", 1),
        (3, 3, 1000, "non-inferior", 0),
        (0, 0, 200, "non-inferior", 0),
        (0, 8, 3000, "non-inferior", 0),  # a certain loss of .003 is within the margin
        (5, 6, 40, "not enough rows", 3),
        (0, 0, 50, "not enough rows", 3),
        (5, 0, 0, "not enough rows", 3),  # the interval leaves out 0, the exact test needs six
    ],
)
def test_the_verdict_and_its_exit_code(won: int, lost: int, same: int, expected: str, code: int) -> None:
    found = compared(won, lost, same)
    assert (found.verdict, found.exit_code) == (expected, code)


@given(won=st.integers(0, 40), lost=st.integers(0, 40), same=st.integers(0, 200))
def test_without_a_margin_the_gate_agrees_with_the_verdict_of_a_comparison(won: int, lost: int, same: int) -> None:
    a, b = pair(won, lost, same)
    if not a:
        return
    words = {"better": "superior", "worse": "inferior"}
    plain = verdict(paired_difference(a, b))
    found = gate(a, b, margin=0).verdict
    assert found == words.get(plain, found)
    assert found in ("non-inferior", "not enough rows") or plain in words


@given(won=st.integers(0, 20), lost=st.integers(0, 20), same=st.integers(0, 100), margin=st.floats(0, 0.5))
def test_a_wider_margin_never_turns_a_pass_into_a_failure(won: int, lost: int, same: int, margin: float) -> None:
    if won + lost + same:
        narrow, wide = (compared(won, lost, same, m) for m in (margin, margin + 0.1))
        assert narrow.exit_code != 0 or wide.exit_code == 0


def test_a_negative_margin_and_nothing_in_common_are_refused() -> None:
    for margin in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`0 <= margin < inf` must hold"):
            compared(1, 1, 1, margin)
        with pytest.raises(ValueError, match="`0 <= margin < inf` must hold"):
            rows_needed(*pair(1, 1, 1), margin=margin)
    with pytest.raises(ValueError, match="at least one score"):
        gate({"a": 1.0}, {"b": 1.0})


@pytest.mark.parametrize("gain", [2.0, -1.5, float("nan"), float("inf")])
def test_rows_needed_with_an_impossible_gain_is_refused(gain: float) -> None:
    with pytest.raises(ValueError, match="`gain` must be finite, and from -1 to 1"):
        rows_needed(*pair(2, 2, 6), gain=gain)


@pytest.mark.parametrize(("a", "b"), [({}, {}), ({"x": 1.0}, {"y": 1.0}), ({"x": float("nan")}, {"x": 1.0})])
def test_rows_needed_without_data_is_refused(a: dict[str, float], b: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="needs finite scores of shared rows"):
        rows_needed(a, b)


def test_the_rows_needed_are_enough_and_not_far_too_many() -> None:
    a, b = pair(10, 10, 80)
    rows = rows_needed(a, b, margin=0.05)
    assert rows is not None
    rng = np.random.default_rng(0)
    moved = 22 / 102
    passed = []
    for wins, losses, same in rng.multinomial(rows, [moved / 2, moved / 2, 1 - moved], 300):
        passed.append(compared(int(wins), int(losses), int(same), 0.05).exit_code == 0)
    assert np.mean(passed) == pytest.approx(0.8, abs=0.07)


def test_more_discordance_needs_more_rows_and_a_loss_beyond_the_margin_needs_infinitely_many() -> None:
    little, much = (rows_needed(*pair(k, k, 100 - 2 * k)) for k in (2, 20))
    assert little is not None
    assert much is not None
    assert 300 < little < much
    assert rows_needed(*pair(2, 2, 96), gain=-0.03) is None


def test_rows_needed_of_real_scores_follow_their_spread() -> None:
    rng = np.random.default_rng(1)
    a = {f"e{i}": float(x) for i, x in enumerate(rng.normal(0.5, 0.1, 400))}
    b = {f"e{i}": float(x) for i, x in enumerate(rng.normal(0.5, 0.1, 400))}
    rows = rows_needed(a, b, margin=0.02)
    assert rows is not None
    assert rows == pytest.approx(0.145**2 * (1.96 + 0.84) ** 2 / 0.02**2, rel=0.35)


# ---- power


def test_the_issue_s_example_and_too_few_rows() -> None:
    assert power_advice(24) == "with 24 rows a difference below 0.27 may not be detected"
    assert power_advice(5) == "with 5 rows no difference can reach significance: use at least 6"


def test_the_advice_covers_validation_and_test_and_counts_a_group_once() -> None:
    task = toy_task(validation=24, test=5)
    test = "test: with 5 rows no difference can reach significance: use at least 6"
    assert power_notes(task) == ("validation: with 24 rows a difference below 0.27 may not be detected", test)
    assert power_notes(task, below=SMALLEST) == (test,)
    untested = replace(task, splits={"validation": task.splits["validation"]})
    assert power_notes(untested, below=SMALLEST) == ()
    twice = tuple(replace(row, id=f"{row.id}-{i}") for i in range(2) for row in task.splits["validation"][:5])
    (note,) = power_notes(replace(task, splits={"validation": twice}))
    assert note.startswith("validation: with 5 rows")


@given(st.integers(6, 5000), st.floats(0.01, 1))
def test_more_rows_detect_less(rows: int, discordance: float) -> None:
    less, more = (minimal_detectable_difference(n, discordance) for n in (rows, rows + 1))
    assert less is not None
    assert more is not None
    assert 0 < more < less < 1


def test_five_rows_cannot_show_a_difference_and_six_can() -> None:
    assert verdict(paired_difference(*pair(5, 0, 0))) == "not distinguishable"
    assert verdict(paired_difference(*pair(6, 0, 0))) == "better"
