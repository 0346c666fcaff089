"""Designs of a prompt race on recorded rewards, at equal cost: `python -m benchmarks.prompt_race DATA [--splits 600]`.

DATA is a folder with NAME_train.npz (`rewards` of shape (system prompts, user prompts, responses)) and NAME_test.npz
(the same system prompts on other user prompts: their means are the truth). A split draws half of the system prompts as
candidates, half for the pilot, and an order of every cell's responses. The regret of a design is the truth of the best
candidate less that of the one it chooses. All designs of a split share its draws, so differences are paired.

Costs are responses per candidate. A pilot takes two responses on every row of as many system prompts as there are
candidates, so a race of 8 after a pilot of 64 rows costs what a race of 136 costs alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from agentopt.core.stats import Floats
from agentopt.prompts.halving import RaceSettings, halving
from agentopt.prompts.settings import RowFilter

ADAPTIVE = "one race, halving, adaptive rows"
PLAIN_EQUAL = "one race, the same for all, all rows"
PLAIN = "halving, all rows"
AFTER_PILOT = "halving, adaptive rows after a pilot"

MOST_REGRET, LEAST_GAIN = 0.021, 0.003
"""Limits: regret of one race at the cheapest total; gain of adaptive rows after a pilot over plain halving."""

PILOT_RESPONSES = 2
BUDGETS = (8, 16, 32)
"""Responses per candidate after a pilot."""


@dataclass(frozen=True)
class Split:
    """`rewards` with each cell's responses in random order, and the system prompts that race and that are piloted."""

    rewards: Floats
    truth: Floats
    candidates: tuple[int, ...]
    pilot: tuple[int, ...]
    seed: int

    def regret(self, chosen: int) -> float:
        return float(self.truth[list(self.candidates)].max() - self.truth[chosen])


def splits(rewards: Floats, truth: Floats, number: int) -> Iterator[Split]:
    for seed in range(number):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(rewards))
        half = len(order) // 2
        candidates, pilot = (tuple(sorted(part.tolist())) for part in (order[:half], order[half : 2 * half]))
        yield Split(rng.permuted(rewards, axis=2), truth, candidates, pilot, seed)


def race(split: Split, each: int, settings: RaceSettings, pilot: str = "none") -> int:
    """The winner of a race of `each` new responses per candidate.

    Args:
        split: the draws.
        each: new responses per candidate.
        settings: of the race.
        pilot: whose responses exist before: none, others (the pilot's system prompts), whole (the same, with every
            response recorded) or same (the candidates themselves).
    """
    seen = np.full(split.rewards.shape, np.nan)
    prompts = list({"none": (), "others": split.pilot, "whole": split.pilot, "same": split.candidates}[pilot])
    known = split.rewards.shape[2] if pilot == "whole" else PILOT_RESPONSES
    seen[prompts, :, :known] = split.rewards[prompts, :, :known]
    plan = halving(seen, split.candidates, each * len(split.candidates), settings, seed=split.seed)
    step = next(plan)
    while True:
        for cell in step.cells:
            seen[cell] = split.rewards[cell]
        try:
            step = plan.send(seen)
        except StopIteration as end:
            return int(end.value.candidates[0])


def designs(rows: int, repeats: int) -> dict[str, Callable[[Split], int]]:
    """Name -> the design: a function that chooses a system prompt."""
    found: dict[str, Callable[[Split], int]] = {}

    def add(name: str, each: int, rows_by: RowFilter, pilot: str = "none", halve: bool = True) -> None:
        settings = RaceSettings(filter=rows_by, repeats=repeats, halve=halve)
        found[name] = partial(race, each=each, settings=settings, pilot=pilot)

    first = PILOT_RESPONSES * rows
    for each in BUDGETS:
        total = first + each
        add(f"{total}: pilot of {first}, then {each} on its p1 pair", each, "p1", "others", halve=False)
        add(f"{total}: pilot of {first}, then halving, {each} on its p1 pair", each, "p1", "others")
        add(f"{total}: {PLAIN_EQUAL}", total, "all", halve=False)
        add(f"{total}: one race, halving, all rows", total, "all")
        add(f"{total}: {ADAPTIVE}", total, "adaptive")
    for each in BUDGETS:
        add(f"{each}: {PLAIN}", each, "all")
        add(f"{each}: halving, random pair", each, "random")
        add(f"{each}: halving, adaptive rows", each, "adaptive")
        add(f"{each}: halving, p1 pair of a pilot", each, "p1", "others")
        add(f"{each}: halving, p1 pair of a pilot with every response", each, "p1", "whole")
        add(f"{each}: {AFTER_PILOT}", each, "adaptive", "others")
        add(f"{each}: halving, all rows, after own responses", each, "all", "same")
        add(f"{each}: halving, adaptive rows, after own responses", each, "adaptive", "same")
    return found


def measure(rewards: Floats, truth: Floats, number: int) -> dict[str, Floats]:
    """Design -> regrets (splits,)."""
    chosen = designs(*rewards.shape[1:])
    found: dict[str, list[float]] = {name: [] for name in chosen}
    for split in splits(rewards, truth, number):
        for name, run in chosen.items():
            found[name].append(split.regret(run(split)))
    return {name: np.array(values) for name, values in found.items()}


def mean_and_error(values: Floats) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def load(folder: Path) -> Iterator[tuple[str, Floats, Floats]]:
    """(name, rewards, truth) of every recorded data set in the folder."""
    for train in sorted(folder.glob("*_train.npz")):
        name = train.name.removesuffix("_train.npz")
        truth = np.load(folder / f"{name}_test.npz")["rewards"].astype(float).mean(axis=(1, 2))
        yield name, np.load(train)["rewards"].astype(float), truth


def table(regrets: dict[str, Floats]) -> str:
    """Regrets in Markdown, with the paired difference from the reference of the same cost."""
    lines = ["| responses per candidate: design | regret | against the reference |", "|---|---|---|"]
    for name, values in regrets.items():
        reference = regrets.get(reference_of(name))
        mean, error = mean_and_error(values)
        paired = ""
        if reference is not None and reference is not values:
            difference, spread = mean_and_error(values - reference)
            paired = f"{difference:+.4f} ± {spread:.4f}"
        lines.append(f"| {name} | {mean:.4f} ± {error:.4f} | {paired} |")
    return "\n".join(lines)


def reference_of(name: str) -> str:
    """The design of the same cost that a design is compared with: one adaptive race, or plain halving."""
    each = name.partition(":")[0]
    return f"{each}: {PLAIN if int(each) in BUDGETS else ADAPTIVE}"


def failures(regrets: dict[str, Floats], rows: int) -> list[str]:
    """The limits that are not reached."""
    cheapest = f"{PILOT_RESPONSES * rows + BUDGETS[0]}: {ADAPTIVE}"
    missed = [cheapest] if regrets[cheapest].mean() > MOST_REGRET else []
    for each in BUDGETS:
        gain = (regrets[f"{each}: {PLAIN}"] - regrets[f"{each}: {AFTER_PILOT}"]).mean()
        missed += [f"{each}: {AFTER_PILOT}"] if gain < LEAST_GAIN else []
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", type=int, default=600)
    wanted = parser.parse_args()
    missed = []
    for name, rewards, truth in load(wanted.data):
        print(f"**{name}**: rewards of shape {rewards.shape}, {wanted.splits} splits\n")
        regrets = measure(rewards, truth, wanted.splits)
        print(table(regrets), flush=True)
        missed += [f"{name}, {design}" for design in failures(regrets, rewards.shape[1])]
    print(f"\nlimits not reached: {'; '.join(missed)}" if missed else "\nall limits are reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
