"""A task folder becomes a `Task`, or one clear message with file, key, rule, value and remedy."""

# ruff: noqa: E501 - the table of mistakes reads best with one mistake a line
from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopt.core.cost import Unit
from agentopt.core.errors import ScorerError, TaskError
from agentopt.core.row_notes import row_notes
from agentopt.core.task import Example, Scorer
from agentopt.evaluation.judge import Judge
from agentopt.models.catalog import ModelSpec
from agentopt.taskfile.data import Row
from agentopt.taskfile.loading import load_task
from agentopt.taskfile.order import in_order
from agentopt.taskfile.overrides import Overrides
from agentopt.taskfile.row_checks import Rows
from agentopt.taskfile.scoring import check_targets

Edit = Callable[[dict[str, Any]], None]


class Names(dict[str, ModelSpec]):
    """A catalogue of a few names."""

    @property
    def names(self) -> Sequence[str]:
        return list(self)


CATALOG = Names(
    small=ModelSpec(name="small", base_url="http://127.0.0.1:9", parameters=1e8),
    large=ModelSpec(name="large", base_url="http://127.0.0.1:9", parameters=5e8),
    unsized=ModelSpec(name="unsized", base_url="http://127.0.0.1:9"),
)


def rows(split: str, count: int = 2) -> list[dict[str, Any]]:
    return [
        {"id": f"{split}{n}", "facts": ["f"], "question": f"{split} {n}?", "answer": "Kell", "level": n}
        for n in range(count)
    ]


def spec() -> dict[str, Any]:
    return {
        "name": "toy",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "columns": {"id": "id", "target": "answer", "inputs": ["facts", "question"], "metadata": ["level"]},
        "subtasks": [
            {"name": "find", "prompt": "{{ inputs.facts }} {{ inputs.question }}", "models": ["small", "large"]},
            {"name": "answer", "prompt": "{{ find.output }} {{ inputs.question }}", "models": ["small"]},
        ],
        "scorer": {"kind": "exact_match"},
        "cost": {"unit": {"parameters": 1e8}, "max_units": 9},
    }


def write(folder: Path, data: Any, **splits: list[dict[str, Any]]) -> Path:
    (folder / "task.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    for split in ("validation", "test"):
        lines = [json.dumps(row) for row in splits.get(split, rows(split))]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_task_folder_is_read_with_all_that_it_says(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, spec()), catalog=CATALOG)
    find, answer = task.subtasks
    assert (task.name, task.output_subtask, task.max_units, task.unit) == ("toy", "answer", 9, Unit(1e8))
    assert (find.models, find.num_samples, find.reads, answer.reads) == (
        ("small", "large"),
        (1, 2, 3, 5, 8),
        (),
        ("find",),
    )
    inputs = {"facts": ["f"], "question": "test 0?"}
    assert task.splits["test"][0] == Example("test0", inputs, "Kell", {"level": 0})
    assert set(task.splits) == {"validation", "test"}
    assert answer.render(inputs, {"find": "Vard"}) == "Vard test 0?"
    assert task.scorer(task.splits["test"][0], "kell") == load_task(tmp_path / "task.yaml").scorer(
        Example("x", {}, "Kell"), "Kell"
    )


def test_without_columns_every_other_column_is_an_input_and_the_line_is_the_id(tmp_path: Path) -> None:
    data = spec()
    del data["columns"]
    splits = {s: [{"question": f"{s}?", "facts": [], "target": "Kell"}] for s in ("validation", "test")}
    task = load_task(write(tmp_path, data, **splits))
    assert task.splits["validation"] == (Example("1", {"question": "validation?", "facts": []}, "Kell"),)


def repeating(rows: int, distinct: int) -> list[dict[str, Any]]:
    return [
        {"id": f"t{n}", "question": f"{n % distinct}?", "facts": [], "answer": "Kell", "level": 0} for n in range(rows)
    ]


def test_rows_that_repeat_each_other_are_grouped_up_to_a_limit_that_the_task_file_sets(tmp_path: Path) -> None:
    data = spec()
    task = load_task(write(tmp_path, data, test=repeating(50, 38)))
    assert (task.independent("test"), task.groups["test"]["t49"]) == (38, "t11")
    assert row_notes(task) == (
        "12 of 50 test rows repeat the inputs or the group of an earlier one: they count as 38 rows",
    )
    write(tmp_path, data, test=repeating(200, 20))
    with pytest.raises(TaskError, match=r"but 180 of 200 test rows do\n.*set data.duplicates: 0.9$") as refused:
        load_task(tmp_path)
    assert "data.duplicates" in str(refused.value)
    assert load_task(tmp_path, overrides={"data.duplicates": 0.9}).independent("test") == 20
    assert load_task(tmp_path, overrides={"data.limit.test": 20}).groups["test"] == {}
    with pytest.raises(TaskError, match=r"data\.duplicates"):
        load_task(tmp_path, overrides={"data.duplicates": 1.5})


