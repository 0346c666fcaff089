"""Agreement with labels, and means corrected for the error of a judge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentopt.core.agreement import Agreement, agreement, classes_of, correlation, nearest_class
from agentopt.core.prediction_powered import corrected_mean
from agentopt.core.stats import Floats

Labels = list[float]
scores = st.integers(0, 8).map(lambda eighths: eighths / 8)


# ---- corrected means


def judged(rng: np.random.Generator, n: int, share: float, accepts: float, rejects: float) -> tuple[Floats, Floats]:
    """Labels of 0 and 1, and a judge that accepts wrong outputs and rejects right ones with these chances."""
    labels = (rng.random(n) < share).astype(float)
    says = np.where(labels == 1, rng.random(n) >= rejects, rng.random(n) < accepts).astype(float)
    return labels, says


@pytest.mark.parametrize(("labelled", "others"), [(30, 100), (100, 400)])
@pytest.mark.parametrize(
    ("share", "accepts", "rejects"),
    [(0.5, 0.2, 0.1), (0.8, 0.5, 0.0), (0.9, 0.02, 0.02), (0.5, 0.5, 0.5), (0.8, 0.0, 0.0)],
)
def test_the_corrected_mean_covers_and_is_unbiased(
    share: float, accepts: float, rejects: float, labelled: int, others: int
) -> None:
    """Coverage of at least .93 and no bias, up to three Monte-Carlo errors of 600 simulations."""
    inside, off = [], []
    for seed in range(600):
        rng = np.random.default_rng([seed, labelled])
        labels, says = judged(rng, labelled + others, share, accepts, rejects)
        found = corrected_mean(labels[:labelled], says[:labelled], says[labelled:])
        inside.append(found.interval.low <= share <= found.interval.high)
        off.append(found.mean - share)
    error = (0.93 * 0.07 / 600) ** 0.5
    assert np.mean(inside) >= 0.93 - 3 * error
    assert abs(np.mean(off)) <= 3 * np.std(off) / 600**0.5 + 0.005


def test_a_good_judge_narrows_the_interval_and_a_useless_one_is_ignored() -> None:
    rng = np.random.default_rng(0)
    labels, good = judged(rng, 1100, 0.6, 0.05, 0.05)
    noise = rng.integers(0, 2, 1100).astype(float)
    by_good, by_noise = (corrected_mean(labels[:100], f[:100], f[100:]) for f in (good, noise))
    assert by_good.weight > 0.7
    assert by_noise.weight < 0.2
    widths = [found.interval.high - found.interval.low for found in (by_good, by_noise)]
    alone = 2 * 1.96 * labels[:100].std(ddof=1) / 10
    assert widths[0] < 0.6 * alone
    assert widths[1] < 1.15 * alone


def test_a_constant_offset_of_the_judge_is_removed() -> None:
    labels = np.linspace(0.2, 0.8, 40)
    found = corrected_mean(labels, labels - 0.15, np.linspace(0.05, 0.65, 400))
    assert found.judge_mean == pytest.approx(0.35)
    assert found.mean == pytest.approx(0.5)
    equal = corrected_mean([0.5] * 40, [0.5] * 40, [0.5] * 400)
    assert equal.interval.high - equal.interval.low > 0.05  # 40 labels are no proof that the judge never errs


@given(st.lists(st.tuples(scores, scores), min_size=3, max_size=30), st.lists(scores, min_size=2, max_size=30))
@example([(0.0, 0.875), (0.0, 0.875), (0.125, 1.0)], [0.0, 0.0])
def test_the_interval_is_within_the_scores_and_swapping_the_classes_mirrors_it(
    pairs: list[tuple[float, float]], more: list[float]
) -> None:
    labels, says = (np.array(side) for side in zip(*pairs, strict=True))
    found = corrected_mean(labels, says, more)
    assert 0 <= found.interval.low <= found.interval.high <= 1
    assert 0 <= found.weight <= 1
    mirrored = corrected_mean(1 - labels, 1 - says, 1 - np.array(more))
    assert mirrored.mean == pytest.approx(1 - found.mean, abs=1e-6)
    assert mirrored.interval.low == pytest.approx(1 - found.interval.high, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "says", "more"), [([1, 0], [1, 0], [1, 1]), ([1, 0, 1], [1, 0], [1, 1]), ([1] * 3, [1] * 3, [1])]
)
def test_too_few_labels_are_refused(labels: Labels, says: Labels, more: Labels) -> None:
    with pytest.raises(ValueError, match="at least 3 labels"):
        corrected_mean(labels, says, more)


# ---- agreement


def of_table(table: list[list[int]]) -> Agreement:
    classes = [place / (len(table) - 1) for place in range(len(table))]
    cells = [
        (y, f)
        for y, row in zip(classes, table, strict=True)
        for f, n in zip(classes, row, strict=True)
        for _ in range(n)
    ]
    labels, says = zip(*cells, strict=True)
    return agreement(labels, says, classes)


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        ([[20, 5], [10, 15]], 0.4),  # the example of the article on Cohen's kappa in Wikipedia
        ([[45, 15], [25, 15]], 0.1304),
        ([[25, 35], [5, 35]], 0.2593),
        ([[10, 0], [0, 10]], 1.0),
        ([[0, 10], [10, 0]], -1.0),
        ([[5, 5], [5, 5]], 0.0),
    ],
)
def test_kappa_of_known_tables(table: list[list[int]], kappa: float) -> None:
    found = of_table(table)
    assert found.kappa == pytest.approx(kappa, abs=1e-4)
    assert found.table == tuple(map(tuple, table))
    assert (found.n, found.same) == (sum(map(sum, table)), table[0][0] + table[1][1])


def test_the_error_rates_are_those_of_each_label() -> None:
    wrong, right = of_table([[20, 5], [10, 15]]).errors
    assert (wrong.label, wrong.wrong, wrong.n) == (0.0, 5, 25)
    assert (right.label, right.wrong, right.n) == (1.0, 10, 25)
    assert wrong.interval.low < 0.2 < wrong.interval.high


@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize(
    "shares",
    [
        [[0.45, 0.05], [0.1, 0.4]],
        [[0.09, 0.01], [0.02, 0.88]],
        [[0.49, 0.01], [0.01, 0.49]],
        [[0.25, 0.25], [0.25, 0.25]],
        [[0.25, 0.04, 0.01], [0.05, 0.3, 0.05], [0.0, 0.05, 0.25]],
    ],
)
def test_the_interval_of_kappa_covers(shares: list[list[float]], n: int) -> None:
    """At least .93 of 500 simulated tables, up to three Monte-Carlo errors."""
    chances = np.array(shares)
    same, chance = np.trace(chances), chances.sum(0) @ chances.sum(1)
    truth, rng, inside = (same - chance) / (1 - chance), np.random.default_rng(n), []
    for _ in range(500):
        table = rng.multinomial(n, chances.ravel()).reshape(chances.shape)
        counts = [[int(count) for count in row] for row in table]
        interval = of_table(counts).interval
        inside.append(interval.low <= truth <= interval.high)
    assert np.mean(inside) >= 0.93 - 3 * (0.93 * 0.07 / 500) ** 0.5


def test_outputs_of_one_example_count_as_one_in_the_interval() -> None:
    labels, says = [0.0, 1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0, 1.0]
    once = agreement(labels, says, (0.0, 1.0))
    repeated = agreement(labels * 10, says * 10, (0.0, 1.0), units=[n % 5 for n in range(50)])
    assert repeated.kappa == pytest.approx(once.kappa)
    assert repeated.interval.low == pytest.approx(once.interval.low)
    assert repeated.n == 50


def test_few_distinct_labels_are_classes_and_a_score_belongs_to_the_nearest() -> None:
    assert classes_of([1, 0, 1]) == (0, 1)
    assert classes_of([n / 4 for n in range(5)]) == (0, 0.25, 0.5, 0.75, 1)
    assert classes_of([1, 1, 1]) is None
    assert classes_of([n / 10 for n in range(10)]) is None
    assert [nearest_class(score, (0.0, 1.0)) for score in (0.49, 0.5, 0.51)] == [0.0, 1.0, 1.0]


def test_the_correlation_has_fishers_interval() -> None:
    found = correlation([0.1, 0.4, 0.5, 0.9], [0.2, 0.3, 0.6, 0.8])
    assert found is not None
    value, interval = found
    assert value == pytest.approx(np.corrcoef([0.1, 0.4, 0.5, 0.9], [0.2, 0.3, 0.6, 0.8])[0, 1])
    assert interval.low < value < interval.high
    assert correlation([0.1, 0.4, 0.5], [0.2, 0.3, 0.6]) is None
    assert correlation([0.1, 0.4, 0.5, 0.9], [0.5] * 4) is None


def test_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="a score for each label"):
        agreement([], [], (0.0, 1.0))


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(part: int, bad: float) -> None:
    scores = [[0.0, 1.0, 1.0, 0.0] for _ in range(3)]
    scores[part][1] = bad
    with pytest.raises(ValueError, match="needs finite scores"):
        corrected_mean(*scores)
