"""Exports a candidate as a Python module that runs without agentopt."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentopt.core.axes import threshold_of
from agentopt.core.candidate import SubtaskChoice
from agentopt.core.demos import demos_in_prompt
from agentopt.core.errors import UserError
from agentopt.core.registry import FUSIONS
from agentopt.core.registry import PARSERS as PARSER_REGISTRY
from agentopt.core.registry_entry import Entry
from agentopt.core.task import Subtask
from agentopt.deploy.deployment import Deployment
from agentopt.deploy.export.endpoints import call_settings, endpoint_of, url_variable
from agentopt.deploy.export.source import ELSEWHERE, Extraction
from agentopt.models.catalog import ModelSpec
from agentopt.taskfile.loading import read_spec
from agentopt.taskfile.order import in_order
from agentopt.taskfile.schema import SubtaskSpec, TaskSpec
from agentopt.workflow import fusion as fusion_module
from agentopt.workflow import parsers as parsers_module
from agentopt.workflow.inputs import columns_of_task
from agentopt.workflow.sampling import configured, stop_of, stop_sequences
from agentopt.workflow.templates import compile_template

NEEDED = ("main", "run_subtasks", "InputColumns", "Endpoint", "FusionCall", "Cascade", "Subtask")
RUNTIME = Path(__file__).with_name("runtime.py")
PARSERS = Path(parsers_module.__file__ or "")


def python_module(deployment: Deployment) -> str:
    """The source of a module whose `run(inputs)` runs the whole workflow with the deployment's candidate.

    It sends the same requests with the same seeds as an evaluation does in the first repeat of an example, so equal
    responses give equal outputs.

    Raises:
        UserError: Part of the task needs agentopt, a library or a provider that a module cannot use.
    """
    file, spec = read_spec(deployment.folder, deployment.config.task)
    if spec.program:
        rule = "a module needs subtasks with prompts, but the task is a program of its own"
        raise UserError(rule, where=file, remedy="point the program at `agentopt serve`, or use --to litellm")
    return _Module(deployment, file, spec).source()


class _Module:
    """One module under construction."""

    def __init__(self, deployment: Deployment, file: Path, spec: TaskSpec) -> None:
        self._deployment, self._file, self._spec = deployment, file, spec
        self._parts = Extraction()

    def source(self) -> str:
        subtasks = [self._subtask(spec) for spec in self._ordered()]
        for name in ("COLUMNS", "SUBTASKS", "run"):
            self._parts.claim(name, "the exported module")
        self._parts.add(RUNTIME, NEEDED)
        output, columns = self._deployment.task.output_subtask, columns_of_task(self._deployment.task)
        return f"""{self._docstring()}
from __future__ import annotations

{self._parts.imports("sys")}


{self._parts.definitions}


SUBTASKS = [
{textwrap.indent(chr(10).join(subtasks), "    ")}
]


COLUMNS = {columns!r}


def run(inputs: Mapping[str, Any]) -> Value | None:
    \"\"\"The task's output for one example's inputs; None if no answer of a subtask could be parsed.

    Raises `InputError` for inputs with other columns than the task's, and for a variable that is not set.
    \"\"\"
    return run_subtasks(SUBTASKS, COLUMNS.check(inputs), {_text(output)})


if __name__ == "__main__":
    sys.exit(main(run, COLUMNS, sys.argv[1:]))
"""

    def _docstring(self) -> str:
        deployment = self._deployment
        variables = [name for model in deployment.models() for name in _variables(deployment.specs[model])]
        names = list(dict.fromkeys(variables))
        needs = f" and the environment variable{'s' * bool(names[1:])} {', '.join(names)}" if names else ""
        local = [deployment.specs[m] for m in deployment.models() if deployment.specs[m].weights]
        serving = "".join(
            f"\nServe {spec.weights.file} and set {url_variable(spec)} to http://HOST:PORT/v1, for example:"
            f"\n    llama-server -m {spec.weights.file} --port 8080"
            for spec in local
            if spec.weights
        )
        rows = [example.inputs for rows in self._deployment.task.splits.values() for example in rows]
        needed = columns_of_task(self._deployment.task).needed
        example = {name: _placeholder(next(row[name] for row in rows if name in row)) for name in needed}
        text = f"""{deployment.title}.

Needs `pip install {" ".join(self._parts.libraries)}`{needs}.{serving}

    python THIS_FILE.py '{json.dumps(example, default=str)}'
