"""Tests of `agentopt export`: the same requests, the same answers, and no import of agentopt."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import runpy
import subprocess
import sys
import tokenize
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import openai
import pytest
import yaml
from aiohttp import web
from rich.console import Console

from agentopt.api import evaluate, optimize
from agentopt.cli.commands.export import candidate_file, run_export
from agentopt.core.candidate import load_candidate
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.task import Example, Unparsable
from agentopt.deploy.deployment import find_deployment
from agentopt.deploy.export import runtime
from agentopt.deploy.export.module import NEEDED, python_module
from agentopt.deploy.export.router import router_config
from agentopt.deploy.export.runtime import main
from agentopt.deploy.export.source import Extraction
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.session import open_session
from agentopt.runs.config import load_config
from agentopt.testing.servers import OpenAIServer, prompt_text
from agentopt.testing.zoo import running_zoo
from agentopt.testing.zoo_families import family
from agentopt.testing.zoo_rules import KEY
from agentopt.workflow import parsers
from agentopt.workflow.inputs import InputColumns
from agentopt.workflow.templates import compile_template

INPUTS = {
    "word": "pear",
    "facts": ["The pear is green.", "An apple is red.", "The plum is blue."],
    "person": {"name": "Ada", "age": 36},
    "number": 7,
    "flag": False,
    'odd "text"': "a\\b\n",
    "nothing": None,
}

TEMPLATES = [
    "plain {{ inputs.word }}!\n",
    "{% for fact in inputs.facts if not fact.startswith('The ') %}{{ fact }}\n{% endfor %}{{ find.output }}",
    "{% for f in inputs.facts %}{{ loop.index }}/{{ loop.length }}: {{ f | upper }}{% endfor %}",
    "{% for f in inputs.facts %}{{ f }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{{ inputs.person.name }} is {{ inputs['person']['age'] }}, {{ inputs.person }} {{ inputs.facts }}",
    "{% if inputs.number > 5 and inputs.word in 'a pear' %}big{% elif inputs.flag %}flag{% else %}small{% endif %}",
    "{{ '7' | int + 1 }} {{ '2.9' | int }} {{ 'seven' | int }} {{ inputs.nothing | int }}",
    "{{ inputs.number + 1 }} {{ inputs.number // 2 }} {{ -inputs.number }} {{ 2 ** 3 }} {{ inputs.number is odd }}",
    "{% set n = inputs.facts | length %}{{ n }} {{ n ~ 'x' ~ inputs.flag }} {{ 'a' if inputs.flag else 'b' }}",
    "{{ inputs.facts | join('; ') }} {{ inputs.word | replace('p', 'b') | trim }} {{ inputs.facts[0] }}",
    "{{ inputs.facts[-1][:3] }} {{ inputs.nothing is none }} {{ inputs.nothing }}",
    "{% for i in range(3) %}{% for fact in inputs.facts %}{{ i }}{{ fact[i] }}{% endfor %}{% endfor %}",
    "{% for word in inputs.facts %}{{ word }}{{ inputs.word }}{% endfor %}",
    "{% for list in [1, 2] %}{{ list }}{% endfor %}",
    "{% for a, b in [(1, 'x'), (2, 'y')] %}{{ a }}{{ b }}{% endfor %}{% raw %}{{ raw }}{% endraw %}{# gone #}",
    "{% for fact in inputs.facts %}{% set fact = fact | lower %}{{ fact }}{% endfor %}{{ inputs['odd \"text\"'] }}",
    "{{ {'a': 1, 'b': [1, 2]} }} {{ [] }} {{ (1,) | length }}",
    "{{ inputs.word.replace('p', 'q') }} {{ not inputs.flag }}",
    "{% for x in [1, 2] if x %}{{ loop.index }}{% for y in [1] %}{{ loop.index0 }}{% endfor %}{% endfor %}",
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = tmp_path_factory.mktemp("exported")
    write_task(folder, "http://127.0.0.1:9/v1")
    return loaded(python_module(deployment_in(folder)))


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_exported_prompt_is_rendered_as_agentopt_renders_it(exported: ModuleType, template: str) -> None:
    names = {"inputs": exported.Record(INPUTS), "find": exported.Record({"output": "what was found"})}
    expected = compile_template(template).render(INPUTS, {"find": "what was found"})
    assert exported.render(template, **names) == expected


def test_an_exported_prompt_names_a_column_that_is_missing(exported: ModuleType) -> None:
    with pytest.raises(jinja2.UndefinedError, match=r"`wrod` is not defined \(there is: word\)"):
        exported.render("{{ inputs.wrod }}", inputs=exported.Record({"word": "x"}))


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
    {"anyOf": [{"const": 1}, {"type": "array", "items": {"$ref": "#/$defs/n"}}], "$defs": {"n": {"minimum": 2}}},
    {"type": "array", "uniqueItems": True, "contains": {"enum": ["x", None]}},
]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize(
    "response", ['{"a": 1}', '{"a": 1.5}', "1", "[2, 3]", "so: [1, 3]", '["x", "x"]', '["x"]', "null"]
)
def test_exported_json_is_validated_as_agentopt_validates_it(
    exported: ModuleType, schema: dict[str, Any], response: str
) -> None:
    def parsed(json_value: Any, unparsable: type[Exception]) -> Any:
        try:
            return json_value(schema)(response)
        except unparsable as error:
            return str(error)

    ours = parsed(parsers.json_value, Unparsable)
    assert parsed(exported.json_value, exported.Unparsable) == ours


SCORERS = '''
"""Functions of the task."""
import re
from collections import Counter
from agentopt.core.task import Unparsable

WORDS = ["pear"]
WORDS.append("cherry")
UNUSED = __file__


def shortest(inputs, value):
    return len(str(value)) * (-1) ** len(inputs["word"]) + Counter(inputs["word"])["x"]


def named(response):
    found = re.findall("|".join(WORDS), response)
    if not found:
        raise Unparsable("no fruit")
    return found[0]
'''


def spec_of_task(**changes: Any) -> dict[str, Any]:
    shared = {"models": ["chat", "single"], "max_tokens": 8, "num_samples": {"max": 9}, "temperature": 0.5}
    schema = {"type": "object", "properties": {"fruit": {"type": "string"}}, "required": ["fruit"]}
    subtasks: dict[str, dict[str, Any]] = {
        "listed": {"prompt": "ids: {{ inputs.word }}", "parse": {"kind": "ids"}, "fuse": "vote_list"},
        "amount": {"prompt": "number: {{ listed.output }}", "parse": "number"},
        "object": {
            "prompt": "json: {{ inputs.word }} {{ amount.output }}",
            "parse": {"kind": "json", "schema": schema},
            "fuse": {"method": "fuse", "model": "single", "temperature": 0.3},
        },
        "fruit": {
            "prompt": "fruit: {{ object.output.fruit }}",
            "parse": {"kind": "python", "function": "scorers.py:named"},
            "fuse": {"method": "best_of", "judge": "scorers.py:shortest"},
            "stop": ["\n"],
        },
        "final": {
            "prompt": "{% for f in fruit.output %}{{ loop.index }}{{ f }}{% endfor %} choice",
            "parse": {"kind": "choice", "options": ["yes", "no"]},
            "models": ["base"],
            "num_samples": [1, 2],
            "temperature_of_one": 0.2,
        },
    }
    for name, change in changes.items():
        subtasks[name] |= change
    return {
        "name": 'rich "task"',
        "data": {"validation": "rows.jsonl", "test": "test.jsonl"},
        "subtasks": [{"name": name, **shared, **subtask} for name, subtask in subtasks.items()],
        "scorer": {"kind": "exact_match"},
    }


def answer(body: Mapping[str, Any], index: int) -> str:
    """The answer to a prompt, a function of the prompt and the seed; one in five cannot be parsed."""
    prompt = prompt_text(body)
    draw = (int(body.get("seed") or 0) + index + len(prompt) + len(body["model"]) + 1) % 5
    if draw == 4:
        return "?"
    words = {
        "ids": f"[{draw}, {draw % 2 + 5}]",
        "number": f"it is {draw % 3}",
        "json": json.dumps({"fruit": f"pear plum {draw}"[: 9 + draw % 2]}),
        "fruit": ["a cherry", "the pear", "pear", "cherry"][draw],
    }
    kind = prompt.rpartition("\n")[2].partition(":")[0] if "proposed" not in prompt else "json"
    return words.get(kind, ["yes", "no", "Yes.", "no!"][draw])


CANDIDATE = {
    "listed": {"model": "chat", "num_samples": 5, "system_prompt": "List\nids."},
    "amount": {"model": "single", "num_samples": 3, "system_prompt": ""},
    "object": {"model": "chat", "num_samples": 3, "system_prompt": 'say "json"'},
    "fruit": {"model": "chat", "num_samples": 4, "system_prompt": ""},
    "final": {"model": "base", "num_samples": 2, "system_prompt": "décide"},
}


def write_task(folder: Path, base_url: str, **changes: Any) -> Path:
    """A task that uses every parser and fusion, its catalogue and a candidate; the candidate's path."""
    (folder / "task.yaml").write_text(yaml.safe_dump(spec_of_task(**changes), sort_keys=False))
    (folder / "rows.jsonl").write_text('{"id": "r", "word": "w", "target": "yes"}\n')
    (folder / "test.jsonl").write_text('{"id": "t", "word": "v", "target": "yes"}\n')
    (folder / "scorers.py").write_text(SCORERS)
    entry = {
        "base_url": base_url,
        "supports": {"seed": True},
        "temperature": 0.9,
        "top_p": 1.0,
        "parameters": 3e9,
        "api_key_env": "EXPORT_KEY",
    }
    entries = {
        "chat": {**entry, "model": "chat-model", "max_choices": 2, "json_schema": True},
        "single": {**entry, "max_attempts": 2},
        "base": {**entry, "chat_template": False},
    }
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
    (folder / "best.yaml").write_text(yaml.safe_dump(CANDIDATE, sort_keys=False))
    return folder / "best.yaml"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORT_KEY", "export-key")


