"""Agents that are certainly bad, or know the answer: what they cost a search, and what they save.

    python -m benchmarks.search_agents [--seeds 30] [--processes N] [--on LANDSCAPE ...]

For each landscape of benchmarks.search the trials until it is within .01 of the optimum: without an agent, and with
scripted agents. `worst` proposes the worst untried candidates, `constant` one candidate again and again, `random` any,
`silent` replies with nothing, `refusing` with a refusal, and `oracle` proposes a neighbour of the optimum, the optimum,
and its other neighbours. `good prior` and `reversed prior` propose nothing, but rank the models and name the sample
counts before any trial: rightly, or the other way round. So do `oracle` and `worst`; `random` guesses.

A bad agent may cost at most 1.2 times the trials without an agent and two more, a reversed prior two more. A good prior
must save a third of the trials, and an oracle half of them; but the baseline, the start and one candidate take three.
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
BOUNDS: dict[str, Callable[[float], float]] = {
    "none": lambda alone: alone,
    **dict.fromkeys(("worst", "constant", "random", "silent", "refusing"), lambda alone: 1.2 * alone + 2),
    "oracle": lambda alone: max(alone / 2, 3),
    "good prior": lambda alone: max(2 / 3 * alone, 3),
    "reversed prior": lambda alone: alone + 2,
}
"""Kind of agent -> bound on the median of its trials, by the median without an agent."""


def reply(candidates: Sequence[Candidate]) -> str:
    """The candidates as an agent writes them."""
    written = ({name: f"{c.model} x{c.num_samples}" for name, c in candidate.items()} for candidate in candidates)
    return json.dumps({"candidates": list(written)})


def prior(world: World, rng: random.Random, kind: str) -> str:
    """A reply that ranks the models of each subtask and names sample counts."""
    best, top, answer = world.ranked[-1], dict[tuple[str, str], float](), {}
    for candidate in world.ranked:
        top |= {(name, choice.model): world.exact(candidate) for name, choice in candidate.items()}
    for s in world.space.subtasks:
        ranking = sorted(s.models, key=lambda model: -top.get((s.name, model), -1.0))
        place, last = s.num_samples.index(best[s.name].num_samples), len(s.num_samples) - 1
        around = max(place - 1, 0), min(place + 1, last)
        if kind in ("worst", "reversed prior"):
            ranking, around = ranking[::-1], (0, min(1, last)) if 2 * place >= last else (max(last - 1, 0), last)
        if kind == "random":
            ranking, around = rng.sample(ranking, len(ranking)), (rng.randint(0, last), rng.randint(0, last))
        fewest, most = sorted(s.num_samples[i] for i in around)
        answer[s.name] = {"ranking": ranking, "fewest": fewest, "most": most}
    return json.dumps(answer)


def scripted(kind: str, world: World, seed: int) -> ScriptedModel:
    """An agent that proposes its candidates in a fixed order, whatever it is shown."""
    rng, every = random.Random(seed), world.ranked
    near = [c for c in neighbours(world.space, every[-1]) if world.exact(c) < world.optimum]
    rng.shuffle(near)
    order: Mapping[str, Sequence[Candidate]] = {
        "worst": every,
        "constant": [],
        "random": rng.sample(every, len(every)),
        "oracle": [*near[:1], every[-1], *near[1:]],
    }
    left = iter(order.get(kind, ()))

    def answer(request: Request, repeat: int) -> str:
        schema = str(request.json_schema)
        if kind in ("silent", "refusing"):
            return "" if kind == "silent" else "I cannot help with that."
        if '"ranking"' in schema:
            return "{}" if kind == "constant" else prior(world, rng, kind)
        if '"candidates"' not in schema or kind not in order:
            return "{}"
        count = json.loads(schema)["properties"]["candidates"]["minItems"]
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
    return {kind: trials(kind, world, seed) for kind in BOUNDS}


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
                bound = BOUNDS[kind](alone)
                held = "yes" if sorted(of)[len(of) // 2] <= bound else "no"
                print(f"| {kind} | {summary(of)} | {bound:.1f} | {held} |", flush=True)
            print()


if __name__ == "__main__":
    main()
