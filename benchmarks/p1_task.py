"""Does the p1 filter help on a real task? `python -m benchmarks.p1_task --out FOLDER [--calls 200] [--seeds 3]`.

The task is `tasks/house_style`, the model a local one. Every arm gets the same number of model calls, including its
prompt writer and its comparison on validation: `all` races on all training examples, `random` on as many random ones as
p1 chooses, `p1` on the filter's choice, and `gepa` is the gepa library on all of them, with the same model as writer.
The first three write prompts from the authored fragments, so that only the user prompts differ. Each run has its own
journal in FOLDER, so that no arm reuses another's calls; repeat the command to resume.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from agentopt.core.budget import Caps, Usage
from agentopt.core.candidate import Candidate
from agentopt.core.records import Evaluation
from agentopt.core.stats import mean_interval, paired_difference, verdict
from agentopt.core.task import Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.session import open_session
from agentopt.prompts.optimizer import PromptOptimizer
from agentopt.prompts.race import RacePlan
from agentopt.prompts.settings import PromptSettings
from agentopt.taskfile.loading import load_task

SHARED = {"user_prompts": 8, "repeats": 2, "k_top": 3, "responses": 16}
ARMS: Mapping[str, PromptSettings] = {
    "all": PromptSettings(filter="all", proposer="components", **SHARED),
    "random": PromptSettings(filter="random", proposer="components", **SHARED),
    "p1": PromptSettings(filter="p1", proposer="components", **SHARED),
    "gepa": PromptSettings(filter="all", proposer="gepa", **SHARED),
}
SUBTASK = "answer"


@dataclass(frozen=True)
class ArmOutcome:
    """One arm with one seed: the chosen prompt, its test scores, and its cost."""

    arm: str
    seed: int
    chosen: str
    proposer: str
    tried: int
    test: Mapping[str, float]
    tokens: float
    spent: Usage
    ended: str


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.p1_task", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the journals and outcomes")
    parser.add_argument("--calls", type=int, default=200, help="model calls of each run, without the test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test", type=int, default=60, help="examples of the test split, of 90")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    catalog = Catalog.load()
    folder = Path(__file__).parents[1] / "tasks" / "house_style"
    task = load_task(folder, catalog=catalog, overrides={"data.limit.test": arguments.test})
    specs = {arguments.model: catalog[arguments.model]}
    outcomes = []
    for seed in range(arguments.seeds):
        for arm in ("seed prompt", *ARMS):
            outcomes.append(asyncio.run(one_run(task, specs, arm, seed, arguments.calls, arguments.out)))
            last = outcomes[-1]
            print(
                f"{arm}, seed {seed}: test {mean(last.test.values()):.3f}, {last.tried} tried, {last.ended}", flush=True
            )
    print(table(outcomes))


async def one_run(
    task: Task, specs: Mapping[str, ModelSpec], arm: str, seed: int, calls: int, folder: Path
) -> ArmOutcome:
    """Optimise within the cap of `calls`, then evaluate on the test split outside that cap."""
    (model,) = specs
    journal = str(folder / f"{arm.replace(' ', '-')}-{seed}.db")
    start = task.baseline.having(SUBTASK, model=model)
    chosen, proposer, tried, spent, ended = start[SUBTASK].system_prompt, "seed", 0, Usage(), "nothing was optimised"
    if arm in ARMS:
        async with open_session(specs, f"p1 {arm} {seed}", caps=Caps(calls=calls), journal=journal) as session:
            evaluator = Evaluator(task, session.model, specs, seed=seed)
            settings = ARMS[arm]
            reserved = Usage(calls=2 * len(task.splits["validation"]))
            optimizer = PromptOptimizer(
                task, evaluator, session.model, session.budget, settings, model, seed=seed, final_usage=reserved
            )
            plan = RacePlan.within(settings, calls - reserved.calls)
            found = await optimizer.optimize(start, SUBTASK, plan)
            chosen, proposer, tried = found.chosen.system_prompt, found.chosen.proposer, len(found.attempts)
            spent, ended = session.budget.spent, found.decision.value
    async with open_session(specs, f"p1 test {arm} {seed}", journal=journal) as session:
        tested = await Evaluator(task, session.model, specs, seed=seed).evaluate(with_prompt(start, chosen), "test")
    outcome = ArmOutcome(arm, seed, chosen, proposer, tried, tested.scores, length(tested), spent, ended)
    (folder / f"{arm.replace(' ', '-')}-{seed}.json").write_text(json.dumps({"prompt": chosen, "by": proposer}))
    return outcome


def with_prompt(candidate: Candidate, system_prompt: str) -> Candidate:
    return candidate.having(SUBTASK, system_prompt=system_prompt)


def length(evaluation: Evaluation) -> float:
    return evaluation.per_example("completion_tokens")


def table(outcomes: list[ArmOutcome]) -> str:
    """One row per arm: the mean over seeds, intervals over examples, the paired difference to the seed prompt."""
    lines = [
        "| arm | test score by seed | mean (95%) | against the seed prompt (95%) | verdict | tokens | calls | tried |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reference = by_example([o for o in outcomes if o.arm == "seed prompt"])
    for arm in ("seed prompt", *ARMS):
        mine = [o for o in outcomes if o.arm == arm]
        scores = by_example(mine)
        interval, difference = mean_interval(list(scores.values())), paired_difference(scores, reference)
        against = "-" if arm == "seed prompt" else (
            f"{difference.mean:+.3f} ({difference.interval.low:+.3f} to {difference.interval.high:+.3f})"
        )  # fmt: skip
        lines.append(
            f"| {arm} | {', '.join(f'{mean(o.test.values()):.3f}' for o in mine)} "
            f"| {mean(scores.values()):.3f} ({interval.low:.3f} to {interval.high:.3f}) | {against} "
            f"| {'-' if arm == 'seed prompt' else verdict(difference)} | {mean(o.tokens for o in mine):.1f} "
            f"| {', '.join(str(o.spent.calls) for o in mine)} | {', '.join(str(o.tried) for o in mine)} |"
        )
    lines += [f"\n{o.arm}, seed {o.seed}, by {o.proposer}: {o.chosen}" for o in outcomes if o.arm != "seed prompt"]
    return "\n".join(lines)


def by_example(outcomes: list[ArmOutcome]) -> dict[str, float]:
    """Example id -> mean score over the seeds."""
    shared = set.intersection(*(set(o.test) for o in outcomes))
    return {key: mean(o.test[key] for o in outcomes) for key in sorted(shared)}


if __name__ == "__main__":
    main()
