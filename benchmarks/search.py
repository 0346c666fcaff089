"""Every strategy on every landscape: trials, samples and units until it is within .01 of the optimum.

    python -m benchmarks.search [--seeds 30] [--agent MODEL [-c models=my.yaml]] [--only NAME ...] [--curves FILE]
    python -m benchmarks.search --short

Landscapes are the synthetic ones of agentopt.testing.synthetic_landscape and the recorded ones in benchmarks/landscapes
(written by `agentopt record`). A seed determines the noise; for recorded ones, it resamples their examples. Seeds are
1001 and above: those chose no constant of the search. Strategies with a model need its catalogue name, as `--agent` or
`-c agent.model=`, and are left out without it. The output is the table for RESULTS.md. With `--short` the default alone
runs with three seeds. The exit code is 1 if the default misses an aim.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import takewhile
from pathlib import Path

import optuna

from agentopt.core.candidate import Candidate
from agentopt.core.errors import AgentoptError, ConfigError, ModelError, UserError, WeightsError
from agentopt.core.events import Event
from agentopt.core.records import Evaluation, ExampleResult, Trial
from agentopt.models.base import ChatModel, Request, Response
from agentopt.models.catalog import Catalog
from agentopt.models.session import open_session
from agentopt.runs.config import Config, load_config
from agentopt.search.base import Proposal, Runner, Search, SearchSpace
from agentopt.search.baselines import GridStrategy, RandomStrategy
from agentopt.search.optuna_strategy import OptunaStrategy
from agentopt.search.optuna_trials import candidate_of, distributions
from agentopt.search.proposer_names import BASELINE, INITIAL
from agentopt.search.recorded_landscape import Landscape
from agentopt.search.samplers import SAMPLERS
from agentopt.search.start import first_candidates
from agentopt.search.strategy_loop import LoopSearch
from agentopt.search.variants import AGENT, AGENT_HPO, LLM_ZERO_SHOT, Variant, mlcopilot
from agentopt.testing.synthetic_landscape import SyntheticChain, SyntheticLandscape
from benchmarks.search_tables import CURVE, DEFAULT, FALLBACK, SearchOutcome, Spent, misses, table, write_curves

FIRST_SEED = 1001
"""Seeds from here on chose no constant."""
SHORT = 3
"""Seeds of the short form."""
FOLDER = Path(__file__).parent / "landscapes"
CLOSE = 0.01
"""Distance from the optimum at which a search ends."""
MOST = {"random": 300, "grid": 300, "optuna, nsga2": 50}
"""Trials after which a search is given up; 150 for the others, 50 for strategies with a model. Longer searches with
Optuna's samplers would take most of the time and add no information."""


@dataclass(frozen=True)
class World:
    """A landscape with the noise of one seed."""

    space: SearchSpace
    exact: Callable[[Candidate], float]
    optimum: float
    evaluate: Callable[[Candidate], Evaluation]

    @cached_property
    def ranked(self) -> list[Candidate]:
        """Every affordable candidate, the worst first."""
        return sorted(self.space.candidates(), key=self.exact)


def synthetic(landscape: SyntheticLandscape | SyntheticChain) -> World:
    def evaluate(candidate: Candidate) -> Evaluation:
        return Evaluation("validation", 1, (ExampleResult("all", landscape.observed(candidate)),), "complete")

    return World(landscape.space, landscape.exact, landscape.optimum, evaluate)


@cache
def recorded(path: Path) -> Landscape:
    return Landscape.load(path)


def replayed(path: Path, seed: int) -> World:
    whole = recorded(path)
    return World(whole.space, whole.exact, whole.optimum, whole.resampled(seed).evaluation)