def deployment_in(folder: Path) -> Any:
    return find_deployment(folder / "best.yaml", folder, [f"models=[{folder / 'models.yaml'}]"])


def loaded(source: str) -> ModuleType:
    module = ModuleType("exported")
    sys.modules["exported"] = module  # where dataclasses look their module up
    exec(source, module.__dict__)
    return module


async def test_the_exported_module_gives_what_the_workflow_gives(tmp_path: Path) -> None:
    async with OpenAIServer(answer, api_key="export-key") as server:
        write_task(tmp_path, server.base_url)
        deployment = deployment_in(tmp_path)
        module = loaded(python_module(deployment))
        ours, theirs = [], []
        async with open_session(deployment.specs, "run", journal=str(tmp_path / "journal.db")) as session:
            evaluator = Evaluator(deployment.task, session.model, deployment.specs)
            for word in WORDS:
                result = await evaluator.run_example(deployment.candidate, Example("e", {"word": word}, "yes"))
                ours.append(result.output)
            sent_by_us = bodies(server, 0)
            seen = len(server.requests)
            for word in WORDS:
                output = await asyncio.to_thread(module.run, {"word": word})
                theirs.append("" if output is None else output)
            sent_by_module = bodies(server, seen)
        for subtask in module.SUBTASKS:
            module.client(subtask.endpoint).close()
    assert theirs == ours
    assert sent_by_module == sent_by_us
    assert set(ours) >= {"yes", "no"}
    assert any("proposed answers" in line for line in sent_by_us)


