"""The measured cost of a subtask's responses, and thoughts, which no fusion reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agentopt.core.candidate import SubtaskChoice
from agentopt.core.cost import Unit
from agentopt.core.task import Fusion, Parser
from agentopt.models.base import Choice, Request, Response
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.testing.toy import LARGE, toy_model, toy_task
from agentopt.workflow import parsers
from agentopt.workflow.sampling import SubtaskSampler, request_for


async def test_a_pass_that_is_smaller_than_the_unit_costs_nothing_and_never_less() -> None:
    task, catalog = toy_task(), Catalog.load()
    example = task.splits["validation"][0]
    choice, prompt = SubtaskChoice(LARGE, 1, ""), f"find|{example.id}|"
    sampler = SubtaskSampler(toy_model(), catalog, replace(Unit(), prompt_tokens=1e6))
    assert (await sampler.answer(task["find"], choice, prompt, example.inputs)).use.units == 0
    charged = replace(sampler, unit=Unit(1e6, 1, 1))
    assert (await charged.answer(task["find"], choice, prompt, example.inputs)).use.units > 0


class Thinking:
    """A model whose choices are given, each with a thought that names 99."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.requests = texts, list[Request]()

    async def generate(self, request: Request) -> Response:
        self.requests.append(request)
        texts = self.texts if len(self.requests) == 1 else ("7",)
        thought = "It could be 99, or [99]. "
        return Response(tuple(Choice(text, 9, "stop" if text else "length", thought) for text in texts), 16)

    async def aclose(self) -> None:
        pass


JUDGED: list[Any] = []


def judge(inputs: Mapping[str, Any], value: Any) -> float:
    JUDGED.append(value)
    return float(value)


@pytest.mark.parametrize(
    ("fusion", "parse", "texts", "value"),
    [
        (Fusion("first"), parsers.number(), ("", "3", "5"), 3),
        (Fusion("vote"), parsers.number(), ("", "", "5"), 5),
        (Fusion("vote"), parsers.text(), (" ", "yes", "no"), "yes"),
        (Fusion("vote"), parsers.choice(["99", "5"]), ("", "", "5"), "5"),
        (Fusion("vote_list"), parsers.ids(), ("", "[3]", "[3]"), ["3"]),
        (Fusion("best_of", judge=judge), parsers.number(), ("", "3", "5"), 5),
        (Fusion("fuse"), parsers.number(), ("", "3", "5"), 7),
        (Fusion("best_of", judge=judge), parsers.number(), ("", "", ""), None),
    ],
)
async def test_no_fusion_reads_a_thought(fusion: Fusion, parse: Parser, texts: tuple[str, ...], value: Any) -> None:
    JUDGED.clear()
    model, subtask = Thinking(*texts), replace(toy_task()["find"], fusion=fusion, parse=parse)
    answer = await SubtaskSampler(model, Catalog.load()).answer(subtask, SubtaskChoice(LARGE, 3, ""), "?", {})
    assert answer.value == value
    assert answer.use.only_thought == sum(not text.strip() for text in texts)
    assert 99 not in JUDGED
    assert all("99" not in message.content for request in model.requests for message in request.messages)
    if value is None:
        assert "got only thoughts (cut off at max_tokens" in answer.note


async def test_usd_counts_cached_and_reasoning_tokens_and_every_request() -> None:
    class Hosted(Thinking):
        async def generate(self, request: Request) -> Response:
            choices = tuple(Choice("3", 10, reasoning_tokens=6) for _ in range(request.n))
            seconds, requests = 1.5 if request.purpose == "samples" else 0.5, math.ceil(request.n / 2)
            return Response(choices, 100, seconds, cached_tokens=40, requests=requests)

    prices = {"usd_per_1m_cached_prompt": 0.1, "usd_per_1m_reasoning": 2.0, "usd_per_request": 0.001}
    spec = ModelSpec(name="m", base_url="http://127.0.0.1:9", usd_per_1m_prompt=1, usd_per_1m_completion=4, **prices)
    subtask = replace(toy_task()["find"], fusion=Fusion("fuse"), parse=parsers.number(), models=("m",))
    use = (await SubtaskSampler(Hosted(), {"m": spec}).answer(subtask, SubtaskChoice("m", 3, ""), "?", {})).use
    prompt, sample = (60 * 1 + 40 * 0.1) / 1e6 + 0.001, (4 * 4 + 6 * 2) / 1e6
    assert use.usd == pytest.approx(2 * prompt + 3 * sample), "three samples in two requests"
    assert use.fusion_usd == pytest.approx(prompt + sample)
    assert (use.cached_tokens, use.reasoning_tokens, use.seconds) == (40, 18, 2.0)


@pytest.mark.parametrize(("of_one", "count", "used"), [(0.3, 1, 0.3), (0.3, 2, 0.9), (0.0, 1, 0.0), (None, 1, 0.9)])
async def test_a_candidate_with_one_sample_may_have_a_temperature_of_its_own(
    of_one: float | None, count: int, used: float
) -> None:
    model = Thinking(*["3"] * count)
    subtask = replace(toy_task()["find"], temperature=0.9, temperature_of_one=of_one, parse=parsers.number())
    choice = SubtaskChoice(LARGE, count, "")
    await SubtaskSampler(model, Catalog.load()).answer(subtask, choice, "?", {})
    assert [request.temperature for request in model.requests] == [used]
    assert request_for(subtask, choice, "?").temperature == used


@pytest.mark.parametrize(("options", "used"), [({}, 0.0), ({"temperature": 0.3}, 0.3), ({"temperature": 0}, 0)])
async def test_the_fusion_call_has_the_temperature_of_its_option(options: dict[str, Any], used: float) -> None:
    model, fusion = Thinking("3", "5"), Fusion("fuse", options=options)
    subtask = replace(
        toy_task()["find"], fusion=fusion, temperature=0.9, temperature_of_one=0.1, parse=parsers.number()
    )
    await SubtaskSampler(model, Catalog.load()).answer(subtask, SubtaskChoice(LARGE, 2, ""), "?", {})
    assert [request.temperature for request in model.requests] == [0.9, used]