def worlds() -> dict[str, Callable[[int], World]]:
    """Name -> function that makes the world of a seed."""
    return {
        "synthetic, two subtasks": lambda seed: synthetic(SyntheticLandscape(seed)),
        "synthetic, two subtasks, strengths shifted by up to .06": lambda seed: synthetic(
            SyntheticLandscape(seed, jitter=0.06)
        ),
        "synthetic, two subtasks, up to .10, 500 units": lambda seed: synthetic(
            SyntheticLandscape(seed, jitter=0.1, max_units=500)
        ),
        "synthetic, three subtasks, all drawn": lambda seed: synthetic(SyntheticChain(seed)),
        **{f"recorded, {file.stem}": partial(replayed, file) for file in sorted(FOLDER.glob("*.npz"))},
    }


@dataclass
class Meter:
    """A `Runner` that records when the search comes close to the optimum, and its cost so far."""

    world: World
    most: int
    spent: Spent = field(default_factory=Spent)
    close: Spent | None = None
    curve: list[float] = field(default_factory=list)
    _trials: dict[Candidate, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._record(Proposal(self.world.space.baseline, BASELINE))

    @property
    def trials(self) -> Sequence[Trial]:
        return tuple(self._trials.values())

    @property
    def trials_left(self) -> int:
        """0 once the search came close, which ends it."""
        return 0 if self.close else self.most - self.spent.trials

    async def run(self, proposal: Proposal) -> Trial:
        return self._trials.get(proposal.candidate) or self._record(proposal)

    def emit(self, event: Event) -> None:
        """Discard the event."""

    def waste(self) -> None:
        """Count a trial with a candidate that is too costly or was tried before."""
        self.spent = replace(self.spent, trials=self.spent.trials + 1)
        self.curve.append(self.curve[-1])

    @property
    def start(self) -> int:
        """Number of trials before the search itself: the baseline and one pass of the largest models."""
        first = {self.world.space.baseline, *first_candidates(self.world.space, "largest", 0)}
        return len(list(takewhile(lambda trial: trial.candidate in first, self.trials)))

    @property
    def chosen(self) -> list[str]:
        """Proposers of the trials after the baseline and the agent's first trials."""
        return [trial.proposer for trial in self.trials if trial.proposer not in (BASELINE, INITIAL)]

    def _record(self, proposal: Proposal) -> Trial:
        candidate, world, spent = proposal.candidate, self.world, self.spent
        units, number = world.space.units(candidate), len(self._trials)
        trial = Trial(number, candidate, world.evaluate(candidate), proposal.proposer, units)
        self._trials[candidate] = trial
        samples = sum(choice.num_samples for choice in candidate.values())
        self.spent = Spent(spent.trials + 1, spent.samples + samples, spent.units + units)
        best = max(self._trials.values(), key=lambda t: t.score or 0.0)
        self.curve.append(world.exact(best.candidate))
        if self.close is None and world.exact(candidate) >= world.optimum - CLOSE - 1e-12:
            self.close = self.spent
        return trial


class Unaided:
    """Optuna's TPE without our help: suggestions may be too costly (reported as a score of 0) or repeated."""

    def __init__(self, seed: int, *, multivariate: bool) -> None:
        self._sampler = optuna.samplers.TPESampler(seed=seed, multivariate=multivariate)

    async def run(self, space: SearchSpace, runner: Runner) -> None:
        assert isinstance(runner, Meter)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=self._sampler)
        while runner.trials_left > 0:
            suggested = study.ask(distributions(space))
            candidate = candidate_of(space, suggested.params)
            known = {t.candidate: t.score for t in runner.trials}
            if candidate in known or not space.affords(candidate):
                runner.waste()
                study.tell(suggested, known.get(candidate, 0.0))
            else:
                study.tell(suggested, (await runner.run(Proposal(candidate, "tpe"))).score)


def _one_by_one(seed: int, name: str) -> Search:
    return LoopSearch(OptunaStrategy(seed, name), 1)


def free_searches(seed: int) -> dict[str, Callable[[], Search]]:
    """Name -> factory of the searches without a model. Random and grid ignore scores, so their batches may be large."""
    named = [name for name in SAMPLERS if name not in ("gp", "random")]
    return {
        "random": lambda: LoopSearch(RandomStrategy(seed), 300),
        "grid": lambda: LoopSearch(GridStrategy(), 300),
        "tpe, limit not avoided": lambda: Unaided(seed, multivariate=False),
        "tpe-multivariate, limit not avoided": lambda: Unaided(seed, multivariate=True),
        **{f"optuna, {name}": partial(_one_by_one, seed, name) for name in named},
        "optuna, insight, batches of 5": lambda: LoopSearch(OptunaStrategy(seed), 5),
    }