@pytest.mark.parametrize("missing", [None, math.nan, "", "  "])
def test_a_missing_value_of_the_group_column_is_no_group(tmp_path: Path, missing: object) -> None:
    data = spec()
    data["columns"] |= {"inputs": ["question", "facts"], "group": "document"}
    rows = [{**row, "document": missing} for row in repeating(5, 5)]
    others = [{**row, "id": f"v{n}", "question": f"other {n}", "document": missing} for n, row in enumerate(rows)]
    task = load_task(write(tmp_path, data, test=rows, validation=others))
    assert task.groups == {"validation": {}, "test": {}}


def test_rows_of_one_group_count_as_one_row(tmp_path: Path) -> None:
    data = spec()
    data["columns"] |= {"inputs": ["question", "facts"], "group": "document"}
    task = load_task(
        write(
            tmp_path,
            data,
            test=[{**row, "document": 7} for row in repeating(5, 5)],
            validation=[{**repeating(1, 1)[0], "id": "v", "question": "other", "document": 0.5}],
        )
    )
    assert row_notes(task) == (
        "4 of 5 test rows repeat the inputs or the group of an earlier one: they count as 1 row",
    )


def test_a_column_groups_rows_and_no_group_is_in_two_splits(tmp_path: Path) -> None:
    data = spec()
    data["columns"] |= {"inputs": ["question", "facts"], "group": "document"}
    rows: list[dict[str, Any]] = [
        {"question": f"{n}?", "id": str(n), "facts": [], "answer": "Kell", "level": 0, "document": n // 3 or None}
        for n in range(9)
    ]
    task = load_task(write(tmp_path, data, test=rows, validation=[{**rows[0], "id": "v", "question": "v"}]))
    assert task.groups == {"validation": {}, "test": {"3": "3", "4": "3", "5": "3", "6": "6", "7": "6", "8": "6"}}
    assert "document" not in task.splits["test"][0].inputs
    assert row_notes(task) == (
        "4 of 9 test rows repeat the inputs or the group of an earlier one: they count as 5 rows",
    )
    write(tmp_path, data, test=rows, validation=[{**rows[4], "id": "v", "question": "v"}])
    with pytest.raises(TaskError, match="in one split only, but its group '1' is also in validation, at "):
        load_task(tmp_path)
    with pytest.raises(TaskError, match=r"must have the column 'page' \(columns.group\)"):
        load_task(tmp_path, overrides={"columns.group": "page"})


@pytest.mark.parametrize(
    ("test", "what"),
    [
        ({"id": "a", "question": "Another?"}, "its id 'a' is"),
        ({"id": 'a"b', "question": "Another?"}, "its id 'a\"b' is"),
        ({"id": "other", "question": "Where?"}, "its inputs are"),
    ],
)
def test_a_row_that_is_in_two_splits_is_named(tmp_path: Path, test: dict[str, Any], what: str) -> None:
    row = {"facts": [], "answer": "Kell", "level": 0}
    first = {**row, "id": 'a"b' if '"' in test["id"] else "a", "question": "Where?"}
    message = rf"test\.jsonl.*in one split only, but {what} also in validation, at .*validation\.jsonl.*"
    with pytest.raises(TaskError, match=message):
        load_task(write(tmp_path, spec(), test=[{**row, **test}], validation=[first]))


def test_near_duplicates_across_splits_are_reported(tmp_path: Path) -> None:
    data = spec()
    row = {"facts": [], "answer": "Kell", "level": 0}
    test = [{**row, "id": "a", "question": "Where  is Kell"}, {**row, "id": "b", "question": "5 - 3?"}]
    validation = [{**row, "id": "c", "question": "where is kell?"}, {**row, "id": "d", "question": "5 + 3?"}]
    task = load_task(write(tmp_path, data, test=test, validation=validation))
    (note,) = row_notes(task)
    assert note.startswith(
        "in the validation split, too, but for case, spacing and punctuation: 1 test row, such as 'a' ('c' there)"
    )


@pytest.mark.parametrize(
    ("answers", "target"),
    [
        ({"text": ["Kell", "Kel"], "answer_start": [3, 3]}, ["Kell", "Kel"]),
        ([{"text": "Kell"}, {"text": "Kel"}], ["Kell", "Kel"]),
        ({"text": "Kell"}, "Kell"),
    ],
)
def test_a_target_may_be_inside_a_column(tmp_path: Path, answers: Any, target: Any) -> None:
    data = spec()
    data["columns"] = {"target": "answers.text"}
    splits = {s: [{"question": f"{s}?", "facts": [], "answers": answers}] for s in ("validation", "test")}
    task = load_task(write(tmp_path, data, **splits))
    assert task.splits["test"] == (Example("1", {"question": "test?", "facts": []}, target),)


@pytest.mark.parametrize(
    ("answers", "path", "match"),
    [
        ({"text": ["Kell"]}, "answers", r"(?s)an object with text.*columns.target: COLUMN.text"),
        ([{"text": "Kell"}], "answers", "an object with text"),
        ({"text": ["Kell"]}, "answers.txt", r"(?s)there is no 'txt'.*did you mean.*text"),
        (float("nan"), "answers", "a value that an output can equal, but got nan"),
    ],
)
def test_a_target_that_no_output_can_equal_is_reported_at_loading(
    tmp_path: Path, answers: Any, path: str, match: str
) -> None:
    data = spec()
    data["columns"] = {"target": path}
    splits = {s: [{"question": f"{s}?", "facts": [], "answers": answers}] for s in ("validation", "test")}
    with pytest.raises(TaskError, match=match):
        load_task(write(tmp_path, data, **splits))


def test_subtasks_are_put_in_an_order_in_which_each_comes_after_what_it_reads(tmp_path: Path) -> None:
    data = spec()
    data["subtasks"].reverse()
    data["output"] = "answer"
    assert [s.name for s in load_task(write(tmp_path, data)).subtasks] == ["find", "answer"]
    assert in_order({"c": ("a",), "b": (), "a": ("b",)}, "x") == ["b", "a", "c"]


@pytest.mark.parametrize(("given", "counts"), [(4, (4,)), ({"max": 3}, (1, 2, 3)), ([2, 5], (2, 5))])
def test_sample_counts_are_a_number_a_maximum_or_a_list(tmp_path: Path, given: Any, counts: tuple[int, ...]) -> None:
    task = load_task(write(tmp_path, spec()), overrides={"subtasks.find.num_samples": given})
    assert task["find"].num_samples == counts


def test_overrides_reach_subtasks_by_name_or_number_and_limits_cut_the_splits(tmp_path: Path) -> None:
    overrides = {"data.limit.test": 1, "subtasks.answer.max_tokens": 7, "subtasks.0.temperature": 0}
    task = load_task(write(tmp_path, spec()), overrides=overrides)
    assert (len(task.splits["test"]), len(task.splits["validation"])) == (1, 2)
    assert (task["answer"].max_tokens, task["find"].temperature) == (7, 0)


@pytest.mark.parametrize(
    "overrides",
    [
        {"subtasks": {"answer": {"max_tokens": 7, "fuse": {"method": "best_of", "judge": "own.py:f"}}}},
        {"subtasks": {"answer": {"max_tokens": 7, "fuse.method": "best_of", "fuse.judge": "own.py:f"}}},
        {"subtasks": {1: {"max_tokens": 7}}, "subtasks.answer": {"fuse": {"method": "best_of", "judge": "own.py:f"}}},
        {"subtasks.1": {"max_tokens": 7, "fuse": {"method": "best_of", "judge": "own.py:f"}}},
    ],
)
def test_a_mapping_of_subtasks_sets_the_keys_that_it_has(tmp_path: Path, overrides: dict[str, Any]) -> None:
    (tmp_path / "own.py").write_text("def f(inputs, value): return 1\n")
    as_in_file = load_task(write(tmp_path, spec()))
    task = load_task(write(tmp_path, spec()), overrides=overrides)
    assert task["find"].max_tokens == as_in_file["find"].max_tokens != 7
    assert (task["answer"].max_tokens, task["answer"].fusion.method) == (7, "best_of")
    assert (task["answer"].models, task["answer"].parse) == (as_in_file["answer"].models, as_in_file["answer"].parse)


def test_a_missing_scorer_gets_the_kinds(tmp_path: Path) -> None:
    without = {key: value for key, value in spec().items() if key != "scorer"}
    with pytest.raises(TaskError) as raised:
        load_task(write(tmp_path, without))
    kinds = "contains, exact_match, judge, numeric, python, set_f1, token_f1"
    remedy = f"add `scorer: ...`, which is one of {kinds}, or {{kind: NAME, OPTION: VALUE}}"
    assert str(raised.value) == f"{tmp_path / 'task.yaml'}: scorer: must be given\n  remedy: {remedy}"


def test_the_whole_list_of_subtasks_or_a_whole_subtask_is_replaced(tmp_path: Path) -> None:
    whole = {"name": "only", "prompt": "{{ inputs.question }}", "models": ["small"]}
    task = load_task(write(tmp_path, spec()), overrides={"subtasks": [whole]})
    assert [subtask.name for subtask in task.subtasks] == ["only"]
    renamed = {"subtasks.find": {**whole, "name": "find"}, "subtasks.answer.prompt": "{{ find.output }}"}
    assert load_task(write(tmp_path, spec()), overrides=renamed)["find"].models == ("small",)


def test_parsers_fusion_and_scorers_may_be_functions_of_the_task_folder(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def shout(text): return text.upper()\n"
        "def longest(inputs, value): return len(value)\n"
        "def score(example, output): return 1.0\n"
    )
    data = spec()
    data["subtasks"][0] |= {
        "parse": {"kind": "python", "function": "own.py:shout"},
        "fuse": {"method": "best_of", "judge": "own.py:longest"},
    }
    data["scorer"] = {"kind": "python", "function": "own.py:score"}
    find = load_task(write(tmp_path, data))["find"]
    assert find.parse("kell") == "KELL"
    assert find.fusion.judge
    assert find.fusion.judge({}, "abc") == 3


@pytest.mark.parametrize(("name", "options"), [("vote", {}), ("vote", {"stop": "decided"}), ("first", {})])
def test_the_key_of_a_fusion_in_version_0_1_0_is_read(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    found = []
    for key in ("kind", "method"):
        fuse = {key: name, **options}
        found.append(load_task(write(tmp_path, spec()), overrides={"subtasks.find.fuse": fuse})["find"].fusion)
    assert found[0] == found[1]
    assert (found[0].method, dict(found[0].options)) == (name, options)


def test_a_json_parser_constrains_the_response_with_its_keys_in_the_order_of_the_file(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"why": {}, "city": {}}}
    parse = {"kind": "json", "schema": schema}
    find = load_task(write(tmp_path, spec()), overrides={"subtasks.find.parse": parse})["find"]
    assert find.json_schema == '{"type":"object","properties":{"why":{},"city":{}}}'
    assert find.parse('{"city": 1}') == {"city": 1}


def test_a_judge_is_read_with_its_rubric_and_needs_no_target(tmp_path: Path) -> None:
    data = spec()
    data["scorer"] = {"kind": "judge", "model": "large", "rubric": "Right?"}
    del data["columns"]["target"]
    task = load_task(write(tmp_path, data), catalog=CATALOG)
    assert task.scorer == Judge("large", "Right?")
    assert task.splits["test"][0].target is None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"scorrer": 1}, r"task\.yaml: scorrer: unknown key[\s\S]*did you mean 'scorer'"),
    ({"subtasks.find.promt": "x"}, r"subtasks\.find\.promt: unknown key[\s\S]*did you mean 'prompt'"),
    ({"subtasks.find.prompt": "a\n{{ x"}, r"subtasks\.find\.prompt: line 2 of the template is not Jinja"),
    ({"subtasks.find.prompt": "{{ inputs.fact }}"}, r"`inputs\.fact`, which is not an input[\s\S]*did you mean 'facts'"),
    ({"subtasks.answer.prompt": "{{ fnd.output }}"}, r"subtasks\.answer\.prompt: [\s\S]*reads `fnd`[\s\S]*did you mean 'find'"),
    ({"subtasks.answer.prompt": "{{ find }}"}, r"as `find\.output`, but got `find` alone"),
    ({"subtasks.answer.prompt": "{{ find.text }}"}, r"as `find\.output`, but got `find\.text`"),
    ({"subtasks.find.prompt": "{{ answer.output }}"}, r"in a circle, but got find -> answer -> find"),
    ({"subtasks.find.prompt": "{{ find.output }}"}, r"cannot read its own output"),
    (
        {"subtasks.find.prompt": "{{ knobs.hint }} {{ inputs.question }}"},
        r"reads `knobs\.hint`, which is not a knob[\s\S]*remedy: declare it: `knobs: \{hint: \.\.\.\}`",
    ),
    (
        {"subtasks.find.prompt": "{{ knobs.hint }}", "subtasks.find.knobs": {"style": "brief"}},
        r"remedy: declare it: `knobs: \{hint: \.\.\.\}`",
    ),
    ({"subtasks.find.prompt": "{{ knobs.hnt }}", "subtasks.find.knobs": {"hint": "brief"}}, r"did you mean 'hint'"),
    ({"subtasks.find.knobs": {"hint": "brief"}}, r"its prompt does not read its knob `hint`\n  remedy: write {{ knobs.hint }}"),
    (
        {"subtasks.find.prompt": "{{ knobs.hint }}", "subtasks.find.knobs": {"hint": "brief", "style": ["a", "b"]}},
        r"its prompt does not read its knob `style`",
    ),
    ({"subtasks.find.prompt": "{{ knobs }}"}, r"remedy: declare one: `knobs: \{NAME: \.\.\.\}`, and read `knobs\.NAME`"),
    ({"subtasks.find.prompt": "{{ question }}"}, r"neither `inputs` nor a subtask\n  remedy: known: inputs$"),
    ({"subtasks.answer.prompt": "{{ find.output }} {{ answe }}"}, r"remedy: known: find, inputs$"),
    ({"subtasks.find.prompt": "{{ inputs.question + 1 }}"}, r"on example validation0 of validation: .*TypeError"),
    ({"subtasks.answer.name": "find"}, r"two subtasks are called 'find'"),
    ({"subtasks.find.name": "inputs"}, r"`inputs` is the examples' columns"),
    ({"subtasks.find.name": "my find"}, r"must be a word that templates can use, but got 'my find'"),
    ({"subtasks.answer.prompt": "{{ inputs.question }}"}, r"nothing reads 'find'"),
    ({"output": "anwser"}, r"`output` must name a subtask, but got 'anwser'[\s\S]*did you mean 'answer'"),
    ({"subtasks.find.models": ["smal"]}, r"subtasks\.find\.models\.0: the model 'smal'[\s\S]*did you mean 'small'.*agentopt models list"),
    ({"subtasks.find.models": []}, r"subtasks\.find\.models"),
    ({"subtasks.find.models": ["small", "small"]}, r"must name each thing once"),
    ({"subtasks.find.fuse": {"method": "fuse", "model": "huge"}}, r"fuse\.model: the model 'huge'"),
    ({"subtasks.find.fuse": "votes"}, r"`kind` \(`method` in Python\) must be one of[\s\S]*did you mean 'vote'"),
    ({"subtasks.find.fuse": "vote_list"}, r"vote_list needs a parser that gives lists, but got text"),
    ({"subtasks.find.fuse": {"method": "best_of"}}, r"fuse\.judge: must be given"),
    ({"subtasks.find.fuse": {"method": "votes"}}, r"`kind` .*must be one of[\s\S]*did you mean 'vote'"),
    ({"subtasks.find.fuse": {"kind": "vote", "method": "first"}}, r"`method` is the old name of `kind`, but both are given\n  remedy: remove `method`"),
    ({"subtasks.find.fuse": {"model": "small", "methd": "fuse"}}, r"write `kind` in place of `methd`"),
    ({"subtasks.find.fuse": {"vote": {}}}, r"write `vote` alone, or \{kind: vote, OPTION: VALUE\}"),
    ({"subtasks.find.parse": {"kind": 1.5}}, r"find\.parse: `kind` must be a string, but got 1\.5[\s\S]*write one of choice, ids"),
    ({"subtasks.find.parse": {"kind": ["text"]}}, r"find\.parse: `kind` must be a string, but got \['text'\]"),
    ({"scorer": None}, r"must be the name of a scorer, or a mapping with `kind`, but got None[\s\S]*write one of contains, exact_match, "),
    ({"subtasks.find.fuse": {"method": "vote", "stop": "zz"}}, r"fuse\.stop: must be 'decided', a number or a list, but got 'zz'\n  remedy: write decided, a number such as 0\.95, or several, such as \[decided, 0\.95\]$"),
    ({"subtasks.find.fuse": {"method": "vote", "stop": []}}, r"fuse\.stop: must have at least 1 item, but got \[\]\n  remedy: write decided, "),
    ({"subtasks.find.fuse": {"method": "vote", "stop": 0.3}}, r"fuse\.stop: must be greater than 0\.5, but got 0\.3\n  remedy: write a number above 0\.5$"),
    ({"subtasks.find.fuse": {"method": "vote", "stop": ["decided", "a"]}}, r"yaml: subtasks\.find\.fuse\.stop\.1: must be 'decided' or a number, but got 'a'"),
    ({"subtasks.find.knobs": {"k": None}}, r"knobs\.k: must be a number, a string, or true or false, but got None\n  remedy: use one of these$"),
    ({"subtasks.find.cascade": ["small"]}, r"cascade: must have at least 2 items, but got \['small'\]\n  remedy: write two models, such as \[small, large\]"),
    ({"subtasks.find.cascade": {"models": ["a", "b", "c"]}}, r"cascade\.models: must have at most 2 items, but got [\s\S]*write two models"),
    ({"subtasks.find.context": "f"}, r"find\.context: must be a function as file\.py:name, but got 'f'\n  remedy: write a function as file\.py:name"),
    ({"columns.inputs": "question"}, r"columns\.inputs: must be a mapping, but got 'question'\n  remedy: write a list of columns, or a mapping from names"),
    ({"subtasks.find.parse": {"method": "json"}}, r"write `kind` in place of `method`"),
    ({"subtasks.find.parse": {"options": ["a", "b"]}}, r"write one of choice, ids, json, number, python, text, or \{kind: NAME, OPTION: VALUE\}"),
    ({"scorer": {"name": "my_pkg.judges:polite"}}, r"write `kind` in place of `name`"),
    ({"subtasks.find.fuse": {"method": "vote", "model": "small"}}, r"fuse\.model: is an option of fuse, not of vote[\s\S]*remove it, or write kind: fuse"),
    ({"subtasks.find.fuse": {"method": "fuse", "prompt": "{{ answer }}"}}, r"reads `question` and `answers`, but got `answer`"),
    ({"subtasks.find.models": ["gpt-5-mini"]}, r"add it by `agentopt models add openai/gpt-5-mini`"),
    ({"subtasks.find.num_samples": "lots"}, r"num_samples: must be a number, a list of numbers, or \{max: n\}, but got 'lots'[\s\S]*write it like 8, \[1, 3, 5\] or \{max: 8\}"),
    ({"subtasks.find.num_samples": {"most": 8}}, r"must be a number, a list of numbers, or \{max: n\}, but got \{'most': 8\}"),
    ({"metrics": {"m": {"subtask": "find", "scorer": "exact_match", "against": "label"}}}, r"task\.yaml: metrics\.m\.against: must name a column of the metadata, but got 'label'[\s\S]*list it in `columns\.metadata`"),
    ({"metrics": {"m": {"subtask": "find", "scorer": "exact_match", "against": "levl"}}}, r"metrics\.m\.against: .*'levl'[\s\S]*did you mean 'level'"),
    ({"columns.metadata": [], "metrics": {"m": {"subtask": "find", "scorer": "exact_match", "against": "level"}}}, r"metrics\.m\.against: [\s\S]*columns\.metadata"),
    ({"subtasks.find.num_samples": [2, 1]}, r"num_samples: must be positive and ascending"),
    ({"subtasks.find.num_samples": [0, 1]}, r"must be positive and ascending"),
    ({"subtasks.find.num_samples": {"max": 0}}, r"must be positive and ascending"),
    ({"subtasks.find.parse": {"kind": "choise"}}, r"`kind` must be one of[\s\S]*did you mean 'choice'"),
    ({"subtasks.find.parse": {"kind": "choice"}}, r"options: must be given"),
    ({"subtasks.find.parse": {"kind": "choice", "options": ["a b", "A  B"]}}, r"parse: options must be"),
    ({"subtasks.find.parse": {"kind": "json", "schema": {"type": "strng"}}}, r"not a JSON schema"),
    ({"subtasks.find.parse": {"kind": "python", "function": "own.py:f"}}, r"parse\.function: there is no file"),
    ({"subtasks.answer.parse": {"kind": "choice", "options": ["yes", "no"]}}, r"no option of answer is right by the target 'Kell'"),
    ({"scorer": "numeric"}, r"validation\.jsonl:1: the target of example validation0 must be a number"),
    ({"scorer": {"kind": "judge", "model": "huge", "rubric": "x"}}, r"scorer\.model: the model 'huge'"),
    ({"data.duplicates": True}, r"data\.duplicates: must be a number, but got True"),
    ({"data.limit.test": True}, r"data\.limit\.test: must be a whole number, but got True"),
    ({"subtasks.find.num_samples": True}, r"subtasks\.find\.num_samples: must be a whole number, but got True"),
    ({"subtasks.find.num_samples": [True, 2]}, r"num_samples\.0: must be a whole number, but got True"),
    ({"subtasks.find.num_samples": {"max": True}}, r"num_samples: `max` must be a whole number, but got True"),
    ({"scorer": {"kind": "numeric", "tolerance": True}}, r"scorer\.tolerance: must be a number, but got True"),
    ({"subtasks.find.temperature": False}, r"temperature: must be a number, but got False"),
    ({"cost.max_units": True}, r"cost\.max_units: must be a number, but got True"),
    ({"cost.max_units": -1}, r"cost\.max_units: must be greater than 0, but got -1"),
    ({"cost.max_seconds": True}, r"cost\.max_seconds: must be a number, but got True"),
    ({"cost.max_usd_per_1000": 0}, r"cost\.max_usd_per_1000: must be greater than 0, but got 0"),
    ({"cost.max_usd": 1, "cost.max_usd_per_1000": 1000}, r"only one of `max_usd` and `max_usd_per_1000` may[\s\S]*remove one"),
    ({"cost.measure": "eur"}, r"cost\.measure: must be 'auto', 'usd', 'seconds' or 'units', but got 'eur'"),
    ({"cost": {}, "subtasks.find.tokens": {"prompt": 60, "completion": 8}}, r"a pass must cost at least 0 units"),
    ({"data.test": "no.jsonl"}, r"data\.test: the file .*no\.jsonl cannot be read"),
    ({"data.test": "test.txt"}, r"data\.test: data must be a file of \.csv"),
    ({"data.test": "test.csv"}, r"data\.test: the file .*test\.csv cannot be read"),
    ({"data.test": "validation.jsonl"}, r"its id 'validation0' is also in validation"),
    ({"columns.target": "anser"}, r"validation\.jsonl:1: the row must have the column 'anser'[\s\S]*did you mean 'answer'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[str(list(c)[0]) for c, _ in WRONG])  # noqa: RUF015
def test_a_mistake_in_the_file_is_one_message_with_a_remedy(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskError, match=message) as raised:
        load_task(write(tmp_path, Overrides(spec(), changes).data), catalog=CATALOG)
    assert str(tmp_path) in str(raised.value)
    assert raised.value.remedy or "mistakes" in str(raised.value)


LONG = "What earns a score, in more words than the line of a message has room for: " * 2
OVERRIDDEN: list[tuple[dict[str, Any], str]] = [
    (
        {"subtasks.fnd.models": ["small"]},
        "-c task.subtasks.fnd.models=['small']: there is no 'fnd' in the list `subtasks`",
    ),
    (
        {"subtasks": {"anwser": {"max_tokens": 7}}},
        "-c task.subtasks.anwser={'max_tokens': 7}: there is no 'anwser' in the list `subtasks`\n  remedy: did you mean 'answer'?",
    ),
    ({"subtasks": {"answer": {"max_tokens": 0}}}, "-c task.subtasks.answer.max_tokens=0: must be greater than 0"),
    ({"subtasks": {"answer": {"promt": "x"}}}, "-c task.subtasks.answer.promt=x: unknown key"),
    ({"subtasks": {"answer": 3}}, "-c task.subtasks.answer=3: must be a mapping, but got 3"),
    ({"subtasks": {}}, "-c task.subtasks={}: must be a list, but got {}"),
    ({"subtasks.2.models": ["small"]}, "-c task.subtasks.2.models=['small']: there is no '2' in the list `subtasks`"),
    ({"subtasks.answer.max_tokens": "abc"}, "-c task.subtasks.answer.max_tokens=abc: must be a whole number"),
    ({"subtasks.1.max_tokens": 0}, "-c task.subtasks.1.max_tokens=0: must be greater than 0, but got 0"),
    ({"subtasks.find.num_samples": {"max": 0}}, "-c task.subtasks.find.num_samples={'max': 0}: must be positive"),
    (
        {"subtasks.find.models": ["small", "huge"]},
        "-c task.subtasks.find.models=['small', 'huge']: [1]: the model 'huge'",
    ),
    ({"subtasks.find.fuse": {"method": "best_of"}}, "-c task.subtasks.find.fuse={'method': 'best_of'}: judge: must be"),
    ({"subtasks.find.prompt": "{{ wrod }}"}, "-c task.subtasks.find.prompt={{ wrod }}: "),
    ({"scorer": {"kind": "exat_match"}}, "-c task.scorer={'kind': 'exat_match'}: `kind` must be one of"),
    ({"scorer.kind": "exat_match"}, "-c task.scorer.kind=exat_match: `kind` must be one of"),
    ({"scorer": "numeric_within"}, "-c task.scorer=numeric_within: "),
    ({"cost.unit": {"parameters": -1}}, "-c task.cost.unit={'parameters': -1}: parameters: must be greater than 0"),
    ({"data.duplicates": 1.5}, "-c task.data.duplicates=1.5: "),
    ({"data.test": "no.jsonl"}, "-c task.data.test=no.jsonl: the file "),
    ({"output": "nothing"}, "-c task.output=nothing: "),
    ({"nmae": "x"}, "-c task.nmae=x: unknown key"),
    ({"cost.max_units": 3, "cost": {"max_units": -2}}, "-c task.cost={'max_units': -2}: max_units: must be greater"),
    (
        {"scorer": {"kind": "judge", "model": "small", "rubric": LONG, "samples": "many"}},
        "-c task.scorer.samples: must be a whole number, but got 'many'",
    ),
    (
        {"scorer": {"kind": "judge", "model": "small", "rubric": LONG, "sampels": 3}},
        "-c task.scorer.sampels: unknown key\n  remedy: did you mean 'samples'?",
    ),
    ({"scorer": {"kind": "judge", "model": "huge", "rubric": LONG}}, "-c task.scorer.model: the model 'huge'"),
    ({"subtasks.find.prompt": "{{ wrod }} " + LONG}, "-c task.subtasks.find.prompt: "),
    ({"subtasks": {"fnd": {"prompt": LONG}}}, "-c task.subtasks.fnd: there is no 'fnd' in the list `subtasks`"),
    (
        {"subtasks.find.fuse": {"kind:vote": None, "stop:soon": None}},
        "-c task.subtasks.find.fuse={'kind:vote': None, 'stop:soon': None}: must be the name of a fusion",
    ),
]


@pytest.mark.parametrize(("overrides", "start"), OVERRIDDEN, ids=[str(next(iter(o.items()))) for o, _ in OVERRIDDEN])
def test_a_mistake_in_an_overridden_value_names_the_override(
    tmp_path: Path, overrides: dict[str, Any], start: str
) -> None:
    with pytest.raises(TaskError) as raised:
        load_task(write(tmp_path, spec()), catalog=CATALOG, overrides=overrides)
    assert str(raised.value).startswith(start)
    assert "task.yaml" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "written"),
    [
        ({"subtasks.find.fuse": {"kind:vote": None, "stop:soon": None}}, "kind: vote"),
        ({"subtasks.find.fuse": {"kind": "vote", "stop:soon": None}}, "stop: soon"),
        ({"subtasks.find": {"max_tokens:9": None}}, "max_tokens: 9"),
        ({"scorer": {'kind:"my_pkg.judges:starts"': None}}, 'kind: "my_pkg.judges:starts"'),
        ({"cost": {"max_units:5": None}}, "max_units: 5"),
    ],
)
def test_a_key_that_yaml_read_with_its_value_has_the_space_as_its_remedy(
    tmp_path: Path, overrides: dict[str, Any], written: str
) -> None:
    with pytest.raises(TaskError) as raised:
        load_task(write(tmp_path, spec()), catalog=CATALOG, overrides=overrides)
    assert f"write `{written}`: YAML needs a space after the colon" in str(raised.value)


