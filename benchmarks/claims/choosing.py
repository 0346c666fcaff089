"""Claims about choosing and stopping: what `best` and `recommended` lose, and what early stopping saves and loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import numpy as np

from agentopt.core.records import Evaluation, ExampleResult, Trial
from agentopt.core.stats import Floats
from agentopt.core.stopping import LEVEL, StopTest, e_value
from agentopt.runs.worst_case import FINALISTS
from agentopt.search.posterior import Choice, choose
from benchmarks.claims.lines import Line, at_most, shown
from benchmarks.claims.processes import each
from benchmarks.claims.worlds import Searched, landscape, right_or_wrong, searched

LARGEST_SHARE = 0.030 / 0.0435
"""Of the regret of the highest raw score, what may remain: the limit was stated for worlds with other raw regrets."""

RANDOM_TRIALS = 30
"""Trials of a search that draws candidates at random, whose early stopping is measured."""

Run = Callable[[Floats, Floats], int]
"""Rows that a trial with these scores is evaluated on against an incumbent with those scores."""


def choosing(runs: int) -> Iterator[Line]:
    """`best` and `recommended` of a search by Gaussian process, against the truth."""
    for rows in (24, 50, 200):
        worlds = each(partial(searched, rows=rows), range(runs))
        raw = [w.exact.max() - w.exact[w.scores.mean(axis=1).argmax()] for w in worlds]
        chosen = each(chosen_of, worlds)
        picks = [(w, c.best.number, c.recommended.number, c) for w, c in zip(worlds, chosen, strict=True) if c]
        best = [w.exact.max() - w.exact[b] for w, b, _, _ in picks]
        lost = np.array([w.exact[b] - w.exact[r] for w, b, r, _ in picks])
        yield shown(f"n={rows}: regret of the highest raw score", raw)
        if rows == 24:
            yield shown("n=24: regret of `best`", best)
            beyond = np.array(best) - LARGEST_SHARE * np.array(raw)
            yield at_most("n=24: regret of `best` less .69 of the raw regret", beyond, 0.0)
            pruned = each(pruned_search, worlds)
            yield shown("n=24: regret of `best` with early stopping", [regret for regret, _ in pruned])
            yield shown("n=24: share of rows that these searches evaluate", [used for _, used in pruned])
        else:
            yield shown(f"n={rows}: regret of `best`", best)
        yield shown(
            f"n={rows}: shown score of `best` less its truth", [c.best_score - w.exact[b] for w, b, _, c in picks]
        )
        yield at_most(f"n={rows}: loss of `recommended` against `best`", lost, 0.01)
        yield at_most(f"n={rows}: share of runs that lose more than .05", lost > 0.05, 0.10)
        yield shown(f"n={rows}: units that `recommended` saves", [c.saving for *_, c in picks])


def chosen_of(world: Searched) -> Choice | None:
    """What a run would recommend after that search."""
    return choose(world.space, trials_of(world))


def trials_of(world: Searched) -> list[Trial]:
    """The search's trials as records."""
    return [
        Trial(number, candidate, _evaluation(scores), "simulated", float(units))
        for number, (candidate, scores, units) in enumerate(
            zip(world.candidates, world.scores, world.units, strict=True)
        )
    ]


def pruned_search(world: Searched) -> tuple[float, float]:
    """Regret of `best` and share of rows if the same trials are stopped early, and contenders completed as by a run."""
    whole, rows, leader, used = trials_of(world), world.scores.shape[1], 0, 0
    trials: list[Trial] = []
    for number, trial in enumerate(whole):
        seen = rows_by_test(world.scores[number], world.scores[leader]) if number else rows
        used += seen
        trials.append(trial if seen == rows else replace(trial, evaluation=_evaluation(world.scores[number], seen)))
        if seen == rows and world.scores[number].sum() > world.scores[leader].sum():
            leader = number
    choice = choose(world.space, trials)
    for _ in range(FINALISTS):
        if choice is None or (contender := choice.contender) is None:
            break
        used += rows - len(contender.evaluation.scores)
        trials[contender.number] = whole[contender.number]
        choice = choose(world.space, trials)
    assert choice is not None, "the first trial is complete"
    return float(world.exact.max() - world.exact[choice.best.number]), used / world.scores.size


