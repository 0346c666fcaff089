"""Agents that are certainly bad, or know the answer: what they cost a search, and what they save.

    python -m benchmarks.search_agents [--seeds 30] [--processes N] [--on LANDSCAPE ...]

For each landscape of benchmarks.search the trials until it is within .01 of the optimum: without an agent, and with
scripted agents. `worst` proposes the worst untried candidates, `constant` one candidate again and again, `random` any,
`silent` replies with nothing, `refusing` with a refusal, and `oracle` proposes neighbours of the optimum. A bad agent
may cost at most 1.2 times the trials without an agent and two more, and an oracle may need at most half of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from agentopt.core.candidate import Candidate
from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.search.agent import AgentSearch
from agentopt.search.insight_strategy import InsightStrategy
from agentopt.search.neighbourhood import neighbours
from agentopt.search.settings import AgentSettings
from benchmarks.search import FIRST_SEED, World, chosen_landscapes, measure, worlds

MOST = 100
"""Trials after which a search is given up."""
HEAD = "| agent | median | 90% | worst | bound on the median | held |\n|---|---|---|---|---|---|"
AGENTS = ("worst", "constant", "random", "silent", "refusing", "oracle")
"""The scripted agents."""


def reply(candidates: Sequence[Candidate]) -> str:
    """The candidates as an agent writes them."""
    written = ({name: f"{c.model} x{c.num_samples}" for name, c in candidate.items()} for candidate in candidates)
    return json.dumps({"candidates": list(written)})


def scripted(kind: str, world: World, seed: int) -> ScriptedModel:
    """An agent that proposes its candidates in a fixed order, whatever it is shown."""
    if kind in ("silent", "refusing"):
        return ScriptedModel(lambda request, repeat: "" if kind == "silent" else "I cannot help with that.")
    every = world.ranked
    near = [c for c in neighbours(world.space, every[-1]) if world.exact(c) < world.optimum]
    order: Mapping[str, Callable[[], list[Candidate]]] = {
        "worst": lambda: every,
        "constant": lambda: [every[len(every) // 3]],
        "random": lambda: random.Random(seed).sample(every, len(every)),
        "oracle": lambda: [*sorted(near, key=lambda c: -world.exact(c)), every[-1]],
    }
    left = iter(order[kind]())

    def answer(request: Request, repeat: int) -> str:
        if '"candidates"' not in str(request.json_schema):
            return "{}"
        count = json.loads(str(request.json_schema))["properties"]["candidates"]["minItems"]
        return reply([next(left, every[len(every) // 3]) for _ in range(count)])

    return ScriptedModel(answer)


def trials(kind: str, world: World, seed: int) -> int:
    """Trials until the search comes close; `MOST` + 1 if it is given up."""
    model = None if kind == "none" else scripted(kind, world, seed)
    settings = AgentSettings(model=None if model is None else "scripted", style="shared")
    search = AgentSearch(model, settings, InsightStrategy(seed, proposer="fallback"), "", None, seed=seed)
    outcome = asyncio.run(measure("", kind, seed, world, search, min(MOST, len({*world.ranked, world.space.baseline}))))
    return outcome.close.trials if outcome.close else MOST + 1


def of_seed(landscape: str, seed: int) -> dict[str, int]:
    """Kind of agent -> trials, all on the same world."""
    world = worlds()[landscape](seed)
    return {kind: trials(kind, world, seed) for kind in ("none", *AGENTS)}


def summary(values: Sequence[int]) -> str:
    """Median, 90% quantile and worst."""
    ordered = sorted(values)
    shown = (ordered[int(share * (len(ordered) - 1) + 0.5)] for share in (0.5, 0.9, 1.0))
    return " | ".join(str(value) if value <= MOST else f">{MOST}" for value in shown)


def main() -> None:
    """Print a table for each landscape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--on", nargs="*", default=[], help="landscapes, by part of their name")
    given = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + given.seeds)
    with ProcessPoolExecutor(given.processes) as pool:
        for landscape in chosen_landscapes(given.on):
            found = list(pool.map(partial(of_seed, landscape), seeds))
            values = {kind: [of[kind] for of in found] for kind in found[0]}
            alone = sorted(values["none"])[len(seeds) // 2]
            print(f"**{landscape}**\n\n{HEAD}")
            for kind, of in values.items():
                bound = alone / 2 if kind == "oracle" else 1.2 * alone + 2 if kind != "none" else alone
                held = "yes" if sorted(of)[len(of) // 2] <= bound else "no"
                print(f"| {kind} | {summary(of)} | {bound:.1f} | {held} |", flush=True)
            print()


if __name__ == "__main__":
    main()