def test_of_several_mistakes_those_of_overrides_name_them(tmp_path: Path) -> None:
    wrong = {**spec(), "outptu": "answer"}
    with pytest.raises(TaskError, match=r"task\.yaml: 2 mistakes") as raised:
        load_task(write(tmp_path, wrong), overrides={"subtasks.find.max_tokens": -1})
    assert "\n  -c task.subtasks.find.max_tokens=-1: must be greater than 0" in str(raised.value)
    assert "\n  outptu: unknown key" in str(raised.value)


def test_a_mistake_elsewhere_names_the_file_despite_overrides(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"task\.yaml: cost\.max_units: must be greater"):
        load_task(write(tmp_path, {**spec(), "cost": {"max_units": 0}}), overrides={"subtasks.find.max_tokens": 5})
    with pytest.raises(TaskError, match=r"^-c task\.subtasks\.fnd\.prompt=x: there is no 'fnd' in"):
        load_task(write(tmp_path, spec()), overrides={"subtasks.fnd.prompt": "x"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"validation\.jsonl:2: is not JSON"),
        ('{"id": "v", "x": {"a": 1, "b": 2, "a": 3}}', r"jsonl:2: a key must be given once, but 'a' is given twice"),
        (
            '{"id": "v", "question": "x", "question": "x"}',
            r"jsonl:2: .*'question' is given twice[\s\S]*remove or rename",
        ),
        ("[1]", r"validation\.jsonl:2: a row must be a JSON object, but got a list"),
        ("\udcff", r"validation\.jsonl:2: is not UTF-8[\s\S]*save the file as UTF-8"),
        (json.dumps({"id": "v"}), r"validation\.jsonl:2: the row must have the column"),
        (json.dumps(rows("validation")[0]), r"jsonl:2: an id must be given once in a split.*jsonl:1"),
        (json.dumps(rows("validation")[1] | {"id": None}), r"jsonl:2: an id must be a string or a whole number"),
        (json.dumps(rows("test")[1] | {"id": "other"}), r"test\.jsonl:2: .*its inputs are also in validation"),
    ],
)
def test_a_bad_row_is_reported_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path, spec())
    first = json.dumps(rows("validation")[0])
    (tmp_path / "validation.jsonl").write_bytes(f"{first}\n{line}\n".encode(errors="surrogateescape"))
    with pytest.raises(TaskError, match=message):
        load_task(tmp_path)


