"""Whether a system prompt that won a race replaces the seed prompt, and the gain to report.

The winner replaces the seed if held-out validation rows favour it at p < .2 and its shrunk gain is above 0. The winner
of many proposals looks better than it is, so the gain reported is a posterior mean that knows the whole race. It
averages over three hypotheses: no prompt differs from any other, one differs from all others, or all differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from agentopt.core.intervals import mean_p_value
from agentopt.core.stats import Floats

LEVEL = 0.2
"""Level of the one-sided test on validation rows: to miss a better prompt costs more than to change an equal one."""

NO_EFFECT, ONE_DIFFERS, ALL_DIFFER = 0.5, 0.25, 0.25
"""Prior probabilities of the hypotheses."""

SPREADS = (0.05, 0.1, 0.2, 0.4)
"""Standard deviations of the score by which prompts differ; equally likely."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """The decision on the winner of a race.

    Attributes:
        adopted: whether it replaces the seed prompt.
        gain: shrunk gain over the seed, what "improved by" reports.
        raw_gain: mean paired difference on the validation rows.
        p_value: one-sided, of the validation rows.
        rows: validation rows that both have scores on.
    """

    adopted: bool
    gain: float
    raw_gain: float
    p_value: float
    rows: int


def adoption(
    winner: Mapping[str, float],
    seed: Mapping[str, float],
    rewards: Floats,
    positions: tuple[int, int],
    *,
    level: float = LEVEL,
) -> Adoption:
    """Decide whether the winner of a race replaces the seed prompt.

    Args:
        winner: validation row id -> score of the winner; rows that the race did not use.
        seed: validation row id -> score of the seed prompt.
        rewards: all responses of the race, shape (system prompts, rows, responses), NaN for a missing one.
        positions: positions of the winner and of the seed prompt on axis 0.
        level: of the one-sided test.

    Raises:
        ValueError: the two share no validation row.
    """
    differences = np.array([winner[row] - seed[row] for row in sorted(winner.keys() & seed.keys())])
    if not differences.size:
        raise ValueError("an adoption needs validation rows that both prompts have scores on, but got none")
    p_value = one_sided_p_value(differences)
    gain = shrunk_gain(rewards, positions, differences)
    adopted = p_value < level and gain > 0
    return Adoption(adopted, gain, float(differences.mean()), p_value, len(differences))


def one_sided_p_value(differences: Floats) -> float:
    """P value against a mean above 0: the mid-p sign test if all differences are -1, 0 or 1.

    The exact test is so discrete that it adopts 12% of equals at level .2; mid-p counts half of the observed outcome.
    """
    if np.isin(differences, (-1.0, 0.0, 1.0)).all():
        from scipy.special import bdtr

        losses, moved = int((differences < 0).sum()), int((differences != 0).sum())
        fewer = float(bdtr(losses - 1, moved, 0.5)) if losses else 0.0
        return (float(bdtr(losses, moved, 0.5)) + fewer) / 2
    p_value = mean_p_value(differences) / 2
    return p_value if differences.mean() > 0 else 1 - p_value


def shrunk_gain(rewards: Floats, positions: tuple[int, int], differences: Floats) -> float:
    """Posterior mean of the gain of one prompt of a race over another, from the race and held-out differences.

    A response is prompt + row + noise. Rows are free, so only comparisons on the same row count: what later rounds add
    about the prompts that are left does not make them better than those that are out. The mean under each hypothesis is
    weighted by its marginal likelihood.

    Args:
        rewards: all responses of the race, shape (system prompts, rows, responses), NaN for a missing one.
        positions: positions of the two prompts on axis 0.
        differences: paired differences (rows,) on held-out rows.
    """
    precision, pull = _race_information(rewards)
    contrast = np.zeros(len(rewards))
    contrast[list(positions)] = 1.0, -1.0
    variance = _variance_of_mean(differences)
    precision += np.outer(contrast, contrast) / variance
    pull += contrast * differences.mean() / variance
    logs, gains = [], []
    for prior, deviations in _hypotheses(len(rewards)):
        # theta = deviations * u with u standard normal.
        scaled = np.eye(len(pull)) + precision * np.outer(deviations, deviations)
        effects = np.linalg.solve(scaled, deviations * pull)
        logs.append(np.log(prior) + 0.5 * ((deviations * pull) @ effects - np.linalg.slogdet(scaled)[1]))
        gains.append(contrast @ (deviations * effects))
    weights = np.exp(np.array(logs) - max(logs))
    return float(weights @ np.array(gains) / weights.sum())


def _hypotheses(prompts: int) -> Iterator[tuple[float, Floats]]:
    """Prior probability, and each prompt's standard deviation around the common score."""
    yield NO_EFFECT, np.zeros(prompts)
    for spread in SPREADS:
        yield ALL_DIFFER / len(SPREADS), np.full(prompts, spread)
        for alone in np.eye(prompts):
            yield ONE_DIFFERS / len(SPREADS) / prompts, alone * spread


def _race_information(rewards: Floats) -> tuple[Floats, Floats]:
    """Precision matrix of the prompts' scores and its product with them, the row effects eliminated."""
    present = ~np.isnan(rewards)
    counts = present.sum(axis=2).astype(float)
    sums = np.where(present, rewards, 0.0).sum(axis=2)
    rows = np.maximum(counts.sum(axis=0), 1)
    precision = np.diag(counts.sum(axis=1)) - (counts / rows) @ counts.T
    pull = sums.sum(axis=1) - counts @ (sums.sum(axis=0) / rows)
    explained = pull @ np.linalg.pinv(precision, hermitian=True) @ pull
    total = float(np.nansum(rewards**2) - (sums.sum(axis=0) ** 2 / rows).sum())
    freedom = counts.sum() - (counts.sum(axis=0) > 0).sum() - (counts.sum(axis=1) > 0).sum() + 1
    residual = max((total - explained) / freedom if freedom > 0 else 0.25, 1e-6)
    return precision / residual, pull / residual


def _variance_of_mean(differences: Floats) -> float:
    """With one win and one loss added, so that a few equal rows do not prove that there is no variance."""
    padded = np.append(differences, [1.0, -1.0])
    return float(padded.var()) / len(padded)
