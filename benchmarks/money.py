"""Finds the cheapest configuration that is as good as the dearest one, from a catalogue with prices alone.

    python -m benchmarks.money [--seeds 10] [--trials 24] [--rows 120]

`optimize` runs on the loopback company of `agentopt.testing.company`, whose abilities, prices and latencies are
planted: in USD, and in USD under a limit of `LIMIT` seconds. A run succeeds if the recommended candidate scores, by its
exact expected score, at most .01 less than the planted cheapest configuration that is as good as the dearest one, and
costs no more than it.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agentopt.api import aoptimize
from agentopt.core.candidate import Candidate
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.router import ModelRouter
from agentopt.runs.config import Config
from agentopt.search.posterior import TOLERANCE
from agentopt.testing.company import (
    OnPlantedClock,
    cheapest_as_good,
    company_answer,
    company_specs,
    company_task,
    every_candidate,
    true_score,
    true_seconds,
    true_usd,
)
from agentopt.testing.servers import OpenAIServer

LIMIT = 0.55
"""Seconds per example that exclude the configuration which is cheapest without a limit."""

WITHIN = 0.01
"""Exact score that a success may lose against the planted configuration."""


@dataclass(frozen=True)
class Found:
    """The recommended candidate of one run, beside the planted one."""

    candidate: Candidate
    planted: Candidate
    max_seconds: float | None

    @property
    def is_success(self) -> bool:
        """Whether it is as good as the planted one, no dearer, and within the limit."""
        as_good = true_score(self.candidate) >= true_score(self.planted) - WITHIN
        no_dearer = true_usd(self.candidate) <= true_usd(self.planted) * (1 + 1e-9)
        return as_good and no_dearer and _is_allowed(self.candidate, self.max_seconds)

    def __str__(self) -> str:
        shown = f"{true_score(self.candidate):.4f}, {1000 * true_usd(self.candidate):.3f} USD per 1,000"
        return f"{'found' if self.is_success else 'MISSED'}  {self.candidate}  ({shown})"


def planted(max_seconds: float | None) -> Candidate:
    """The cheapest configuration that is as good as the dearest one within the limit."""
    return cheapest_as_good(TOLERANCE, [c for c in every_candidate() if _is_allowed(c, max_seconds)])


def _is_allowed(candidate: Candidate, max_seconds: float | None) -> bool:
    return max_seconds is None or true_seconds(candidate) <= max_seconds


async def run(seed: int, max_seconds: float | None, *, trials: int, rows: int, folder: Path) -> Found:
    """One optimisation.

    Args:
        seed: Seed of the search and of the models' answers.
        max_seconds: The limit; None for none.
        trials: Number of trials.
        rows: Validation rows.
        folder: Receives the run and its journal.
    """
    async with OpenAIServer(company_answer(seed)) as server:
        specs = company_specs(server.base_url)
        config = Config.model_validate(
            {
                "strategy": "optuna",
                "seed": seed,
                "models": specs,
                "journal": str(folder / "journal.db"),
                "runs": str(folder / "runs"),
                "budget": {"trials": trials},
            }
        )
        provider = OnPlantedClock(ModelRouter(_entries(specs)))
        task = company_task(validation=rows, test=20, max_seconds=max_seconds)
        result = await aoptimize(task, config, provider=provider)
    return Found(result.recommended_candidate, planted(max_seconds), max_seconds)


def _entries(specs: list[ModelSpec]) -> dict[str, ModelSpec]:
    catalog = Catalog.load(*specs)
    return {spec.name: catalog[spec.name] for spec in specs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--rows", type=int, default=120, help="validation rows")
    chosen = parser.parse_args()
    for max_seconds in (None, LIMIT):
        best = planted(max_seconds)
        limit = "no limit" if max_seconds is None else f"at most {max_seconds:g} s"
        print(f"\n{limit}: {best} ({true_score(best):.4f}, {1000 * true_usd(best):.3f} USD per 1,000)", flush=True)
        found = []
        for seed in range(chosen.seeds):
            with tempfile.TemporaryDirectory() as folder:
                one = run(seed, max_seconds, trials=chosen.trials, rows=chosen.rows, folder=Path(folder))
                found.append(asyncio.run(one))
            print(f"  seed {seed}: {found[-1]}", flush=True)
        print(f"{sum(f.is_success for f in found)} of {len(found)}")


if __name__ == "__main__":
    main()