WORDS = ("apple", "fig", "banana", "kiwi", "cherry", "date", "x" * 20, "plum", "lime", "quince", "melon")


def bodies(server: OpenAIServer, first: int) -> set[str]:
    """The distinct bodies of the requests from number `first` on; a session sends equal ones once."""
    return {json.dumps(request.body, sort_keys=True) for request in server.requests[first:]}


async def test_the_exported_module_runs_by_itself(tmp_path: Path) -> None:
    async with OpenAIServer(answer, api_key="export-key") as server:
        write_task(tmp_path, server.base_url)
        source = python_module(deployment_in(tmp_path))
        (tmp_path / "alone.py").write_text(source)
        command = [sys.executable, "alone.py", '{"word": "fig"}']
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, cwd=tmp_path, check=False, env=dict(os.environ)
        )
    assert (done.stderr, done.returncode) == ("", 0)
    assert json.loads(done.stdout) in ("yes", "no", None)
    imports = {
        alias.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for alias in node.names
    }
    froms = {str(node.module) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imports | froms} - sys.stdlib_module_names == {
        *("openai", "jinja2", "jsonschema", "referencing", "regex")
    }
    assert "Needs `pip install openai jinja2 jsonschema regex` and the environment variable EXPORT_KEY." in source
    assert "export-key" not in source
    assert "EXPORT_KEY" in source
    assert "UNUSED" not in source


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported module whose models have an address that refuses connections."""
    folder = tmp_path_factory.mktemp("mistaken")
    write_task(folder, "http://127.0.0.1:9/v1")
    (folder / "alone.py").write_text(python_module(deployment_in(folder)))
    return folder / "alone.py"


USAGE = "the input must be a string, or a JSON object with word, but"
MEANT = "did you mean 'word' in place of 'wrod'?"


@pytest.mark.parametrize(
    ("arguments", "key", "complaint"),
    [
        ([], "k", f"{USAGE} 0 arguments were given"),
        (["a", "b"], "k", f"{USAGE} 2 arguments were given"),
        (['{"wrod": "fig"}'], "k", f"{USAGE} it lacks word and it has wrod, which is unknown; {MEANT}"),
        (['{"word": "fig", "id": 1}'], "k", f"{USAGE} it has id, which is unknown"),
        (['{"word": ["fig"]}'], "k", f"{USAGE} word must be a string, but is a list"),
        (['{"word": "fig"}'], "", "the environment variable EXPORT_KEY is not set"),
    ],
)
def test_a_mistake_in_how_an_exported_module_is_run_is_one_sentence(
    mistaken: Path,
    arguments: list[str],
    key: str,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EXPORT_KEY", key)
    monkeypatch.setattr(sys, "argv", [str(mistaken), *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(mistaken), run_name="__main__")
    printed = capsys.readouterr()
    assert (printed.out, printed.err, stop.value.code) == ("", f"{complaint}\n", 2)


def test_an_exported_module_takes_the_text_of_the_only_column_and_reports_a_failed_call(tmp_path: Path) -> None:
    write_task(tmp_path, "http://127.0.0.1:9/v1", listed={"models": ["single", "chat"]})
    source = python_module(deployment_in(tmp_path)).replace("max_retries: int = 5", "max_retries: int = 0")
    (tmp_path / "alone.py").write_text(source)
    command = [sys.executable, "alone.py", "fig"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr == "a model call failed: Connection error.\n"


def test_an_output_that_cannot_be_parsed_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(lambda _: None, InputColumns(("word",), is_text=True), ["fig"]) == 1
    assert capsys.readouterr() == ("", "no answer of a subtask could be parsed\n")


def test_the_usage_line_has_a_placeholder_of_the_type_of_each_column(tmp_path: Path) -> None:
    write_task(tmp_path, "http://127.0.0.1:9/v1")
    row = {"word": "fig", "facts": [{"title": "a", "n": 3}, {"title": "b"}], "size": 2, "none": []}
    for split in ("rows", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({**row, "word": split, "target": "yes"}) + "\n")
    source = python_module(deployment_in(tmp_path))
    usage = next(line for line in source.splitlines() if line.startswith("    python THIS_FILE.py "))
    shown = json.loads(usage.partition("'")[2].rstrip("'"))
    assert shown == {"word": "...", "facts": [{"title": "...", "n": 3}], "size": 2, "none": []}
    assert loaded(source).COLUMNS.check(shown) == shown


def test_an_exported_module_refuses_other_columns(tmp_path: Path) -> None:
    write_task(tmp_path, "http://127.0.0.1:9/v1")
    module = loaded(python_module(deployment_in(tmp_path)))
    with pytest.raises(ValueError, match="it lacks word and it has id, which is unknown"):
        module.run({"id": "x"})


def test_the_parsers_and_the_runtime_can_be_copied_into_one_module() -> None:
    extraction = Extraction()  # which refuses two definitions of one name
    extraction.add(Path(runtime.__file__), NEEDED)
    for name in ("text", "number", "choice", "ids", "json_value"):
        extraction.add(Path(parsers.__file__), [name])
    module = loaded(f"from __future__ import annotations\n{extraction.imports()}\n\n{extraction.definitions}")
    assert all(hasattr(module, name) for name in NEEDED)
    assert module.number()("so 3.5") == 3.5
    assert module.choice(["yes", "no"], final=True)("yes?\n#### no") == "no"
    assert module.text(bare=True)("Answer: **Kell**") == "Kell"
    assert extraction.libraries == ["openai", "jinja2", "jsonschema", "regex"]


def test_an_unneeded_part_is_left_out(tmp_path: Path) -> None:
    write_task(tmp_path, "http://127.0.0.1:9/v1")
    source = python_module(deployment_in(tmp_path))
    assert "def json_value" in source
    assert "def first" not in source
    assert "json_repair" not in source


def test_an_exported_module_needs_jsonschema_only_if_a_subtask_answers_in_json(tmp_path: Path) -> None:
    write_task(
        tmp_path,
        "http://127.0.0.1:9/v1",
        object={"parse": "text", "fuse": "first"},
        fruit={"prompt": "{{ object.output }}"},
    )
    source = python_module(deployment_in(tmp_path))
    assert "Needs `pip install openai jinja2` and" in source
    assert "jsonschema" not in source


@pytest.mark.parametrize("mark", ["\f", "\v", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize(
    ("encoding", "end"), [("utf-8", "\n"), ("utf-8", "\r\n"), ("utf-8", "\r"), ("utf-8-sig", "\n"), ("latin-1", "\n")]
)
def test_definitions_are_copied_whole_whatever_their_file_has(
    tmp_path: Path, mark: str, encoding: str, end: str
) -> None:
    if encoding == "latin-1" and mark > "\xff":
        mark = "\xe9"
    page = mark if mark == "\f" else ""  # the only one that Python accepts outside of strings and comments
    text = f"""# -*- coding: {encoding} -*-
