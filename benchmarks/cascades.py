"""Cascades on loopback models: one that halves the cost at the same score, and one that hurts.

    python -m benchmarks.cascades [--seeds 1] [--trials 10] [--rows 120]

`optimize` runs with its default sampler, in USD, on a server with two models. The big model is always right. The small
one is right on about three of four rows; where it is not, its samples differ (`saves`: the cascade escalates exactly
these rows) or all agree on a wrong answer (`hurts`: no threshold finds them). In the first case, the recommended
candidate must be a cascade that costs at most half of the big model's USD, at its score and not worse on the test
split; in the second, it must be the big model.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentopt.api import aoptimize
from agentopt.core.axes import Cascade, escalating
from agentopt.core.records import Split
from agentopt.core.task import Example, Subtask, Task, TokenLengths
from agentopt.evaluation.scorers import exact_match
from agentopt.models.catalog import ModelSpec
from agentopt.runs.config import Config
from agentopt.runs.result import Finalist, Result
from agentopt.testing.servers import OpenAIServer, prompt_text
from agentopt.testing.toy import draw

SKILL = 0.75
"""Share of the rows on which the small model is right."""

CASES = {"saves": True, "hurts": False}
"""Case -> whether the small model's samples differ where they are wrong."""


def cascade_task(rows: int) -> Task:
    """A task with one subtask, whose cascade has the thresholds .5 and 1.

    Args:
        rows: Examples of the validation split; the test split has twice as many.
    """
    subtask = Subtask(
        "answer",
        lambda inputs, outputs: str(inputs["row"]),
        ("big", "small"),
        num_samples=(1, 3),
        tokens=TokenLengths(4, 4),
        cascade=Cascade("small", "big", (0.5, 1)),
        max_tokens=8,
    )
    sizes: dict[Split, int] = {"validation": rows, "test": 2 * rows}
    splits = {
        split: tuple(Example(f"{split}{i}", {"row": f"{split}-{i}"}, f"word-{split}-{i}") for i in range(size))
        for split, size in sizes.items()
    }
    return Task("cascades", (subtask,), exact_match(), splits, cost_measure="usd")


def planted(model: str, row: str, sample: int, *, differs: bool) -> str:
    """The answer of a model to a row; `differs` if wrong samples do."""
    if model == "big" or draw(row) < SKILL:
        return f"word-{row}"
    return f"wrong-{sample}" if differs else "wrong"


def served(body: Mapping[str, Any], index: int, *, differs: bool) -> str:
    """The planted answer to an HTTP request."""
    row = prompt_text(body).split()[-1]
    return planted(body["model"], row, int(body.get("seed") or 0) + index, differs=differs)


@dataclass(frozen=True)
class Outcome:
    """What one run recommends."""

    case: str
    result: Result

    @property
    def recommended(self) -> Finalist:
        """The recommended candidate."""
        return self.result.finalist("recommended")

    @property
    def share(self) -> float:
        """Its USD on the validation split, as a share of the baseline's, which is the big model."""
        return self.recommended.units / self.result.finalist("baseline").units

    @property
    def is_success(self) -> bool:
        """Whether the planted cascade is found and proven, or the one that hurts is not recommended."""
        escalates = escalating(cascade_task(1).subtasks[0], self.recommended.candidate["answer"]) is not None
        if self.case == "hurts":
            return "baseline" in self.recommended.roles
        compared = self.recommended.against_baseline
        return escalates and self.share <= 0.5 and compared is not None and compared.verdict == "non-inferior"

    def __str__(self) -> str:
        own, baseline = self.recommended, self.result.finalist("baseline")
        test = (f"{each.test.score:.3f}" if each.test else "not tested" for each in (own, baseline))
        verdict = f", {own.against_baseline.verdict}" if own.against_baseline else ""
        return (
            f"{self.case}: {'success' if self.is_success else 'FAILURE'}: {own.candidate}; {self.share:.2f} of the big "
            f"model's USD; test {next(test)} against {next(test)}{verdict}"
        )


async def run(case: str, folder: Path, *, seed: int, trials: int, rows: int) -> Outcome:
    """Run `optimize` on one case.

    Args:
        case: A key of `CASES`.
        folder: An empty folder for the run and its journal.
        seed: Seed of the search.
        trials: Trials of the run.
        rows: Examples of the validation split.
    """
    async with OpenAIServer(lambda body, index: served(body, index, differs=CASES[case])) as server:
        entry: dict[str, Any] = {"base_url": server.base_url, "max_choices": 4, "supports": {"seed": True}}
        models = [
            ModelSpec(name="big", usd_per_1m_prompt=0, usd_per_1m_completion=20, **entry),
            ModelSpec(name="small", usd_per_1m_prompt=0, usd_per_1m_completion=1, **entry),
        ]
        config = Config.model_validate(
            {
                "journal": str(folder / "journal.db"),
                "runs": folder / "runs",
                "models": models,
                "strategy": "optuna",
                "seed": seed,
                "budget": {"trials": trials},
                "prompts": {"when": "never"},
            }
        )
        return Outcome(case, await aoptimize(cascade_task(rows), config))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascades", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--rows", type=int, default=120)
    given = parser.parse_args(arguments)
    outcomes = []
    for case in CASES:
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                found = asyncio.run(run(case, Path(folder), seed=seed, trials=given.trials, rows=given.rows))
            print(found)
            print(*(f"  {note}" for note in found.result.notes if "escalates" in note), sep="\n")
            outcomes.append(found)
    return 0 if all(outcome.is_success for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
