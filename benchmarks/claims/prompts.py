"""Claims about prompts: which ones replace the seed prompt, and the gain that is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from agentopt.core.stats import Floats
from agentopt.prompts.adoption import Adoption, adoption
from agentopt.prompts.halving import RaceSettings
from agentopt.prompts.prompt_proposers import NewPrompt
from agentopt.prompts.race import Race, RacePlan
from agentopt.prompts.rewards import Cell
from agentopt.prompts.settings import PromptSettings
from benchmarks.claims.lines import Line, at_least, at_most, shown
from benchmarks.claims.processes import each
from benchmarks.claims.worlds import SHARED, right_or_wrong

SETTINGS = PromptSettings()
"""The default settings: batches of proposals, responses per prompt on average, repeats of a row."""

PROPOSALS = SETTINGS.rounds * SETTINGS.batch_size
"""Proposals beside the seed prompt."""

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
        null = each(partial(raced, rows=rows, effects=np.zeros(PROPOSALS)), range(runs))
        name = f"n={rows}, prompts without effect"
        yield shown(f"{name}: replace the seed by the rule of 0.1.0", [r.raw_rule for r in null])
        yield at_most(f"{name}: replace the seed", [r.adopted for r in null], 0.25)
        yield at_most(f"{name}: shown gain less true gain, all runs", [r.shown - r.true for r in null], 0.01)
        adopted = [r.shown for r in null if r.adopted] or [0.0]
        yield shown(f"{name}: shown gain where one is adopted", adopted)
        for gain, least in ((0.2, 0.85 if rows == 50 else None), (0.37, 0.95)):
            found = each(partial(raced, rows=rows, effects=planted(gain)), range(runs))
            what = f"n={rows}, one prompt of {PROPOSALS} gains {gain}"
            hits = [r.adopted and r.gain > 0 for r in found]
            yield at_least(f"{what}: adopted", hits, least) if least else shown(f"{what}: adopted", hits)
            yield shown(f"{what}: shown less true gain where adopted", [r.shown - r.true for r in found if r.adopted])
        worse = each(partial(raced_with_worse, rows=rows), range(runs))
        yield at_most(f"n={rows}, prompts worse by .1 on average: loss of the task", [-r.true for r in worse], 0.006)


def raced_with_worse(seed: int, rows: int) -> Raced:
    """A race whose proposals are worse by .1 on average."""
    return raced(seed, rows, np.random.default_rng([seed, 7]).normal(-0.1, 0.05, PROPOSALS))


def planted(gain: float) -> Floats:
    effects = np.zeros(PROPOSALS)
    effects[-1] = gain
    return effects


class Drawn:
    """Rewards that are drawn from `truth` (prompts, rows, repeats), as `Race` reads them; a prompt is its position."""

    def __init__(self, truth: Floats) -> None:
        self._truth, self._seen = truth, np.full(truth.shape, np.nan)

    async def sample(self, cells: Iterable[Cell]) -> None:
        for cell in cells:
            place = int(cell.system_prompt), cell.example, cell.repeat
            self._seen[place] = self._truth[place]

    def table(self, system_prompts: Sequence[str], examples: Sequence[int]) -> Floats:
        known: Floats = self._seen[np.ix_([int(prompt) for prompt in system_prompts], examples)]
        return known


def raced(seed: int, rows: int, effects: Floats) -> Raced:
    """The race of a run with the default settings on `rows` training rows, and its decision on as many others."""
    rng = np.random.default_rng([seed, rows])
    scores = SCORE + np.array([0.0, *rng.permutation(effects)])
    train, held_out = rng.standard_normal(rows), rng.standard_normal(rows)
    truth = np.stack([_responses(rng, score, train) for score in scores])
    validated = [right_or_wrong(rng, score, held_out) for score in scores]
    race = Race(Drawn(truth), rows, "0", RaceSettings(repeats=SETTINGS.repeats), seed=seed)
    asyncio.run(_run(race))
    seen, leader = race.table(), race.leader
    finals = [n for n in _by_mean(seen) if n][:FINALISTS]
    raw_rule = max(validated[n].mean() for n in finals) > validated[0].mean()
    if leader == 0:
        return Raced(None, 0.0, raw_rule)
    decision = adoption(_by_id(validated[leader]), _by_id(validated[0]), seen, (leader, 0))
    return Raced(decision, float(scores[leader] - SCORE), raw_rule)


async def _run(race: Race) -> None:
    async def propose(k: int) -> list[NewPrompt]:
        first = len(race.entrants)
        return [NewPrompt(str(n), "simulated") for n in range(first, first + k)]

    plan = RacePlan.of(SETTINGS)
    await race.look(plan.each)
    await race.run(plan, propose)


def _responses(rng: np.random.Generator, score: float, difficulty: Floats) -> Floats:
    return np.stack([right_or_wrong(rng, score, difficulty, SHARED) for _ in range(SETTINGS.repeats)], axis=1)


def _by_id(scores: Floats) -> dict[str, float]:
    return {f"{row:03}": float(score) for row, score in enumerate(scores)}


def _by_mean(seen: Floats) -> list[int]:
    order: list[int] = np.argsort(-np.nanmean(seen, axis=(1, 2)), kind="stable").tolist()
    return order
