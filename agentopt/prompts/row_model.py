"""Covariance model of user prompts: which rows to add next, and the best linear predictor of the overall mean.

A system prompt n has a true mean reward x_nk on user prompt (row) k. Over system prompts, x has covariance G (K, K).
A race estimates the mean of x_n over all K rows from a few noisy entries. G decides both which rows explain most of the
variance of that mean, and how the observed rows are weighted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentopt.core.stats import Floats

Places = NDArray[np.intp]

BLEND = 0.25
"""Weight of the measured covariance against its rank-one model; chosen on recorded rewards (benchmarks/RESULTS.md)."""

OWN = 0.1
"""Variance of x that is specific to a row, as a share of the variance of one response."""

PRIOR_RESPONSES = 16.0
"""Responses at the overall mean that every row is assumed to have had, in its shrunk mean reward."""


@dataclass(frozen=True, slots=True, eq=False)
class RowModel:
    """Prior of a system prompt's row means: `mean` (K,), `covariance` (K, K), and `noise` (K,) of one response."""

    mean: Floats
    covariance: Floats
    noise: Floats

    def after(self, counts: Floats) -> Floats:
        """Posterior covariance (K, K) of the row means after that many responses (K,) on each row."""
        seen = np.flatnonzero(counts)
        across = self.covariance[seen]
        solved = np.linalg.solve(self._observed(seen, counts), across)
        remaining: Floats = self.covariance - across.T @ solved
        return remaining

    def score(self, means: Floats, counts: Floats) -> float:
        """Best linear prediction of the overall mean from the row means (K,) of `counts` (K,) responses."""
        seen = np.flatnonzero(counts)
        weights = np.linalg.solve(self._observed(seen, counts), self.covariance[seen].mean(axis=1))
        return float(self.mean.mean() + weights @ (means[seen] - self.mean[seen]))

    def _observed(self, seen: Places, counts: Floats) -> Floats:
        observed: Floats = self.covariance[np.ix_(seen, seen)] + np.diag(self.noise[seen] / counts[seen])
        return observed


def row_model(rewards: Floats, blend: float = BLEND) -> RowModel:
    """Model fitted to the rewards so far.

    G = psd(l G^ + (1 - l) t v v') + 0.1 diag(v). G^ is the covariance of the cell means over system prompts less the
    noise of drawing few responses, v the shrunk variance p(1 - p) of one response on each row, and
    t = sum G^ / (sum v)^2: a system prompt that shifts every row alike on the logit scale moves row k by p_k(1 - p_k).
    Pairs of rows that fewer than two system prompts share take the rank-one part alone.

    Args:
        rewards: shape (system prompts, rows, responses), NaN for a missing response.
        blend: l, the weight of the measured covariance.

    Raises:
        ValueError: `rewards` holds no response.
    """
    present = ~np.isnan(rewards)
    if not present.any():
        raise ValueError("a row model needs at least one response, but got none: draw random rows first")
    counts = present.sum(axis=2).astype(float)
    sums = np.where(present, rewards, 0.0).sum(axis=2)
    mean = _shrunk_mean(sums.sum(axis=0), counts.sum(axis=0))
    noise = _response_variance(rewards, mean, sums, counts)
    measured, known = _measured(sums, counts, noise)
    rank_one = np.outer(noise, noise)
    total = rank_one[known].sum()
    t = max(0.0, float(measured[known].sum() / total)) if total > 0 else 0.0
    mixed = np.where(known, blend * measured, blend * t * rank_one) + (1 - blend) * t * rank_one
    return RowModel(mean, _positive(mixed) + OWN * np.diag(noise), noise)


def next_rows(model: RowModel, counts: Floats, number: int, most: int) -> list[int]:
    """Rows to draw next, added greedily: each explains most of the remaining variance of the overall mean.

    Args:
        model: the fitted model.
        counts: responses (K,) that a candidate has on each row already.
        number: responses to add; a row may be added several times.
        most: most responses on one row.
    """
    remaining, counts, chosen = model.after(counts), counts.copy(), []
    for _ in range(number):
        spread = np.diag(remaining) + model.noise
        explained = np.where(counts < most, remaining.sum(axis=0) ** 2 / spread, -1.0)
        row = int(explained.argmax())
        if explained[row] < 0:
            break
        remaining = remaining - np.outer(remaining[row], remaining[row]) / spread[row]
        counts[row] += 1
        chosen.append(row)
    return chosen


def blup_scores(model: RowModel, rewards: Floats, prompts: Sequence[int]) -> Floats:
    """`RowModel.score` of each of the system prompts (positions on axis 0 of `rewards`).

    Args:
        model: The fitted model.
        rewards: Rewards by system prompt, user prompt and repeat; nan for those that were not drawn.
        prompts: Positions on axis 0 of `rewards`.
    """
    present = ~np.isnan(rewards)
    counts = present.sum(axis=2).astype(float)
    means = np.where(present, rewards, 0.0).sum(axis=2) / np.maximum(counts, 1)
    return np.array([model.score(means[n], counts[n]) for n in prompts])


def _shrunk_mean(sums: Floats, counts: Floats) -> Floats:
    overall = sums.sum() / counts.sum()
    shrunk: Floats = (sums + PRIOR_RESPONSES * overall) / (counts + PRIOR_RESPONSES)
    return shrunk


def _response_variance(rewards: Floats, mean: Floats, sums: Floats, counts: Floats) -> Floats:
    """Variance of one response on each row: p(1 - p), scaled to the residual variance for real-valued rewards."""
    drawn = rewards[~np.isnan(rewards)]
    if np.isin(drawn, (0.0, 1.0)).all():
        return np.asarray(np.maximum(mean * (1 - mean), 1e-4))
    low, high = float(drawn.min()), float(drawn.max())
    share = np.clip((mean - low) / ((high - low) or 1.0), 0.02, 0.98)
    shape = share * (1 - share)
    residual = np.nanvar(rewards - mean[None, :, None])
    return np.asarray(np.maximum(shape * residual / shape.mean(), 1e-9))


def _measured(sums: Floats, counts: Floats, noise: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Noise-corrected covariance of the cell means, and which of its entries are known (two or more prompts share)."""
    filled = (counts > 0).astype(float)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), 0.0)
    centred = filled * (means - means.sum(axis=0) / np.maximum(filled.sum(axis=0), 1))
    both = filled.T @ filled
    covariance = centred.T @ centred / np.maximum(both - 1, 1)
    few = np.where(counts > 0, noise / np.maximum(counts, 1), 0.0).sum(axis=0) / np.maximum(filled.sum(axis=0), 1)
    return covariance - np.diag(few), both >= 2


def _positive(matrix: Floats) -> Floats:
    """The nearest positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    positive: Floats = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return positive
