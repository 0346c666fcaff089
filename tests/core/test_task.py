"""A task built in Python is checked when it is built, by the rules of a task file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from agentopt.core.axes import Cascade
from agentopt.core.errors import TaskError
from agentopt.core.task import Example, Fusion, Metric, Program, Subtask, Task, TokenLengths, Unparsable
from agentopt.evaluation.scorers import exact_match

EXAMPLE = Example("e7", {"question": "?"}, "Kell")


def prompt(inputs: Any, outputs: Any) -> str:
    return "?"


def subtask(name: str = "a", *reads: str, **fields: Any) -> Subtask:
    return Subtask(name, prompt, **{"models": ("m",), "reads": reads, **fields})


def task(*subtasks: Subtask, **fields: Any) -> Task:
    return Task("t", **{"subtasks": subtasks, "scorer": exact_match(), "splits": {"test": (EXAMPLE,)}, **fields})


async def asynchronous(*_: Any) -> str:
    return "later"


def generator(text: str) -> Iterator[str]:
    yield text


class Later:
    async def __call__(self, text: str) -> str:
        return text


def checked(check: Any) -> Subtask:
    return subtask(models=("m", "n"), cascade=Cascade("m", "n", check=check))


WRONG: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: Fusion("median"),
        r"`kind` \(`method` in Python\) must be one of .*, but got 'median'\n  remedy: use one of them, or package",
    ),
    (lambda: Fusion("votes"), "did you mean 'vote'"),
    (lambda: Fusion("vote", model="m"), "model: is an option of fuse, not of vote"),
    (lambda: Fusion("best_of"), "judge: must be given"),
    (lambda: Fusion("best_of", judge=3), "judge: must be the name of a function, but got 3"),  # type: ignore[arg-type]
    (lambda: Fusion("fuse", prompt="{{ answer }}"), "reads `question` and `answers`, but got `answer`"),
    (lambda: Fusion("fuse", prompt="{{"), "prompt: line 1 of the template is not Jinja"),
    (lambda: subtask(num_samples=(3, 1)), r"positive and ascending, but got \[3, 1\][\s\S]*write them like"),
    (lambda: subtask(num_samples=()), r"positive and ascending, but got \[\]"),
    (lambda: subtask(num_samples=(1, 2.5)), "positive and ascending"),
    (lambda: subtask(num_samples=3), r"`num_samples` must be a tuple or a list, but got 3[\s\S]*num_samples=\(3,\)"),
    (lambda: subtask(models="small"), r"`models` must be a tuple or a list, but got 'small'[\s\S]*models=\('small',\)"),
    (lambda: subtask(models=()), "`models` must be given"),
    (lambda: subtask(models=("m", "m")), "none twice"),
    (lambda: subtask(reads="find"), "`reads` must be a tuple or a list"),
    (lambda: subtask(stop="\n"), "`stop` must be a tuple or a list"),
    (lambda: subtask(fusion="vote"), r"`fusion` must be a Fusion, but got 'vote'[\s\S]*write Fusion"),
    (lambda: subtask(parse="number"), "`parse` must be a function, but got 'number'"),
    (lambda: subtask(parse=asynchronous), "`parse` must be a plain function, but asynchronous is async"),
    (lambda: Subtask("a", asynchronous, ("m",)), "`render` must be a plain function"),  # type: ignore[arg-type]
    (
        lambda: Subtask("a", "{{ inputs.q }}", ("m",)),  # type: ignore[arg-type]
        r"`render` must be a function of \(inputs, outputs\), but got '\{\{ inputs.q[\s\S]*agentopt.template\(",
    ),
    (lambda: Fusion("best_of", judge=asynchronous), "`judge` must be a plain function"),  # type: ignore[arg-type]
    (lambda: Program(("echo",), parse=asynchronous), "`parse` must be a plain function"),
    (lambda: subtask(max_tokens=0), "`max_tokens` must be from 1 to 10,000,000, but got 0"),
    (lambda: subtask(max_tokens=10**28), "`max_tokens` must be from 1 to 10,000,000"),
    (lambda: subtask(settings={"max_tokens": (8, 10**11)}), "`max_tokens` must be whole numbers from 1 to 10,000,000"),
    (lambda: subtask(parse=generator), "`parse` must be a plain function, but generator is a generator"),
    (lambda: subtask(parse=Later()), "`parse` must be a plain function, but Later is async"),
    (lambda: subtask(parse=partial(asynchronous)), "`parse` must be a plain function, but partial is async"),
    (lambda: subtask(parse=prompt), r"`parse` must take 1 argument, but prompt takes \(inputs"),
    (lambda: Fusion("best_of", judge=str.upper), "`judge` must take 2 arguments"),  # type: ignore[arg-type]
    (lambda: checked(asynchronous), r"`cascade.check` must be a plain function, but asynchronous is async"),
    (lambda: checked(str.isdigit), r"`cascade.check` must take 2 arguments, but isdigit takes \(self"),
    (lambda: subtask(temperature=-1), "`temperature` must be from 0 to 2"),
    (lambda: subtask(top_p=0), "`top_p` must be above 0"),
    (lambda: subtask("inputs"), "`inputs` is the examples' columns"),
    (lambda: subtask("tool"), "`tool` is the old name of `context`"),
    (lambda: subtask("my-task"), "must be a word"),
    (lambda: subtask("a", "context", context=prompt), "either a subtask or the result of the context function"),
    (lambda: Program(), "either a command, as a tuple of words, or a function"),
    (lambda: task(), "at least one subtask"),
    (lambda: task(subtasks=subtask()), "`subtasks` must be a tuple or a list"),
    (lambda: task(subtask(), subtask()), "two subtasks are called 'a'"),
    (lambda: task(subtask("a", "b"), subtask("b", "a")), "`reads` must name earlier subtasks, but got b"),
    (lambda: task(subtask(), output="b"), "`output` must name a subtask, but got 'b'"),
    (lambda: task(subtask(), scorer="exact_match"), "`scorer` must be a function, but got 'exact_match'"),
    (lambda: task(subtask(), metrics={"m": Metric("b", exact_match())}), "a metric must name a subtask, but got 'b'"),
    (lambda: task(subtask(), metrics={"m": exact_match()}), "`metrics.m` must be a Metric"),
    (lambda: task(subtask(), splits={"test": ()}), "there are no examples"),
    (lambda: task(subtask(), splits={"tset": (EXAMPLE,)}), r"one of train, validation, test[\s\S]*did you mean 'test'"),
    (lambda: task(subtask(), splits={"test": (EXAMPLE, EXAMPLE)}), "two examples have the id 'e7'"),
    (lambda: task(subtask(), splits={"test": ({"id": "e"},)}), "`splits.test` must be an Example"),
]


@pytest.mark.parametrize(("build", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_mistake_is_refused_with_its_remedy(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(TaskError, match=message) as raised:
        build()
    assert raised.value.remedy


def test_lists_become_tuples() -> None:
    built = task(subtask(models=["m"], num_samples=[1, 2], stop=["."]), splits={"test": [EXAMPLE]})
    assert (built["a"].models, built["a"].num_samples, built["a"].stop) == (("m",), (1, 2), (".",))
    assert built.splits == {"test": (EXAMPLE,)}
    assert hash(built["a"].models)


def test_a_sound_task_is_built() -> None:
    def parse(text: str) -> str:
        raise Unparsable("never")

    built = task(
        subtask(parse=parse, fusion=Fusion("best_of", judge=lambda i, v: 1.0), tokens=TokenLengths(1, 2)),
        subtask("b", "a", fusion=Fusion("fuse", model="m", prompt="{{ answers }}")),
    )
    assert built.output_subtask == "b"


def test_the_text_of_a_task_names_its_parts_without_its_rows() -> None:
    searched = subtask("b", "a", models=("m", "n"), num_samples=(1, 3), settings={"temperature": (0, 0.7)})
    built = task(subtask(), searched, description="two steps", max_usd=0.002)
    assert repr(built).splitlines() == [
        "Task t: two steps",
        "  a: 1 model m; samples 1, 2, 3, 5, 8 by vote",
        "  b (reads a): 2 models m, n; samples 1, 3 by vote; temperature 0, 0.7",
        "  examples: 1 test",
        "  at most 0.002 USD per example",
    ]
    assert "program: python run.py" in repr(replace(built, program=Program(("python", "run.py"))))


HOSTILE = "<img src=x onerror=alert(1)>&\x1b[2J\u202e"


@pytest.mark.parametrize(
    "hostile",
    [
        replace(task(subtask()), name=HOSTILE),
        task(subtask(), description=HOSTILE),
        task(subtask(models=(HOSTILE,))),
        task(subtask(settings={"knobs.style": ("plain", HOSTILE)})),
        task(subtask(), program=Program((HOSTILE,))),
    ],
)
def test_a_notebook_shows_a_task_escaped(hostile: Task) -> None:
    shown = hostile._repr_html_()
    assert shown.startswith("<pre>Task ")
    assert shown.endswith("</pre>")
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;" in shown
    for text in (shown, repr(hostile)):
        assert text.replace("\n", "").isprintable()
    assert "<img" not in shown


_CYCLE: dict[str, object] = {}
_CYCLE["itself"] = _CYCLE


class _Unwritable:
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "value",
    [{(1, 2): 3}, {1: "a", "b": 2}, _CYCLE, 10**5000, _Unwritable(), [{"x": _Unwritable()}]],
    ids=["tuple key", "mixed keys", "cycle", "long number", "object", "object inside"],
)
def test_an_input_or_a_target_without_a_text_is_refused_with_its_name(value: object) -> None:
    with pytest.raises(TaskError, match=r"^example e7: `question` must be a value that can be written as JSON or"):
        Example("e7", {"id": 1, "question": value})
    with pytest.raises(TaskError, match=r"^example e7: `target` must be"):
        Example("e7", {"question": "?"}, value)


@pytest.mark.parametrize(
    "value", [{1, 2}, b"x", float("nan"), "\ud800", date(2026, 11, 27), Decimal("1.5"), {"a": [None]}]
)
def test_any_value_with_a_text_may_be_an_input(value: object) -> None:
    assert Example("e7", {"question": value}, value).inputs["question"] is value
