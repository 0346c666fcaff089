"""The LLM search in every variant: what each is shown, the shared conformance suite, and falling back."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest

from agentopt.api import aoptimize, optimize
from agentopt.core.candidate import Candidate
from agentopt.core.cost import SubtaskCost
from agentopt.core.errors import ConfigError, PermanentModelError
from agentopt.core.events import FallbackUsed
from agentopt.models.base import ChatModel, Request
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import Config, load_config
from agentopt.runs.strategies import choose_search
from agentopt.search.agent import AgentSearch
from agentopt.search.agent_prompts import INSIGHTS, labels, proposal_schema
from agentopt.search.base import Proposal, Search, SearchSpace, SubtaskSpace
from agentopt.search.baselines import GridStrategy, RandomStrategy
from agentopt.search.insights import initial_candidates
from agentopt.search.optuna_strategy import OptunaStrategy
from agentopt.search.proposer_names import ARCHIVE
from agentopt.search.samplers import SAMPLERS
from agentopt.search.settings import AgentSettings, SamplerName
from agentopt.search.strategy_loop import LoopSearch
from agentopt.search.variants import AGENT, AGENT_HPO, LLM_ZERO_SHOT, SHOWN, Variant, mlcopilot
from agentopt.testing.strategies import ScriptedRunner, check_search
from agentopt.testing.synthetic_landscape import SyntheticLandscape, synthetic_space
from agentopt.testing.toy import toy_model, toy_task

LIKE = [(c, 0.01 * i, 100.0 + i) for i, c in enumerate(synthetic_space().candidates()[:40])]
VARIANTS = {m.name: m for m in (AGENT, AGENT_HPO, LLM_ZERO_SHOT, mlcopilot("cousin", LIKE))}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def as_answer(space: SearchSpace, candidates: Sequence[Candidate]) -> str:
    called = labels(space)
    rows = [{name: f"{called[c.model]} x{c.num_samples}" for name, c in row.items()} for row in candidates]
    return json.dumps({"candidates": rows, "advice": "go on"})


def guessing(space: SearchSpace) -> ScriptedModel:
    """An agent that answers with five candidates, another draw for another question or repeat."""
    every = space.candidates()

    def answer(request: Request, repeat: int) -> str:
        rng = random.Random(f"{request.messages} {repeat}")
        return as_answer(space, rng.sample(every, min(5, len(every))))

    return ScriptedModel(answer)


def make_search(model: ChatModel | None, variant: Variant, **settings: int) -> AgentSearch:
    base = AgentSettings(model="agent", style="paper", **settings)
    return AgentSearch(model, base, OptunaStrategy(0, proposer="fallback"), "answer questions", None, variant=variant)


def useless() -> ScriptedModel:
    """A model whose replies hold no candidate."""
    return ScriptedModel(lambda request, repeat: "?")


def small_space() -> SearchSpace:
    cost = SubtaskCost(128, 64, {"tiny": 1e9, "small": 3e9})
    subtasks = [SubtaskSpace(name, ("tiny", "small"), (1, 2, 5), "", cost) for name in ("a", "b")]
    return SearchSpace(tuple(subtasks), 14.0)


def guessing_search(variant: Variant, space: SearchSpace) -> Search:
    return make_search(guessing(space), variant)


def without_insight(number: int, space: SearchSpace) -> Search:
    return make_search(guessing(space), AGENT, **{f"insight_{number}": False})


def search_by(model: ChatModel | None, variant: Variant, space: SearchSpace) -> Search:
    return make_search(model, variant)


SEARCHES: dict[str, Callable[[SearchSpace], Search]] = {
    "random": lambda space: LoopSearch(RandomStrategy(1), 1),
    "grid": lambda space: LoopSearch(GridStrategy(), 1),
    "optuna": lambda space: LoopSearch(OptunaStrategy(1), 1),
    **{name: partial(guessing_search, m) for name, m in VARIANTS.items()},
    **{f"agent without insight {i}": partial(without_insight, i) for i in (1, 2, 3)},
    **{f"{name} absent": partial(search_by, None, m) for name, m in VARIANTS.items()},
    **{f"{name} useless": partial(search_by, ScriptedModel(lambda r, i: "?"), m) for name, m in VARIANTS.items()},
}


@pytest.mark.parametrize("make", SEARCHES.values(), ids=SEARCHES.keys())
async def test_every_search_conforms(make: Callable[[SearchSpace], Search]) -> None:
    landscape = SyntheticLandscape()
    await check_search(lambda: make(landscape.space), landscape.space, landscape.observed, trials=22)
    small = small_space()
    await check_search(lambda: make(small), small, lambda c: small.units(c) / 40, trials=60)


async def spent(variant: Variant, model: ChatModel, trials: int = 17) -> ScriptedRunner:
    landscape = SyntheticLandscape()
    runner = ScriptedRunner(landscape.space, landscape.observed, trials)
    await make_search(model, variant).run(landscape.space, runner)
    return runner


@every_variant
async def test_rounds_of_proposals_are_counted_without_the_first_trials(variant: Variant) -> None:
    landscape = SyntheticLandscape()
    runner = ScriptedRunner(landscape.space, landscape.observed, 60)
    await make_search(guessing(landscape.space), variant, max_rounds=2).run(landscape.space, runner)
    assert [t.proposer for t in runner.trials].count(variant.name) == 10


async def test_zero_shot_is_shown_the_task_only_and_samples_again_each_round() -> None:
    model = guessing(synthetic_space())
    runner = await spent(LLM_ZERO_SHOT, model)
    assert [t.proposer for t in runner.trials[1:]].count("llm_zero_shot") == 16
    assert len({r.messages for r in model.requests}) <= 2, "a last batch may be smaller"
    prompt = "\n".join(m.content for m in model.requests[0].messages)
    assert "Subtask retrieve" in prompt
    assert "Tried" not in prompt
    assert not any(insight in prompt for insight in INSIGHTS)
    assert len({r.first_repeat for r in model.requests}) == len(model.requests)


async def test_agent_hpo_sees_the_history_but_no_insight_and_writes_no_guidelines() -> None:
    model = guessing(synthetic_space())
    runner = await spent(AGENT_HPO, model)
    assert [t.proposer for t in runner.trials[1:]] == ["agent_hpo"] * 16
    assert all('"candidates"' in str(r.json_schema) for r in model.requests)
    prompt = "\n".join(m.content for m in model.requests[-1].messages)
    assert "Tried, best score first" in prompt
    assert not any(insight in prompt for insight in INSIGHTS)
    assert "Guidelines" not in prompt


async def test_mlcopilot_is_shown_the_best_trials_of_a_similar_task_only() -> None:
    model = guessing(synthetic_space())
    await spent(VARIANTS["mlcopilot"], model)
    prompt = "\n".join(m.content for m in model.requests[-1].messages)
    assert "Best of a similar task, cousin, = score (units):\nretrieve: llama-3b x" in prompt
    assert prompt.count("\nretrieve: ") == SHOWN
    assert "Tried" not in prompt


async def test_only_the_agent_begins_with_the_first_trials_of_insight_1() -> None:
    first = initial_candidates(synthetic_space())
    for variant in VARIANTS.values():
        runner = await spent(variant, guessing(synthetic_space()), trials=1 + len(first))
        begun = [t.candidate for t in runner.trials[1:]]
        assert (begun == first) == (variant is AGENT)


@every_variant
async def test_every_variant_falls_back_with_the_reason_if_its_model_is_unreachable(variant: Variant) -> None:
    refusing = ScriptedModel(lambda request, repeat: (_ for _ in ()).throw(PermanentModelError("401 wrong key")))
    runner = await spent(variant, refusing)
    assert runner.trials[-1].proposer == "fallback"
    reasons = [event.reason for event in runner.events if isinstance(event, FallbackUsed)]
    assert all(reason.startswith("the agent cannot be reached: 401 wrong key") for reason in reasons)
    assert reasons


@every_variant
async def test_the_strategy_of_a_configuration_uses_its_variant(variant: Variant, tmp_path: Path) -> None:
    finished = await aoptimize(toy_task(), toy_config(tmp_path, strategy="random"), provider=toy_model())
    settings = {
        "model": "smollm2-135m",
        "style": "paper",
        "experience": finished.run if variant.name == "mlcopilot" else None,
    }
    config = toy_config(tmp_path, strategy=variant.name, agent=settings)
    world = SyntheticLandscape()
    runner = ScriptedRunner(world.space, world.observed, 15)
    model = guessing(world.space)
    await choose_search(config, model, toy_task(), (tmp_path / "checkpoints.db", "search")).run(world.space, runner)
    assert runner.trials[-1].proposer == variant.name
    assert ("Best of a similar task, toy" in model.requests[-1].messages[0].content) == bool(variant.experience)


def toy_config(folder: Path, **changes: object) -> Config:
    kept = {"journal": str(folder / "journal.db"), "runs": str(folder / "runs"), "budget": {"trials": 5}}
    return Config.model_validate({**kept, **changes})


def test_mlcopilot_without_experience_is_rejected_with_the_key_only() -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(["strategy=mlcopilot"])
    assert "strategy mlcopilot needs agent.experience" in str(raised.value)
    assert raised.value.remedy == "set agent.experience to the folder of a finished run"
    assert "but got" not in str(raised.value)


def test_the_samplers_of_a_configuration_are_the_keys_of_samplers() -> None:
    assert get_args(SamplerName) == tuple(SAMPLERS)
    with pytest.raises(ConfigError, match=r"search\.sampler: must be 'insight', .*but got 'cmaes'"):
        load_config(["search.sampler=cmaes"])


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed here")
@pytest.mark.parametrize("strategy", ["agent", "optuna"])
def test_a_sampler_that_lacks_its_package_leaves_no_run_behind(strategy: str, tmp_path: Path) -> None:
    config = toy_config(tmp_path, strategy=strategy, search={"sampler": "gp"}, agent={"model": None})
    with pytest.raises(ConfigError, match="pip install torch"):
        optimize(toy_task(), config, provider=(model := toy_model()))
    assert (model.requests, list(tmp_path.iterdir())) == ([], [])
    optimize(toy_task(), config.model_copy(update={"strategy": "random"}), provider=toy_model())


def test_a_similar_task_without_a_finished_run_leaves_no_run_behind(tmp_path: Path) -> None:
    agent = {"model": None, "experience": tmp_path / "nowhere"}
    with pytest.raises(ConfigError, match="no finished run is here"):
        optimize(toy_task(), toy_config(tmp_path, strategy="mlcopilot", agent=agent), provider=toy_model())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["llm_zero_shot", "mlcopilot"])
async def test_a_variant_without_history_gets_no_hint_of_it_when_few_candidates_are_left(name: str) -> None:
    space = small_space()
    every = space.candidates()
    model = ScriptedModel(lambda request, repeat: as_answer(space, every[:5]))  # from the second round on: repeats
    runner = ScriptedRunner(space, lambda c: space.units(c) / 40, 16)
    await make_search(model, VARIANTS[name]).run(space, runner)
    assert {t.proposer for t in runner.trials[1:]} == {name, "fallback"}
    requests = [r for r in model.requests if '"minItems":5' in str(r.json_schema)]
    assert len(requests) > 3, "a reply with repeats only is requested again"
    assert {(r.messages, r.json_schema) for r in requests} == {(requests[0].messages, proposal_schema(space, (), 5))}
    assert len({r.first_repeat for r in requests}) == len(requests)


@pytest.mark.parametrize("known", [0, 1, None], ids=["none", "one", "all"])
async def test_rounds_are_counted_alike_however_many_first_trials_the_archive_holds(known: int | None) -> None:
    landscape = SyntheticLandscape()
    runner = ScriptedRunner(landscape.space, landscape.observed, 60)
    for candidate in initial_candidates(landscape.space)[:known]:
        await runner.run(Proposal(candidate, ARCHIVE))
    await make_search(guessing(landscape.space), AGENT, max_rounds=2).run(landscape.space, runner)
    assert len([t for t in runner.trials if t.proposer in ("agent", "fallback")]) == 10
