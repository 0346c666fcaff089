"""The agent's loop with a scripted model: good answers, every way of failing, and resuming after a crash."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, validate

from agentopt.core.candidate import Candidate
from agentopt.core.cost import CostMeasure, Pass, Price, SubtaskCost
from agentopt.core.errors import BudgetExceeded, CatalogError, PermanentModelError, TransientModelError, WeightsError
from agentopt.core.events import FallbackUsed, GuidelinesWritten
from agentopt.models.base import ChatModel, Choice, Request, Response
from agentopt.models.scripted import ScriptedModel
from agentopt.search.agent import AgentSearch
from agentopt.search.agent_prompts import (
    ADVICE_LENGTH,
    LISTED,
    guideline_prompt,
    guideline_schema,
    history,
    labels,
    proposal_prompt,
    proposal_schema,
    system_message,
)
from agentopt.search.agent_reply import read_guidelines, read_reply
from agentopt.search.base import Proposal, SearchSpace, SubtaskSpace
from agentopt.search.baselines import GridStrategy
from agentopt.search.insights import initial_candidates
from agentopt.search.proposer_names import SURROGATE
from agentopt.search.settings import NOT_FOUND, AgentSettings
from agentopt.testing.strategies import ScriptedRunner, trial_of
from agentopt.testing.synthetic_landscape import SyntheticLandscape, synthetic_space
from tests.search.test_space import spaces

SETTINGS = AgentSettings(model="agent", style="paper")
FIRST = len(initial_candidates(synthetic_space()))


def answer(*candidates: tuple[str, int, str, int]) -> str:
    """The agent's JSON for (retrieve model, count, answer model, count) each."""
    listed = [{"retrieve": f"{a} x{n}", "answer": f"{b} x{m}"} for a, n, b, m in candidates]
    return json.dumps({"candidates": listed})


def requests_candidates(request: Request) -> bool:
    return '"candidates"' in str(request.json_schema)


def fresh(request: Request, repeat: int) -> str:
    """A good agent: replies with guidelines, or with candidates that the prompt does not list."""
    if not requests_candidates(request):
        return '{"answer": {"model": "llama-3b", "samples": "more"}, "advice": "Prefer the\\nsmall model."}'
    count = json.loads(str(request.json_schema))["properties"]["candidates"]["minItems"]
    tried = request.messages[-1].content
    free = (
        ("qwen-32b", n, "llama-3b", m)
        for n in (1, 2, 3, 5) for m in (1, 2, 3, 5, 7, 10)
        if f"retrieve: qwen-32b x{n}, answer: llama-3b x{m}" not in tried
    )  # fmt: skip
    return answer(*(next(free) for _ in range(count)))


class World:
    """One search on the synthetic landscape: runner, fallback and model are at hand after `run`."""

    def __init__(
        self,
        model: ChatModel | None,
        *,
        trials: int = FIRST + 11,
        settings: AgentSettings = SETTINGS,
        checkpoints: Path | None = None,
        fail_at: int | None = None,
        error: BaseException | None = None,
        fallback_batch: int = 5,
    ) -> None:
        landscape = SyntheticLandscape()
        self.space = landscape.space
        self.runner = ScriptedRunner(self.space, landscape.observed, trials, fail_at=fail_at, error=error)
        self.search = AgentSearch(
            model, settings, GridStrategy(), "answer questions", checkpoints, batch_size=fallback_batch
        )

    async def run(self) -> World:
        await self.search.run(self.space, self.runner)
        return self

    @property
    def proposers(self) -> list[str]:
        return [t.proposer for t in self.runner.trials]

    @property
    def reasons(self) -> list[str]:
        return [event.message for event in self.runner.events if isinstance(event, FallbackUsed)]


async def test_a_good_agent_proposes_everything_after_the_first_trials() -> None:
    model = ScriptedModel(fresh)
    world = await World(model).run()
    assert world.proposers == ["baseline"] + ["initial"] * FIRST + ["agent"] * 10
    assert world.reasons == []
    guidelines = "answer: llama-3b, more samples; Prefer the small model."
    assert GuidelinesWritten(guidelines, 1 + FIRST) in world.runner.events
    assert {r.purpose for r in model.requests} == {"agent"}
    assert f"Guidelines: {guidelines}" in model.requests[1].messages[-1].content
    assert len(model.requests) == 4, "guidelines and a proposal, twice"


