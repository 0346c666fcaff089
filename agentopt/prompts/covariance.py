"""Noise-corrected covariance of user prompts over system prompts, and statistics derived from it.

Rewards have shape (N system prompts, K user prompts, M responses); they are real numbers, NaN for a missing response.
G is the covariance matrix (K, K) of the cells' mean rewards over system prompts (divisor N), with the noise of sampling
few responses subtracted from its diagonal. Formulas: arXiv 2604.08801, whose estimator subtracts too little noise (see
`stats.cells`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agentopt.core.stats import Cells, Estimator, Floats, cells, shuffled_cells
from agentopt.prompts.subsets import best_subset, best_subsets, score, search_for

NULL_STARTS = 8
"""Greedy climbs per matrix of a null; fewer than for the observed matrix."""

_SHUFFLES_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class VarianceParts:
    """Parts of the variance of the mean reward over system prompts, on all user prompts together."""

    signal: float
    """Variance due to the system prompts; `signal` + `noise` is the expected variance."""
    noise: float
    """Variance due to sampling few responses."""
    mean_diagonal: float
    """d, the mean of the diagonal of G: how well a user prompt discriminates between system prompts."""
    mean_off_diagonal: float
    """o, the mean of the other entries of G: how far user prompts agree."""
    within: float
    """v, the variance of one response."""
    system_prompts: int
    """N, the number of system prompts."""

    def signal_at(self, user_prompts: float) -> float:
        """Expected signal on K such user prompts: [d + (K-1) o] / K."""
        return (self.mean_diagonal + (user_prompts - 1) * self.mean_off_diagonal) / user_prompts

    def ratio(self, user_prompts: float, responses: float) -> float:
        """Expected signal over noise for K user prompts with M responses each: M N/(N-1) [d + (K-1) o] / v."""
        return ratio_of(self.signal_at(user_prompts), self.within, user_prompts * responses, self.system_prompts)

    def responses_needed(self, ratio: float, user_prompts: float) -> float:
        """M at which K user prompts reach a ratio; infinite if there is no signal."""
        needed = draws_needed(ratio, self.signal_at(user_prompts), self.within, self.system_prompts)
        return needed / user_prompts


@dataclass(frozen=True, slots=True, eq=False)
class Null:
    """Permutation null of the scores."""

    best: Floats
    """Scores of the best subset, shape (permutations,)."""
    all: Floats
    """Scores of all user prompts, shape (permutations,)."""
    observed_best: float
    """Observed score of the best subset, found by the same search as the null's."""
    observed_all: float
    """Observed score of all user prompts."""

    @property
    def best_p_value(self) -> float:
        """P value of the best subset."""
        return _p_value(self.observed_best, self.best)

    @property
    def all_p_value(self) -> float:
        """P value of all user prompts."""
        return _p_value(self.observed_all, self.all)


def noise_corrected_covariance(rewards: ArrayLike, estimator: Estimator = "unbiased") -> Floats:
    """Estimate G.

    The covariance of a pair uses the system prompts with responses on both, scaled to the divisor N.

    Args:
        rewards: Rewards (N, K, M).
        estimator: How the noise is estimated; see `stats.cells`.

    Returns:
        G, shape (K, K), with NaN in the rows and columns of user prompts without enough responses.
    """
    return covariance(cells(checked(rewards), estimator))


def variance_parts(rewards: ArrayLike, estimator: Estimator = "unbiased") -> VarianceParts:
    """Estimate the variance parts on the user prompts with enough responses.

    Args:
        rewards: Rewards (N, K, M).
        estimator: How the noise is estimated; see `stats.cells`.

    Raises:
        ValueError: No user prompt has enough responses.
    """
    known = cells(checked(rewards), estimator)
    g = covariance(known)
    usable = ~np.isnan(np.diag(g))
    _require(bool(usable.any()), "no user prompt has enough responses", "draw at least two responses per cell")
    g, n, k = g[np.ix_(usable, usable)], int(known.count.any(axis=1).sum()), int(usable.sum())
    d = float(np.diag(g).mean())
    o = float((g.sum() - np.trace(g)) / (k * (k - 1))) if k > 1 else 0.0
    noise = (n - 1) / n * float(np.nanmean(known.noise[:, usable], axis=0).sum()) / k**2
    return VarianceParts(float(g.mean()), noise, d, o, float(np.nanmean(known.variance[:, usable])), n)


def permutation_null(
    rewards: ArrayLike, k_top: int, estimator: Estimator = "unbiased", *, permutations: int = 1000, seed: int = 0
) -> Null:
    """Scores if the system prompt had no effect: responses are permuted within each user prompt.

    Each permutation takes the maximum over subsets, so the p value accounts for the search.

    Args:
        rewards: Rewards (N, K, M).
        k_top: Size of the subsets.
        estimator: How the noise is estimated; see `stats.cells`.
        permutations: Number of permutations.
        seed: Seed of the permutations.
    """
    table, rng = checked(rewards), np.random.default_rng(seed)
    observed = covariance(cells(table, estimator))
    usable = ~np.isnan(np.diag(observed))
    table, observed = table[:, usable], observed[np.ix_(usable, usable)][None]
    search = search_for(len(observed[0]), k_top, permutations)
    best, every = [], []
    for start in range(0, permutations, _SHUFFLES_AT_ONCE):
        count = min(_SHUFFLES_AT_ONCE, permutations - start)
        g = covariance(shuffled_cells(table, estimator, count, rng))
        best.append(best_subsets(g, k_top, search, starts=NULL_STARTS)[0])
        every.append(g.mean(axis=(1, 2)))
    top = best_subsets(observed, k_top, search, starts=NULL_STARTS)[0]
    return Null(np.concatenate(best), np.concatenate(every), float(top[0]), float(observed.mean()))


