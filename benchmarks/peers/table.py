"""The table: test scores, and differences to the seed prompt, with intervals over test examples and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentopt.core.stats import Floats, Interval, mean_interval, paired_difference
from benchmarks.peers.results import Outcome

HEAD = (
    "| model | arm | test score (95%) | against the seed prompt (95%) | seeds | model calls | seconds |",
    "|---|---|---|---|---|---|---|",
)
CONFIDENCE = 0.95


def table(outcomes: Sequence[Outcome]) -> str:
    """One row for each model and arm; below, why runs have no result, and the prompts."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.key.model, outcome.key.arm), []).append(outcome)
    rows = [_row(model, arm, group, groups.get((model, "seed"), [])) for (model, arm), group in groups.items()]
    failures = [f"{_name(o)} has no result: {o.failed}" for o in outcomes if o.failed]
    prompts = [f"{_name(o)} ({o.ended}): {o.prompt.system!r}{_demos(o)}" for o in outcomes if _has_prompt(o)]
    return "\n".join([*HEAD, *rows, "", *(f"- {line}" for line in (*failures, *prompts))])


def _name(outcome: Outcome) -> str:
    return f"{outcome.key.model}, {outcome.key.arm}, seed {outcome.key.seed}"


def _demos(outcome: Outcome) -> str:
    return f", {len(outcome.prompt.demos)} examples shown" if outcome.prompt.demos else ""


def _has_prompt(outcome: Outcome) -> bool:
    return outcome.key.arm != "seed" and not outcome.failed


def _row(model: str, arm: str, group: Sequence[Outcome], seed: Sequence[Outcome]) -> str:
    tested = [outcome for outcome in group if not outcome.failed]
    if not tested:
        return f"| {model} | {arm} | no result | | 0 of {len(group)} | | |"
    scores = scores_of(tested)
    shown = f"{scores.mean():.3f} {_shown(score_interval(scores))}"
    counts = ", ".join(str(outcome.calls) for outcome in tested)
    seconds = ", ".join(f"{outcome.seconds:.0f}" for outcome in tested)
    runs = f"{len(tested)} of {len(group)}"
    return f"| {model} | {arm} | {shown} | {_against(tested, seed)} | {runs} | {counts} | {seconds} |"


def _against(tested: Sequence[Outcome], seed: Sequence[Outcome]) -> str:
    paired = {outcome.key.seed: outcome for outcome in seed if not outcome.failed}
    both = [outcome for outcome in tested if outcome.key.seed in paired]
    if not both or both[0].key.arm == "seed":
        return "-"
    reference = scores_of([paired[outcome.key.seed] for outcome in both])
    differences = scores_of(both) - reference
    return f"{differences.mean():+.3f} {_shown(difference_interval(differences), '+')}"


def _shown(interval: Interval, sign: str = "") -> str:
    return f"({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"


def scores_of(outcomes: Sequence[Outcome]) -> Floats:
    """The test scores, of shape (examples, seeds), over the examples that all outcomes have."""
    shared = sorted(set.intersection(*(set(outcome.test) for outcome in outcomes)))
    return np.array([[outcome.test[row] for outcome in outcomes] for row in shared], dtype=np.float64)


def score_interval(scores: Floats) -> Interval:
    """The interval of a mean score; `scores` has shape (examples, seeds)."""
    crossed = crossed_interval(scores, (0.0, 1.0))
    return crossed or mean_interval([float(mean) for mean in scores.mean(axis=1)], confidence=CONFIDENCE)


def difference_interval(differences: Floats) -> Interval:
    """The interval of a mean difference; `differences` has shape (examples, seeds)."""
    if crossed := crossed_interval(differences, (-1.0, 1.0)):
        return crossed
    means = {str(row): float(mean) for row, mean in enumerate(differences.mean(axis=1))}
    return paired_difference(means, dict.fromkeys(means, 0.0), confidence=CONFIDENCE).interval


def crossed_interval(values: Floats, bounds: tuple[float, float]) -> Interval | None:
    """Interval of the mean of a table whose examples and seeds are both random; None if seeds add no variance.

    The two-way random-effects model with one value per cell: the variance of the grand mean is
    (MS_examples + MS_seeds - MS_residual) / (examples x seeds), with Satterthwaite's degrees of freedom (Satterthwaite
    1946). With few seeds that differ the interval is wide, as it must be.

    Args:
        values: Shape (examples, seeds).
        bounds: The least and the greatest possible mean, to which the interval is cut.
    """
    rows, seeds = values.shape
    if rows < 2 or seeds < 2:
        return None
    grand = float(values.mean())
    by_row, by_seed = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    of_rows = seeds * float(((by_row - grand) ** 2).sum()) / (rows - 1)
    of_seeds = rows * float(((by_seed - grand) ** 2).sum()) / (seeds - 1)
    residual = float(((values - by_row - by_seed + grand) ** 2).sum()) / ((rows - 1) * (seeds - 1))
    if of_seeds <= residual + 1e-12:
        return None
    from scipy.stats import t

    total = of_rows + of_seeds - residual
    parts = of_rows**2 / (rows - 1) + of_seeds**2 / (seeds - 1) + residual**2 / ((rows - 1) * (seeds - 1))
    half = float(t.ppf((1 + CONFIDENCE) / 2, total**2 / parts)) * (total / (rows * seeds)) ** 0.5
    return Interval(max(bounds[0], grand - half), min(bounds[1], grand + half), CONFIDENCE)