SEPARATOR = "a{mark}b"  # as in{mark}our data
{page}
{page}def read(text):
    found = None
    if text:  # not {mark} empty
        found = text.replace("{mark}", SEPARATOR)
    return found
after = 3
"""
    (tmp_path / "reading.py").write_bytes(text.replace("\n", end).encode(encoding))
    extraction = Extraction()
    extraction.add(tmp_path / "reading.py", ["read"])
    names: dict[str, Any] = {}
    exec(extraction.definitions, names)
    assert names["read"](f"x{mark}y") == f"xa{mark}by"
    assert "after" not in names


@pytest.mark.parametrize(
    "written",
    [
        '"a  # noqa"',
        "'a  # noqa: E501'",
        '"a  # type: ignore[arg-type] b"',
        '"""a\\n  # noqa\\n"""',
        'r"""a\n  # noqa\n\nb  # type: ignore\n"""',
        '"""a\n# noqa: S603\n"""',
        "f\"{len('b')}  # noqa\"",
        'f"""{len(\n    "b  # noqa"\n)}  # noqa"""',
        '("a"  # noqa\n    "  # noqa")',
        '("a"\n    # noqa\n    "b")  # type: ignore',
        '["a",  # noqa: S105 - no password\n"b  # noqa"]  # noqa',
    ],
)
def test_comments_for_linters_are_left_out_and_texts_that_look_like_one_are_kept(tmp_path: Path, written: str) -> None:
    (tmp_path / "reading.py").write_text(
        f"VALUE = {written}\n\n\ndef read(text):  # noqa\n    # kept: no noqa\n    return VALUE  # type: ignore[a]\n"
    )
    extraction = Extraction()
    extraction.add(tmp_path / "reading.py", ["read"])
    names: dict[str, Any] = {}
    exec(extraction.definitions, names)
    assert names["read"]("") == eval(written)
    comments = [
        token.string
        for token in tokenize.generate_tokens(StringIO(extraction.definitions).readline)
        if token.type == tokenize.COMMENT
    ]
    assert comments == ["# kept: no noqa"]


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ("import numpy\n" + SCORERS.replace("WORDS = [", "WORDS = numpy.array and ["), "but got 'numpy'"),
        (SCORERS.replace("found = re", "import numpy\n    found = re"), "but got 'numpy'"),
        (
            "import agentopt\n" + SCORERS.replace("found = re", "agentopt.core.cost\n    found = re"),
            "but got 'agentopt'",
        ),
        (SCORERS.replace("found = re", "open(__file__)\n    found = re"), "uses `__file__`"),
        (
            SCORERS.replace("found = re", "answer_text\n    found = re")
            + "\nfrom agentopt.workflow import answer_text\n",
            "not so of 'answer_text'",
        ),
        (SCORERS.replace("def named", "if WORDS:\n  def named"), "not so of 'named'"),
        (SCORERS.replace("WORDS", "SUBTASKS"), "cannot define 'SUBTASKS' twice"),
        (SCORERS.replace("WORDS", "vote"), "cannot define 'vote' twice"),
    ],
)
def test_functions_that_cannot_stand_alone_are_refused(tmp_path: Path, functions: str, said: str) -> None:
    write_task(tmp_path, "http://127.0.0.1:9/v1")
    (tmp_path / "scorers.py").write_text(functions)
    with pytest.raises(UserError, match=rf"(?s){said}.*remedy"):
        python_module(deployment_in(tmp_path))