async def test_the_last_batch_is_no_larger_than_the_trials_left() -> None:
    model = ScriptedModel(fresh)
    world = await World(model, trials=FIRST + 8).run()
    assert world.proposers[-7:] == ["agent"] * 7
    assert json.loads(str(model.requests[-1].json_schema))["properties"]["candidates"]["minItems"] == 2


async def test_a_retry_names_what_was_wrong_with_broken_json() -> None:
    replies = ["text", "{broken", answer(("qwen-32b", 1, "llama-3b", 7))]
    model = ScriptedModel(script=replies)
    world = await World(model, trials=FIRST + 2, fallback_batch=1).run()
    assert world.proposers[-1] == "agent"
    assert "That did not work: the reply could not be read" in model.requests[2].messages[-1].content
    assert [r.first_repeat for r in model.requests[1:]] == [0, 1], "each attempt has a repeat index of its own"


async def test_unusable_json_in_every_attempt_falls_back_for_one_round() -> None:
    good = [answer(*((m, 1, "llama-3b", n) for m, n in (("qwen-32b", 7), ("qwen-32b", 5), ("qwen-32b", 3))))]
    model = ScriptedModel(script=["text", "no", "{}", '{"candidates": 3}', "text", *good])
    world = await World(model, trials=FIRST + 7, fallback_batch=3).run()
    assert world.proposers[-6:] == ["grid"] * 3 + ["agent"] * 3
    assert len(world.reasons) == 1
    assert "the reply could not be read" in world.reasons[0]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (("qwen-72b", 1, "qwen-72b", 1), "only infeasible candidates"),
        (("llama-3b", 1, "llama-3b", 1), "only candidates that were tried before"),
        (("llama-3b", 1, "no-such-model", 1), "the reply could not be read"),
    ],
)
async def test_a_useless_batch_falls_back_with_its_own_reason(
    candidate: tuple[str, int, str, int], reason: str
) -> None:
    model = ScriptedModel(lambda request, repeat: answer(candidate) if requests_candidates(request) else "text")
    world = await World(model, trials=FIRST + 6).run()
    assert world.proposers[-5:] == ["grid"] * 5
    assert reason in world.reasons[0]
    assert len(model.requests) == 4, "guidelines, then three attempts"


async def test_the_fallback_completes_a_batch_that_is_too_small() -> None:
    twice = ("qwen-32b", 1, "llama-3b", 7)
    model = ScriptedModel(script=["text", answer(twice, twice, ("qwen-32b", 1, "llama-3b", 5))])
    world = await World(model, trials=FIRST + 6).run()
    assert world.proposers[-5:] == ["agent"] * 2 + ["grid"] * 3
    repeated = "only candidates that were tried before (retrieve: qwen-32b x1, answer: llama-3b x7 is not new)"
    assert world.reasons == [f"the agent proposed 2 of 5 candidates: {repeated}; the fallback proposes 3"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TransientModelError("connection refused"), "the agent cannot be reached: connection refused"),
        (PermanentModelError("401 wrong key"), "the agent cannot be reached: 401 wrong key"),
        (WeightsError("no such file"), "the agent cannot be reached: no such file"),
        (CatalogError("the key is not set"), "the agent cannot be reached: the key is not set"),
        (BudgetExceeded("agent.calls", cap=3, spent=3, wanted=1), "no budget for the agent: the agent.calls cap"),
        (BudgetExceeded("usd", cap=3, spent=2, wanted=2), "no budget for the agent: the usd cap"),
    ],
)
@pytest.mark.parametrize("asked_before", [0, 1], ids=["guide", "propose"])
async def test_an_unavailable_agent_is_replaced_for_that_round(
    error: Exception, reason: str, asked_before: int
) -> None:
    model = ScriptedModel(script=[*["text"] * asked_before, error, *["text"] * asked_before, error])
    world = await World(model).run()
    assert world.proposers[-10:] == ["grid"] * 10
    assert len(world.reasons) == 2
    assert all(given.startswith(reason) for given in world.reasons)


