"""A candidate as a Python module of its own, which needs Python and the `openai` client and nothing of agentopt."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentopt.core.candidate import SubtaskChoice
from agentopt.core.errors import UserError
from agentopt.core.registry import FUSIONS, Entry
from agentopt.core.registry import PARSERS as PARSER_REGISTRY
from agentopt.core.task_rules import INPUTS
from agentopt.deploy.deployment import Deployment
from agentopt.deploy.export.endpoints import endpoint_of, url_variable
from agentopt.deploy.export.prompts import HELPERS, prompt_function
from agentopt.deploy.export.source import ELSEWHERE, Extraction
from agentopt.models.catalog import ModelSpec
from agentopt.taskfile.loading import in_order, read_spec
from agentopt.taskfile.schema import SubtaskSpec, TaskSpec
from agentopt.workflow import fusion as fusion_module
from agentopt.workflow import parsers as parsers_module
from agentopt.workflow.inputs import columns_of_task
from agentopt.workflow.templates import compile_template

NEEDED = ("main", "run_stages", "Columns", "Endpoint", "Fusing", "Stage")
RUNTIME = Path(__file__).with_name("runtime.py")
PARSERS = Path(parsers_module.__file__ or "")
PROMPT_ARGUMENTS = ("inputs: Mapping[str, Any]", "outputs: Mapping[str, Value]")
FUSION_ARGUMENTS = ("question: str", "answers: Sequence[str]")
KEYWORDS = frozenset(
    {"type", "enum", "const", "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems"}
    | {"items", "required", "properties", "additionalProperties", "title", "description"}
)
"""What `runtime.follows` knows of JSON Schema."""


def python_module(deployment: Deployment) -> str:
    """The source of a module whose `run(inputs)` does the whole workflow with the deployment's candidate.

    It asks the same questions with the same seeds as agentopt does for the first repeat of every example, so the same
    answers give the same output. Raises `UserError` for what cannot be written without agentopt.
    """
    file, spec = read_spec(deployment.folder, deployment.config.task)
    if spec.program:
        rule = "a module is made of declared subtasks, but the task is a program of its own"
        raise UserError(rule, where=file, remedy="point the program at `agentopt serve`, or use --to litellm")
    return _Module(deployment, file, spec).source()


class _Module:
    """One module in the making."""

    def __init__(self, deployment: Deployment, file: Path, spec: TaskSpec) -> None:
        self._deployment, self._file, self._spec = deployment, file, spec
        self._parts = Extraction()
        self._prompts: list[str] = []

    def source(self) -> str:
        stages = [self._stage(subtask) for subtask in self._ordered()]
        prompts = "\n\n\n".join(self._prompts)
        helpers = [name for name in HELPERS if f"{name}(" in prompts]
        for name in ("COLUMNS", "STAGES", "run"):
            self._parts.claim(name, "the exported module")
        self._parts.add(RUNTIME, [*NEEDED, *helpers])
        output, columns = self._deployment.task.output_subtask, columns_of_task(self._deployment.task)
        return f"""{self._docstring()}
from __future__ import annotations

{self._parts.imports("sys")}


{self._parts.definitions}


{prompts}


STAGES = [
{textwrap.indent(chr(10).join(stages), "    ")}
]


COLUMNS = {columns!r}


def run(inputs: Mapping[str, Any]) -> Value | None:
    \"\"\"The task's output for one example's inputs; None when no answer of a stage was usable.

    Raises `InputError` for inputs with other columns than the task's, and for a variable that is not set.
    \"\"\"
    return run_stages(STAGES, COLUMNS.check(inputs), {_text(output)})


if __name__ == "__main__":
    sys.exit(main(run, COLUMNS, sys.argv[1:]))
"""

    def _docstring(self) -> str:
        deployment = self._deployment
        variables = [name for model in deployment.models() for name in _variables(deployment.specs[model])]
        needs = f" and the environment variables {', '.join(dict.fromkeys(variables))}" if variables else ""
        local = [deployment.specs[m] for m in deployment.models() if deployment.specs[m].weights]
        serving = "".join(
            f"\nServe {spec.weights.file} and set {url_variable(spec)} to http://HOST:PORT/v1, for example:"
            f"\n    llama-server -m {spec.weights.file} --port 8080"
            for spec in local
            if spec.weights
        )
        example = dict.fromkeys(columns_of_task(self._deployment.task).needed, "...")
        return f'''"""{deployment.title}.

Needs `pip install openai`{needs}.{serving}

    python THIS_FILE.py '{json.dumps(example)}'
