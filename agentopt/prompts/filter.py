"""The p1 filter: is a system prompt worth optimising, and on which user prompts (arXiv 2604.08801)?

Rewards have shape (N system prompts, K user prompts, M responses); they are real numbers, NaN for a missing response.
Responses to one user prompt differ because the system prompts differ (signal) and because responses are sampled
(noise). All functions are pure functions of the rewards and a seed.

G is the covariance matrix of the user prompts over system prompts (divisor N), with the noise subtracted from its
diagonal. The score of a subset S of user prompts is mean(G over S x S): the variance between system prompts of the
expected mean reward on S. The paper subtracts too little noise (see `stats.cells`), so `unbiased` is the default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agentopt.core.message_text import counted
from agentopt.core.stats import Cells, Estimator, Floats, cells
from agentopt.prompts.covariance import (
    NULL_STARTS,
    Null,
    VarianceParts,
    checked,
    covariance,
    cross_fit,
    draws_needed,
    permutation_null,
    ratio_of,
    variance_parts,
)
from agentopt.prompts.subsets import Subset, SubsetSearch, best_subset, best_subsets, search_for

FilterVerdict = Literal["optimise on all", "optimise on these", "not worth it", "measure more"]


@dataclass(frozen=True, slots=True)
class Criteria:
    """When optimising is worth it."""

    ratio: float = 2.0
    """Signal over noise that an optimiser needs on its user prompts."""

    spread: float = 0.15
    """Standard deviation between system prompts, in units of reward, that a pilot should be able to detect."""

    level: float = 0.05
    """Probability, at most, of finding a task worth optimising if the system prompt has no effect."""

    permutations: int = 1000
    """Number of permutations of the null."""

    splits: int = 20
    """Number of random halvings of the cross-fit."""


@dataclass(frozen=True, slots=True, eq=False)
class FilterResult:
    """The result of the filter. User prompts are positions on axis 1 of the rewards.

    Attributes:
        verdict: What to do.
        reason: Why, in words.
        estimator: How the noise was estimated.
        parts: Variance parts on all user prompts.
        intended: (K, M), the user prompts and the responses for each that the optimisation would use.
        ratio: Signal over noise on all user prompts at `intended`.
        responses_needed: M at which the ratio on all user prompts would be as wanted.
        all_p_value: P value of no effect of the system prompt on all user prompts together.
        subset: The best subset.
        subset_score: Its score.
        cross_fitted_score: Score of a subset chosen on half of the responses, on the other half; NaN below four
            responses per cell.
        subset_p_value: P value of no effect on the best subset, which accounts for the search.
        subset_ratio: Signal over noise on the subset, with the same K x M responses.
        subset_responses_needed: Responses per user prompt at which that ratio would be as wanted.
        chance_score: Score that the best subset exceeds by chance with the probability of the level.
        search: How the subset was found.
        always_right: User prompts with a reward of 1 or more in every response.
        always_wrong: User prompts with a reward of 0 or less in every response.
        unscored: User prompts without enough responses, which were left out.
        mean: Mean rewards (N, K).
        covariance: G (K, K).
    """

    verdict: FilterVerdict
    reason: str
    estimator: Estimator
    parts: VarianceParts
    intended: tuple[int, float]
    ratio: float
    responses_needed: float
    all_p_value: float
    subset: tuple[int, ...]
    subset_score: float
    cross_fitted_score: float
    subset_p_value: float
    subset_ratio: float
    subset_responses_needed: float
    chance_score: float
    search: SubsetSearch
    always_right: tuple[int, ...]
    always_wrong: tuple[int, ...]
    unscored: tuple[int, ...]
    mean: Floats = field(repr=False)
    covariance: Floats = field(repr=False)


def analyse(
    rewards: ArrayLike,
    *,
    k_top: int = 2,
    estimator: Estimator = "unbiased",
    intended: tuple[int, float] | None = None,
    criteria: Criteria | None = None,
    seed: int = 0,
) -> FilterResult:
    """Analyse the rewards of a pilot.

    Args:
        rewards: Rewards (N, K, M).
        k_top: Size of the subset to choose.
        estimator: How the noise is estimated; see `stats.cells`.
        intended: (K, M), the user prompts and the responses for each that the optimisation would use; by default the
            measured ones.
        criteria: When optimising is worth it.
        seed: Seed of the permutations and halvings.

    Raises:
        ValueError: The rewards have another shape, fewer than two system prompts, or fewer than `k_top` user prompts
            with enough responses (with `unbiased`, one cell with two).
    """
    criteria = criteria or Criteria()
    table = checked(rewards)
    known = cells(table, estimator)
    g = covariance(known)
    subset = best_subset(g, k_top)
    usable = np.flatnonzero(~np.isnan(np.diag(g)))
    scored = table[:, usable]
    parts = variance_parts(scored, estimator)
    null = permutation_null(scored, k_top, estimator, permutations=criteria.permutations, seed=seed)
    crossed = cross_fit(scored, k_top, estimator, splits=criteria.splits, seed=seed)
    planned = intended or (usable.size, float(known.count[:, usable].mean()))
    within = float(np.nanmean(known.variance[:, list(subset.user_prompts)]))
    evidence = _Evidence(parts, null, _trusted(subset, crossed, null), within, planned, k_top, criteria)
    verdict, reason = evidence.decide()
    right, wrong = _always(scored >= 1, scored, usable), _always(scored <= 0, scored, usable)
    if usable.size in (len(right), len(wrong)):
        answers = "right, so there is nothing to optimise" if right else "wrong, whatever the system prompt"
        reason = f"every answer is {answers}"
    return FilterResult(
        verdict=verdict,
        reason=reason,
        estimator=estimator,
        parts=parts,
        intended=planned,
        ratio=evidence.ratio,
        responses_needed=parts.responses_needed(criteria.ratio, planned[0]),
        all_p_value=null.all_p_value,
        subset=subset.user_prompts,
        subset_score=subset.score,
        cross_fitted_score=crossed,
        subset_p_value=null.best_p_value,
        subset_ratio=evidence.subset_ratio,
        subset_responses_needed=evidence.subset_responses_needed,
        chance_score=evidence.chance_score,
        search=subset.search,
        always_right=right,
        always_wrong=wrong,
        unscored=tuple(int(i) for i in np.setdiff1d(np.arange(table.shape[1]), usable)),
        mean=known.mean,
        covariance=g,
    )


def open_cells(
    rewards: ArrayLike, *, k_top: int = 2, cap: int = 8, draws: int = 200, unsure: float = 0.05, seed: int = 0
) -> NDArray[np.bool_]:
    """Find the cells that should get another response, because it could change the chosen subset or its score.

    The cell means after `cap` responses are simulated. A user prompt is open if it is in the best subset of more than a
    share `unsure` of the simulations, and then its cells with fewer than `cap` responses are open. User prompts that
    are in almost every best subset stay open too: stopping after lucky first responses would bias the score. Cells
    with fewer than two responses are always open.

    Args:
        rewards: Rewards so far (N, K, M).
        k_top: Size of the subset.
        cap: Most responses per cell.
        draws: Number of simulations.
        unsure: Share of simulations above which a user prompt is open.
        seed: Seed of the simulations.

    Returns:
        Open cells, shape (N, K).
    """
    table, rng = checked(rewards), np.random.default_rng(seed)
    known = cells(table, "unbiased")
    short = known.count < min(2, cap)
    usable = np.flatnonzero(~np.isnan(np.diag(covariance(known))))
    contested = np.zeros(table.shape[1], bool)
    if usable.size > k_top:
        share = _membership(_selected(known, usable), k_top, cap, draws, rng)
        contested[usable] = share > unsure
    return (short | contested) & (known.count < cap)


def _membership(known: Cells, k: int, cap: int, draws: int, rng: np.random.Generator) -> Floats:
    """Share of simulations in which each user prompt is in the subset chosen after `cap` responses per cell.

    Given m responses of variance v, the mean of all `cap` responses differs from the current one with variance
    v (1/m - 1/cap), in addition to the variance v/m of the current one.
    """
    variance = _shrunk_variance(known)
    now = variance / np.maximum(known.count, 1)
    ahead = np.maximum(now - variance / cap, 0.0)
    drawn = known.mean + np.sqrt(ahead) * rng.standard_normal((draws, *ahead.shape))
    g = covariance(Cells(drawn, (now + ahead) * known.count, known.count))
    members = best_subsets(g, k, search_for(g.shape[-1], k, draws), starts=NULL_STARTS)[1]
    return np.bincount(members.ravel(), minlength=g.shape[-1]) / draws


def _shrunk_variance(known: Cells) -> Floats:
    """Within-cell variances, shrunk towards the mean of their user prompt: two equal responses are no proof of 0."""
    pooled = np.nanmean(known.variance, axis=0)
    weight = np.maximum(known.count - 1, 0) / (np.maximum(known.count - 1, 0) + 2)
    return np.where(known.count > 0, weight * np.nan_to_num(known.variance) + (1 - weight) * pooled, 0.0)


def _selected(known: Cells, user_prompts: NDArray[np.intp]) -> Cells:
    return Cells(known.mean[:, user_prompts], known.variance[:, user_prompts], known.count[:, user_prompts])


def _always(matches: NDArray[np.bool_], table: Floats, positions: NDArray[np.intp]) -> tuple[int, ...]:
    return tuple(int(i) for i in positions[(matches | np.isnan(table)).all(axis=(0, 2))])


def _trusted(subset: Subset, crossed: float, null: Null) -> float:
    """The subset's score without the winner's curse: cross-fitted, or else minus the mean score by chance."""
    return subset.score - float(null.best.mean()) if np.isnan(crossed) else crossed


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The data behind the verdict."""

    parts: VarianceParts
    null: Null
    subset_signal: float
    subset_within: float
    intended: tuple[int, float]
    k_top: int
    criteria: Criteria

    @property
    def draws(self) -> float:
        return self.intended[0] * self.intended[1]

    @property
    def ratio(self) -> float:
        return self.parts.ratio(*self.intended)

    @property
    def subset_ratio(self) -> float:
        return ratio_of(self.subset_signal, self.subset_within, self.draws, self.parts.system_prompts)

    @property
    def subset_responses_needed(self) -> float:
        wanted, n = self.criteria.ratio, self.parts.system_prompts
        return draws_needed(wanted, self.subset_signal, self.subset_within, n) / self.k_top

    @property
    def chance_score(self) -> float:
        """Score that the best subset exceeds by chance with probability `level`."""
        return float(np.quantile(self.null.best, 1 - self.criteria.level))

    def decide(self) -> tuple[FilterVerdict, str]:
        """Decide with two tests, each at half of the level.

        All user prompts are tested first, because the score on all of them is the goal. The subset matters only if
        noise on all user prompts hides the signal.
        """
        wanted, level = self.criteria.ratio, self.criteria.level / 2
        p_all, p_best = self.null.all_p_value, self.null.best_p_value
        if p_all <= level and self.ratio >= wanted:
            return "optimise on all", (
                f"system prompts differ on all user prompts together (p = {p_all:.3g}), and {self._on_all}, "
                f"not below the wanted {wanted:g}"
            )
        if p_best <= level and self.subset_ratio >= wanted:
            return "optimise on these", (
                f"{self._on_all} (p = {p_all:.3g}); on the chosen {self.k_top} {_beside_noise(self.subset_ratio)} "
                f"(p = {p_best:.3g}), not below the wanted {wanted:g}"
            )
        if min(p_all, p_best) <= level:
            return "not worth it", (
                f"system prompts differ (p = {min(p_all, p_best):.3g}), but {self._on_all} and on the best "
                f"{self.k_top} {_beside_noise(self.subset_ratio)}, below {wanted:g} or not significant"
            )
        return self._undecided()

    @property
    def _on_all(self) -> str:
        at = f"at {counted(self.intended[0], 'user prompt')} x {self.intended[1]:.3g} responses"
        return f"{at} {_beside_noise(self.ratio)}"

    def _undecided(self) -> tuple[FilterVerdict, str]:
        """Decide without a significant difference: would the pilot have detected a worthwhile one?"""
        seen, by_chance = self.criteria.spread, max(self.chance_score, 0.0) ** 0.5
        level = self.criteria.level / 2
        unproven = (
            f"no difference between system prompts is significant (p = {self.null.best_p_value:.3g}, "
            f"above the level of {level:g})"
        )
        if by_chance <= seen:
            shown = f"a spread of {seen:g} on {self.k_top} user prompts would have been detected"
            return "not worth it", f"{unproven}, and {shown}"
        return "measure more", (
            f"{unproven}, but chance alone shows a spread of {by_chance:.2g} on the best {self.k_top} user prompts "
            f"and {seen:g} would matter: draw about {(by_chance / seen) ** 2:.1f} times as many responses per cell "
            f"(prompts.repeats={math.ceil((by_chance / seen) ** 2 * self.intended[1])})"
        )


def _beside_noise(ratio: float) -> str:
    if math.isinf(ratio):  # as of a model that always answers a prompt alike
        return "there is a signal and no noise"
    return f"the signal is {max(ratio, 0):.2g} times the noise"
