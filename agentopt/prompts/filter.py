"""p1: is it worth optimising a system prompt, and on which user prompts (arXiv 2604.08801).

Rewards have shape (N system prompts, K user prompts, M responses), any real number, NaN for a missing response.
Responses to one user prompt differ because the system prompts differ (signal) and because responses are drawn
(noise). Everything here is a pure function of the rewards and a seed.

With G the covariance matrix of the user prompts over system prompts (divisor N), the noise taken off its diagonal,
a subset S of user prompts scores mean(G over S x S): the variance between system prompts of the expected mean
reward on S. The paper takes off too little noise (see `stats.cells`), so `unbiased` is the default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    """What counts as worth it."""

    ratio: float = 2.0
    """Signal over noise that an optimiser needs on the user prompts it works on."""

    spread: float = 0.15
    """Standard deviation between system prompts, in units of reward, that a pilot should be able to show."""

    level: float = 0.05
    """Most often that a task without any effect of the system prompt is called worth optimising."""

    permutations: int = 1000
    """Shuffles of the permutation null."""

    splits: int = 20
    """Random halvings of the cross-fit."""


@dataclass(frozen=True, slots=True, eq=False)
class FilterResult:
    """All that the filter found. User prompts are positions on axis 1 of the rewards.

    `cross_fitted_score` (choose on half of the responses, score on the other half) is NaN below four responses per
    cell. `ratio` and `responses_needed` are for all user prompts at `intended` (K, M); `subset_ratio` and
    `subset_responses_needed` for the subset, with the same K x M responses spent on it. `unscored` user prompts
    lack responses and took no part.
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
    """Variance parts, the best `k_top` user prompts, how sure that is, and what to do.

    `intended` is (K, M): how many user prompts and responses for each the optimisation would use; by default
    the measured ones. Raises ValueError for rewards of another shape, fewer than two system prompts, or fewer than
    `k_top` user prompts with enough responses (`unbiased`: at least one cell with two).
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
        always_right=_always(scored >= 1, scored, usable),
        always_wrong=_always(scored <= 0, scored, usable),
        unscored=tuple(int(i) for i in np.setdiff1d(np.arange(table.shape[1]), usable)),
        mean=known.mean,
        covariance=g,
    )


def open_cells(
    rewards: ArrayLike, *, k_top: int = 2, cap: int = 8, draws: int = 200, unsure: float = 0.05, seed: int = 0
) -> NDArray[np.bool_]:
    """Which cells (N, K) should get another response: true where it could still change the chosen subset or its score.

    The cell means that `cap` responses would give are drawn `draws` times. A user prompt is open when it is in the best
    subset of more than a share `unsure` of the draws; its cells below `cap` responses are then open. Those that are
    surely in stay open, too: to stop where the first responses were lucky would let luck pass for proof. Cells with
    fewer than two responses are always open.
    """
    table, rng = checked(rewards), np.random.default_rng(seed)
    known = cells(table, "unbiased")
    short = known.count < min(2, cap)
    usable = np.flatnonzero(~np.isnan(np.diag(covariance(known))))
    contested = np.zeros(table.shape[1], bool)
    if usable.size > k_top:
        share = _membership(_of(known, usable), k_top, cap, draws, rng)
        contested[usable] = share > unsure
    return (short | contested) & (known.count < cap)


def _membership(known: Cells, k: int, cap: int, draws: int, rng: np.random.Generator) -> Floats:
    """Share of draws in which each user prompt belongs to the subset that `cap` responses per cell would choose.

    Given m responses of variance v, the mean of all `cap` differs from the present one by v (1/m - 1/cap). A drawn
    mean carries that on top of the v/m that the present one has already.
    """
    variance = _steadied(known)
    now = variance / np.maximum(known.count, 1)
    ahead = np.maximum(now - variance / cap, 0.0)
    drawn = known.mean + np.sqrt(ahead) * rng.standard_normal((draws, *ahead.shape))
    g = covariance(Cells(drawn, (now + ahead) * known.count, known.count))
    members = best_subsets(g, k, search_for(g.shape[-1], k, draws), starts=NULL_STARTS)[1]
    return np.bincount(members.ravel(), minlength=g.shape[-1]) / draws


def _steadied(known: Cells) -> Floats:
    """Within-cell variances drawn towards their user prompt's mean: two like responses do not prove a 0."""
    pooled = np.nanmean(known.variance, axis=0)
    weight = np.maximum(known.count - 1, 0) / (np.maximum(known.count - 1, 0) + 2)
    return np.where(known.count > 0, weight * np.nan_to_num(known.variance) + (1 - weight) * pooled, 0.0)


def _of(known: Cells, user_prompts: NDArray[np.intp]) -> Cells:
    return Cells(known.mean[:, user_prompts], known.variance[:, user_prompts], known.count[:, user_prompts])


def _always(matches: NDArray[np.bool_], table: Floats, positions: NDArray[np.intp]) -> tuple[int, ...]:
    return tuple(int(i) for i in positions[(matches | np.isnan(table)).all(axis=(0, 2))])


def _trusted(subset: Subset, crossed: float, null: Null) -> float:
    """The subset's score without the winner's curse: cross-fitted, or else less what chance gives on average."""
    return subset.score - float(null.best.mean()) if np.isnan(crossed) else crossed


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What the verdict rests on."""

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
        """Score that the best subset passes by chance with probability `level`."""
        return float(np.quantile(self.null.best, 1 - self.criteria.level))

    def decide(self) -> tuple[FilterVerdict, str]:
        """Each of the two tests gets half of the level.

        All user prompts go first: they are what is to be improved. A subset is for when they drown the signal.
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
                f"{self._on_all} (p = {p_all:.3g}); on the chosen {self.k_top} it is {self.subset_ratio:.2g} times "
                f"(p = {p_best:.3g}), not below the wanted {wanted:g}"
            )
        if min(p_all, p_best) <= level:
            return "not worth it", (
                f"system prompts differ (p = {min(p_all, p_best):.3g}), but {self._on_all} and on the best "
                f"{self.k_top} it is {max(self.subset_ratio, 0):.2g} times, below the wanted {wanted:g} or unproven"
            )
        return self._undecided()

    @property
    def _on_all(self) -> str:
        at = f"at {self.intended[0]} user prompts x {self.intended[1]:.3g} responses"
        return f"{at} the signal is {max(self.ratio, 0):.2g} times the noise"

    def _undecided(self) -> tuple[FilterVerdict, str]:
        """Without a proven difference: could a worthwhile one have been seen?"""
        seen, by_chance = self.criteria.spread, max(self.chance_score, 0.0) ** 0.5
        level = self.criteria.level / 2
        unproven = (
            f"no difference between system prompts is proven (p = {self.null.best_p_value:.3g}, "
            f"where at most {level:g} would be a proof)"
        )
        if by_chance <= seen:
            shown = f"a spread of {seen:g} on {self.k_top} user prompts would have shown"
            return "not worth it", f"{unproven}, and {shown}"
        return "measure more", (
            f"{unproven}, but chance alone shows a spread of {by_chance:.2g} on the best {self.k_top} user prompts "
            f"and {seen:g} would matter: draw about {(by_chance / seen) ** 2:.1f} times as many responses per cell"
        )
