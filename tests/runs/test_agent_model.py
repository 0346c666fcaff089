"""The search agent's model: what `auto` chooses, and what happens if it cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentopt.api import aoptimize
from agentopt.models.catalog import Catalog, ModelSpec, Weights
from agentopt.models.scripted import ScriptedModel
from agentopt.runs import agent_model
from agentopt.runs.agent_model import with_agent_model
from agentopt.runs.config import Config
from agentopt.search.settings import NOT_FOUND
from agentopt.testing.servers import OpenAIServer
from agentopt.testing.toy import LARGE, SMALL, toy_task

HOSTED = "http://127.0.0.1:9"


def hosted(name: str, **fields: object) -> ModelSpec:
    return ModelSpec.model_validate({"name": name, "base_url": HOSTED, **fields})


@pytest.mark.parametrize(
    ("specs", "is_installed", "expected"),
    [
        ([], True, LARGE),
        ([], False, NOT_FOUND),
        ([hosted(SMALL, usd_per_1m_prompt=1), hosted(LARGE, usd_per_1m_prompt=2)], False, LARGE),
        ([hosted(SMALL, usd_per_1m_prompt=3), hosted(LARGE, usd_per_1m_prompt=2)], True, SMALL),
        ([hosted(SMALL, parameters=1e9), hosted(LARGE, parameters=2e9)], True, LARGE),
        ([hosted(SMALL)], True, SMALL),
        ([hosted(SMALL, chat_template=False), hosted(LARGE, chat_template=False)], True, NOT_FOUND),
    ],
)
def test_the_agent_is_the_dearest_hosted_model_or_the_local_one(
    specs: list[ModelSpec], is_installed: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_model, "is_installed", lambda: is_installed)
    assert with_agent_model(Config(), toy_task(), Catalog.load(*specs)).agent.model == expected


def test_a_model_that_is_named_is_kept() -> None:
    for name in (SMALL, None):
        config = Config.model_validate({"agent": {"model": name}})
        assert with_agent_model(config, toy_task(), Catalog.load()).agent.model == name


@pytest.mark.parametrize(
    ("spec", "prompt"),
    [
        (hosted("agent"), "full"),
        (hosted("agent", parameters=1e9), "compact"),
        (hosted("agent", parameters=8e9), "full"),
        (ModelSpec(name="agent", weights=Weights(file="/models/a.gguf")), "compact"),
        (ModelSpec(name="agent", weights=Weights(file="/models/a.gguf"), parameters=8e9), "full"),
    ],
)
def test_hosted_and_large_models_are_shown_everything(spec: ModelSpec, prompt: str) -> None:
    config = Config.model_validate({"agent": {"model": "agent"}})
    assert with_agent_model(config, toy_task(), {"agent": spec}).agent.prompt == prompt
    given = Config.model_validate({"agent": {"model": "agent", "prompt": "compact"}})
    assert with_agent_model(given, toy_task(), {"agent": spec}).agent.prompt == "compact"


UNUSABLE = {
    "a key that is not set": hosted("agent", api_key_env="NO_SUCH_KEY_OF_AGENTOPT"),
    "a host that cannot be reached": hosted("agent", max_attempts=1),
    "a file that is not there": ModelSpec(name="agent", weights=Weights(file="/nonexistent/model.gguf")),
}


@pytest.mark.parametrize("why", UNUSABLE)
async def test_an_agent_that_cannot_be_used_leaves_the_run_to_the_fallback(tmp_path: Path, why: str) -> None:
    async with OpenAIServer(lambda body, *_: "x") as server:
        entries = [hosted(name, max_attempts=2) for name in (SMALL, LARGE)]
        entries = [entry.model_copy(update={"base_url": server.base_url}) for entry in entries]
        config = Config.model_validate(
            {
                "models": [*entries, UNUSABLE[why]],
                "agent": {"model": "agent"},
                "budget": {"trials": 6},
                "journal": str(tmp_path / "journal.db"),
                "runs": tmp_path / "runs",
            }
        )
        result = await aoptimize(replace(toy_task(validation=4, test=4), max_units=None), config)
    assert len(result.trials) == 6
    assert result.fallbacks
    assert all(reason.startswith("the agent cannot be reached") for reason in result.fallbacks)


async def test_without_the_engine_the_fallback_proposes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_model, "is_installed", lambda: False)
    config = Config.model_validate(
        {"budget": {"trials": 6}, "journal": str(tmp_path / "journal.db"), "runs": tmp_path / "runs"}
    )
    result = await aoptimize(toy_task(validation=4, test=4), config, provider=ScriptedModel(lambda *_: "x"))
    assert result.fallbacks == ("agent.model: auto found no model (set one, or null)",)


async def test_without_an_agent_on_purpose_no_fallback_is_reported(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "agent": {"model": None},
            "budget": {"trials": 6},
            "journal": str(tmp_path / "journal.db"),
            "runs": tmp_path / "runs",
        }
    )
    result = await aoptimize(toy_task(validation=4, test=4), config, provider=ScriptedModel(lambda *_: "x"))
    assert result.fallbacks == ()