def test_what_the_openai_client_cannot_reach_is_refused(tmp_path: Path) -> None:
    write_task(tmp_path, "http://127.0.0.1:9/v1")
    entry = {"litellm": "anthropic/claude-haiku-4-5", "parameters": 1e9}
    models = yaml.safe_load((tmp_path / "models.yaml").read_text())
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": {**models["models"], "chat": entry}}))
    with pytest.raises(UserError, match=r"(?s)cannot reach anthropic/claude-haiku-4-5.*--to litellm"):
        python_module(deployment_in(tmp_path))
    assert "model: anthropic/claude-haiku-4-5" in router_config(deployment_in(tmp_path))


def test_a_program_cannot_be_written_as_a_module(tmp_path: Path) -> None:
    write_task(tmp_path, "http://127.0.0.1:9/v1")
    spec = yaml.safe_load((tmp_path / "task.yaml").read_text())
    for subtask in spec["subtasks"]:
        del subtask["prompt"]
    spec["program"] = {"command": ["true"]}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(UserError, match=r"(?s)a program of its own.*agentopt serve"):
        python_module(deployment_in(tmp_path))
    assert "single" in router_config(deployment_in(tmp_path))


def test_a_subtask_with_a_context_function_is_refused(tmp_path: Path) -> None:
    write_task(
        tmp_path, "http://127.0.0.1:9/v1", amount={"context": "scorers.py:named", "prompt": "{{ context.output }}"}
    )
    spec = yaml.safe_load((tmp_path / "task.yaml").read_text())
    spec["subtasks"] = [s for s in spec["subtasks"] if s["name"] == "amount"]
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(spec))
    put = {"amount": CANDIDATE["amount"]}
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(put))
    with pytest.raises(UserError, match=r"(?s)subtask amount: context.*has a context function.*agentopt serve"):
        python_module(deployment_in(tmp_path))


async def test_the_router_configuration_is_taken_by_litellm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentopt.models.litellm_route import load_litellm

    litellm = load_litellm()
    async with OpenAIServer(answer, api_key="export-key") as server:
        write_task(tmp_path, server.base_url)
        text = router_config(deployment_in(tmp_path))
        router = litellm.Router(**yaml.safe_load(text))
        said = await router.acompletion('rich "task"/listed', messages=[{"role": "user", "content": "ids: x"}])
        texts = [choice.message.content for choice in said.choices]
        body = server.requests[-1].body
    assert texts == [answer(body, index) for index in range(2)]
    assert (body["model"], body["temperature"], body["max_tokens"], body["n"]) == ("chat-model", 0.5, 8, 2)
    assert set(router.get_model_names()) == {f'rich "task"/{name}' for name in CANDIDATE} | {
        'rich "task"/object/fusion'
    }
    assert "export-key" not in text
    await litellm.close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()


