"""Recorded calls become a task: OpenTelemetry's GenAI spans, a Langfuse export, an OpenAI chat log."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentopt.core.errors import TaskError
from agentopt.taskfile.loading import load_task
from agentopt.taskfile.traces import is_traces, read_calls

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, without a user catalogue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AGENTOPT_CONFIG", str(tmp_path / "config"))
    return tmp_path


def messages(text: str, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "parts": [{"type": "text", "content": text}]}]


def span(trace: str, name: str, start: int, **values: Any) -> dict[str, Any]:
    attributes = [{"key": key.replace("__", "."), "value": {"stringValue": value}} for key, value in values.items()]
    return {
        "traceId": trace,
        "spanId": f"{trace}{name}",
        "name": name,
        "startTimeUnixNano": f"{start}",
        "attributes": attributes,
    }


def generation(trace: str, name: str, start: int, system: str, prompt: str, output: str) -> Iterator[dict[str, Any]]:
    """A step of the program, and its call: a span named by operation and model, as the conventions have it."""
    yield span(trace, name, start)
    call = span(
        trace,
        "chat m",
        start + 1,
        gen_ai__operation__name="chat",
        gen_ai__request__model="m",
        gen_ai__system_instructions=json.dumps([{"type": "text", "content": system}]),
        gen_ai__input__messages=json.dumps(messages(prompt)),
        gen_ai__output__messages=json.dumps(messages(output, "assistant")),
    )
    yield {**call, "spanId": f"{trace}{name}call", "parentSpanId": f"{trace}{name}"}


def otel(number: int) -> list[dict[str, Any]]:
    trace, plan = f"t{number}", f"look at {number}"
    spans = [
        *generation(trace, "Answer it", 20, "Answer.", f"Plan: {plan}\nQuestion {number}?", f"answer {number}"),
        *generation(trace, "plan", 3, "Plan.", f"Question {number}?", plan),
    ]
    return [{"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}]


def langfuse(number: int) -> list[dict[str, Any]]:
    plan = f"look at {number}"

    def one(name: str, start: str, system: str, prompt: str, output: Any) -> dict[str, Any]:
        given = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        row = {"traceId": f"t{number}", "type": "GENERATION", "name": name, "startTime": start}
        return {**row, "input": given if number % 2 else json.dumps(given), "output": output}

    return [
        {"traceId": f"t{number}", "type": "SPAN", "name": "root", "startTime": "1", "input": None, "output": None},
        one(
            "answer_it",
            "3",
            "Answer.",
            f"Plan: {plan}\nQuestion {number}?",
            {"role": "assistant", "content": f"answer {number}"},
        ),
        one("plan", "2", "Plan.", f"Question {number}?", plan),
    ]


def langfuse_trace(number: int) -> list[dict[str, Any]]:
    """The trace as Langfuse's API returns it; an observation without the trace's id is of the trace."""
    first, *others = langfuse(number)
    inner = [{key: value for key, value in one.items() if key != "traceId"} for one in (*others, first)]
    return [{"id": f"t{number}", "name": "qa", "input": "x", "output": "y", "observations": inner}]


@pytest.mark.parametrize("form", [otel, langfuse, langfuse_trace])
def test_a_trace_of_two_calls_becomes_a_task_of_two_subtasks(
    place: Path, console_script: Command, form: Callable[[int], list[dict[str, Any]]]
) -> None:
    rows = [row for number in range(12) for row in form(number)]
    (place / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, printed, errors = console_script("init", "new", "--from", "traces.jsonl")
    assert (code, errors) == (0, "")
    assert "The subtasks are plan, answer_it, from 12 traces." in printed
    assert "The target is the recorded output, right or wrong" in printed
    task = load_task(place / "new")
    assert [(s.name, s.system_prompt, s.reads) for s in task.subtasks] == [
        ("plan", "Plan.", ()),
        ("answer_it", "Answer.", ("plan",)),
    ]
    example = task.splits["test"][0]
    number = example.id[1:]
    assert example.target == f"answer {number}"
    assert task["plan"].render(example.inputs, {}) == f"Question {number}?"
    assert task["answer_it"].render(example.inputs, {"plan": "X"}) == f"Plan: X\nQuestion {number}?"
    assert console_script("optimize", "new", "-c", "new/config.yaml", "--dry-run")[0] == 0


def test_a_chat_log_becomes_one_subtask(place: Path, console_script: Command) -> None:
    def row(number: int) -> dict[str, Any]:
        parts = [{"type": "text", "text": f"Question {number}?"}]
        return {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": parts if number % 2 else f"Question {number}?"},
                {"role": "assistant", "content": f"yes {number}"},
            ]
        }

    lines = [json.dumps(row(number)) for number in range(12)]
    (place / "log.jsonl").write_text("\n".join(lines))
    assert console_script("init", "new", "--from", "log.jsonl")[0] == 0
    task = load_task(place / "new")
    assert [(s.name, s.system_prompt) for s in task.subtasks] == [("answer", "Be brief.")]
    assert {task["answer"].render(e.inputs, {})[:8] for e in task.splits["test"]} == {"Question"}


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Question NUMBER?"}]
CHOICES = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "yes NUMBER"}}]}
OUTPUT = [
    {"type": "reasoning", "summary": []},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes NUMBER"}]},
]


@pytest.mark.parametrize(
    "row",
    [
        {"request": {"model": "m", "messages": CHAT}, "response": CHOICES},
        {"request": json.dumps({"model": "m", "messages": CHAT}), "response": json.dumps(CHOICES)},
        {"custom_id": "a", "request": {"body": {"messages": CHAT}}, "response": {"status_code": 200, "body": CHOICES}},
        {"messages": CHAT, **CHOICES},
        {"messages": CHAT, "response": CHOICES},
        {"request": {"instructions": "Be brief.", "input": "Question NUMBER?"}, "response": {"output": OUTPUT}},
    ],
)
def test_a_log_of_requests_and_responses_becomes_one_subtask(
    place: Path, console_script: Command, row: dict[str, Any]
) -> None:
    text = json.dumps(row)
    (place / "log.jsonl").write_text("\n".join(text.replace("NUMBER", str(number)) for number in range(12)))
    code, _, errors = console_script("init", "new", "--from", "log.jsonl")
    assert (code, errors) == (0, "")
    task = load_task(place / "new")
    assert [(s.name, s.system_prompt) for s in task.subtasks] == [("answer", "Be brief.")]
    example = task.splits["test"][0]
    number = str(example.target).removeprefix("yes ")
    assert task["answer"].render(example.inputs, {}) == f"Question {number}?"


def otel_of(model: str) -> list[dict[str, Any]]:
    text = json.dumps([row for number in range(12) for row in otel(number)])
    return list(json.loads(text.replace('"chat m"', f'"chat {model}"').replace('"m"', f'"{model}"')))


def langfuse_of(model: str) -> list[dict[str, Any]]:
    return [{**row, "model": model} for number in range(12) for row in langfuse(number)]


def log_of(model: str) -> list[dict[str, Any]]:
    text = json.dumps({"request": {"model": model, "messages": CHAT}, "response": CHOICES})
    return [json.loads(text.replace("NUMBER", str(number))) for number in range(12)]


@pytest.mark.parametrize("form", [otel_of, langfuse_of, log_of])
@pytest.mark.parametrize(
    ("model", "models"),
    [
        ("gpt-4o-mini", ["gpt-4o-mini", "gpt-5-nano", "gpt-5-mini"]),
        ("claude-haiku-4-5", ["claude-haiku-4-5"]),
        ("smollm2-135m", ["smollm2-135m"]),
        ("my-own", ["smollm2-135m", "qwen2.5-coder-0.5b"]),
    ],
)
def test_the_recorded_model_is_compared_with_those_of_its_provider(
    place: Path, console_script: Command, form: Callable[[str], list[dict[str, Any]]], model: str, models: list[str]
) -> None:
    (place / "traces.jsonl").write_text("\n".join(map(json.dumps, form(model))))
    code, printed, errors = console_script("init", "new", "--from", "traces.jsonl")
    assert (code, errors) == (0, "")
    assert list(load_task(place / "new").subtasks[0].models) == models
    assert ("The recorded model my-own is not among the models" in printed) == (model == "my-own")


def test_lengths_are_expected_as_they_were_recorded(place: Path, console_script: Command) -> None:
    (place / "log.jsonl").write_text("\n".join(map(json.dumps, log_of("gpt-4o-mini"))))
    assert console_script("init", "new", "--from", "log.jsonl")[0] == 0
    tokens = load_task(place / "new").subtasks[0].tokens
    assert tokens is not None
    # "Be brief." and "Question 0?" have 20 characters and a little more with two digits; "yes 0" has five.
    assert (tokens.prompt, tokens.completion) == (6, 2)


@pytest.mark.parametrize("row", [{"request": "a refund", "response": "no"}, {"question": "x", "observations": [1, 2]}])
def test_a_table_with_columns_of_such_names_is_a_table(row: dict[str, Any]) -> None:
    assert not is_traces(row)


def test_a_target_that_no_task_can_have_is_refused_without_the_name_of_a_temporary_file(
    place: Path, console_script: Command
) -> None:
    rows = [{"question": f"{number}?", "answer": {"value": number}} for number in range(12)]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, _, errors = console_script("init", "new", "--from", "rows.jsonl")
    assert code == 2
    assert errors.startswith("agentopt: rows.jsonl: its task does not load: data/")
    assert "an object with value" in errors
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"resourceSpans": []}], "no call of this form was found; the first row has resourceSpans"),
        ([{"messages": [{"role": "user", "content": "x"}]}], "the first row has messages"),
        (
            [{"type": "SPAN", "traceId": "t", "input": "x", "output": "y"}],
            "the first row has input, output, traceId, type",
        ),
        ([*langfuse(1), *langfuse(1)], "each call of a trace needs its own name"),
        (langfuse(1), "at least two rows with different inputs"),
        ([{"resourceSpans": {"scopeSpans": []}}], "row 1: resourceSpans: must be a list"),
        ([{"resourceSpans": [[]]}], "row 1: resourceSpans.0: must be a mapping"),
        ([{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "x"}]}]}]}], "spans.x.traceId: must be given"),
        ([{**langfuse(1)[0], "type": 3}], "row 1: type: must be a string"),
        ([{**langfuse(1)[0], "input": {"messages": 7}}], "no call of this form was found"),
        ([{**langfuse(1)[0], "output": "[" * 100_000}, *langfuse(2)], "at least two rows with different inputs"),
    ],
)
def test_traces_that_cannot_be_used_are_refused(
    place: Path, console_script: Command, rows: list[dict[str, Any]], message: str
) -> None:
    (place / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, printed, errors = console_script("init", "new", "--from", "traces.jsonl")
    assert (code, printed) == (2, "")
    assert message in errors
    assert not (place / "new").exists()


ODD: tuple[Any, ...] = (None, {}, [], "", 3, True, "x", [None], [{}], {"a": 1})


def mutated(value: Any, randomness: random.Random) -> Any:
    """The value with parts left out or replaced."""
    if randomness.random() < 0.06:
        return randomness.choice(ODD)
    if isinstance(value, dict):
        return {key: mutated(part, randomness) for key, part in value.items() if randomness.random() > 0.03}
    return [mutated(part, randomness) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(60))
def test_a_mutated_export_is_read_or_refused(seed: int) -> None:
    randomness = random.Random(seed)
    rows = [mutated(row, randomness) for row in (*otel(1), *langfuse(1))]
    rows = [row for row in rows if isinstance(row, dict) and is_traces(row)]
    with suppress(TaskError):
        assert all(call.prompt and call.output for call in read_calls(rows, "traces.jsonl"))
