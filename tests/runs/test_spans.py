"""Spans of trials, examples, subtasks and model calls, with the in-memory exporter of OpenTelemetry's SDK."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

from agentopt.api import evaluate, optimize
from agentopt.core.budget import Usage
from agentopt.core.errors import AgentoptError, PermanentModelError
from agentopt.core.events import Event, TrialDone
from agentopt.core.task import Program
from agentopt.models.base import Message, Request, Response, ToolCall
from agentopt.models.call_spans import CAPTURE
from agentopt.models.catalog import ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import open_session
from agentopt.runs.config import Config
from agentopt.testing.toy import toy_model, toy_task


class Switch(Sampler):
    """Records every span until it is switched off."""

    is_on = True

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return (ALWAYS_ON if self.is_on else ALWAYS_OFF).should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return "Switch"


@pytest.fixture(scope="module")
def exporter() -> Iterator[InMemorySpanExporter]:
    """Collects the spans of this process. Its provider can be set only once, so the tests after these switch it off."""
    switch = Switch()
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=switch)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    switch.is_on = False
    exporter.clear()


class Recorded:
    """The spans of a test."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def spans(self) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.instrumentation_scope.name == "agentopt"]  # type: ignore[union-attr]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    @property
    def calls(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind == SpanKind.CLIENT]

    def lineages(self) -> Counter[str]:
        """How many spans have each chain of names, from the root."""
        by_id = {span.context.span_id: span for span in self.spans}

        def lineage(span: ReadableSpan) -> str:
            above = by_id.get(span.parent.span_id) if span.parent else None
            return f"{lineage(above)} > {span.name}" if above else span.name

        return Counter(map(lineage, self.spans))