def test_a_file_of_weights_gets_its_address_from_the_environment(tmp_path: Path) -> None:
    write_task(tmp_path, "http://127.0.0.1:9/v1")
    (tmp_path / "model.gguf").write_bytes(b"")
    models = yaml.safe_load((tmp_path / "models.yaml").read_text())
    entry = {"weights": {"file": "model.gguf"}, "parameters": 1e9}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": {**models["models"], "chat": entry}}))
    deployment = deployment_in(tmp_path)
    assert "base_url_env='CHAT_URL'" in python_module(deployment)
    assert "api_base: os.environ/CHAT_URL" in router_config(deployment)
    assert "# Needs the environment variable CHAT_URL." in router_config(deployment)


def test_an_exported_candidate_loads_again(tmp_path: Path) -> None:
    write_task(tmp_path, "http://127.0.0.1:9/v1")
    deployment = deployment_in(tmp_path)
    (tmp_path / "again.yaml").write_text(candidate_file(deployment))
    assert load_candidate(tmp_path / "again.yaml") == deployment.candidate


def test_the_command_writes_to_standard_output_and_to_a_file(tmp_path: Path) -> None:
    write_task(tmp_path, "http://127.0.0.1:9/v1")
    settings = [f"models=[{tmp_path / 'models.yaml'}]"]
    command = ["-m", "agentopt", "export", "best.yaml", "--to", "yaml", "--task", ".", "-c", *settings]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert yaml.safe_load(done.stdout) == CANDIDATE
    out = tmp_path / "module.py"
    run_export(tmp_path / "best.yaml", "python", out, tmp_path, settings, Console(file=StringIO()))
    compile(out.read_text(), "module.py", "exec")


def test_a_file_that_is_there_is_replaced_only_on_request(tmp_path: Path) -> None:
    best = write_task(tmp_path, "http://127.0.0.1:9/v1")
    before, given = best.read_text(), [f"models=[{tmp_path / 'models.yaml'}]"]
    with pytest.raises(UserError, match=r"(?s)best.yaml: the file exists already.*--force"):
        run_export(best, "python", best, tmp_path, given, Console(file=StringIO()))
    assert best.read_text() == before
    run_export(best, "yaml", best, tmp_path, given, Console(file=StringIO()), force=True)
    assert best.read_text() != before
    with pytest.raises(UserError, match="this is a folder"):
        run_export(best, "yaml", tmp_path, tmp_path, given, Console(file=StringIO()), force=True)


def test_a_missing_path_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)nope: there is no such file or folder.*runs list"):
        run_export(tmp_path / "nope", "yaml", None, None, [], Console(file=StringIO()))


@pytest.mark.parametrize(
    ("form", "out", "has_task", "message"),
    [
        ("yaml", None, False, "add --task"),
        ("yaml", "no/such/file", True, "cannot be written: no such file"),
    ],
)
def test_a_mistake_in_the_request_names_its_remedy(
    tmp_path: Path, form: str, out: str | None, has_task: bool, message: str
) -> None:
    write_task(tmp_path, "http://127.0.0.1:9/v1")
    file, task = tmp_path / out if out else None, tmp_path if has_task else None
    with pytest.raises(UserError, match=f"(?s){message}"):
        run_export(tmp_path / "best.yaml", form, file, task, [f"models=[{tmp_path / 'models.yaml'}]"], Console())


@pytest.mark.parametrize("file", [".", "best.yaml", "recommended.yaml"])
def test_a_run_whose_task_has_moved_names_the_option(file: str) -> None:
    source = Path(__file__).parents[1] / "data" / "0.1.0" / "finished" / file
    with pytest.raises(ConfigError, match=r"(?s)the task of its run is no longer at /project/task.*add --task"):
        find_deployment(source)


def test_an_unfinished_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run is here"):
        find_deployment(tmp_path)


