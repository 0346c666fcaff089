"""The prompts of AgentTTS: what its agent and those of the baselines are shown."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from agentopt.core.records import Evaluation, ExampleResult, Trial
from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.search.agent import AgentSearch
from agentopt.search.agent_prompts import labels
from agentopt.search.baselines import GridStrategy
from agentopt.search.insights import initial_candidates
from agentopt.search.paper_prompt import INSIGHT_1, INSIGHT_2, INSIGHT_3, paper_history, paper_proposal_prompt
from agentopt.search.settings import AgentSettings
from agentopt.search.variants import AGENT, AGENT_HPO, LLM_ZERO_SHOT, Variant, mlcopilot
from agentopt.testing.strategies import ScriptedRunner
from agentopt.testing.synthetic_landscape import SyntheticLandscape, synthetic_space

SPACE = synthetic_space()
SETTINGS = AgentSettings(model="agent", style="paper", prompt="full")
FIRST = len(initial_candidates(SPACE))


def agent(texts: list[str]) -> ScriptedModel:
    """Writes the texts as guidelines, one after the other, and proposes ten random candidates."""
    every, label_of, written = SPACE.candidates(), labels(SPACE), iter(texts)

    def answer(request: Request, repeat: int) -> str:
        if request.json_schema is None:
            return next(written)
        chosen = random.Random(f"{request.messages} {repeat}").sample(every, 10)
        rows = (
            ",".join(f'"{name}":"{label_of[c.model]} x{c.num_samples}"' for name, c in row.items()) for row in chosen
        )
        return f'{{"candidates":[{",".join(f"{{{row}}}" for row in rows)}]}}'

    return ScriptedModel(answer)


async def searched(
    variant: Variant, settings: AgentSettings = SETTINGS, *, trials: int = 51, checkpoints: Path | None = None
) -> tuple[ScriptedRunner, list[Request]]:
    model = agent([f"advice number {n}:\n- explore" for n in range(1, 9)])
    runner = ScriptedRunner(SPACE, SyntheticLandscape().observed, trials)
    search = AgentSearch(
        model, settings, GridStrategy(), "answer questions", checkpoints, variant=variant, batch_size=10
    )
    await search.run(SPACE, runner)
    return runner, model.requests


def text(request: Request) -> str:
    return request.messages[-1].content


async def test_the_agent_is_shown_every_trial_and_the_first_and_last_two_guidelines(tmp_path: Path) -> None:
    runner, requests = await searched(AGENT, trials=51 + FIRST, checkpoints=tmp_path / "checkpoints.db")
    asked = [request for request in requests if request.json_schema is None]
    proposed = [request for request in requests if request.json_schema is not None]
    assert len(asked) == len(proposed) == 5
    kept = [[int(n) for n in re.findall(r"advice number (\d)", text(request))] for request in proposed]
    assert kept == [[1], [1, 2], [1, 2, 3], [1, 3, 4], [1, 4, 5]]
    assert "Guidelines 1:\nadvice number 1:\n- explore" in text(proposed[0]), "in free text"
    shown = [len(re.findall(r"^\d+\. ", text(request), re.MULTILINE)) for request in (*asked, *proposed)]
    assert shown == [n for _ in range(2) for n in range(1 + FIRST, 51 + FIRST, 10)]
    assert all("Generate exactly 10 different candidates" in text(request) for request in proposed[:-1])
    assert "which model size" in text(asked[0])
    assert not any(
        "which model size" in text(request) or "Earlier trials" not in text(request) for request in asked[1:]
    )
    assert sum(trial.proposer == "agent" for trial in runner.trials) >= 45, "all but repeats of a random agent"


async def test_the_system_message_has_the_insights_in_full_and_the_formula_of_the_budget() -> None:
    _, requests = await searched(AGENT, replace_switches(insight_2=False), trials=FIRST + 2)
    system = requests[0].messages[0].content
    assert INSIGHT_1 in system
    assert INSIGHT_2 not in system
    assert INSIGHT_3 in system
    assert "(a * (P + S * D) - 128) / 64, where a is the size of the model over 3B" in system
    assert "The budget: at most 900 units" in system
    assert "2048 of the prompt, 128 of each sample" in system
    assert "samples: 1 to 100" in system or "samples: 1, 2" in system
    assert all(model in system for model in SPACE["retrieve"].models)
    assert {request.messages[0].content for request in requests} == {system}, "the same in every call"


def replace_switches(**switches: bool) -> AgentSettings:
    return SETTINGS.model_copy(update=switches)


@pytest.mark.parametrize(
    ("variant", "history"),
    [(AGENT_HPO, True), (LLM_ZERO_SHOT, False), (mlcopilot("cousin", [(SPACE.baseline, 0.7, 30.0)]), False)],
    ids=["agent_hpo", "llm_zero_shot", "mlcopilot"],
)
async def test_the_baselines_are_shown_no_insight_and_write_no_guidelines(variant: Variant, history: bool) -> None:
    runner, requests = await searched(variant, trials=21)
    assert len(runner.trials) == 21
    assert not any(insight in r.messages[0].content for r in requests for insight in (INSIGHT_1, INSIGHT_2, INSIGHT_3))
    assert all(request.json_schema for request in requests)
    assert not any("Guidelines" in text(request) for request in requests)
    assert [f"\n{len(runner.trials) - 11}. " in text(request) for request in requests][-1] == history
    assert ("Best of a similar task, cousin" in requests[0].messages[0].content) == bool(variant.experience)


def test_the_history_has_every_metric_and_a_trial_without_a_score() -> None:
    result = ExampleResult("a", 0.5, metrics={"retrieval_f1": 0.8, "hit": 1.0})
    other = ExampleResult("b", 1.0, metrics={"retrieval_f1": 0.6, "hit": 0.0})
    whole = Evaluation("validation", 2, (result, other), "complete")
    failed = Evaluation("validation", 2, (ExampleResult("a", None, error="failed"),), "incomplete")
    units = SPACE.units(SPACE.baseline)
    trials = [Trial(n, SPACE.baseline, of, "baseline", units) for n, of in enumerate((whole, failed))]
    first, second = paper_history(SPACE, trials).splitlines()
    assert f"| main score 0.750, retrieval_f1 0.700, hit 0.500 | cost {units:.4g} units" in first
    assert "| main score none | cost" in second
    priced = replace(SPACE, measure="usd", max_units=None)
    assert "USD per 1,000 requests" in paper_history(priced, trials[:1])
    assert paper_proposal_prompt(SPACE, None, [], 3).startswith("Generate exactly 3 different candidates, within")