@pytest.fixture
def recorded(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    monkeypatch.delenv(CAPTURE, raising=False)
    exporter.clear()
    return Recorded(exporter)


def settings(folder: Path, trials: int = 2) -> Config:
    return Config(strategy="random", journal=str(folder / "journal.db"), runs=folder, budget={"trials": trials})


def test_trials_examples_subtasks_and_calls_are_nested(tmp_path: Path, recorded: Recorded) -> None:
    events: list[Event] = []
    task = toy_task(validation=6, test=4)
    result = optimize(task, settings(tmp_path), provider=toy_model(), callbacks=[events.append])
    trials = [event.trial for event in events if isinstance(event, TrialDone)]
    lineages = recorded.lineages()
    models = {name.rpartition("> chat ")[2] for name in lineages if "chat" in name}
    assert {name.rpartition(" > chat")[0] for name in lineages if "chat" in name} == {
        f"{above}example > {subtask}" for above in ("trial > ", "") for subtask in ("find", "answer")
    }, "the examples of the test are in no trial"
    assert models == {subtask.model for trial in result.trials for subtask in trial.candidate.values()}
    assert lineages["trial"] == len(result.trials) == 2
    assert lineages["trial > example"] == sum(len(trial.evaluation.results) for trial in trials)


def test_the_calls_of_a_program_belong_to_its_example(tmp_path: Path, recorded: Recorded) -> None:
    (tmp_path / "program.py").write_text(
        """
import json, os, sys, urllib.request
inputs = json.load(sys.stdin)
body = {"model": "agentopt/find", "messages": [{"role": "user", "content": f"find|{inputs['number']}|"}]}
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
print(json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"])
"""
    )
    task = replace(toy_task(test=3), program=Program((sys.executable, "program.py"), folder=tmp_path))
    evaluation = evaluate(task, config=settings(tmp_path), provider=toy_model())
    assert evaluation.state == "complete"
    assert {name: count for name, count in recorded.lineages().items() if "chat" in name} == {
        f"example > find > chat {recorded.calls[0].attributes['gen_ai.request.model']}": 3  # type: ignore[index]
    }
    examples = {span.context.span_id for span in recorded.named("example")}
    assert {span.parent.span_id for span in recorded.named("find") if span.parent} == examples, "one for each example"


def test_a_trial_and_an_example_have_their_results_as_attributes(tmp_path: Path, recorded: Recorded) -> None:
    result = optimize(toy_task(validation=6, test=4), settings(tmp_path), provider=toy_model())
    baseline = recorded.named("trial")[0].attributes
    assert baseline == {
        "agentopt.trial.number": 0,
        "agentopt.trial.proposer": "baseline",
        "agentopt.trial.choices": str(result.trials[0].candidate),
        "agentopt.trial.state": "complete",
        "agentopt.score": result.trials[0].score,
    }
    examples = [span.attributes or {} for span in recorded.named("example")]
    assert {example["agentopt.score"] for example in examples} <= {0.0, 1.0}
    assert {str(example["agentopt.example.id"]).partition("-")[0] for example in examples} == {"validation", "test"}


def test_a_call_has_the_attributes_of_the_conventions_and_its_tokens_add_up_to_the_spend(
    tmp_path: Path, recorded: Recorded
) -> None:
    result = optimize(toy_task(validation=6, test=4), settings(tmp_path, trials=9), provider=toy_model())
    attributes = [dict(span.attributes or {}) for span in recorded.calls]
    for call in attributes:
        assert call["gen_ai.operation.name"] == "chat"
        assert call["gen_ai.provider.name"] == "llama.cpp"
        assert (call["agentopt.purpose"], call["agentopt.model"]) == ("samples", call["gen_ai.request.model"])
        assert call["gen_ai.request.max_tokens"]
        assert set(call["gen_ai.response.finish_reasons"]) == {"stop"}  # type: ignore[arg-type]
        assert len(call["gen_ai.response.finish_reasons"]) == call.get("gen_ai.request.choice.count", 1)  # type: ignore[arg-type]
        assert call["agentopt.cached"] is ("gen_ai.usage.input_tokens" not in call)
    assert {call["agentopt.cached"] for call in attributes} == {True, False}
    paid = [
        sum(int(str(call.get(f"gen_ai.usage.{kind}_tokens", 0))) for call in attributes) for kind in ("input", "output")
    ]
    spent = sum(result.spent.values(), Usage())
    assert paid == [spent.prompt_tokens, spent.completion_tokens]


def test_calls_from_the_journal_are_marked_and_have_no_usage(tmp_path: Path, recorded: Recorded) -> None:
    for _ in range(2):
        evaluate(toy_task(test=3), config=settings(tmp_path), provider=toy_model())
    first, second = recorded.calls[:6], recorded.calls[6:]
    assert len(first) == len(second) == 6
    assert [span.attributes["agentopt.cached"] for span in first + second] == [False] * 6 + [True] * 6  # type: ignore[index]
    assert not any("gen_ai.usage.input_tokens" in (span.attributes or {}) for span in second)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"base_url": "https://api.example.com/v1"}, ("openai", "m", "api.example.com", 443)),
        ({"base_url": "http://127.0.0.1:8080/v1", "model": "org/large"}, ("openai", "org/large", "127.0.0.1", 8080)),
        ({"litellm": "anthropic/claude-haiku-4-5"}, ("anthropic", "claude-haiku-4-5", None, None)),
        ({"litellm": "gemini/gemini-2.5-flash"}, ("gcp.gemini", "gemini-2.5-flash", None, None)),
        ({"litellm": "gpt-4o-mini"}, ("openai", "gpt-4o-mini", None, None)),
    ],
)
async def test_provider_model_and_server_are_those_of_the_catalogue_entry(
    tmp_path: Path, recorded: Recorded, entry: dict[str, str], expected: tuple[object, ...]
) -> None:
    spec = ModelSpec(name="m", usd_per_1m_prompt=1e6, **entry)
    provider = ScriptedModel(lambda request, repeat: "yes")
    async with open_session({"m": spec}, "a-run", journal=str(tmp_path / "j.db"), provider=provider) as session:
        request = Request("m", (Message("user", "Where?"),), 8, temperature=0.5, top_p=0.9, stop=("\n",), n=3)
        await session.model.generate(request)
        spent = sum(session.spent.values(), Usage())
    (call,) = recorded.calls
    found = call.attributes or {}
    names = ("gen_ai.provider.name", "gen_ai.request.model", "server.address", "server.port")
    assert tuple(found.get(name) for name in names) == expected
    assert call.name == f"chat {expected[1]}"
    assert spent.calls == 3
    wanted = {
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.stop_sequences": ("\n",),
        "gen_ai.request.choice.count": 3,
        "gen_ai.usage.input_tokens": spent.prompt_tokens,
        "agentopt.usd": pytest.approx(spent.usd),
        "agentopt.run": "a-run",
    }
    assert {name: found[name] for name in wanted} == wanted
    assert spent.usd > 0