def write_small_task(folder: Path, entry: Mapping[str, Any], **changes: Any) -> None:
    """A task of one subtask that reads a number, its candidate, and a catalogue with the entry `m`."""
    subtask = {"name": "only", "prompt": "What is {{ inputs.word }}?", "models": ["m"], "parse": "number"}
    spec = {
        "name": "small",
        "data": {"validation": "rows.jsonl", "test": "test.jsonl"},
        "subtasks": [{**subtask, "max_tokens": 9, **changes}],
        "scorer": {"kind": "exact_match"},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    for name in ("rows", "test"):
        (folder / f"{name}.jsonl").write_text(f'{{"id": "{name}", "word": "{name}", "target": "9"}}\n')
    samples = changes.get("num_samples", [1])[0]
    candidate = {"only": {"model": "m", "num_samples": samples, "system_prompt": "Name it."}}
    (folder / "best.yaml").write_text(yaml.safe_dump(candidate))
    model = {"temperature": 0.9, "top_p": 1.0, "parameters": 1e9, **entry}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": {"m": model}}))


@pytest.mark.parametrize(
    ("entry", "sent"),
    [
        ({"max_tokens_parameter": "max_completion_tokens"}, {"max_completion_tokens": 9}),
        ({"supports": {"temperature": False}}, {"max_tokens": 9, "top_p": 1.0}),
        ({"extra_body": {"think": False}}, {"max_tokens": 9, "temperature": 0.9, "top_p": 1.0, "think": False}),
        ({"system_role": "user"}, {"messages": [{"role": "user", "content": "Name it.\n\nWhat is w?"}]}),
    ],
)
async def test_an_exported_module_sends_what_the_endpoint_takes_and_drops_thoughts(
    tmp_path: Path, entry: dict[str, Any], sent: dict[str, Any]
) -> None:
    def think(body: Mapping[str, Any], index: int) -> str:
        return "<think>It is 7, or 8.</think>\n\n9"

    async with OpenAIServer(think) as server:
        write_small_task(tmp_path, {"base_url": server.base_url, **entry})
        module = loaded(python_module(deployment_in(tmp_path)))
        assert await asyncio.to_thread(module.run, {"word": "w"}) == 9
        module.client(module.SUBTASKS[0].endpoint).close()
    body = server.requests[0].body
    assert {key: body[key] for key in sent} == sent
    assert not {"seed", "max_tokens" if "max_completion_tokens" in sent else "max_completion_tokens"} & set(body)
    assert ("temperature" in body) is ("supports" not in entry)


@pytest.mark.parametrize("refused", [{"temperature", "seed"}, {"stop", "n"}, {"max_tokens", "top_p"}])
def test_what_an_endpoint_refused_during_a_run_is_sent_neither_later_nor_by_its_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: set[str]
) -> None:
    monkeypatch.setenv("ZOO_KEY", KEY)
    strict = replace(family("openai-plain"), refused=frozenset(refused))
    with running_zoo(answer=lambda body, _: "9" if "stop" in body else "9\n10", families=[strict]) as zoo:
        entry = {"base_url": zoo.base_url(strict), "api_key_env": "ZOO_KEY", "max_choices": 2}
        write_small_task(tmp_path, entry, num_samples=[2], stop=["\n"])
        places = [f"models=[{tmp_path / 'models.yaml'}]", f"journal={tmp_path / 'j.db'}", f"runs={tmp_path / 'runs'}"]
        cost = "task.cost={unit: {parameters: 1e9, prompt_tokens: 3, completion_tokens: 2}, max_units: 9}"
        settings = [*places, cost, "strategy=random", "budget.trials=1", "response_seed=3"]
        result = optimize(tmp_path, load_config(settings))
        assert result.refused_parameters == {"m": tuple(sorted(refused))}
        assert {name for exchange in zoo.exchanges if exchange.refused for name in exchange.body} >= refused
        first = len(zoo.exchanges)
        # Without the finding, the first request would be refused again before the stored response is found.
        assert optimize(tmp_path, resume=result.run).refused_parameters == result.refused_parameters
        assert len(zoo.exchanges) == first
        deployment = find_deployment(Path(result.run))
        module = loaded(python_module(deployment))
        assert module.run({"word": "w"}) == 9
        module.client(module.SUBTASKS[0].endpoint).close()
        again = load_config([*settings, "response_seed=4"])
        assert evaluate(tmp_path, config=again).scores
        assert optimize(tmp_path, again).refused_parameters == result.refused_parameters
        sent = zoo.exchanges[first:]
    assert len(sent) >= 3
    assert not [exchange.refused for exchange in sent if exchange.refused]
    (routed,) = yaml.safe_load(router_config(deployment))["model_list"]
    assert not refused & set(routed["litellm_params"])


@asynccontextmanager
async def listening(answer: dict[str, Any] | None) -> AsyncIterator[tuple[str, list[web.Request], list[Any]]]:
    """A server that gives every request the same answer, or redirects it; its address, the requests, their bodies."""
    requests: list[web.Request] = []
    received: list[Any] = []

    async def respond(request: web.Request) -> web.Response:
        requests.append(request)
        received.append(await request.json())
        if answer is None:
            return web.Response(status=307, headers={"Location": "/elsewhere"})
        return web.json_response(answer)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}", requests, received
    finally:
        await runner.cleanup()


