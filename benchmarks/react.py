"""An agent with tools (tasks/react-langgraph), called directly and through the gateway, then optimised under a cap.

    python -m benchmarks.react [--examples 4] [--calls 80]

The model is scripted (`agentopt.testing.react`), the agent's program and its LangGraph are real. Exits with code 1 if a
score or a tool call differs, if a tool call comes back changed, or if the cap is exceeded.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from agentopt.api import aevaluate, aoptimize
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.records import Score
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.prompts.settings import PromptSettings
from agentopt.runs.config import BudgetConfig, Config
from agentopt.taskfile.loading import load_task
from agentopt.testing.react import LARGE, Agent, directly

TASK = Path(__file__).parents[1] / "tasks" / "react-langgraph"


def config(folder: Path, examples: int, **more: Any) -> Config:
    """A run of the task on some of its examples."""
    limits = {f"data.limit.{split}": examples for split in ("train", "validation", "test")}
    return Config(journal=str(folder / "journal.db"), runs=folder / "runs", task=limits, **more)


async def compared(folder: Path, count: int) -> bool:
    """Print both scores of each example and the tool calls; returns whether they are equal."""
    through, alone = Agent(), Agent()
    candidate = Candidate.of({"agent": SubtaskChoice(LARGE, 1)})
    found = await aevaluate(TASK, candidate, config(folder, count), provider=ScriptedModel(through.answer))
    task = load_task(TASK, catalog=Catalog.load())
    outputs = {result.id: result.output for result in found.results}
    examples = [example for example in task.splits[found.split] if example.id in outputs]
    direct = await directly(TASK, examples, LARGE, alone)
    scored = {example.id: task.scorer(example, direct[example.id]) for example in examples}
    scores = {name: score.value for name, score in scored.items() if isinstance(score, Score)}
    print("| example | direct: answer | gateway: answer | direct: score | gateway: score |\n|---|---|---|---|---|")
    for name, score in scores.items():
        print(f"| {name} | {direct[name]} | {outputs[name]} | {score:g} | {found.scores[name]:g} |")
    print("\n| | calls | tool calls sent | came back to the model | of these unchanged |\n|---|---|---|---|---|")
    for place, agent in (("direct", alone), ("gateway", through)):
        sent = sum(map(len, agent.sent.values()))
        print(f"| {place} | {agent.calls} | {sent} | {sum(map(len, agent.returned.values()))} | {agent.intact} |")
    is_same = (through.sent, through.returned) == (alone.sent, alone.returned)
    return dict(found.scores) == scores and outputs == direct and is_same and through.intact == len(through.returned)


async def optimised(folder: Path, count: int, calls: int) -> bool:
    """Print the trials of a run under a cap in calls; returns whether it was kept."""
    agent = Agent()
    model = ScriptedModel(agent.answer)
    budget, prompts = BudgetConfig(trials=4, calls=calls), PromptSettings(when="never")
    settings = config(folder, count, strategy="random", seed=1, budget=budget, prompts=prompts)
    result = await aoptimize(TASK, settings, provider=model)
    print("\n| trial | candidate | validation score |\n|---|---|---|")
    for trial in result.trials:
        print(f"| {trial.number} | {trial.candidate} | {trial.state if trial.score is None else f'{trial.score:g}'} |")
    back = sum(map(len, agent.returned.values()))
    print(f"\n{len(model.requests)} calls of at most {calls}; {agent.intact} of {back} tool calls came back unchanged;")
    print(f"the search ended: {result.ended}")
    return len(model.requests) <= calls and agent.intact == back


async def run(count: int, calls: int) -> bool:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        is_same = await compared(Path(one), count)
        return await optimised(Path(other), count, calls) and is_same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=4)
    parser.add_argument("--calls", type=int, default=80)
    arguments = parser.parse_args()
    sys.exit(not asyncio.run(run(arguments.examples, arguments.calls)))


if __name__ == "__main__":
    main()