def test_an_empty_split_and_a_missing_folder_are_reported(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="at least one example"):
        load_task(write(tmp_path, spec(), test=[]))
    with pytest.raises(TaskError, match=r"there is no task\.yaml"):
        load_task(tmp_path / "nowhere")


def test_a_row_that_lacks_a_column_that_a_template_reads_is_reported_with_its_line(tmp_path: Path) -> None:
    data = spec()
    data["columns"] = {"target": "answer"}
    test = rows("test")
    del test[1]["facts"]
    with pytest.raises(TaskError, match=r"test\.jsonl:2: the row must have the column 'facts'"):
        load_task(write(tmp_path, data, test=test))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def scor(e, o): ...", r"must have a function 'score'[\s\S]*did you mean 'scor'"),
        ("score = 3", "must have a function 'score'"),
        ("from math import sqrt\nfrom agentopt import Score\ndef f(e, o): ...", r"remedy: known: f$"),
        ("from agentopt import scorer", r"remedy: there is none yet: add 'score'$"),
        ("def (", "cannot be run: SyntaxError"),
        ("raise SystemExit(1)", "cannot be run: SystemExit"),
    ],
)
def test_a_failing_python_file_is_a_task_error(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(TaskError, match=message):
        load_task(write(tmp_path, spec()), overrides={"scorer": {"kind": "python", "function": "own.py:score"}})


async def _later(example: Example, output: Any) -> float:
    return float(output == example.target)


def _of_numbers(example: Example, output: Any) -> float:
    return float(int(output) == int(example.target))


def _by_length(example: Example, output: Any) -> float:
    return float(len(output) > 0)


def _by_field(example: Example, output: Any) -> float:
    return float(output["answer"] == example.metadata["gone"])


def _of_text(example: Example, output: Any) -> bool:
    return str(output).casefold() == str(example.target).casefold()


TARGETS: Rows = {"test": [Row(Example("test0", {}, "Kell"), "test.jsonl:1", numbered=False)]}


@pytest.mark.parametrize("options", [(), ("kell", "vard")])
@pytest.mark.parametrize("scorer", [_later, _of_numbers, _by_length, _by_field, _of_text])
def test_a_users_comparison_need_not_score_every_output(scorer: Scorer, options: Sequence[str]) -> None:
    check_targets(scorer, options, "answer", TARGETS)


def _of_a_number(example: Example, output: Any) -> float:
    raise ScorerError(f"the target of {example.id} must be a number")


@pytest.mark.parametrize(
    ("scorer", "match"),
    [
        (_of_text, "test.jsonl:1: no option of answer is right by the target 'Kell'"),
        (_of_a_number, "test.jsonl:1: the target of test0 must be a number"),
    ],
)
def test_a_target_that_a_users_comparison_cannot_use_is_refused(scorer: Scorer, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        check_targets(scorer, ("yes", "no"), "answer", TARGETS)


@pytest.mark.parametrize(
    ("cost", "read"),
    [
        ({}, (None, None, None)),
        ({"measure": "usd", "max_usd": 0.002}, ("usd", 0.002, None)),
        ({"measure": "seconds", "max_usd_per_1000": 2, "max_seconds": 1.5}, ("seconds", 0.002, 1.5)),
    ],
)
def test_the_measure_and_the_limits_of_costs_are_read(tmp_path: Path, cost: dict[str, Any], read: Any) -> None:
    data = Overrides(spec(), {f"cost.{name}": value for name, value in cost.items()}).data
    task = load_task(write(tmp_path, data), catalog=CATALOG)
    assert (task.cost_measure, task.max_usd, task.max_seconds) == read


def test_a_negative_pass_is_no_mistake_if_costs_are_not_in_units(tmp_path: Path) -> None:
    data = Overrides(
        spec(), {"cost": {"measure": "seconds"}, "subtasks.find.tokens": {"prompt": 60, "completion": 8}}
    ).data
    assert load_task(write(tmp_path, data), catalog=CATALOG).cost_measure == "seconds"


@pytest.mark.parametrize(
    "prompt", ["{{ knobs }}", "{% for k in knobs %}{{ k }}{% endfor %}", '{{ knobs.a }}{{ knobs["b"] }}']
)
def test_knobs_may_be_read_as_a_mapping(tmp_path: Path, prompt: str) -> None:
    changed = {"subtasks.find.prompt": prompt, "subtasks.find.knobs": {"a": "x", "b": ["y", "z"]}}
    load_task(write(tmp_path, Overrides(spec(), changed).data), catalog=CATALOG)
