"""Claims about prompts: which ones replace the seed prompt, and the gain that is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from agentopt.core.stats import Floats
from agentopt.prompts.adoption import Adoption, adoption
from agentopt.prompts.halving import RaceSettings, halving
from benchmarks.claims.lines import Line, at_least, at_most, shown
from benchmarks.claims.worlds import SHARED, right_or_wrong

PROPOSALS, RESPONSES, REPEATS = 12, 48, 4
"""Proposals beside the seed prompt, responses per prompt that the race has on average, repeats of a row."""

SCORE = 0.5
FINALISTS = 3


@dataclass(frozen=True)
class Raced:
    """A race and the validation of its winner: the decision (None: the seed prompt won), and the winner's true gain."""

    decision: Adoption | None
    gain: float
    raw_rule: bool

    @property
    def adopted(self) -> bool:
        return self.decision is not None and self.decision.adopted

    @property
    def shown(self) -> float:
        return self.decision.gain if self.decision and self.adopted else 0.0

    @property
    def true(self) -> float:
        """True gain of what the task uses afterwards."""
        return self.gain if self.adopted else 0.0


def adoptions(runs: int) -> Iterator[Line]:
    """Null, planted and worse prompts."""
    for rows in (24, 50):
        null = [raced(seed, rows, np.zeros(PROPOSALS)) for seed in range(runs)]
        name = f"n={rows}, prompts without effect"
        yield shown(f"{name}: replace the seed by the rule of 0.1.0", [r.raw_rule for r in null])
        yield at_most(f"{name}: replace the seed", [r.adopted for r in null], 0.25)
        yield at_most(f"{name}: shown gain less true gain, all runs", [r.shown - r.true for r in null], 0.01)
        adopted = [r.shown for r in null if r.adopted] or [0.0]
        yield shown(f"{name}: shown gain where one is adopted", adopted)
        for gain, least in ((0.2, 0.85 if rows == 50 else None), (0.37, 0.95)):
            found = [raced(seed, rows, planted(gain)) for seed in range(runs)]
            what = f"n={rows}, one prompt of {PROPOSALS} gains {gain}"
            hits = [r.adopted and r.gain > 0 for r in found]
            yield at_least(f"{what}: adopted", hits, least) if least else shown(f"{what}: adopted", hits)
            yield shown(f"{what}: shown less true gain where adopted", [r.shown - r.true for r in found if r.adopted])
        worse = [
            raced(seed, rows, np.random.default_rng([seed, 7]).normal(-0.1, 0.05, PROPOSALS)) for seed in range(runs)
        ]
        yield at_most(f"n={rows}, prompts worse by .1 on average: loss of the task", [-r.true for r in worse], 0.006)


def planted(gain: float) -> Floats:
    effects = np.zeros(PROPOSALS)
    effects[-1] = gain
    return effects


def raced(seed: int, rows: int, effects: Floats) -> Raced:
    """A race on `rows` training rows, and the validation of its winner on as many others."""
    rng = np.random.default_rng([seed, rows])
    scores = SCORE + np.array([0.0, *effects])
    train, held_out = rng.standard_normal(rows), rng.standard_normal(rows)
    truth = np.stack([_responses(rng, score, train) for score in scores])
    validated = [right_or_wrong(rng, score, held_out) for score in scores]
    seen = np.full(truth.shape, np.nan)
    plan = halving(seen, range(len(scores)), RESPONSES * len(scores), RaceSettings(repeats=REPEATS), seed=seed)
    step = next(plan)
    while True:
        for cell in step.cells:
            seen[cell] = truth[cell]
        try:
            step = plan.send(seen)
        except StopIteration as end:
            ranked = end.value.candidates
            break
    finals = [n for n in _by_mean(seen) if n][:FINALISTS]
    raw_rule = max(validated[n].mean() for n in finals) > validated[0].mean()
    if ranked[0] == 0:
        return Raced(None, 0.0, raw_rule)
    by_id = [{f"{i:03}": float(s) for i, s in enumerate(validated[n])} for n in (ranked[0], 0)]
    return Raced(adoption(*by_id, seen, (ranked[0], 0)), float(scores[ranked[0]] - SCORE), raw_rule)


def _responses(rng: np.random.Generator, score: float, difficulty: Floats) -> Floats:
    return np.stack([right_or_wrong(rng, score, difficulty, SHARED) for _ in range(REPEATS)], axis=1)


def _by_mean(seen: Floats) -> list[int]:
    order: list[int] = np.argsort(-np.nanmean(seen, axis=(1, 2)), kind="stable").tolist()
    return order
