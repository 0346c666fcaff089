"""Wrong input from Python: every constructor and function of the package raises exceptions of ours, with the remedy."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agentopt
from agentopt.core.cost import Unit
from agentopt.core.errors import AgentoptError, CallbackError, ConfigError, TaskError, UserError
from agentopt.core.field_types import FIELDS, kinds_of
from agentopt.core.registry import FUSIONS, PARSERS, SCORERS, STRATEGIES, Registry
from agentopt.core.task import Example, Fusion, Metric, Program, Subtask, Task, TokenLengths
from agentopt.core.yaml_models import RuleError, Strict
from agentopt.evaluation.scorers import exact_match
from agentopt.models.scripted import ScriptedModel
from agentopt.testing.toy import toy_model, toy_task

ROW = Example("e7", {"question": "?"}, "Kell")


def render(inputs: Any, outputs: Any) -> str:
    return "?"


async def async_callback(event: object) -> None:
    """What a user of an async framework may pass."""


SUBTASK: dict[str, Any] = {"name": "a", "render": render, "models": ("m",)}
BUILDERS: dict[type, dict[str, Any]] = {
    Example: {"id": "e", "inputs": {}},
    Fusion: {},
    TokenLengths: {"prompt": 1, "completion": 1},
    Unit: {},
    Subtask: SUBTASK,
    Program: {"function": render},
    Metric: {"subtask": "a", "scorer": exact_match()},
    Task: {"name": "t", "subtasks": (Subtask(**SUBTASK),), "scorer": exact_match(), "splits": {"test": (ROW,)}},
    agentopt.SubtaskChoice: {"model": "m"},
    agentopt.Candidate: {"choices": (("a", agentopt.SubtaskChoice("m")),)},
    agentopt.Config: {},
    agentopt.BudgetConfig: {},
    agentopt.SearchSettings: {},
    agentopt.AgentSettings: {},
    agentopt.PromptSettings: {},
    agentopt.ModelSpec: {"name": "m", "base_url": "http://127.0.0.1:9"},
}
"""Class -> arguments with which it can be built."""

WHOLE = 3

WRONG: list[Any] = [
    None, "", "x", "12", b"x", 0, -1, WHOLE, 1.5, float("nan"), True, (), (1,), (1, 2), [], [[]], [None, 3],
    [{}], {}, {3: 4}, {"a": 1}, {"type": "strng"}, set(), {1}, object(), render, Path(), Path, range(3), ["a", "a"],
    Fusion(), Subtask(**SUBTASK), agentopt.ModelSpec, "x\ny" * 1000, ["x" * 3000], "{", '{"type": "strng"}', "a\0b",
]  # fmt: skip
"""Values of every type, of which most are wrong for most fields; those that fit are accepted."""

LEAKS = ("Input should", "instance of", "valid dictionary", "valid string", "valid integer", "pydantic")


def arguments_of(built: type) -> list[str]:
    if issubclass(built, Strict):
        return list(built.model_fields)
    assert dataclasses.is_dataclass(built)
    return [field.name for field in dataclasses.fields(built) if field.init]


def fields() -> Iterator[tuple[type, str]]:
    for built in BUILDERS:
        yield from ((built, name) for name in arguments_of(built))


def attempt(call: Callable[[], Any]) -> None:
    """Make a call that may fail with an exception of ours only, which has a remedy and fits a screen."""
    try:
        call()
    except AgentoptError as error:
        text = str(error)
        assert len(text) < 1000
        assert not [leak for leak in LEAKS if leak in text], text
        assert "remedy: " in text or (text.count("\n") >= 2 and ")" in text), text


@pytest.mark.parametrize(("built", "name"), list(fields()), ids=lambda value: getattr(value, "__name__", value))
def test_a_field_of_a_wrong_type_is_refused_with_the_remedy(built: type, name: str) -> None:
    for value in WRONG:
        attempt(partial(built, **{**BUILDERS[built], name: value}))


@pytest.mark.parametrize("built", BUILDERS)
def test_what_is_built_with_sound_arguments_is_accepted(built: type) -> None:
    built(**BUILDERS[built])


@given(st.data())
@settings(max_examples=60)
def test_fields_of_any_value_are_refused_with_the_remedy(data: st.DataObject) -> None:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(render)
    nested = partial(st.dictionaries, st.text())
    values = st.recursive(leaves, lambda inner: st.lists(inner) | nested(inner))
    built = data.draw(st.sampled_from(list(BUILDERS)))
    names = data.draw(st.lists(st.sampled_from(arguments_of(built)), min_size=1, max_size=2))
    attempt(partial(built, **{**BUILDERS[built], **{name: data.draw(values) for name in names}}))


def test_the_table_of_types_covers_the_fields_of_its_classes() -> None:
    checked_elsewhere = {
        ("Example", "target"), ("Fusion", "model"), ("Fusion", "prompt"), ("Fusion", "judge"), ("Subtask", "name"),
        ("Subtask", "num_samples"), ("Subtask", "settings"),
        ("SubtaskChoice", "settings"),
    }  # fmt: skip
    assert {built.__name__ for built in BUILDERS} >= FIELDS.keys()
    for built in BUILDERS:
        if built.__name__ in FIELDS:
            names = {(built.__name__, name) for name in arguments_of(built)}
            assert names <= {(built.__name__, name) for name in kinds_of(built)} | checked_elsewhere


@dataclasses.dataclass(frozen=True)
class WiderSubtask(Subtask):
    """A subtask with fields that no table has."""

    penalty: float | None = None
    words: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"penalty": "high"}, "`penalty` must be a number or None, but got 'high'"),
        ({"words": (1,)}, "`words` must be a tuple or a list of strings"),
    ],
)
def test_the_type_of_a_new_field_is_that_of_its_annotation(given: dict[str, Any], message: str) -> None:
    WiderSubtask(**SUBTASK, penalty=1.5, words=("a",))
    with pytest.raises(AgentoptError, match=message):
        WiderSubtask(**SUBTASK, **given)


SPEC = agentopt.ModelSpec(name="a", base_url="http://127.0.0.1:9")

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Subtask(**{**SUBTASK, "system_prompt": None}), "`system_prompt` must be a string, but got None"),
    (lambda: Subtask(**{**SUBTASK, "max_tokens": "12"}), "`max_tokens` must be a whole number, but got '12'"),
    (lambda: Subtask(**{**SUBTASK, "temperature": "hot"}), "`temperature` must be a number or None, but got 'hot'"),
    (lambda: Subtask(**{**SUBTASK, "stop": (1,)}), "`stop` must be a tuple or a list of strings"),
    (lambda: Subtask(**{**SUBTASK, "tokens": (1, 2)}), "`tokens` must be a TokenLengths or None"),
    (lambda: Subtask(**{**SUBTASK, "json_schema": {}}), r"`json_schema` must be the JSON text[\s\S]*json\.dumps"),
    (lambda: Subtask(**{**SUBTASK, "models": [BUILDERS]}), r"catalogue names[\s\S]*Config\(models=\[\.\.\.\]\)"),
    (lambda: TokenLengths(-1, 3), "`prompt` must be a number above 0, but got -1"),
    (lambda: Program(("x",), timeout="3"), "`timeout` must be a number, but got '3'"),  # type: ignore[arg-type]
    (lambda: agentopt.Candidate({"a": 1}), r"pairs of .*\n  remedy: write Candidate\.of"),  # type: ignore[arg-type]
    (lambda: agentopt.Candidate.from_dict({"a": 1}), "maps each subtask to model"),  # type: ignore[dict-item]
    (lambda: toy_task().baseline.having("fnd"), r"called 'fnd'\n  remedy: did you mean 'find'"),
    (lambda: toy_task()["fnd"], r"there is no subtask 'fnd'\n  remedy: did you mean 'find'"),
    (lambda: agentopt.Config(*[{"seed": 1}]), r"takes settings by name.*\n.*Config\(\*\*settings\)"),
    (lambda: agentopt.Config(sed=1), r"sed: unknown key\n  remedy: did you mean 'seed'"),  # type: ignore[call-arg]
    (lambda: agentopt.Config(models="small"), "which is not the name of a file"),
    (lambda: agentopt.Config(models={"b": SPEC}), "'b' is the key of 'a'"),
    (lambda: agentopt.ModelSpec(name="m", timeout_seconds="x"), "must be a number, but got 'x'"),
    (lambda: setattr(agentopt.Config(), "seed", 3), "is frozen, but `seed` was set to 3"),
    (lambda: Task(**{**BUILDERS[Task], "splits": {"test": [{}]}}), "`splits.test` must be an Example"),
    (
        lambda: Task(**{**BUILDERS[Task], "subtasks": (Subtask(**SUBTASK, json_schema='{"a": {"b": 1, "b": 1}}'),)}),
        "json_schema: a key must be given once, but 'b' is given twice",
    ),
    (
        lambda: Task(**{**BUILDERS[Task], "subtasks": (Subtask(**SUBTASK, json_schema='{"type": "strng"}'),)}),
        "`json_schema` must be a JSON schema",
    ),
]


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_a_mistake_names_the_rule_the_value_and_the_remedy(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        build()
    assert raised.value.remedy


def test_a_range_of_sample_counts_is_accepted() -> None:
    assert Subtask(**{**SUBTASK, "num_samples": range(1, 4)}).num_samples == (1, 2, 3)


# Functions


ARGUMENTS: dict[str, list[str]] = {
    "optimize": ["task", "config", "strategy", "callbacks", "resume", "warm_start", "provider"],
    "evaluate": ["task", "candidate", "config", "split", "callbacks", "provider", "repeats"],
    "diagnose": ["task", "config", "subtask", "candidate", "callbacks", "provider"],
}
OPTIONAL = {"config", "candidate", "strategy", "resume", "subtask", "provider"}
LISTS = {"callbacks", "warm_start"}


def trained_task() -> Task:
    """The toy task with a train split, so that it can be diagnosed."""
    task = toy_task()
    return dataclasses.replace(task, splits={**task.splits, "train": task.splits["test"]})


@pytest.mark.parametrize(("function", "name"), [(f, name) for f, names in ARGUMENTS.items() for name in names])
def test_an_argument_of_a_wrong_type_is_refused_with_the_remedy(tmp_path: Path, function: str, name: str) -> None:
    config = agentopt.Config(strategy="random", journal=str(tmp_path / "journal.db"), runs=tmp_path / "runs")
    model = ScriptedModel(script=[])
    for value in [*WRONG, "best.yaml", [None], async_callback, [async_callback], TokenLengths(1, 1), ScriptedModel]:
        sound_value = (name in OPTIONAL and value is None) or (name == "repeats" and value is WHOLE)
        if sound_value or (name in LISTS and value in ((), [], set())):
            continue
        sound = {"task": trained_task(), "config": config, "provider": model}
        with pytest.raises(AgentoptError) as raised:
            getattr(agentopt, function)(**{**sound, name: value})
        attempt(partial(_raise, raised.value))
    assert not (tmp_path / "runs").exists()
    assert model.requests == []


def _raise(error: AgentoptError) -> None:
    raise error


def test_the_arguments_above_are_all_there_are() -> None:
    for function, names in ARGUMENTS.items():
        assert set(inspect.signature(getattr(agentopt, function)).parameters) - {"fresh"} == set(names)


@pytest.mark.parametrize("reader", ["load_task", "load_config", "load_candidate", "load_result"])
def test_a_reader_refuses_what_is_no_path(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in WRONG:
        attempt(partial(getattr(agentopt, reader), value))


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in ("catalog", "overrides") for v in WRONG])
def test_load_task_refuses_a_wrong_catalogue_and_wrong_overrides(name: str, value: Any) -> None:
    attempt(partial(agentopt.load_task, "tasks/quickstart", **{name: value}))


def test_one_file_or_setting_needs_no_list(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 7\n")
    assert agentopt.load_config(str(tmp_path / "a.yaml")).seed == agentopt.load_config("seed=7").seed == 7
    with pytest.raises(ConfigError, match=r"b\.yaml: cannot be read: no such file"):
        agentopt.load_config(tmp_path / "b.yaml")


def test_a_candidate_is_given_by_its_file(tmp_path: Path) -> None:
    task, model = toy_task(), toy_model()
    config = agentopt.Config(strategy="random", journal=str(tmp_path / "journal.db"), runs=tmp_path / "runs")
    better = task.baseline.having("find", num_samples=2)
    (tmp_path / "best.yaml").write_text(json.dumps(better.to_dict()))
    evaluation = agentopt.evaluate(task, str(tmp_path / "best.yaml"), config, provider=model)
    assert evaluation == dataclasses.replace(
        agentopt.evaluate(task, better, config, provider=model), seconds=evaluation.seconds
    )
    warm = agentopt.optimize(task, config, warm_start=[tmp_path / "best.yaml"], provider=model)
    assert warm.trials[1].candidate == better


def test_a_callback_that_raises_is_reported(tmp_path: Path) -> None:
    def broken(event: object) -> None:
        raise KeyError("x")

    config = agentopt.Config(journal=str(tmp_path / "journal.db"))
    with pytest.raises(CallbackError, match=r"`broken` failed on .*KeyError"):
        agentopt.evaluate(toy_task(), config=config, callbacks=[broken], provider=toy_model())


# Decorators


def scores(example: Example, output: object) -> float:
    return 1.0


def with_star(*options: int) -> Any:
    return options


def positional(edits: int, /) -> Any:
    return edits


def response_parser(response: str) -> str:
    return response


def one_argument(values: Any) -> Any:
    return values


@pytest.mark.parametrize(
    ("registry", "function", "message"),
    [
        (SCORERS, scores, r"builds a scorer, but .*scores is a scorer itself\n  remedy: register a function that"),
        (SCORERS, with_star, r"passed by name, but .*with_star takes \*options"),
        (SCORERS, positional, "passed by name, but .*positional takes edits"),
        (SCORERS, 3, "is a function or a class, but got 3"),
        (SCORERS, str, "the parameters of builtins.str are unknown"),
        (PARSERS, response_parser, "builds a parser, but .*response_parser is a parser itself"),
        (FUSIONS, one_argument, "must take 2 arguments before its options, but takes 1"),
        (STRATEGIES, lambda: None, "must take 1 argument before its options, but takes 0"),
    ],
)
def test_a_function_of_a_wrong_form_is_not_registered(registry: Registry, function: Any, message: str) -> None:
    before = registry.names()
    with pytest.raises(RuleError, match=message):
        registry.register("wrong")(function)
    assert registry.names() == before


@pytest.mark.parametrize("decorator", [agentopt.scorer, agentopt.parser, agentopt.fusion, agentopt.strategy])
@pytest.mark.parametrize("name", [render, None, 3, ""])
def test_a_decorator_needs_a_name(decorator: Callable[[Any], Any], name: Any) -> None:
    with pytest.raises(RuleError, match=r'(?s)registered under a name.*remedy: write @\w+\("name"\)'):
        decorator(name)


def test_a_scorer_without_its_kind_is_refused(tmp_path: Path) -> None:
    wrong: list[Any] = [{"kindd": "x"}, 3, [], None]
    for given_scorer in wrong:
        with pytest.raises(TaskError, match=r"-c task.scorer=.*: must be the name of a scorer, or a mapping"):
            agentopt.load_task("tasks/quickstart", overrides={"scorer": given_scorer})