def completion(content: Any, **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


async def run_small(tmp_path: Path) -> Any:
    module = loaded(python_module(deployment_in(tmp_path)).replace("max_retries: int = 5", "max_retries: int = 0"))
    try:
        return await asyncio.to_thread(module.run, {"word": "w"})
    finally:
        module.client(module.SUBTASKS[0].endpoint).close()


@pytest.mark.parametrize(
    ("entry", "target"),
    [
        ({"query": {"api-version": "2024-10-21"}}, "/openai/chat/completions?api-version=2024-10-21"),
        ({"base_url": "?api-version=1&a=2"}, "/openai/chat/completions?api-version=1&a=2"),
        ({"extra_headers": {"X-Title": "small"}}, "/openai/chat/completions"),
    ],
)
async def test_an_exported_module_sends_the_key_in_the_header_of_the_entry(
    tmp_path: Path, entry: dict[str, Any], target: str
) -> None:
    async with listening(completion("9")) as (url, requests, _):
        azure = {"api_key_header": "api-key", "api_key_env": "EXPORT_KEY", **entry}
        write_small_task(tmp_path, {**azure, "base_url": f"{url}/openai{entry.get('base_url', '')}"})
        assert await run_small(tmp_path) == 9
    (request,) = requests
    assert str(request.rel_url) == target
    assert request.headers["api-key"] == "export-key"
    assert "Authorization" not in request.headers
    assert request.headers.get("X-Title") == entry.get("extra_headers", {}).get("X-Title")


@pytest.mark.parametrize(
    ("content", "message", "value"),
    [
        ("9. It is not 8.", {}, 9),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "8?"}]}, {"type": "text", "text": "9"}], {}, 9),
        (None, {"reasoning_content": "It is 8."}, None),
        ("<think>It is 8", {}, None),
        (None, {"refusal": "No."}, None),
    ],
)
async def test_an_exported_module_reads_an_answer_as_agentopt_does(
    tmp_path: Path, content: Any, message: dict[str, Any], value: int | None
) -> None:
    async with listening(completion(content, **message)) as (url, _, received):
        write_small_task(tmp_path, {"base_url": url, "supports": {"stop": False}}, stop=["."])
        assert await run_small(tmp_path) == value
    assert "stop" not in received[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"error": {"message": "no credit left", "code": 402}}, "no credit left"),
        ({"choices": [], "error": "overloaded"}, "overloaded"),
        (None, "307"),
    ],
)
async def test_an_exported_module_raises_the_words_of_an_answer_without_choices_and_follows_no_redirect(
    tmp_path: Path, answer: dict[str, Any] | None, words: str
) -> None:
    async with listening(answer) as (url, requests, _):
        write_small_task(tmp_path, {"base_url": url})
        with pytest.raises(openai.OpenAIError, match=words):
            await run_small(tmp_path)
    assert [request.path for request in requests] == ["/chat/completions"]


AZURE = {
    "base_url": "https://r.openai.azure.com/openai/deployments/d",
    "query": {"api-version": "2024-10-21"},
    "api_key_header": "api-key",
    "api_key_env": "EXPORT_KEY",
}


@pytest.mark.parametrize(
    ("entry", "expected", "absent"),
    [
        ({"max_tokens_parameter": "max_completion_tokens"}, {"max_completion_tokens": 9}, {"max_tokens"}),
        ({"supports": {"temperature": False}}, {"max_tokens": 9}, {"temperature"}),
        ({"supports": {"stop": False, "n": False}, "max_choices": 4}, {}, {"stop", "n"}),
        ({"extra_body": {"think": False}, "extra_headers": {"X-T": "a"}}, {"extra_body": {"think": False}}, {"think"}),
        (AZURE, {"model": "azure/d", "api_version": "2024-10-21", "api_key": "os.environ/EXPORT_KEY"}, {"extra_query"}),
        # Without a key, litellm would send the provider's own to the address.
        ({**AZURE, "api_key_env": None}, {"model": "azure/d", "api_key": "no-key"}, set()),
        ({"litellm": "openai/m"}, {"model": "openai/m", "api_key": "no-key"}, set()),
    ],
)
def test_the_router_configuration_has_what_the_endpoint_takes(
    tmp_path: Path, entry: dict[str, Any], expected: dict[str, Any], absent: set[str]
) -> None:
    shared = {"base_url": "http://127.0.0.1:9/v1", **entry}
    write_small_task(tmp_path, shared, num_samples=[3], fuse="fuse", stop=["."])
    routes = yaml.safe_load(router_config(deployment_in(tmp_path)))["model_list"]
    assert [route["model_name"] for route in routes] == ["small/only", "small/only/fusion"]
    for route in routes:
        parameters = route["litellm_params"]
        assert expected.items() <= parameters.items()
        assert not absent & set(parameters)
    assert ("temperature" in absent) or routes[1]["litellm_params"]["temperature"] == 0.0


@pytest.mark.parametrize("entry", [{"query": {"a": "b"}}, {"api_key_header": "X-Key"}])
def test_what_litellm_does_not_send_is_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    write_small_task(tmp_path, {"base_url": "http://127.0.0.1:9/v1", **entry})
    with pytest.raises(UserError, match=r"(?s)litellm sends the model 'm' neither.*--to python"):
        router_config(deployment_in(tmp_path))
