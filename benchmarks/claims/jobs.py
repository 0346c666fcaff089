"""Claims about jobs: false promotions over 90 nights, the walk of a champion, and alarms of drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from agentopt.core.stats import paired_difference, verdict
from agentopt.jobs.canary import REFERENCE_DRAWS
from agentopt.jobs.drift import canary_rows, drift_evidence, first_alarm
from agentopt.jobs.promotion import Comparison, Night, PromotionRules, promotion
from benchmarks.claims.lines import Line, at_least, at_most, shown
from benchmarks.claims.worlds import right_or_wrong

NIGHTS, ROWS, FEW = 90, 200, 50
SCORE = 0.65
DECIDED, NOISY = 0.5, 2.0
"""Concentration of the rows' chances: a third of the variance of a score is within rows, and two thirds (as recorded
for a model of half a billion parameters at temperature .7)."""


def promotions(runs: int) -> Iterator[Line]:
    """90 nights of fresh rows and challengers that are no better, at the champion's cost."""
    by_verdict, every, same = [], [], []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        nights = [_night(rng, 0.0, ROWS) for _ in range(NIGHTS)]
        by_verdict.append(any(_called_better(night) for night in nights))
        every.append(any(_promotes([night], number) for number, night in enumerate(nights, 1)))
        few = [_night(rng, 0.0, FEW) for _ in range(NIGHTS)]
        same.append(any(_promotes(few[:night]) for night in range(1, NIGHTS + 1)))
    yield shown("90 nights, equals: jobs that promote by nightly verdicts", by_verdict)
    yield at_most("90 nights, a new equal challenger every night: jobs that promote", every, 0.05)
    yield at_most("90 nights, the same equal challenger every night: jobs that promote", same, 0.05)


def power(runs: int) -> Iterator[Line]:
    """Nights until a challenger that is better, or cheaper and equal, is promoted."""
    for gain in (0.05, 0.1):
        nights = [_first_night(seed, gain, PromotionRules(), 1.0) for seed in range(runs)]
        yield shown(f"nights until a challenger that is better by {gain} is promoted (at most {NIGHTS})", nights)
    for margin in (0.01, 0.02, 0.05):
        nights = [_first_night(seed, 0.0, PromotionRules(margin=margin), 0.5) for seed in range(runs)]
        yield shown(f"nights until an equal cheaper one is promoted, margin {margin} (at most {NIGHTS})", nights)


def walk(runs: int) -> Iterator[Line]:
    """Cheaper challengers that are each a little worse, from a ladder below the champion."""
    for step in (0.005, 0.01):
        ends = np.array([_walked(seed, step) for seed in range(runs)])
        lost = ends * step
        yield at_most(f"steps of {step}: true score lost after 90 nights", lost, 0.01)
        yield at_least(f"steps of {step}: jobs that end within .01", lost <= 0.01 + 1e-9, 1.0)


def drift(runs: int) -> Iterator[Line]:
    """A canary of 20 of 200 rows each night."""
    for name, spread in {"rows mostly decided": DECIDED, "noisy rows": NOISY}.items():
        false = [_alarm(seed, spread, 0.0, 0, NIGHTS) for seed in range(runs)]
        yield at_most(f"{name}: jobs with a false alarm in 90 nights", false, 0.05)
        wrong = [_alarm(seed, spread, SCORE, 0, 1) for seed in range(runs)]
        yield at_least(f"{name}: all wrong, alarm on the first night", wrong, 1.0)
        for start in (0, 10):
            since = f"from night {start + 1} on"
            fifth = [_alarm(seed, spread, 0.2, start, start + 7) for seed in range(runs)]
            yield at_least(f"{name}: a drop of .2 {since}, alarm within 7 nights", fifth, 0.90)
            tenth = [_alarm(seed, spread, 0.1, start, start + 30) for seed in range(runs)]
            yield at_least(f"{name}: a drop of .1 {since}, alarm within 30 nights", tenth, 0.80)


def _night(rng: np.random.Generator, gain: float, rows: int) -> Night:
    """Scores of a challenger and of the champion on fresh rows."""
    difficulty, base = rng.standard_normal(rows), int(rng.integers(1 << 40))
    one, other = (right_or_wrong(rng, chance, difficulty).tolist() for chance in (SCORE + gain, SCORE))
    ids = [f"{base} {i}" for i in range(rows)]
    return dict(zip(ids, one, strict=True)), dict(zip(ids, other, strict=True))


def _called_better(night: Night) -> bool:
    return verdict(paired_difference(*night)) == "better"


def _promotes(nights: Sequence[Night], number: int = 1, rules: PromotionRules | None = None, cost: float = 1.0) -> bool:
    return promotion(Comparison(number, nights, nights, cost, 1.0, 1.0), rules).promotion is not None


def _first_night(seed: int, gain: float, rules: PromotionRules, cost: float) -> int:
    rng, nights = np.random.default_rng([seed, 3]), list[Night]()
    for night in range(1, NIGHTS + 1):
        nights.append(_night(rng, gain, ROWS))
        if _promotes(nights, rules=rules, cost=cost):
            return night
    return NIGHTS


def _walked(seed: int, step: float) -> int:
    """Rungs of the ladder that the champion has gone down; every night one of the three below it is proposed."""
    rng = np.random.default_rng([seed, 4])
    rules, champion = PromotionRules(), 0
    nights: dict[tuple[int, int], list[Night]] = {}
    opened: dict[tuple[int, int], int] = {}
    for _ in range(NIGHTS):
        challenger = champion + int(rng.integers(1, 4))
        difficulty = rng.standard_normal(ROWS)
        base = int(rng.integers(1 << 40))
        scores = {
            rung: {f"{base} {i}": float(s) for i, s in enumerate(right_or_wrong(rng, SCORE - step * rung, difficulty))}
            for rung in sorted({0, champion, challenger})
        }
        for other in {0, champion}:
            nights.setdefault((challenger, other), []).append((scores[challenger], scores[other]))
        number = opened.setdefault((challenger, champion), len(opened) + 1)
        costs = (0.9**challenger, 0.9**champion, 1.0)
        pair = Comparison(number, nights[challenger, champion], nights[challenger, 0], *costs)
        if promotion(pair, rules).promotion:
            champion = challenger
    return champion


def _alarm(seed: int, spread: float, drop: float, start: int, nights: int) -> bool:
    """Whether a champion whose score falls by `drop` from night `start` on raises an alarm; never before it falls."""
    rng = np.random.default_rng([seed, 5])
    chances = rng.beta(SCORE * spread, (1 - SCORE) * spread, ROWS)
    rows = [f"{i:03}" for i in range(ROWS)]
    draws = [(rng.random(ROWS) < chances).astype(float).tolist() for _ in range(REFERENCE_DRAWS)]
    reference = [dict(zip(rows, draw, strict=True)) for draw in draws]
    canaries = []
    for night in range(nights):
        kept = 1 - drop / SCORE if night >= start else 1.0
        canary = canary_rows(rows, night, seed=seed)
        canaries.append({row: float(rng.random() < kept * chances[int(row)]) for row in canary})
    return first_alarm(drift_evidence(reference, canaries)) is not None
