"""A parameter that an endpoint refused is left out by whatever calls the model next with the same journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentopt import Candidate, Config, ModelSpec, SubtaskChoice, adiagnose, aevaluate
from agentopt.core.records import Split
from agentopt.core.task import Example, Subtask, Task, TokenLengths
from agentopt.evaluation.scorers import exact_match
from tests.models.free_server import Answer, FreeServer, completion, refusal

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Picky:
    """The handler of an endpoint that refuses a parameter, and the number of requests that it refused and answered."""

    def __init__(self, parameter: str) -> None:
        self.parameter, self.refused, self.answered = parameter, 0, 0

    def __call__(self, body: dict[str, Any], _: int) -> Answer:
        if self.parameter in body:
            self.refused += 1
            return refusal(400, f"Unsupported parameter: '{self.parameter}'", param=self.parameter)
        self.answered += 1
        return completion("yes")


def task() -> Task:
    rows = {s: tuple(Example(f"{s}-{i}", {"n": f"{s}{i}"}, target="yes") for i in range(8)) for s in SPLITS}
    answer = Subtask(
        "answer",
        lambda inputs, outputs: f"q{inputs['n']}",
        models=("m",),
        max_tokens=4,
        tokens=TokenLengths(16, 4),
        temperature=0.5,
        top_p=0.9,
    )
    return Task("words", (answer,), exact_match(), rows)


@pytest.mark.parametrize(("first", "parameter"), [("evaluate", "top_p"), ("diagnose", "temperature")])
async def test_a_diagnosis_leaves_out_what_was_refused_before_and_later_calls_what_it_found(
    tmp_path: Path, first: str, parameter: str
) -> None:
    picky = Picky(parameter)
    async with FreeServer(picky) as server:
        entry = ModelSpec(name="m", model="served", base_url=server.base_url, price="free", parameters=3e9)

        async def use(what: str, seed: int) -> tuple[int, int]:
            """The number of requests that were refused and answered."""
            before = picky.refused, picky.answered
            settings = {"prompts": {"proposer": "components"}, "response_seed": seed}
            config = Config(models=[entry], journal=str(tmp_path / "j.db"), runs=tmp_path / "runs", **settings)
            if what == "evaluate":
                assert (await aevaluate(task(), config=config)).score == 1.0
            else:
                assert await adiagnose(task(), config)
            return picky.refused - before[0], picky.answered - before[1]

        assert (await use(first, 0))[0] >= 1
        for seed, what in enumerate(("diagnose", "evaluate"), start=1):
            refused, answered = await use(what, seed)
            assert refused == 0, what
            assert answered > 0, what


def one_choice(body: dict[str, Any], _: int) -> Answer:
    """An endpoint that refuses `n`, or ignores it, and has both forms of OpenAI."""
    if body.get("n", 1) > 1 and body["model"] == "refuses":
        return refusal(400, "Unsupported parameter: 'n'", param="n")
    usage = {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25}
    text = {"type": "output_text", "text": "yes", "annotations": []}
    output = [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}]
    of_responses = {"id": "r", "object": "response", "status": "completed", "output": output, "usage": usage}
    return (200, {**of_responses, "created_at": 0, "model": "m"}, {}) if "input" in body else completion("yes")


@pytest.mark.parametrize(
    ("fields", "refused"),
    [({"supports": {"n": False}}, 0), ({"api": "responses"}, 0), ({"model": "refuses"}, 8), ({"model": "ignores"}, 0)],
    ids=["known", "responses", "refuses", "ignores"],
)
async def test_each_of_several_requests_for_one_choice_pays_for_the_prompt(
    tmp_path: Path, fields: dict[str, Any], refused: int
) -> None:
    async with FreeServer(one_choice) as server:
        prices = {"usd_per_1m_prompt": 10.0, "usd_per_1m_completion": 20.0}
        entry = ModelSpec(name="m", base_url=server.base_url, max_choices=8, **prices, **fields)
        config = Config(models=[entry], journal=str(tmp_path / "j.db"))
        candidate = Candidate.of({"answer": SubtaskChoice("m", 4)})
        for _ in range(2):  # the second time from the journal
            evaluation = await aevaluate(task(), candidate, config)
            assert [result.subtasks["answer"].requests for result in evaluation.results] == [4] * 8
            assert evaluation.usd_per_example == pytest.approx(4 * (20 * 10 + 5 * 20) / 1e6)
        assert 8 * 4 <= len(server.bodies) <= 8 * 4 + refused


class FewChoices:
    """The handler of an endpoint that returns few choices per request, and caches prompts; adds up what it bills."""

    def __init__(self, most: int) -> None:
        self.most, self.usd, self.seen = most, 0.0, set[str]()

    def __call__(self, body: dict[str, Any], _: int) -> Answer:
        prompt, count = str(body["messages"]), min(self.most, body.get("n", 1))
        cached = 16 if prompt in self.seen else 0
        self.seen.add(prompt)
        status, content, headers = completion("yes")
        content["choices"] = [{**content["choices"][0], "index": i} for i in range(count)]
        usage = {
            "prompt_tokens": 20,
            "completion_tokens": 5 * count,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        self.usd += ((20 - cached) * 1000 + cached * 100 + 5 * count * 2000) / 1e6
        return status, {**content, "usage": usage}, headers


@pytest.mark.parametrize(("most", "max_choices", "requests"), [(3, 8, 3), (5, 8, 2), (8, 3, 3), (8, 8, 1)])
async def test_measured_usd_is_what_the_requests_were_billed(
    tmp_path: Path, most: int, max_choices: int, requests: int
) -> None:
    few = FewChoices(most)
    async with FreeServer(few) as server:
        prices = {"usd_per_1m_prompt": 1000.0, "usd_per_1m_completion": 2000.0, "usd_per_1m_cached_prompt": 100.0}
        entry = ModelSpec(name="m", base_url=server.base_url, max_choices=max_choices, **prices)
        config = Config(models=[entry], journal=str(tmp_path / "j.db"))
        candidate = Candidate.of({"answer": SubtaskChoice("m", 8)})
        for _ in range(2):  # the second time from the journal
            evaluation = await aevaluate(task(), candidate, config)
            assert [result.subtasks["answer"].requests for result in evaluation.results] == [requests] * 8
            assert evaluation.usd_per_example * 8 == pytest.approx(few.usd)
        assert len(server.bodies) == 8 * requests