async def test_a_failed_call_is_marked_with_its_kind_and_without_its_message(
    tmp_path: Path, recorded: Recorded
) -> None:
    class Refusing(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            raise PermanentModelError("the prompt 'secret words' was refused", kind="content filter", scope="example")

    spec = ModelSpec(name="m", base_url="http://127.0.0.1:1/v1")
    provider = Refusing(lambda request, repeat: "")
    async with open_session({"m": spec}, "a-run", journal=str(tmp_path / "j.db"), provider=provider) as session:
        with pytest.raises(AgentoptError):
            await session.model.generate(Request("m", (Message("user", "secret words"),), 8))
    (call,) = recorded.calls
    assert (call.attributes or {})["error.type"] == "content filter"
    assert call.status.status_code == StatusCode.ERROR
    assert "secret words" not in call.to_json()
    assert not call.events


def test_no_prompt_and_no_answer_is_recorded_by_default(tmp_path: Path, recorded: Recorded) -> None:
    evaluate(toy_task(test=3), config=settings(tmp_path), provider=toy_model())
    assert recorded.spans
    text = "".join(span.to_json() for span in recorded.spans)
    assert "messages" not in text
    assert "key-" not in text
    assert "word-" not in text


@pytest.mark.parametrize("value", ["", "false", "NO_CONTENT", "EVENT_ONLY"])
def test_other_values_of_the_variable_record_no_content(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(CAPTURE, value)
    evaluate(toy_task(test=2), config=settings(tmp_path), provider=toy_model())
    assert recorded.calls
    assert not any("gen_ai.input.messages" in (span.attributes or {}) for span in recorded.calls)


@pytest.mark.parametrize("value", ["true", "SPAN_ONLY", "span_and_event"])
async def test_messages_are_recorded_if_the_variable_is_set(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(CAPTURE, value)
    spec = ModelSpec(name="m", base_url="http://127.0.0.1:1/v1")
    messages = (
        Message("system", "Be brief."),
        Message("user", "Weather?"),
        Message("assistant", "", tool_calls=(ToolCall("c1", "weather", '{"city": "Rome"}'),)),
        Message("tool", "sunny", tool_call_id="c1"),
    )
    provider = ScriptedModel(lambda request, repeat: "It is sunny.")
    async with open_session({"m": spec}, "a-run", journal=str(tmp_path / "j.db"), provider=provider) as session:
        await session.model.generate(Request("m", messages, 8))
    (call,) = recorded.calls
    sent, answered = (
        json.loads(str((call.attributes or {})[f"gen_ai.{side}.messages"])) for side in ("input", "output")
    )
    assert sent == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Weather?"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "result": "sunny"}]},
    ]
    assert answered == [
        {"role": "assistant", "parts": [{"type": "text", "content": "It is sunny."}], "finish_reason": "stop"}
    ]


async def test_a_cancelled_caller_ends_its_span(tmp_path: Path, recorded: Recorded) -> None:
    spec = ModelSpec(name="m", base_url="http://127.0.0.1:1/v1")
    async with open_session(
        {"m": spec}, "a-run", journal=str(tmp_path / "j.db"), provider=ScriptedModel(lambda request, repeat: "late")
    ) as session:
        waiting = asyncio.create_task(session.model.generate(Request("m", (Message("user", "Where?"),), 8)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    (call,) = recorded.calls
    assert (call.attributes or {})["error.type"] == "CancelledError"


def test_without_opentelemetry_nothing_is_imported_and_a_run_works(tmp_path: Path) -> None:
    script = f"""
import sys
from agentopt import Config, optimize
from agentopt.testing.toy import toy_model, toy_task
result = optimize(toy_task(validation=3, test=2), Config(strategy="random", journal={str(tmp_path / "j.db")!r},
    runs={str(tmp_path)!r}, budget={{"trials": 2}}), provider=toy_model())
assert result.trials
print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_an_api_without_a_provider_records_nothing_and_a_run_works(tmp_path: Path) -> None:
    script = f"""
import opentelemetry.trace
from agentopt import Config, evaluate
from agentopt.testing.toy import toy_model, toy_task
print(evaluate(toy_task(test=2), config=Config(journal={str(tmp_path / "j.db")!r}), provider=toy_model()).state)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["complete"], done.stderr
