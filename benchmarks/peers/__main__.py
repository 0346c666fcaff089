"""agentopt beside gepa, MIPROv2 and Opik: which one finds the best system prompt with the same number of calls?

    python -m benchmarks.peers --out FOLDER [--calls 200] [--seeds 3] [--models NAME ...] [--arms NAME ...]

The task is `tasks/house_style`, the models are local ones. Every arm gets the same seed prompt, train and validation
rows, scorer and feedback, and the same number of calls, counted and capped by the endpoint that all of them call
(`endpoint.py`): calls of the task, of the model that writes, and of validation. No arm gets a description of the task.
An arm that reaches the cap is tested with the best prompt that it had. The test on the test split is the benchmark's,
the same for all, and not counted. Each module in `arms` describes the settings of its library.

The peers are installed into an environment of their own on first use. The outcomes are lines of FOLDER/results.jsonl;
repeat the command to make the missing ones. The table is printed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentopt.core.errors import UserError
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.router import ModelRouter
from agentopt.taskfile.loading import load_task
from benchmarks.peers.benchmark import SEED, Benchmark, Contestant
from benchmarks.peers.environment import ROOT, peers_python
from benchmarks.peers.results import Key, Results
from benchmarks.peers.table import table

TASK = ROOT / "tasks" / "house_style"
PEERS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "gepa": ("gepa_arm", {}),
    "miprov2": ("miprov2_arm", {"demos": 4}),
    "miprov2-0shot": ("miprov2_arm", {"demos": 0}),
    "opik": ("opik_arm", {"optimizer": "MetaPromptOptimizer"}),
    "opik-hrpo": ("opik_arm", {"optimizer": "HRPO"}),
}
"""Arm -> its module in `arms`, and its options."""
AGENTOPT: Mapping[str, Mapping[str, object]] = {"agentopt": {}, "agentopt-demos": {"demos": 4}}
"""Arm of this project -> its options."""
ARMS = (SEED, *AGENTOPT, *PEERS)
DEFAULT_ARMS = (SEED, *AGENTOPT, "gepa", "miprov2", "opik")

CONTEXT_LENGTH, CONCURRENCY = 8192, 4
"""Of each model: the peers' prompts for the writer are longer than the catalogue's default."""


def positive(text: str) -> int:
    """An option's value: an integer of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but got {number}")
    return number


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results and the logs")
    parser.add_argument("--calls", type=positive, default=200, help="model calls of each run, without the test")
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--models", nargs="+", default=["qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"])
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=DEFAULT_ARMS, metavar="ARM", help=f"of {', '.join(ARMS)}"
    )
    parser.add_argument("--examples", type=positive, default=60, help="examples of the test split, of 90")
    parser.add_argument("--samples", type=positive, default=2, help="responses to each test example")
    parser.add_argument("--limit", type=positive, default=120, help="most minutes of one arm's run")
    parser.add_argument("--environments", type=Path, default=Path("~/.cache/agentopt/benchmarks").expanduser())
    return parser.parse_args(argv)


async def contestants(arms: Sequence[str], environments: Path) -> dict[str, Contestant]:
    """How each arm is started; the peers' environment is made if one of them is wanted."""
    own = (sys.executable, "-m", "benchmarks.peers.arms.agentopt_arm")
    found = {arm: Contestant(own, options) for arm, options in AGENTOPT.items()}
    if wanted := PEERS.keys() & set(arms):
        python = str(await peers_python(environments))
        for arm in wanted:
            module, options = PEERS[arm]
            found[arm] = Contestant((python, "-m", f"benchmarks.peers.arms.{module}"), options)
    return found


def specs_of(models: Sequence[str]) -> dict[str, ModelSpec]:
    catalog = Catalog.load(Path(__file__).with_name("models.yaml"))
    size = {"context_length": CONTEXT_LENGTH, "concurrency": CONCURRENCY, "max_choices": CONCURRENCY}
    return {name: catalog[name].model_copy(update=size) for name in models}


async def run(given: argparse.Namespace) -> str:
    """Make the missing runs and return the table."""
    specs = specs_of(given.models)
    task = load_task(TASK, catalog=Catalog.load(), overrides={"data.limit.test": given.examples})
    keys = [
        Key(arm, model, seed, given.calls, given.examples, given.samples)
        for model in specs
        for seed in range(given.seeds)
        for arm in dict.fromkeys(given.arms)
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    router = ModelRouter(specs)
    try:
        started = await contestants(given.arms, given.environments)
        results = Results(given.out / "results.jsonl")
        benchmark = Benchmark(task, router, started, results, given.out, given.limit * 60, on_note)
        for model in specs:
            await router.prepare(model)
        return table(await benchmark.run(keys))
    finally:
        await router.aclose()


def on_note(note: str) -> None:
    print(note, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(argv)
    try:
        print(asyncio.run(run(given)))
    except UserError as error:
        on_note(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command makes the missing runs")


if __name__ == "__main__":
    main()
