"""Sequential halving: budget, shared rows, resumption from existing responses, and the row model behind it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt.core.stats import Floats
from agentopt.prompts.halving import RaceSettings, Round, Standing, halving, standing
from agentopt.prompts.row_model import blup_scores, next_rows, row_model
from agentopt.prompts.settings import RowFilter

FILTERS: tuple[RowFilter, ...] = ("adaptive", "p1", "all", "random")


def answers(rng: np.random.Generator, chances: Floats, repeats: int) -> Floats:
    """Right-or-wrong rewards (N, K, repeats) with these chances (N, K)."""
    return (rng.random((*chances.shape, repeats)) < chances[..., None]).astype(float)


def planted(rng: np.random.Generator, prompts: int, rows: int, gain: float) -> Floats:
    """Chances of system prompts that are alike but the last, which gains on every row that is not trivial."""
    difficulty = rng.uniform(0.1, 0.9, rows)
    chances = np.tile(difficulty, (prompts, 1))
    chances[-1] = np.clip(difficulty + gain, 0, 1)
    return chances


def run(truth: Floats, seen: Floats, budget: int, wanted: RaceSettings) -> tuple[Standing, list[Round], Floats]:
    """Drive a race with the recorded responses `truth`."""
    seen = seen.copy()
    plan = halving(seen, range(len(truth)), budget, wanted)
    rounds = [next(plan)]
    while True:
        for cell in rounds[-1].cells:
            assert np.isnan(seen[cell]), "a cell is drawn once"
            seen[cell] = truth[cell]
        try:
            rounds.append(plan.send(seen))
        except StopIteration as end:
            return end.value, rounds, seen


@settings(max_examples=40)
@given(
    rows_by=st.sampled_from(FILTERS),
    prompts=st.integers(2, 9),
    rows=st.integers(2, 12),
    each=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_a_race_spends_at_most_its_budget_on_shared_rows(
    rows_by: RowFilter, prompts: int, rows: int, each: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    truth = answers(rng, rng.random((prompts, rows)), 8)
    wanted = RaceSettings(filter=rows_by, repeats=8)
    found, rounds, _ = run(truth, np.full(truth.shape, np.nan), each * prompts, wanted)
    assert sum(len(step.cells) for step in rounds) <= each * prompts
    for step in rounds:
        drawn = [sorted((k, m) for n, k, m in step.cells if n == candidate) for candidate in step.candidates]
        assert all(cells == drawn[0] for cells in drawn)
    sizes = [len(step.candidates) for step in rounds]
    assert all(after == -(-before // 2) for before, after in pairwise(sizes))
    assert set(found.candidates) == set(rounds[-1].candidates)
    assert list(found.scores) == sorted(found.scores, reverse=True)


@pytest.mark.parametrize("rows_by", ["adaptive", "all"])
def test_a_race_finds_a_planted_prompt(rows_by: RowFilter) -> None:
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = answers(rng, planted(rng, 8, 24, 0.3), 4)
        ranked, _, _ = run(truth, np.full(truth.shape, np.nan), 8 * 24, RaceSettings(filter=rows_by, repeats=4))
        found += ranked.candidates[0] == 7
    assert found >= 34  # 97% and 96% of 400 seeds


def test_the_same_rewards_give_the_same_race() -> None:
    rng = np.random.default_rng(5)
    truth = answers(rng, rng.random((6, 10)), 4)
    first, second = (run(truth, np.full(truth.shape, np.nan), 120, RaceSettings(repeats=4)) for _ in range(2))
    assert first[:2] == second[:2]


def test_responses_of_other_prompts_choose_the_rows_that_discriminate() -> None:
    rng = np.random.default_rng(6)
    chances = np.full((16, 12), 0.97)
    chances[:, :3] = rng.uniform(0.1, 0.9, (16, 1))
    rewards = answers(rng, chances, 8)
    seen = np.full((20, 12, 8), np.nan)
    seen[:16] = rewards
    step = next(halving(seen, range(16, 20), 4 * 3, RaceSettings(repeats=8)))
    assert {row for _, row, _ in step.cells} <= {0, 1, 2}


def test_cells_that_failed_are_replaced_by_further_repeats_and_a_race_ends_without_any_reward() -> None:
    seen = np.full((4, 3, 4), np.nan)
    plan = halving(seen, range(4), 24, RaceSettings(filter="all"))
    first = next(plan)
    second = plan.send(seen)
    assert not set(first.cells) & set(second.cells)
    with pytest.raises(StopIteration) as end:
        plan.send(seen)
    assert set(end.value.value.scores) == {-np.inf}


def test_a_candidate_without_responses_ranks_last() -> None:
    rewards = np.full((3, 4, 2), np.nan)
    rewards[0], rewards[2] = 0.0, 1.0
    for rows_by in FILTERS:
        assert standing(rewards, range(3), RaceSettings(filter=rows_by)).candidates == (2, 0, 1)


def test_of_prompts_whose_rewards_differ_in_their_last_digits_the_earlier_one_leads() -> None:
    rewards = np.full((3, 4, 2), 0.3)
    rewards[1], rewards[2] = 0.1 + 0.2, 0.2
    for rows_by in ("all", "random"):
        assert standing(rewards, range(3), RaceSettings(filter=rows_by)).candidates == (0, 1, 2)


# ---- the row model


@settings(max_examples=40)
@given(n=st.integers(1, 10), k=st.integers(1, 8), m=st.integers(1, 5), seed=st.integers(0, 999), real=st.booleans())
def test_the_covariance_is_positive_definite_and_predictions_are_finite(
    n: int, k: int, m: int, seed: int, real: bool
) -> None:
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(n, k, m)) if real else (rng.random((n, k, m)) < 0.5).astype(float)
    rewards[rng.random((n, k, m)) < 0.4] = np.nan
    rewards[0, 0, 0] = 1.0
    model = row_model(rewards)
    assert np.linalg.eigvalsh(model.covariance).min() > 0
    assert np.isfinite(blup_scores(model, rewards, range(n))).all()
    chosen = next_rows(model, (~np.isnan(rewards)).sum(axis=2).min(axis=0).astype(float), 6, m)
    assert all(0 <= row < k for row in chosen)


def test_a_row_without_variance_is_not_drawn_while_others_can_be() -> None:
    rng = np.random.default_rng(8)
    rewards = answers(rng, np.tile([1.0, 0.5, 0.5, 0.5], (10, 1)), 6)
    chosen = next_rows(row_model(rewards), np.zeros(4), 6, 6)
    assert 0 not in chosen


def test_the_number_of_repeats_bounds_the_rows() -> None:
    rng = np.random.default_rng(9)
    rewards = answers(rng, rng.random((6, 3)), 2)
    assert next_rows(row_model(rewards), np.full(3, 2.0), 5, 2) == []
    assert sorted(next_rows(row_model(rewards), np.ones(3), 5, 2)) == [0, 1, 2]


def test_shifting_every_row_shifts_the_prediction() -> None:
    rng = np.random.default_rng(10)
    rewards = rng.normal(size=(8, 6, 3))
    shifted = blup_scores(row_model(rewards + 5), rewards + 5, range(8))
    assert np.argsort(shifted).tolist() == np.argsort(blup_scores(row_model(rewards), rewards, range(8))).tolist()


def test_no_response_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one response"):
        row_model(np.full((2, 2, 2), np.nan))


@settings(max_examples=30)
@given(rows_by=st.sampled_from(FILTERS), each=st.integers(1, 12), seed=st.integers(0, 99))
def test_candidates_draw_only_what_they_lack(rows_by: RowFilter, each: int, seed: int) -> None:
    """Two candidates have responses on every row: all new responses go to the two that have none."""
    rng = np.random.default_rng(seed)
    truth = answers(rng, rng.random((4, 6)), 4)
    seen = np.full(truth.shape, np.nan)
    seen[:2, :, :2] = truth[:2, :, :2]
    step = next(halving(seen, range(4), 2 * 2 * each, RaceSettings(filter=rows_by, repeats=4)))
    assert len(step.cells) <= 2 * each
    drawn = {n: sorted((k, m) for c, k, m in step.cells if c == n) for n in (2, 3)}
    assert drawn[2] == drawn[3]
    old = {(k, m) for c, k, m in step.cells if c < 2}
    assert old <= set(drawn[2])
    assert all(m >= 2 for _, m in old)
    if rows_by == "all":
        assert len(step.cells) >= min(2 * each - 1, 24)