class Thinking:
    """A model whose replies are cut off while it thinks, unless `max_tokens` is at least `needed`."""

    def __init__(self, needed: int, *, cut_off_answer: bool = False, reason: str = "length") -> None:
        self.needed, self.cut_off_answer, self.reason = needed, cut_off_answer, reason
        self.requests: list[Request] = []

    async def generate(self, request: Request) -> Response:
        self.requests.append(request)
        if request.max_tokens < self.needed:
            text = '{"candidates": [{"retr' if self.cut_off_answer else ""
            return Response((Choice(text, request.max_tokens, self.reason, "" if text else "Let me see"),), 1)
        return Response((Choice(fresh(request, request.first_repeat), 20, "stop", "Let me see"),), 1)

    async def aclose(self) -> None:
        pass


async def test_a_model_that_thinks_gets_tokens_for_its_thoughts() -> None:
    model = Thinking(5000)
    world = await World(model).run()
    assert world.proposers[FIRST + 1 :] == ["agent"] * 10
    assert sum(request.max_tokens < 5000 for request in model.requests) == 1  # later calls have the room at once


@pytest.mark.parametrize(
    ("reason", "by"),
    [("length", "at agent.max_tokens (700)"), ("content_filter", "by the provider's content filter")],
)
async def test_a_reply_that_was_cut_off_is_reported_with_the_cause(reason: str, by: str) -> None:
    world = await World(Thinking(5000, cut_off_answer=True, reason=reason)).run()
    assert f"the reply was cut off {by}" in world.reasons[0]


async def test_without_an_agent_the_fallback_proposes_and_the_reason_is_recorded() -> None:
    not_found = AgentSettings(model=NOT_FOUND, style="paper")
    reasons = {
        "there is no agent": World(None),
        "agent.model: auto found no model (set one, or null)": World(ScriptedModel(), settings=not_found),
    }
    for reason, world in reasons.items():
        await world.run()
        assert world.proposers[-10:] == ["grid"] * 10
        assert world.reasons == [f"{reason}; the fallback proposes 5"] * 2


@pytest.mark.parametrize("style", ["paper", "shared"])
async def test_settings_without_an_agent_are_no_failure(style: Literal["paper", "shared"]) -> None:
    world = await World(ScriptedModel(), settings=AgentSettings(model=None, style=style)).run()
    assert world.proposers[-10:] == (["grid"] if style == "paper" else [SURROGATE]) * 10
    assert world.reasons == []


async def test_a_cap_of_the_whole_run_ends_the_search() -> None:
    late = BudgetExceeded("seconds", cap=3, spent=3, wanted=0)
    with pytest.raises(BudgetExceeded, match="the seconds cap"):
        await World(ScriptedModel(script=[late])).run()
    reached = BudgetExceeded("calls", cap=3, spent=3, wanted=1)
    with pytest.raises(BudgetExceeded, match="the calls cap"):
        await World(ScriptedModel(fresh), fail_at=3, error=reached).run()


async def test_an_unexpected_exception_propagates_unchanged() -> None:
    with pytest.raises(ZeroDivisionError):
        await World(ScriptedModel(fresh), fail_at=2, error=ZeroDivisionError()).run()


async def test_the_search_ends_when_nothing_is_left_to_try() -> None:
    cost = SubtaskCost(128, 64, {"a": 3e9, "b": 8e9})
    space = SearchSpace((SubtaskSpace("only", ("a", "b"), (1, 2), "", cost),))
    runner = ScriptedRunner(space, lambda candidate: 0.5, max_trials=100)
    model = ScriptedModel(lambda request, repeat: "no idea")
    await AgentSearch(model, SETTINGS, GridStrategy(), "", None).run(space, runner)
    assert len(runner.trials) == 4
    assert runner.events[-1].message.endswith("nothing is left to try")


async def test_a_limit_on_rounds_ends_the_search() -> None:
    world = await World(ScriptedModel(fresh), settings=AgentSettings(model="agent", style="paper", max_rounds=1)).run()
    assert world.proposers.count("agent") == 5