def _evaluation(scores: Floats, seen: int | None = None) -> Evaluation:
    results = tuple(ExampleResult(f"{row:04}", float(score)) for row, score in enumerate(scores[:seen]))
    return Evaluation("validation", len(scores), results, "complete" if seen is None else "pruned")


def stopping(runs: int) -> Iterator[Line]:
    """Rows evaluated by a random search, and how often the trial with the highest score is lost."""
    limits = {24: 0.69, 200: 0.48}
    for rows, limit in limits.items():
        tables = each(partial(random_search, rows=rows), range(runs))
        before = each(partial(stopped, run=rows_by_looks), tables)
        after = each(partial(stopped, run=rows_by_test), tables)
        yield shown(f"n={rows}: share of rows evaluated with Bonferroni looks", [used for used, _ in before])
        yield at_most(f"n={rows}: share of rows evaluated", [used for used, _ in after], limit)
        yield at_most(f"n={rows}: runs that lose the trial with the highest score", [lost for _, lost in after], 0.005)


def equals_stopped(runs: int) -> Iterator[Line]:
    """A trial with the incumbent's chances is seldom stopped by the e-process, looked at after every row."""
    for rows in (24, 200):
        stops = each(partial(equal_stopped, rows=rows), range(runs))
        yield at_most(f"n={rows}: equals stopped by the e-process", stops, 0.05)


def equal_stopped(seed: int, rows: int) -> bool:
    """Whether one of two equals is stopped at any row."""
    rng = np.random.default_rng([seed, rows])
    difficulty = rng.standard_normal(rows)
    one, other = (right_or_wrong(rng, 0.6, difficulty) for _ in range(2))
    return any(e_value((one - other)[:seen]) >= 1 / LEVEL for seen in range(1, rows + 1))


@cache
def random_search(seed: int, rows: int) -> Floats:
    """Scores (trials, rows) of candidates drawn at random from a landscape."""
    rng = np.random.default_rng([seed, rows, 1])
    exact = _exact(seed % 20)
    difficulty = rng.standard_normal(rows)
    return np.stack([right_or_wrong(rng, p, difficulty) for p in rng.choice(exact, RANDOM_TRIALS, replace=False)])


@cache
def _exact(seed: int) -> Floats:
    world = landscape(seed)
    return np.array([world.exact(candidate) for candidate in world.space.candidates()])


def stopped(table: Floats, run: Run) -> tuple[float, bool]:
    """Share of rows evaluated, and whether the highest score of the table was lost."""
    rows = table.shape[1]
    incumbent, used = table[0], rows
    for scores in table[1:]:
        seen = run(scores, incumbent)
        used += seen
        if seen == rows and scores.sum() > incumbent.sum():
            incumbent = scores
    return used / table.size, bool(incumbent.sum() < table.sum(axis=1).max())


def rows_by_test(scores: Floats, incumbent: Floats) -> int:
    """As `Evaluator.evaluate`: all rows that are needed at once, then the test."""
    own, names = _by_id(scores), list(_by_id(scores))
    test, seen = StopTest(_by_id(incumbent), "the incumbent"), 0
    while seen < len(names):
        so_far = {name: own[name] for name in names[:seen]}
        if test.stop(so_far):
            break
        seen += test.needed(so_far, names[seen:])
    return seen


def rows_by_looks(scores: Floats, incumbent: Floats) -> int:
    """As version 0.1.0: the exact McNemar test after each of four blocks but the last, at a third of the level."""
    from scipy.special import bdtr

    differences = scores - incumbent
    for end in range(-(-len(scores) // 4), len(scores), -(-len(scores) // 4)):
        wins, losses = (differences[:end] > 0).sum(), (differences[:end] < 0).sum()
        if bdtr(wins, wins + losses, 0.5) <= LEVEL / 3:
            return end
    return len(scores)


def _by_id(scores: Floats) -> dict[str, float]:
    return {f"{row:04}": float(score) for row, score in enumerate(scores)}