def cross_fit(
    rewards: ArrayLike, k_top: int, estimator: Estimator = "unbiased", *, splits: int = 20, seed: int = 0
) -> float:
    """Score without the winner's curse: choose the subset on half of each cell's responses, score it on the other half.

    The result is the mean over both directions of random halvings. It refers to a choice made on half of the data, so
    on average it is below the score of the choice on all data.

    Args:
        rewards: Rewards (N, K, M).
        k_top: Size of the subset.
        estimator: How the noise is estimated; see `stats.cells`.
        splits: Number of random halvings.
        seed: Seed of the halvings.

    Returns:
        The score, or NaN if in every halving some user prompt has too few responses in a half (with `unbiased`, below
        four responses per cell). Such user prompts are not left out: those that were decided first, and so not
        repeated, would be missing from the choice.
    """
    table, rng = checked(rewards), np.random.default_rng(seed)
    table = table[:, ~np.isnan(np.diag(covariance(cells(table, estimator))))]
    found = [value for _ in range(splits) for value in _cross(*_halves(table, rng), k_top, estimator)]
    return float(np.mean(found)) if found else float("nan")


def ratio_of(signal: float, within: float, draws: float, system_prompts: int) -> float:
    """Signal over noise if each system prompt's mean is over `draws` responses of variance `within`.

    Args:
        signal: Variance between system prompts.
        within: Variance of one response.
        draws: Responses per system prompt.
        system_prompts: Number of system prompts.
    """
    if within == 0:
        return float("inf") if signal > 0 else 0.0
    return signal * draws * system_prompts / ((system_prompts - 1) * within)


def draws_needed(ratio: float, signal: float, within: float, system_prompts: int) -> float:
    """Responses per system prompt, over all its user prompts, at which the signal is `ratio` times the noise.

    Args:
        ratio: Signal over noise to reach.
        signal: Variance between system prompts.
        within: Variance of one response.
        system_prompts: Number of system prompts.
    """
    return ratio * (system_prompts - 1) / system_prompts * within / signal if signal > 0 else float("inf")


def covariance(known: Cells) -> Floats:
    """G of shape (..., K, K) for cells (..., N, K); see `noise_corrected_covariance`."""
    filled = (known.count > 0).astype(float)
    n = int(filled.any(axis=1).sum())
    x = np.where(filled > 0, known.mean, 0.0)
    x = filled * (x - x.sum(axis=-2, keepdims=True) / np.maximum(filled.sum(axis=0), 1))
    both = filled.T @ filled
    sums = np.swapaxes(x, -1, -2) @ filled
    with np.errstate(invalid="ignore", divide="ignore"):
        g: Floats = (np.swapaxes(x, -1, -2) @ x - sums * np.swapaxes(sums, -1, -2) / both) / (both - 1) * (n - 1) / n
        noise = np.where(filled > 0, known.noise, 0.0).sum(axis=-2) / filled.sum(axis=0) * (n - 1) / n
    diagonal = np.arange(filled.shape[1])
    g[..., diagonal, diagonal] -= noise
    unknown = np.asarray(np.isnan(noise).reshape(-1, len(diagonal)).any(axis=0))
    left_out = _left_out(both < 2, unknown)
    g[..., left_out, :] = g[..., :, left_out] = np.nan
    return g


def _left_out(unknown: NDArray[np.bool_], bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """User prompts to leave out so that no unknown pair remains, starting with the one with most unknown pairs."""
    bad = bad | np.diag(unknown)
    while (pairs := unknown & ~bad & ~bad[:, None]).any():
        bad = bad.copy()
        bad[pairs.sum(axis=0).argmax()] = True
    return bad


def checked(rewards: ArrayLike) -> Floats:
    """Check rewards and convert them to an array.

    Raises:
        ValueError: The shape is not (N, K, M), a value is infinite, or fewer than two system prompts have responses.
    """
    table = np.asarray(rewards, dtype=float)
    shape = "(system prompts, user prompts, responses)"
    _require(table.ndim == 3, f"rewards must have shape {shape}, but got {table.shape}", "add the missing axis")
    _require(not np.isinf(table).any(), "rewards must be finite", "use NaN for a missing response")
    answered = int((~np.isnan(table)).any(axis=(1, 2)).sum())
    _require(answered >= 2, f"two system prompts with responses are needed, but got {answered}", "add variants")
    return table


def _require(holds: bool, rule: str, remedy: str) -> None:
    if not holds:
        raise ValueError(f"{rule}: {remedy}")


def _halves(table: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Split each cell's responses into two random halves; an odd one goes to either."""
    keys = np.where(np.isnan(table), np.inf, rng.random(table.shape))
    rank = keys.argsort(axis=2).argsort(axis=2)
    count = (~np.isnan(table)).sum(axis=2, keepdims=True)
    first = rank < (count + rng.integers(0, 2, count.shape)) // 2
    return np.where(first, table, np.nan), np.where(first, np.nan, table)


def _cross(one: Floats, other: Floats, k: int, estimator: Estimator) -> list[float]:
    g, h = covariance(cells(one, estimator)), covariance(cells(other, estimator))
    if np.isnan(g).any() or np.isnan(h).any() or len(g) < k:
        return []
    search = search_for(len(g), k, 40)
    return [score(to, best_subset(by, k, search=search).user_prompts) for by, to in ((g, h), (h, g))]


def _p_value(observed: float, null: Floats) -> float:
    slack = 1e-12 * (1 + abs(observed))
    return float((1 + (null >= observed - slack).sum()) / (1 + null.size))