async def test_insights_that_are_off_are_neither_used_nor_shown() -> None:
    off = AgentSettings(model="agent", style="paper", insight_1=False, insight_2=False, insight_3=False)
    model = ScriptedModel(fresh)
    world = await World(model, trials=11, settings=off).run()
    assert world.proposers == ["baseline"] + ["initial"] * 5 + ["agent"] * 5
    assert {t.candidate for t in world.runner.trials[1:6]}.isdisjoint(initial_candidates(world.space))
    messages = model.requests[0].messages
    assert not any(word in messages[0].content for word in ("prefer", "rises", "earlier"))
    assert not any(word in messages[1].content for word in ("suits", "more, fewer", "spend"))
    assert list(json.loads(str(model.requests[0].json_schema))["properties"]) == ["advice"]
    with_insights = ScriptedModel(fresh)
    await World(with_insights).run()
    messages = with_insights.requests[0].messages
    assert all(word in messages[0].content for word in ("prefer", "rises", "earlier"))
    assert all(word in messages[1].content for word in ("suits", "more, fewer", "spend"))


async def test_unusable_guidelines_are_no_reason_to_fall_back() -> None:
    model = ScriptedModel(lambda request, repeat: fresh(request, repeat) if requests_candidates(request) else "text")
    world = await World(model).run()
    assert world.proposers[-10:] == ["agent"] * 10
    unread = next(event for event in world.runner.events if isinstance(event, GuidelinesWritten))
    assert (unread.text, unread.message) == ("", "guidelines: none, because the reply could not be read")
    assert "Guidelines" not in model.requests[1].messages[-1].content


async def _undisturbed(tmp_path: Path) -> World:
    return await World(ScriptedModel(fresh), checkpoints=tmp_path / "whole.db").run()


@pytest.mark.parametrize("fail_at", [1, 5, FIRST, FIRST + 1, FIRST + 3, FIRST + 5, FIRST + 6, FIRST + 10])
async def test_a_search_that_crashed_while_running_trials_ends_like_an_undisturbed_one(
    tmp_path: Path, fail_at: int
) -> None:
    whole = await _undisturbed(tmp_path)
    broken = World(ScriptedModel(fresh), checkpoints=tmp_path / "c.db", fail_at=fail_at)
    with pytest.raises(RuntimeError, match="went down"):
        await broken.run()
    await broken.run()
    assert broken.runner.trials == whole.runner.trials


@pytest.mark.parametrize("crash_at", [1, 2, 3, 4])
async def test_a_search_that_crashed_during_a_call_ends_like_an_undisturbed_one(tmp_path: Path, crash_at: int) -> None:
    whole = await _undisturbed(tmp_path)
    calls = 0

    def crashing(request: Request, repeat: int) -> str:
        nonlocal calls
        calls += 1
        if calls == crash_at:
            raise KeyError("power cut")
        return fresh(request, repeat)

    broken = World(ScriptedModel(crashing), checkpoints=tmp_path / "c.db")
    with pytest.raises(KeyError, match="power cut"):
        await broken.run()
    await broken.run()
    assert broken.runner.trials == whole.runner.trials
    assert calls == 5, "only the interrupted call is repeated"


@pytest.mark.parametrize("cancel_at", [2, FIRST + 3])
async def test_a_cancelled_search_resumes_at_its_node(tmp_path: Path, cancel_at: int) -> None:
    whole = await _undisturbed(tmp_path)
    landscape = SyntheticLandscape()
    tasks: list[asyncio.Task[None]] = []

    def score(candidate: Candidate) -> float:
        if tasks and len(runner.trials) == cancel_at:
            tasks.pop().cancel()
        return landscape.observed(candidate)

    runner = ScriptedRunner(landscape.space, score, FIRST + 11)
    search = AgentSearch(ScriptedModel(fresh), SETTINGS, GridStrategy(), "answer questions", tmp_path / "c.db")
    tasks.append(asyncio.create_task(search.run(landscape.space, runner)))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert len(runner.trials) < FIRST + 11
    await search.run(landscape.space, runner)
    assert runner.trials == whole.runner.trials


async def test_a_finished_search_continues_when_more_trials_are_allowed(tmp_path: Path) -> None:
    landscape = SyntheticLandscape()
    runner = ScriptedRunner(landscape.space, landscape.observed, FIRST + 6)
    search = AgentSearch(ScriptedModel(fresh), SETTINGS, GridStrategy(), "", tmp_path / "c.db")
    await search.run(landscape.space, runner)
    await search.run(landscape.space, runner)
    assert len(runner.trials) == FIRST + 6
    runner.max_trials += 5
    await search.run(landscape.space, runner)
    assert [t.proposer for t in runner.trials[-5:]] == ["agent"] * 5