@dataclass
class RequiredModel:
    """A model whose first call must succeed: if it is unreachable, the figures would be those of the fallback."""

    model: ChatModel
    name: str
    answered: bool = False

    async def generate(self, request: Request) -> Response:
        """Call the model. Raises `UserError` if it fails before its first reply."""
        try:
            response = await self.model.generate(request)
        except (ModelError, WeightsError) as error:
            if self.answered:
                raise
            remedy = "check its entry in the catalogue, its key, and that the endpoint runs"
            raise UserError(f"the model gave no reply: {error}", where=f"agent {self.name}", remedy=remedy) from error
        self.answered = True
        return response

    async def aclose(self) -> None:
        """Nothing to close: the session closes the model."""


def model_searches(seed: int, model: ChatModel, config: Config, like: Variant) -> dict[str, Callable[[], Search]]:
    """Name -> factory of the searches with a model."""
    from agentopt.search.agent import AgentSearch

    def search(variant: Variant, **switches: object) -> Search:
        settings = config.agent.model_copy(update=switches)
        fallback = OptunaStrategy(seed, proposer=FALLBACK)
        return AgentSearch(model, settings, fallback, "", None, variant=variant, seed=seed)

    paper = {"agent, paper": lambda: search(AGENT, style="paper")} | {
        f"agent, paper, without insight {i}": lambda i=i: search(AGENT, style="paper", **{f"insight_{i}": False})
        for i in (1, 2, 3)
    }
    variants = {
        variant.name: lambda variant=variant: search(variant) for variant in (AGENT, AGENT_HPO, LLM_ZERO_SHOT, like)
    }
    return {**variants, **paper}


async def measure(
    landscape: str, strategy: str, seed: int, world: World, search: Search, most: int, *, has_model: bool = False
) -> SearchOutcome:
    """Run one search on one world; with a model, the proposers of its trials are kept."""
    meter = Meter(world, most)
    if meter.trials_left:
        await search.run(world.space, meter)
    curve = [value / world.optimum for value in meter.curve[:CURVE]]
    curve += curve[-1:] * (CURVE - len(curve))
    chosen = tuple(meter.chosen) if has_model else None
    return SearchOutcome(landscape, strategy, seed, most, meter.close, tuple(curve), meter.start, chosen=chosen)


def run_free(landscape: str, only: Sequence[str], seed: int) -> list[SearchOutcome]:
    """Run every strategy without a model on one landscape with one seed."""
    world = worlds()[landscape](seed)
    size = len({*world.ranked, world.space.baseline})
    outcomes = []
    for strategy, make in free_searches(seed).items():
        if not only or strategy in only:
            most = MOST.get(strategy, 150)
            outcomes.append(asyncio.run(measure(landscape, strategy, seed, world, make(), min(most, size))))
    return outcomes


async def run_with_model(name: str, seeds: range, config: Config, only: Sequence[str] = ()) -> list[SearchOutcome]:
    """Run the strategies with `config.agent.model` on one landscape, one search after the other.

    Raises `UserError` if the model fails before its first reply.
    """
    assert config.agent.model is not None
    specs = {config.agent.model: Catalog.load(*config.models)[config.agent.model]}
    outcomes = []
    async with open_session(specs, f"benchmark {time.time_ns()}", journal=config.journal) as session:
        model = RequiredModel(session.model, config.agent.model)
        for seed in seeds:
            world = worlds()[name](seed)
            like = await experience(next(other for other in worlds() if other != name), seed)
            for strategy, make in model_searches(seed, model, config, like).items():
                if only and strategy not in only:
                    continue
                before = session.budget.spent.calls
                outcome = await measure(name, strategy, seed, world, make(), CURVE, has_model=True)
                outcomes.append(replace(outcome, calls=session.budget.spent.calls - before))
    return outcomes