"""
'''

    def _ordered(self) -> list[SubtaskSpec]:
        by_name = {s.name: s for s in self._spec.subtasks}
        reads = {
            name: tuple(n for n in by_name if n in compile_template(s.prompt or "").references)
            for name, s in by_name.items()
        }
        return [by_name[name] for name in in_order(reads, str(self._file))]

    def _stage(self, spec: SubtaskSpec) -> str:
        """The source of one `Stage(...)`; what it needs is added to the module."""
        if spec.context:
            rule = f"a module calls models and nothing else, but {spec.name} has a context function"
            raise UserError(rule, where=self._where(spec, "context"), remedy=ELSEWHERE)
        choice = self._deployment.candidate[spec.name]
        self._write_prompt(spec)
        fields = {
            "name": _text(spec.name),
            "endpoint": self._endpoint(choice.model),
            "prompt": f"prompt_{spec.name}",
            "parse": self._parse(spec),
            "fuse": self._fuse(spec),
            "num_samples": str(choice.num_samples),
            "system_prompt": _text(choice.system_prompt),
            "settings": repr(self._settings(spec, choice.model)),
            "fusing": self._fusing(spec, choice),
        }
        unwritten = {"num_samples": "1", "system_prompt": '""', "fusing": "None"}
        lines = [f"    {key}={value}," for key, value in fields.items() if unwritten.get(key) != value]
        return "\n".join(["Stage(", *lines, "),"])

    def _write_prompt(self, spec: SubtaskSpec) -> None:
        roots = {INPUTS: INPUTS, **{s.name: f'outputs["{s.name}"]' for s in self._spec.subtasks}}
        self._add_function(
            f"prompt_{spec.name}", PROMPT_ARGUMENTS, spec.prompt or "", roots, self._where(spec, "prompt")
        )

    def _add_function(
        self, name: str, arguments: Sequence[str], template: str, roots: Mapping[str, str], where: str
    ) -> None:
        self._parts.claim(name, "the exported module")
        self._prompts.append(prompt_function(name, arguments, template, roots, where))

    def _endpoint(self, model: str) -> str:
        arguments = endpoint_of(self._deployment.specs[model])
        return f"Endpoint({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"

    def _settings(self, spec: SubtaskSpec, model: str) -> dict[str, Any]:
        asked: dict[str, Any] = {"temperature": spec.temperature, "top_p": spec.top_p, "max_tokens": spec.max_tokens}
        if spec.stop:
            asked["stop"] = list(spec.stop)
        if spec.parse.kind == "json" and self._deployment.specs[model].json_schema:
            schema = {"name": "answer", "strict": True, "schema": spec.parse.options["schema"]}
            asked["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {**asked, "seed": self._deployment.config.response_seed}

    def _fusing(self, spec: SubtaskSpec, choice: SubtaskChoice) -> str:
        if spec.fuse.kind != "fuse" or choice.num_samples == 1:
            return "None"
        model = spec.fuse.options.get("model") or choice.model
        name = f"fusion_prompt_{spec.name}"
        template = spec.fuse.options.get("prompt") or fusion_module.FUSION_PROMPT
        roots = {"question": "question", "answers": "answers"}
        self._add_function(name, FUSION_ARGUMENTS, template, roots, self._where(spec, "fuse.prompt"))
        settings = {**self._settings(spec, model), "temperature": 0.0}
        return f"Fusing({self._endpoint(model)}, {settings!r}, {name})"

    def _parse(self, spec: SubtaskSpec) -> str:
        """The expression that makes the stage's parser."""
        kind, options = spec.parse.kind, spec.parse.options
        if kind == "json":
            _check_schema(options["schema"], self._where(spec, "parse.schema"))
            return self._own(RUNTIME, "json_value", repr(options["schema"]))
        if kind == "python":
            return self._own(PARSERS, "python", self._users(options["function"]))
        entry = PARSER_REGISTRY.find(kind)
        arguments = (f"{name}={value!r}" for name, value in entry.read(options).items())
        return self._own(self._source(entry, spec, "parse"), entry.make.__name__, ", ".join(arguments))

    def _fuse(self, spec: SubtaskSpec) -> str:
        entry = FUSIONS.find("vote" if spec.fuse.kind == "fuse" else spec.fuse.kind)
        method = entry.make.__name__
        self._parts.add(self._source(entry, spec, "fuse"), [method])
        options = {} if spec.fuse.kind == "fuse" else spec.fuse.options
        written = {name: self._users(v) if name == "judge" else repr(v) for name, v in options.items()}
        arguments = ", ".join(["values", "inputs", *(f"{name}={value}" for name, value in written.items())])
        return f"lambda values, inputs: {method}({arguments})"

    def _source(self, entry: Entry, spec: SubtaskSpec, key: str) -> Path:
        """The file that registers the extension. Raises `UserError` if its source is not there to be copied."""
        file = inspect.getsourcefile(entry.make)
        if file is None or entry.make.__qualname__ != entry.make.__name__:
            rule = f"a module copies the source of {entry.name}, which is not a function of a Python file"
            raise UserError(rule, where=self._where(spec, key), remedy=ELSEWHERE)
        return Path(file)

    def _own(self, file: Path, name: str, arguments: str) -> str:
        self._parts.add(file, [name])
        return f"{name}({arguments})"

    def _users(self, function: str) -> str:
        """A function of the task's Python file, copied into the module."""
        name, _, attribute = function.rpartition(":")
        self._parts.add(self._file.parent / name, [attribute])
        return attribute

    def _where(self, spec: SubtaskSpec, key: str) -> str:
        return f"{self._file}: subtask {spec.name}: {key}"


def _variables(spec: ModelSpec) -> list[str]:
    """The environment variables that a module which calls this model reads."""
    return [value for key, value in endpoint_of(spec).items() if key.endswith("_env")]


def _check_schema(schema: Any, where: str) -> None:
    """Raise `UserError` for a JSON schema with a keyword that `runtime.follows` does not know."""
    unknown = sorted(schema.keys() - KEYWORDS) if isinstance(schema, dict) else [json.dumps(schema)]
    if unknown:
        rule = f"an exported module checks JSON without a library, which does not know {', '.join(unknown)}"
        raise UserError(rule, where=where, remedy=f"{ELSEWHERE}; known: {', '.join(sorted(KEYWORDS))}")
    inner = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    if not isinstance(schema.get("additionalProperties", True), bool):
        inner.append(schema["additionalProperties"])
    for part in inner:
        _check_schema(part, where)


def _text(text: str) -> str:
    """A text as source; one of several lines in as many lines."""
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        return json.dumps(text, ensure_ascii=False) if text.isprintable() else repr(text)
    return "(\n" + "\n".join(f"        {line!r}" for line in lines) + "\n    )"