async def test_the_checkpoints_are_in_wal_mode(tmp_path: Path) -> None:
    await _undisturbed(tmp_path)
    with sqlite3.connect(tmp_path / "whole.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_no_trace_is_sent_even_if_langsmith_is_on() -> None:
    code = (
        "import asyncio, socket\n"
        "def refuse(*args, **kwargs): raise SystemExit('a connection was opened')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from tests.search.test_agent import World\n"
        "asyncio.run(World(None).run())\n"
    )
    environment = {"LANGSMITH_TRACING": "true", "LANGSMITH_API_KEY": "k", "PATH": "", "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Forms of the agent's reply.


def read(text: str, tried: Sequence[Candidate] = (), count: int = 5) -> list[tuple[str, int, str, int]]:
    reply = read_reply(text, synthetic_space(), tried, count)
    return [
        (c["retrieve"].model, c["retrieve"].num_samples, c["answer"].model, c["answer"].num_samples)
        for c in (p.candidate for p in reply.proposals)
    ]


GOOD = ("qwen-32b", 1, "llama-3b", 7)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text,
        lambda text: f"```json\n{text}\n```",
        lambda text: f"Sure! {{I think}} this is best:\n{text}\nGood luck [1].",
        lambda text: json.dumps(json.loads(text)["candidates"]),
        lambda text: json.dumps(json.loads(text)["candidates"][0]),
        lambda text: text[: text.rindex("]}")],
        lambda text: text.replace("}]}", "},]}"),
        lambda text: text.replace('"', "'"),
        lambda text: f"Sure! {{I think}} this:\n{text.removesuffix('}')},\n]",
        lambda text: text.replace("retrieve", "Retrieve").replace("qwen-32b", "QWEN-32B"),
        lambda text: text.replace("qwen-32b", "qwen-32b-instruct"),
        lambda text: text.replace("qwen-32b", "qwen-3"),
        lambda text: text.replace(" x7", " x 7").replace(" x1", " * 1"),
        lambda text: text.replace('"qwen-32b x1"', '["qwen-32b", 1]'),
        lambda text: text.replace('"qwen-32b x1"', '{"model": "qwen-32b", "num_samples": "1"}'),
    ],
    ids=[
        *("plain", "fenced", "prose", "list", "alone", "cut off", "trailing comma", "single quotes", "prose, cut"),
        *("case", "longer name", "prefix"),
        *("spaces", "pair", "object"),
    ],
)
def test_an_answer_is_read_however_it_is_wrapped(wrap: Callable[[str], str]) -> None:
    assert read(wrap(answer(GOOD))) == [GOOD]


@pytest.mark.parametrize(("count", "nearest"), [(8, 7), (9, 10), (0, 1), (-3, 1), (1000, 90), (12.4, 10)])
def test_a_sample_count_that_is_not_allowed_becomes_the_nearest_one(count: float, nearest: int) -> None:
    text = answer(GOOD).replace(" x7", f" x{count}")
    assert read(text.replace("qwen-32b", "llama-3b")) == [("llama-3b", 1, "llama-3b", nearest)]


def test_a_repair_is_written_into_the_note() -> None:
    text = answer(("QWEN-32b", 1, "llama-3b", 8), ("qwen-72b", 90, "llama-3b", 1))
    notes = [p.note for p in read_reply(text, synthetic_space(), (), 5).proposals]
    assert notes[0] == "retrieve: QWEN-32b read as qwen-32b; answer: 8 read as 7"
    assert notes[1] == "samples lowered to fit the cost"


@pytest.mark.parametrize("model", ["llama", "", None, 7, "gpt"])
def test_a_model_that_could_be_several_or_none_is_not_guessed(model: object) -> None:
    text = answer(GOOD).replace('"qwen-32b x1"', json.dumps({"model": model, "num_samples": 1}))
    reply = read_reply(text, synthetic_space(), (), 5)
    assert reply.proposals == ()
    assert "retrieve has no model" in reply.problem


