"""The search agent is shown the examples that the best candidate answers worst, without a further call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentopt.api import aoptimize
from agentopt.models.base import Request, Response
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import Config
from agentopt.testing.toy import LARGE, toy_model, toy_task


@dataclass
class ToyWithAgent:
    """The toy's models, and an agent whose prompts are kept."""

    candidates: Sequence[dict[str, object]]
    toy: ScriptedModel = field(default_factory=toy_model)
    shown: list[str] = field(default_factory=list)

    async def generate(self, request: Request) -> Response:
        """Answer as the toy or as the agent."""
        if request.purpose != "agent":
            return await self.toy.generate(request)
        self.shown.append(request.messages[-1].content)
        reply = {"reason": "as before", "candidates": self.candidates, "measure_again": [], "stop": False}
        return await ScriptedModel(lambda *_: json.dumps(reply)).generate(request)

    async def aclose(self) -> None:
        """Nothing is open."""


def config(folder: Path, **agent: object) -> Config:
    given = {"model": LARGE, "style": "shared", "prompt": "full", "prior": False} | agent
    settings = {"agent": given, "budget": {"trials": 5, "usd": 3}, "journal": str(folder / "j.db"), "runs": folder}
    return Config.model_validate(settings)


async def test_the_agent_is_shown_the_worst_examples_with_the_output_of_each_subtask(tmp_path: Path) -> None:
    choices = {"find": {"model": LARGE, "n": 3}, "answer": {"model": LARGE, "n": 1}}
    model = ToyWithAgent([{"role": "combine", "choices": choices}])
    result = await aoptimize(toy_task(validation=12, test=4), config(tmp_path), provider=model)
    shown = model.shown
    first = shown[0].splitlines()
    start = first.index(next(line for line in first if line.startswith("Failed example 1 of the best trial")))
    assert first[start].endswith("score 0.000:")
    assert first[start + 1].startswith('  inputs: {"number": "validation-')
    assert first[start + 2].startswith("  output of find: ")
    assert first[start + 3].startswith("  output of answer: wrong-")
    assert first[start + 5].startswith("  expected: word-validation-")
    assert "3 USD" in shown[0]
    assert "combine" in [trial.note for trial in result.trials]
    assert result.spent["agent"].calls == len(shown)


async def test_examples_can_be_kept_from_the_agent(tmp_path: Path) -> None:
    model = ToyWithAgent([])
    await aoptimize(toy_task(validation=12, test=4), config(tmp_path, failed_examples=0), provider=model)
    assert model.shown
    assert not any("Failed example" in text for text in model.shown)
