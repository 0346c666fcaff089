"""Templates read only columns and outputs, and name what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from agentopt.core.errors import TaskError
from agentopt.core.task import Subtask
from agentopt.workflow.templates import compile_template, template


def test_a_template_reads_columns_and_outputs_and_knows_which() -> None:
    template = compile_template("{% for f in inputs.facts %}{{ f }};{% endfor %} {{ find.output }} {{ inputs['q'] }}")
    assert template.references == {"inputs", "find"}
    assert template.columns == {"facts", "q"}
    assert ("find", "output") in template.attributes
    assert template.render({"facts": ["a", "b"], "q": "Q"}, {"find": "x"}) == "a;b; x Q"


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{{ inputs.q }}", "Q"),
        ("{{ find.output }}: {{ inputs.q }}", "x: Q"),
        ("{{ context.output }}", "c"),
        ("plain", "plain"),
    ],
)
def test_a_template_is_the_render_function_of_a_subtask_built_in_python(text: str, rendered: str) -> None:
    subtask = Subtask("answer", template(text), ("m",))
    assert subtask.render({"q": "Q"}, {"find": "x", "context": "c"}) == rendered


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "must be a string, but got None"),
        (3, "must be a string"),
        (["{{"], "must be a string"),
        ("{{", "is not Jinja"),
    ],
)
def test_a_template_that_is_no_text_or_no_jinja_is_refused(text: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        template(text)


def test_names_that_the_template_sets_itself_are_no_references() -> None:
    assert compile_template("{% set x = 1 %}{{ x }}{% for y in range(2) %}{{ y.z }}{% endfor %}").references == set()


@pytest.mark.parametrize("column", ["items", "keys", "get", "_private", "output"])
def test_a_column_may_be_called_like_a_method(column: str) -> None:
    assert compile_template(f"{{{{ inputs.{column} }}}}").render({column: "v"}, {}) == "v"


def test_lists_and_objects_are_written_as_json_and_text_is_not_escaped() -> None:
    template = compile_template("{{ find.output }} {{ inputs.html }} {{ inputs.row }}")
    rendered = template.render({"html": "<b>&", "row": {"é": None}}, {"find": ["3", "7"]})
    assert rendered == '["3", "7"] <b>& {"é": null}'


def test_a_value_is_never_read_as_a_template() -> None:
    assert compile_template("{{ inputs.q }}").render({"q": "{{ 7 * 7 }}"}, {}) == "{{ 7 * 7 }}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ inputs.fact }}", r"`fact` is not defined \(there is: facts, q\)"),
        ("{{ find.output }}", "`find` is not defined"),
        ("{{ inputs.facts[9] }}", "is not defined"),
        ("{{ inputs.q + 1 }}", "cannot be rendered: TypeError"),
        ("{{ range(10000000) }}", "cannot be rendered: OverflowError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|not defined"),
        ("{{ inputs._data }}", "not defined|unsafe"),
        ("{{ inputs.facts.append('x') }}", "cannot be rendered: SecurityError"),
        ("{% include 'other' %}", "cannot be rendered"),
    ],
)
def test_a_failing_or_forbidden_template_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        compile_template(text).render({"facts": ["a"], "q": "Q"}, {})


def test_bad_syntax_is_reported_with_its_line() -> None:
    with pytest.raises(TaskError, match=r"task\.yaml: prompt: line 2 of the template is not Jinja"):
        compile_template("fine\n{{ inputs.q", "task.yaml: prompt")
