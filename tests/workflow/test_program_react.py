"""tasks/react-langgraph, an agent with tools: the same scores as when it is called directly, and optimised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentopt.api import aevaluate, aoptimize
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.prompts.settings import PromptSettings
from agentopt.runs.config import BudgetConfig, Config
from agentopt.search.settings import SearchSettings
from agentopt.taskfile.loading import load_task
from agentopt.testing.react import LARGE, Agent, directly

TASK = Path(__file__).parents[2] / "tasks" / "react-langgraph"
EXAMPLES = 4


def config(folder: Path, examples: int, processes: int = 2, **more: Any) -> Config:
    limits = {f"data.limit.{split}": examples for split in ("train", "validation", "test")}
    changes = {**limits, "program.concurrency": processes}
    return Config(journal=str(folder / "journal.db"), runs=folder / "runs", task=changes, **more)


async def test_the_agent_gets_the_scores_and_the_tool_calls_of_a_direct_call(tmp_path: Path) -> None:
    candidate = Candidate.of({"agent": SubtaskChoice(LARGE, 1)})
    through, alone = Agent(), Agent()
    found = await aevaluate(TASK, candidate, config(tmp_path, EXAMPLES), provider=ScriptedModel(through.answer))
    assert not found.errors
    wanted = {result.id for result in found.results}
    examples = load_task(TASK, catalog=Catalog.load()).splits[found.split]
    direct = await directly(TASK, [e for e in examples if e.id in wanted], LARGE, alone)
    assert {result.id: result.output for result in found.results} == direct
    assert sum(found.scores.values()) > 0
    assert through.sent == alone.sent
    assert through.returned == alone.returned
    assert through.intact == alone.intact == len(alone.returned) == 2 * EXAMPLES


async def test_the_agent_is_optimised_under_a_cap_and_resumes_from_the_journal(tmp_path: Path) -> None:
    settings = config(
        tmp_path,
        EXAMPLES,
        processes=1,  # each of four evaluators starts its own, which import LangGraph
        strategy="random",
        seed=1,  # tries the larger model
        budget=BudgetConfig(trials=3, tokens=200_000),
        search=SearchSettings(early_stopping=None),
        prompts=PromptSettings(when="never"),
    )
    agent = Agent()
    found = await aoptimize(TASK, settings, provider=ScriptedModel(agent.answer))
    assert max(trial.score or 0.0 for trial in found.trials) > (found.trials[0].score or 0.0)
    assert agent.intact == len(agent.returned) > 0
    again = await aoptimize(TASK, settings, provider=ScriptedModel(script=()))
    assert [trial.score for trial in again.trials] == [trial.score for trial in found.trials]
