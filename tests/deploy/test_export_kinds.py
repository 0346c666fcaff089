"""Every parser, every fusion and every cascade: an exported module gives the values of the library."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from test_export import WORDS, bodies, deployment_in, loaded

from agentopt.core.registry import FUSIONS, PARSERS, Registry
from agentopt.core.task import Example, Unparsable
from agentopt.deploy.export.module import python_module
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.session import open_session
from agentopt.testing.servers import OpenAIServer, prompt_text
from agentopt.workflow import parsers

OWN = """
import re
from agentopt.core.task import Unparsable


def fruit(response):
    found = re.search("apple|pear", response)
    if not found:
        raise Unparsable("expected a fruit, got '#'  # noqa")
    return found[0]


def brief(inputs, value):
    return len(str(value)) * (-1) ** len(inputs["word"])


def is_plausible(inputs, value):
    return len(str(value)) != 3 or len(inputs["word"]) % 2 == 0
"""
PAIR = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FINAL = {"kind": "choice", "options": ["yes", "no"], "final": True}
PARSE: list[dict[str, Any]] = [
    {"kind": "text"},
    {"kind": "text", "first_line": True},
    {"kind": "text", "bare": True},
    {"kind": "text", "first_line": True, "bare": True},
    {"kind": "number"},
    {"kind": "number", "decimal": ","},
    {"kind": "number", "single": True},
    {"kind": "number", "decimal": ",", "single": True},
    {"kind": "choice", "options": ["yes", "no"]},
    {"kind": "choice", "options": ["A", "B", "C"]},
    {"kind": "choice", "options": ["1", "12", "是", "否"]},
    FINAL,
    {"kind": "choice", "options": ["A", "B", "C"], "final": True},
    {"kind": "choice", "options": ["1", "12", "是", "否"], "final": True},
    {"kind": "ids"},
    {"kind": "ids", "max": 2},
    {"kind": "json", "schema": PAIR},
    {"kind": "json", "schema": {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"minimum": 2}}}},
    {"kind": "python", "function": "own.py:fruit"},
    {"kind": "python", "function": "own.py:fruit", "schema": {"type": "string"}},
]
RESPONSES = [
    *("", " \n", "yes", "**No.**", "Yes, because no other is", "maybe", "Answer: B", "(C)", "a pear, then an apple"),
    "It could be yes.\n#### no",
    "First A, then B.\nThe answer is C.",
    r"Of yes and no: \boxed{no}",
    r"\boxed{\frac{3}{4}} or 7",
    "- [ ] yes\n- [x] no",
    "☐ A\n☑ B",
    "答案是：否",  # noqa: RUF001 - as models write it
    "1. 是\n2. 否",
    '```json\n{"a": 1}\n```',
    'so: {"a": 2} and {"a": 3}',
    '{"a": 1.5}',
    '{"a": 1, "b": 2}',
    "[2, 3]",
    "[1]",
    "S3, S1 and S3",
    "[]",
    "none",
    "1. Kell\n2. Vard",
    "[3] Ada was born in 1950",
    "1.234,5",
    "$9,500 of 12",
    "12 = 3*4",
    "9-12",
    "3 or 4",
    "45% of 1 1/2",
    "1.5 million",
    "twelve",
    "12,345,67",
    '"Kell"',
    '{"answer": "Kell"}',
    "`Kell`\n\nbecause",
    "x" * 5000,
    "\ud83d no",
]


def of_agentopt(registry: Registry) -> set[str]:
    """The names that this package registers: other tests register more."""
    return {name for name in registry.names() if registry.find(name).make.__module__.startswith("agentopt.")}


def write(folder: Path, base_url: str, choice: Mapping[str, Any], **changes: Any) -> Any:
    """A task of one subtask, its candidate and its catalogue, as a deployment."""
    subtask = {"name": "only", "prompt": "{{ inputs.word }}?", "models": ["small", "big"], "temperature": 0.5}
    spec = {
        "name": "kinds",
        "data": {"validation": "rows.jsonl", "test": "test.jsonl"},
        "subtasks": [{**subtask, "max_tokens": 9, "num_samples": [1, 5], **changes}],
        "scorer": {"kind": "exact_match"},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    (folder / "own.py").write_text(OWN)
    parse = changes["parse"]
    targets = {"ids": ["1"], "number": 1, "json": {"a": 1}, "choice": parse.get("options", [""])[0]}
    target = targets.get(parse["kind"], "yes")
    for name in ("rows", "test"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"id": name, "word": name, "target": target}) + "\n")
    (folder / "best.yaml").write_text(yaml.safe_dump({"only": choice}))
    entry = {"base_url": base_url, "supports": {"seed": True}, "parameters": 1e9, "max_choices": 3}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": {"small": entry, "big": entry, "writer": entry}}))
    return deployment_in(folder)


def read(parse: Callable[[str], Any], unparsable: type[Exception]) -> list[Any]:
    def one(response: str) -> Any:
        try:
            return parse(response)
        except unparsable as error:
            return f"unparsable: {error}"

    return [one(response) for response in RESPONSES]


@pytest.mark.parametrize("parse", PARSE, ids=str)
def test_every_exported_parser_reads_what_the_library_reads(tmp_path: Path, parse: dict[str, Any]) -> None:
    choice = {"model": "small", "num_samples": 1}
    deployment = write(tmp_path, "http://127.0.0.1:9/v1", choice, parse=parse, fuse="first")
    module = loaded(python_module(deployment))
    ours = read(parsers.python(deployment.task["only"].parse), Unparsable)
    assert read(module.SUBTASKS[0].parse, module.Unparsable) == ours
    unread = sum(str(value).startswith("unparsable: ") for value in ours)
    assert 0 < unread < len(RESPONSES)


REPLIES = (
    "yes or no?\n#### no, pear 2 [2, 1]",
    "The answer is yes: apple 1 [1]",
    "?",
    "no, not yes. Answer: yes, a pear 2 [2]",
    "Of yes, pear and 3: the answer is no [3, 1]",
    "yes. pear 1 [1, 2]",
)


def reply(body: Mapping[str, Any], index: int) -> str:
    """A reply that depends on the prompt, the seed and the model; to some prompts, the small model has none."""
    prompt, model = prompt_text(body), body["model"]
    if model == "small" and len(prompt) % 5 == 0:
        return "?"
    drawn = f"{prompt} {model} {int(body.get('seed') or 0) + index}"
    return REPLIES[hashlib.sha256(drawn.encode()).digest()[0] % len(REPLIES)]


SETTLED = [{"kind": "vote", "stop": stop} for stop in ("decided", 0.6, 0.75, 0.9, 0.99)]
WRITER = {"kind": "fuse", "model": "writer", "temperature": 0.3, "prompt": "{{ question }}: {{ answers | join(';') }}"}
BEST = {"kind": "best_of", "judge": "own.py:brief"}
FUSE: list[dict[str, Any]] = [{"kind": "first"}, {"kind": "vote"}, *SETTLED, BEST, {"kind": "fuse"}, WRITER]
CASES: list[tuple[dict[str, Any], dict[str, Any], Any, float | None]] = [
    *((fuse, FINAL, None, None) for fuse in FUSE),
    ({"kind": "vote_list"}, {"kind": "ids"}, None, None),
    ({"kind": "vote_list"}, {"kind": "ids", "max": 1}, ["small", "big"], 0.5),
    ({"kind": "vote"}, {"kind": "number"}, None, None),
    ({"kind": "vote", "stop": 0.8}, {"kind": "python", "function": "own.py:fruit"}, None, None),
    *((fuse, FINAL, ["small", "big"], 0.75) for fuse in FUSE),
    *(
        ({"kind": "vote", "stop": "decided"}, FINAL, {"models": ["small", "big"], "below": [below], **check}, below)
        for below in (0, 0.5, 1)
        for check in ({}, {"check": "own.py:is_plausible"})
    ),
]


def test_every_kind_is_exported_here() -> None:
    assert {parse["kind"] for parse in PARSE} == of_agentopt(PARSERS)
    assert {fuse["kind"] for fuse, *_ in CASES} == of_agentopt(FUSIONS)


@pytest.mark.parametrize(("fuse", "parse", "cascade", "below"), CASES, ids=str)
async def test_every_exported_fusion_and_cascade_gives_the_values_of_the_library(
    tmp_path: Path, fuse: dict[str, Any], parse: dict[str, Any], cascade: Any, below: float | None
) -> None:
    choice = {"model": "small", "num_samples": 5, "settings": {} if below is None else {"cascade.below": below}}
    changes = {} if cascade is None else {"cascade": cascade}
    async with OpenAIServer(reply) as server:
        deployment = write(tmp_path, server.base_url, choice, parse=parse, fuse=fuse, **changes)
        module = loaded(python_module(deployment))
        ours, escalated = [], 0
        async with open_session(deployment.specs, "run", journal=str(tmp_path / "journal.db")) as session:
            evaluator = Evaluator(deployment.task, session.model, deployment.specs)
            for word in WORDS:
                result = await evaluator.run_example(deployment.candidate, Example("e", {"word": word}, "yes"))
                ours.append(result.output)
                escalated += result.subtasks["only"].escalated
        sent_by_us, seen = bodies(server, 0), len(server.requests)
        theirs = [await asyncio.to_thread(run, module, word) for word in WORDS]
        sent_by_module = bodies(server, seen)
        for called in (module.SUBTASKS[0], module.SUBTASKS[0].fusion_call, module.SUBTASKS[0].cascade):
            if called:
                module.client(called.endpoint).close()
    assert theirs == ours
    assert sent_by_module == sent_by_us
    assert len({str(value) for value in ours}) > 1
    assert (escalated > 0) is (below is not None)


def run(module: ModuleType, word: str) -> str:
    output = module.run({"word": word})
    return "" if output is None else str(output)