"""
        # Names of the catalogue and values of the data must not end the docstring.
        escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
        return f'"""{escaped}"""\n'

    def _ordered(self) -> list[SubtaskSpec]:
        by_name = {s.name: s for s in self._spec.subtasks}
        reads = {
            name: tuple(n for n in by_name if n in compile_template(s.prompt or "").references)
            for name, s in by_name.items()
        }
        return [by_name[name] for name in in_order(reads, str(self._file))]

    def _subtask(self, spec: SubtaskSpec) -> str:
        """The source of one `Subtask(...)`; the definitions that it needs are added to the module."""
        if spec.context:
            rule = f"an exported module can only call models, but {spec.name} has a context function"
            raise UserError(rule, where=self._where(spec, "context"), remedy=ELSEWHERE)
        choice = self._deployment.candidate[spec.name]
        in_prompt = spec.demos is not None and spec.demos.shown_as == "prompt"
        fields = {
            "name": _text(spec.name),
            "endpoint": self._endpoint(spec.name, choice.model),
            "prompt": _text(spec.prompt or ""),
            "parse": self._parse(spec),
            "fuse": self._fuse(spec),
            "stop": repr(stop_of(self._configured(spec.name))),
            "num_samples": str(choice.num_samples),
            "system_prompt": _text(demos_in_prompt(choice.system_prompt, choice.demos if in_prompt else ())),
            "demos": repr(() if in_prompt else tuple((demo.prompt, demo.response) for demo in choice.demos)),
            "settings": repr(self._settings(spec.name, choice.model)),
            "knobs": repr(dict(self._configured(spec.name).knobs)),
            "fusion_call": self._fusion_call(spec, choice),
            "cascade": self._cascade(spec, choice),
        }
        defaults = {
            "stop": "None",
            "num_samples": "1",
            "system_prompt": '""',
            "demos": "()",
            "knobs": "{}",
            "fusion_call": "None",
            "cascade": "None",
        }
        lines = [f"    {key}={value}," for key, value in fields.items() if defaults.get(key) != value]
        return "\n".join(["Subtask(", *lines, "),"])

    def _endpoint(self, subtask: str, model: str) -> str:
        deployment = self._deployment
        arguments = endpoint_of(
            deployment.specs[model],
            stop_sequences(deployment.task[subtask]),
            deployment.refused_by(model, self._configured(subtask)),
        )
        return f"Endpoint({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"

    def _configured(self, subtask: str) -> Subtask:
        return configured(self._deployment.task[subtask], self._deployment.candidate[subtask])

    def _settings(self, subtask: str, model: str, **changes: Any) -> dict[str, Any]:
        deployment, configured_subtask = self._deployment, self._configured(subtask)
        return call_settings(
            deployment.specs[model],
            replace(configured_subtask, **changes),
            seed=deployment.config.response_seed,
            left_out=deployment.refused_by(model, configured_subtask),
        )

    def _fusion_call(self, spec: SubtaskSpec, choice: SubtaskChoice) -> str:
        if spec.fuse.kind != "fuse" or choice.num_samples == 1:
            return "None"
        model = spec.fuse.options.get("model") or choice.model
        template = spec.fuse.options.get("prompt") or fusion_module.FUSION_PROMPT
        at = fusion_module.fusion_temperature(self._configured(spec.name).fusion)
        settings = self._settings(spec.name, model, temperature=at)
        return f"FusionCall({self._endpoint(spec.name, model)}, {settings!r}, {_text(template)})"

    def _cascade(self, spec: SubtaskSpec, choice: SubtaskChoice) -> str:
        below = threshold_of(self._deployment.task[spec.name], choice)
        if below is None or spec.cascade is None:
            return "None"
        big = spec.cascade.models[1]
        check = self._users(spec.cascade.check) if spec.cascade.check else "None"
        return f"Cascade({self._endpoint(spec.name, big)}, {self._settings(spec.name, big)!r}, {below!r}, {check})"

    def _parse(self, spec: SubtaskSpec) -> str:
        """The expression that creates the subtask's parser."""
        kind, options = spec.parse.kind, spec.parse.options
        if kind == "python":
            return self._own(PARSERS, "python", self._users(options["function"]))
        entry = PARSER_REGISTRY.find(kind)
        arguments = (f"{name}={value!r}" for name, value in entry.read(options).items())
        return self._own(self._source(entry, spec, "parse"), entry.make.__name__, ", ".join(arguments))

    def _fuse(self, spec: SubtaskSpec) -> str:
        if spec.fuse.kind in ("fuse", "vote"):
            self._parts.add(Path(fusion_module.__file__ or ""), ["vote"])
            return "lambda values, inputs: vote(values)"
        entry = FUSIONS.find(spec.fuse.kind)
        method = entry.make.__name__
        self._parts.add(self._source(entry, spec, "fuse"), [method])
        written = {name: self._users(v) if name == "judge" else repr(v) for name, v in spec.fuse.options.items()}
        arguments = ", ".join(["values", "inputs", *(f"{name}={value}" for name, value in written.items())])
        return f"lambda values, inputs: {method}({arguments})"

    def _source(self, entry: Entry, spec: SubtaskSpec, key: str) -> Path:
        """The file that registers the extension. Raises `UserError` if it has no source to copy."""
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


def _placeholder(value: Any) -> Any:
    """A value of the same form, for the usage line; a list has one element at most."""
    if isinstance(value, Mapping):
        return {key: _placeholder(part) for key, part in value.items()}
    if isinstance(value, str):
        return "..."
    return [_placeholder(part) for part in value[:1]] if isinstance(value, Sequence) else value


def _variables(spec: ModelSpec) -> list[str]:
    """The environment variables that a call to this model reads."""
    return [value for key, value in endpoint_of(spec).items() if key.endswith("_env")]


def _text(text: str) -> str:
    """A text as a Python literal, of several lines if the text has several."""
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        return json.dumps(text, ensure_ascii=False) if text.isprintable() else repr(text)
    return "(\n" + "\n".join(f"        {line!r}" for line in lines) + "\n    )"