@pytest.mark.parametrize("count", ["true", "null", '"many"', "NaN", "1e999", "[1]"])
def test_a_sample_count_that_is_no_number_is_not_guessed(count: str) -> None:
    text = answer(GOOD).replace('"llama-3b x7"', f'["llama-3b", {count}]')
    reply = read_reply(text, synthetic_space(), (), 5)
    assert reply.proposals == ()
    assert "num_samples of answer must be a number" in reply.problem


@pytest.mark.parametrize("choice", ["llama-3b", "", 7, None, [], ["llama-3b", 7, 7], "llama-3b x"])
def test_a_choice_without_both_model_and_count_is_not_guessed(choice: object) -> None:
    text = answer(GOOD).replace('"llama-3b x7"', json.dumps(choice))
    assert read_reply(text, synthetic_space(), (), 5).problem.startswith("the reply could not be read")


def test_good_candidates_are_read_beside_bad_ones_up_to_the_requested_number() -> None:
    text = json.loads(answer(GOOD, ("qwen-32b", 2, "llama-3b", 7), ("qwen-32b", 3, "llama-3b", 7)))
    text["candidates"].insert(0, {"retrieve": "?"})
    assert read(json.dumps(text), count=2) == [GOOD, ("qwen-32b", 2, "llama-3b", 7)]