async def experience(like: str, seed: int) -> Variant:
    """MLCopilot with 50 random trials on another landscape as its experience."""
    world = worlds()[like](seed)
    meter = Meter(world, CURVE)
    await LoopSearch(RandomStrategy(seed), CURVE).run(world.space, meter)
    return mlcopilot(like, [(t.candidate, t.score or 0.0, t.units) for t in meter.trials])


def report(outcomes: Sequence[SearchOutcome]) -> str:
    """The table of one landscape in Markdown, and a summary of the default."""
    name, seed = outcomes[0].landscape, outcomes[0].seed
    world = worlds()[name](seed)
    close = sum(world.exact(c) >= world.optimum - CLOSE - 1e-12 for c in world.ranked)
    head = f"**{name}**: {len(world.ranked)} affordable candidates, {close} close (seed {seed})."
    return f"{head}\n\n{table(outcomes)}"


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--short", action="store_true", help=f"the default alone, {SHORT} seeds")
    parser.add_argument("--agent", help="catalogue name of a model; without it, strategies with a model are left out")
    parser.add_argument("--agent-seeds", type=int, default=3)
    parser.add_argument("-c", "--config", action="append", default=[], help="a setting, such as models=my.yaml")
    parser.add_argument("--only", nargs="*", default=[], help="strategies by name")
    parser.add_argument("--on", nargs="*", default=[], help="landscapes, by part of their name")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--curves", type=Path, help="CSV file for the mean best score so far")
    wanted = parser.parse_args(given)
    if wanted.short:
        wanted.seeds, wanted.only = SHORT, [DEFAULT]
    return wanted


def configured(settings: Sequence[str], agent: str | None) -> Config:
    """The configuration; `agent.model` is None unless one is given."""
    defaults = Config.model_validate({"agent": {"model": None}})
    return load_config([*settings, *([f"agent.model={agent}"] if agent else [])], defaults)


def chosen_landscapes(parts: Sequence[str]) -> list[str]:
    names = [name for name in worlds() if not parts or any(part in name for part in parts)]
    if not names:
        raise ConfigError(f"no landscape has {' or '.join(parts)} in its name", remedy=f"known: {', '.join(worlds())}")
    return names


def main(given: Sequence[str] | None = None) -> None:
    wanted, started = arguments(given), time.monotonic()
    try:
        outcomes = measure_all(wanted, configured(wanted.config, wanted.agent))
    except AgentoptError as error:
        sys.exit(f"benchmarks.search: {error}")
    if wanted.curves:
        write_curves(outcomes, wanted.curves)
    print(f"{len(outcomes)} searches in {time.monotonic() - started:.0f} s.")
    if missed := misses(outcomes):
        sys.exit(f"The default misses an aim: {'; '.join(missed)}.")


def measure_all(wanted: argparse.Namespace, config: Config) -> list[SearchOutcome]:
    """Run the selected searches; the table of each landscape is printed when it is complete."""
    outcomes = []
    if not config.agent.model:
        print("Strategies with a model are left out: no --agent was given.\n")
    with ProcessPoolExecutor(wanted.processes) as pool:
        for name in chosen_landscapes(wanted.on):
            # Those with a model first: an unreachable one is reported before the others take their time.
            seeds = range(FIRST_SEED, FIRST_SEED + wanted.agent_seeds)
            with_model = asyncio.run(run_with_model(name, seeds, config, wanted.only)) if config.agent.model else []
            done = pool.map(partial(run_free, name, wanted.only), range(FIRST_SEED, FIRST_SEED + wanted.seeds))
            here = [*(outcome for found in done for outcome in found), *with_model]
            if not here:
                raise ConfigError(f"no strategy is called {' or '.join(wanted.only)}", remedy="use names of the table")
            outcomes += here
            print(report(here), end="\n\n", flush=True)
    return outcomes


if __name__ == "__main__":
    main()