@settings(max_examples=60)
@given(spaces(), st.data())
def test_whatever_the_agent_writes_only_new_affordable_candidates_come_out(
    space: SearchSpace, data: st.DataObject
) -> None:
    json_values = st.recursive(
        st.none()
        | st.booleans()
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["tiny", "LARGE", "tiny x2", 1, 5]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["s0", "s1", "s2", "model", "samples", "candidates", "spend", "advice"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
    text = data.draw(st.text(max_size=20)) + json.dumps(data.draw(json_values)) + data.draw(st.text(max_size=5))
    tried = space.candidates()[:2]
    reply = read_reply(text, space, tried, 3)
    found = [p.candidate for p in reply.proposals]
    assert len(found) == len(set(found)) <= 3
    assert all(space.contains(c) and c not in tried for c in found)
    assert found or reply.problem
    assert len(read_guidelines(text, space)) < 300


def as_entry(space: SearchSpace, candidate: Candidate) -> dict[str, str]:
    return {name: str(replace(c, model=labels(space)[c.model])) for name, c in candidate.items()}


@settings(max_examples=30)
@given(spaces(), st.integers(1, 4), st.data())
def test_the_schema_admits_exactly_the_affordable_untried_candidates(
    space: SearchSpace, count: int, data: st.DataObject
) -> None:
    every, allowed = SearchSpace(space.subtasks).candidates()[:40], space.candidates()
    tried = set(data.draw(st.lists(st.sampled_from(every), max_size=5)))
    text = proposal_schema(space, tried, count)
    assert text == proposal_schema(space, tried, count)
    assert text == json.dumps(json.loads(text), separators=(",", ":"))
    exact = 0 < len(set(allowed) - tried) <= LISTED
    check = Draft202012Validator(json.loads(text))
    for candidate in every:
        admitted = check.is_valid({"candidates": [as_entry(space, candidate)] * count})
        assert admitted == (not exact or (candidate in allowed and candidate not in tried))


@settings(max_examples=60)
@given(spaces())
def test_what_the_schema_admits_is_read_without_a_repair(space: SearchSpace) -> None:
    for candidate in space.candidates()[:20]:
        reply = read_reply(json.dumps({"candidates": [as_entry(space, candidate)]}), space, (), 1)
        assert reply.proposals == (Proposal(candidate, "agent"),)


def test_a_large_space_has_every_choice_in_its_schema() -> None:
    space = synthetic_space()
    schema = json.loads(proposal_schema(space, space.candidates()[:5], 2))
    retrieve = schema["properties"]["candidates"]["items"]["properties"]["retrieve"]
    assert len(retrieve["enum"]) == 6 * 13


def test_a_long_run_of_sample_counts_is_given_by_a_pattern() -> None:
    cost = SubtaskCost(128, 64, {"a.b-1": 3e9, "a.b-2": 3e9})
    space = SearchSpace((SubtaskSpace("only", ("a.b-1", "a.b-2"), tuple(range(1, 101)), "", cost),))
    pattern = json.loads(proposal_schema(space, (), 1))["properties"]["candidates"]["items"]["properties"]["only"][
        "pattern"
    ]
    assert pattern == r"^(a\.b-1|a\.b-2) x[1-9][0-9]{0,2}$"
    assert "samples 1 to 100" in system_message(space, SETTINGS, "").content


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("smollm2-135m", "qwen2.5-coder-0.5b"), ("smollm", "qwen")),
        (("llama-3b", "llama-8b", "qwen-7b"), ("llama-3b", "llama-8b", "qwen")),
        (("gpt-4.1", "gpt-4.1-mini", "o3-mini"), ("gpt-4.1", "gpt-4.1-mini", "o3")),
        (("qwen", "Qwen2.5", "qwen-3"), ("qwen", "Qwen2.5", "qwen-3")),
    ],
)
def test_a_label_is_a_prefix_that_no_other_model_shares(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    cost = SubtaskCost(128, 64, dict.fromkeys(names, 3e9))
    space = SearchSpace((SubtaskSpace("only", names, (1,), "", cost),))
    assert tuple(labels(space).values()) == expected
    for name, label in labels(space).items():
        reply = read_reply(json.dumps({"candidates": [{"only": f"{label} x1"}]}), space, (), 1)
        assert [p.candidate["only"].model for p in reply.proposals] == [name]


# Forms of the agent's guidelines.


@pytest.mark.parametrize("first", [True, False])
def test_the_guideline_schema_requests_models_only_after_the_first_trials(first: bool) -> None:
    schema = json.loads(guideline_schema(synthetic_space(), SETTINGS, first=first))
    assert list(schema["properties"]) == ["retrieve", "answer", "spend", "advice"], "advice follows from the rest"
    retrieve = schema["properties"]["retrieve"]["properties"]
    assert list(retrieve) == (["model", "samples"] if first else ["samples"])
    given = {"retrieve": {"samples": "more"}, "answer": {"samples": "same"}, "spend": "answer", "advice": "a" * 80}
    if first:
        given = {**given, "retrieve": {"model": "qwen-32b", "samples": "more"}}
        given = {**given, "answer": {"model": "llama-3b", "samples": "same"}}
    validate(given, schema)
    assert not Draft202012Validator(schema).is_valid({**given, "advice": "a" * 81})
    assert not Draft202012Validator(schema).is_valid({**given, "advice": "answer qwen x1 = 0.44 (28)"}), "no copied row"
    assert not Draft202012Validator(schema).is_valid({**given, "spend": "both"})


def test_with_one_subtask_the_guidelines_do_not_name_one_to_spend_more_on() -> None:
    space = SearchSpace(synthetic_space().subtasks[:1])
    assert "spend" not in json.loads(guideline_schema(space, SETTINGS, first=True))["properties"]


def test_guidelines_become_one_short_line() -> None:
    given = {
        "Retrieve": {"model": "QWEN-32b", "samples": "more"},
        "answer": {"model": "llama-3b", "samples": "fewer"},
        "spend": "answer",
        "advice": "try\n" + "long " * 40,
    }
    line = read_guidelines(f"Here:\n{json.dumps(given)}", synthetic_space())
    start = "retrieve: qwen-32b, more samples; answer: llama-3b, fewer samples; spend more on answer; try long"
    assert line.startswith(start)
    assert "\n" not in line
    assert len(line) == len(start) - len("try long") + ADVICE_LENGTH


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no JSON", ""),
        ("{", ""),
        ("[1, 2]", ""),
        ('{"advice": " "}', ""),
        ('{"retrieve": "qwen-32b", "answer": {"model": "llama", "samples": "lots"}}', ""),
        ('{"retrieve": {"samples": ["more"]}, "answer": {"samples": "same"}}', "answer: same samples"),
        ('{"answer": {"model": "qwen-7b"}, "spend": 3, "advice": 4}', "answer: qwen-7b"),
    ],
)
def test_unreadable_parts_of_guidelines_are_dropped(text: str, line: str) -> None:
    assert read_guidelines(text, synthetic_space()) == line


def test_the_prompts_of_a_task_with_two_subtasks_stay_short() -> None:
    sizes = {"smollm2-135m": 134.5e6, "qwen2.5-coder-0.5b": 494e6}
    subtasks = [
        SubtaskSpace(name, tuple(sizes), (1, 2, 3, 5, 8), "", SubtaskCost(90, 10, sizes), f"{name} the fact")
        for name in ("find", "answer")
    ]
    space = SearchSpace(tuple(subtasks), 60)
    trials = [trial_of(space, i, Proposal(c, "x"), 0.1 * i) for i, c in enumerate(space.candidates()[:10])]
    intro = system_message(space, SETTINGS, "Answer a two-hop question from eight short sentences.").content
    for question in (
        guideline_prompt(space, trials, [7, 8, 9], SETTINGS, first=True),
        proposal_prompt(space, trials, [7, 8, 9], "find: qwen, more samples; " + "a" * ADVICE_LENGTH, 3),
    ):
        assert len(intro + question) < 1600, "about 450 tokens"


def test_the_history_shows_the_best_and_the_last_batch_with_their_states() -> None:
    space = synthetic_space()
    candidates = space.candidates()[:20]
    trials = [trial_of(space, i, Proposal(c, "x"), 0.9 - 0.01 * i) for i, c in enumerate(candidates)]
    trials[18] = trial_of(space, 18, Proposal(candidates[18], "x"), 0.95, "pruned")
    trials[19] = trial_of(space, 19, Proposal(candidates[19], "x"), None)
    lines = guideline_prompt(space, trials, [17, 18, 19], SETTINGS, first=False).splitlines()
    rows = [line for line in lines if line.startswith("retrieve: ")]
    assert len(rows) == 7, "five best and two of the last batch; the one without a score is not shown"
    assert rows[0] == f"retrieve: llama-3b x1, answer: llama-3b x1 = 0.90 ({trials[0].units:.0f})"
    assert rows[5].endswith(", new)")
    assert rows[6].endswith(", new, stopped early)"), "a stopped trial ranks below every complete one"


@pytest.mark.parametrize(
    ("measure", "name"), [("units", "units"), ("usd", "USD per 1,000 requests"), ("seconds", "seconds")]
)
def test_costs_are_shown_in_the_measure_of_the_space(measure: CostMeasure, name: str) -> None:
    space = replace(synthetic_space(), max_units=None, measure=measure)
    message = system_message(space, AgentSettings(), "")
    assert f"; {name} for n: " in message.content
    assert f"Tried, best score first ({name}):" in history(space, [], [])
    assert measure == "units" or "units" not in message.content


def test_limits_and_costs_in_usd_are_shown_for_1000_requests() -> None:
    cost = SubtaskCost(100, 20, {}, prices={"dear": Price(20, 20), "cheap": Price(1, 1)}, measure="usd")
    space = SearchSpace((SubtaskSpace("a", ("dear", "cheap"), (1, 2), "", cost),), measure="usd", max_usd=0.003)
    content = system_message(space, SETTINGS, "").content
    assert "All subtasks together may cost at most 3 USD per 1,000 requests." in content
    assert "USD per 1,000 requests for n: dear 2+0.4n, cheap 0.1+0.02n (from the task's tokens)." in content
    for models, source in {
        ("cheap",): "(measured: cheap; others from the task's tokens)",
        ("dear", "cheap"): "(measured)",
    }.items():
        measured = replace(cost, passes={model: Pass(100, 20) for model in models})
        shown = replace(space, subtasks=(replace(space.subtasks[0], cost=measured),))
        assert f"cheap 0.1+0.02n {source}." in system_message(shown, SETTINGS, "").content
    reply = read_reply('{"candidates": [{"a": "dear x2"}, {"a": "dear x1"}]}', replace(space, max_usd=0.001), set(), 2)
    assert reply.infeasible == 2
    assert reply.detail == "a: dear x2 costs 2.8 of 1 USD per 1,000 requests"


def test_scores_that_hardly_vary_prompt_the_agent_to_explore() -> None:
    space = synthetic_space()
    flat = [trial_of(space, i, Proposal(c, "x"), 0.5) for i, c in enumerate(space.candidates()[:5])]
    assert "explore" in guideline_prompt(space, flat, [3, 4], SETTINGS, first=False)
    assert "explore" not in guideline_prompt(space, flat, [3, 4], SETTINGS, first=True)
