"""A dataset in its public format becomes examples in splits, by a reader in the task folder."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.errors import TaskError
from agentopt.core.row_notes import row_notes
from agentopt.core.task import Example
from agentopt.core.user_functions import Functions
from agentopt.runs.config import load_config
from agentopt.taskfile.data import Row
from agentopt.taskfile.hub import quietly
from agentopt.taskfile.loading import load_task
from agentopt.taskfile.overrides import Overrides
from agentopt.taskfile.reader import into_splits, read_dataset
from agentopt.taskfile.schema import DataSpec, SplitsSpec

READER = """
import datetime
from agentopt.core.task import Example

def read(row, *, most: int = 2, names_file=None):
    if "answer" not in row:
        return None
    names = names_file.read_text() if names_file else ""
    return Example(row.get("id", ""), {"facts": row["facts"][:most], "names": names}, row["answer"])

def needy(row, *, key):
    return row[key]

def plain(row, *, words: list[str], least: "float | None" = None):
    return read(row)

def dated(row):
    return Example(row["id"], {"facts": datetime.date.fromisoformat(row["answer"])}, "Kell")
"""


def spec() -> dict[str, Any]:
    return {
        "name": "toy",
        "data": {"source": "rows.jsonl", "reader": "reader.py:read"},
        "subtasks": [{"name": "answer", "prompt": "{{ inputs.facts }}", "models": ["small"]}],
        "scorer": "exact_match",
    }


def rows(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "facts": [f"a{n}", "b", "c"], "answer": "Kell"} for n in range(first, first + count)]


def write(folder: Path, data: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    (folder / "task.yaml").write_text(yaml.safe_dump(spec()))
    (folder / "reader.py").write_text(READER)
    lines = "\n".join(json.dumps(row) for row in data)
    (folder / name).write_text(json.dumps(data) if name.endswith(".json") else lines)
    return folder


def ids(folder: Path, **overrides: Any) -> dict[str, list[str]]:
    given = {f"data.{key}": value for key, value in overrides.items()}
    return {split: [e.id for e in rows] for split, rows in load_task(folder, overrides=given).splits.items()}


def test_a_reader_makes_the_examples_with_its_options_and_may_skip_rows(tmp_path: Path) -> None:
    write(tmp_path, [*rows(10), {"id": "skipped", "facts": []}])
    task = load_task(tmp_path, overrides={"data.options.most": 1})
    examples = {e.id: e for split in task.splits.values() for e in split}
    assert set(examples) == {f"r{n}" for n in range(10)}
    assert examples["r3"] == Example("r3", {"facts": ["a3"], "names": ""}, "Kell")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows_that_the_reader_leaves_out_are_reported(tmp_path: Path, count: int) -> None:
    write(tmp_path, [*rows(10), *({"id": f"skipped {n}", "facts": []} for n in range(count))])
    task = load_task(tmp_path, overrides={"data.options.most": 1})
    notes = [note for note in row_notes(task) if "left out" in note]
    assert len(notes) == bool(count)
    if count:
        assert notes[0].startswith(f"the reader left out {count} of {10 + count} rows, such as ")
        assert "rows.jsonl:11" in notes[0]


def test_a_json_list_is_read_as_the_same_lines_are(tmp_path: Path) -> None:
    write(tmp_path, rows(9))
    write(tmp_path, rows(9), "rows.json")
    assert ids(tmp_path) == ids(tmp_path, source="rows.json")


def test_splits_are_disjoint_and_rows_that_are_appended_leave_the_others_in_place(tmp_path: Path) -> None:
    before = ids(write(tmp_path, rows(40)))
    after = ids(write(tmp_path, rows(80)))
    assert sorted(chain(*before.values())) == sorted(f"r{n}" for n in range(40))
    for split, names in before.items():
        assert after[split][: len(names)] == names


def test_another_split_seed_cuts_otherwise_and_a_share_of_nothing_leaves_the_split_out(tmp_path: Path) -> None:
    write(tmp_path, rows(40))
    assert ids(tmp_path, split_seed=1) != ids(tmp_path)
    assert set(ids(tmp_path, splits={"train": 0, "validation": 1, "test": 1})) == {"validation", "test"}


@pytest.mark.parametrize(
    ("shares", "splits"),
    [
        ({"validation": 0.5, "test": 0.5}, {"validation": 40, "test": 40}),
        ({"validation": 3, "test": 1}, {"validation": 60, "test": 20}),
        ({"train": 2, "validation": 1, "test": 1}, {"train": 40, "validation": 20, "test": 20}),
        ({}, {"train": 16, "validation": 32, "test": 32}),
    ],
)
def test_shares_that_are_given_are_the_whole(shares: dict[str, float], splits: dict[str, int]) -> None:
    given = [Row(Example(str(n), {"q": n}), "here", numbered=False) for n in range(80)]
    found = into_splits(given, SplitsSpec.model_validate(shares), 0, "here")
    assert set(found) == set(splits)
    assert {split: len(rows) for split, rows in found.items()} == pytest.approx(splits, abs=12)


@pytest.mark.parametrize(
    ("shares", "missing"),
    [
        ({"validation": 0.5}, ["test"]),
        ({"validation": 1.0}, ["test"]),
        ({"test": 1}, ["validation"]),
        ({"train": 0.2, "test": 0.4}, ["validation"]),
        ({"train": 1}, ["validation", "test"]),
    ],
)
def test_a_share_that_every_task_needs_is_not_made_up(
    tmp_path: Path, shares: dict[str, float], missing: list[str]
) -> None:
    with pytest.raises(TaskError, match="must be given") as error:
        ids(write(tmp_path, rows(10)), splits=shares)
    for split in missing:
        assert f"{split}: must be given" in str(error.value)
        assert f"add `{split}: ...`" in str(error.value)
    assert str(error.value).count("must be given") == len(missing)


def test_limits_cut_the_splits_of_a_dataset_too(tmp_path: Path) -> None:
    whole = ids(write(tmp_path, rows(40)))
    assert ids(tmp_path, **{"limit.test": 3})["test"] == whole["test"][:3]


def test_an_example_without_an_id_is_called_by_the_number_of_its_row(tmp_path: Path) -> None:
    write(tmp_path, [{"facts": [str(n)], "answer": "Kell"} for n in range(6)])
    assert sorted(chain(*ids(tmp_path).values())) == list("123456")


STORABLE = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
"""Characters that an id may contain: zero bytes and half surrogate pairs are refused."""


@given(st.sets(st.text(STORABLE, min_size=1, max_size=4), min_size=3, max_size=30), st.integers(0, 99))
def test_no_split_is_empty_and_none_shares_a_row(names: set[str], seed: int) -> None:
    given = [Row(Example(name, {"q": name}), "here", numbered=False) for name in names]
    splits = into_splits(given, SplitsSpec.model_validate({}), seed, "here")
    found = [row.example.id for rows in splits.values() for row in rows]
    assert sorted(found) == sorted(names)
    assert len(splits) == 3
    assert all(splits.values())


def test_shares_are_met_on_average() -> None:
    given = [Row(Example(str(n), {"q": n}), "here", numbered=False) for n in range(4000)]
    sizes = {split: len(rows) for split, rows in into_splits(given, SplitsSpec.model_validate({}), 0, "here").items()}
    assert sizes["train"] == pytest.approx(800, abs=100)
    assert sizes["test"] == pytest.approx(1600, abs=130)


def test_rows_with_the_same_inputs_stay_in_one_split() -> None:
    given = [Row(Example(str(n), {"q": n % 10}), "here", numbered=False) for n in range(40)]
    for group in into_splits(given, SplitsSpec.model_validate({}), 0, "here").values():
        questions = [row.example.inputs["q"] for row in group]
        assert all(questions.count(q) == 4 for q in questions)


def test_rows_of_one_group_stay_in_one_split_with_the_rows_that_repeat_them(tmp_path: Path) -> None:
    given = [Row(Example(str(n), {"q": f"{n}"}, group=f"document {n % 12}"), "here", numbered=False) for n in range(60)]
    repeat = Row(Example("repeat", {"q": "7"}, group="document 8"), "here", numbered=False)
    splits = into_splits([*given, repeat], SplitsSpec.model_validate({}), 0, "here")
    of_group = {row.example.group: split for split, rows in splits.items() for row in rows}
    assert all(of_group[row.example.group] == split for split, rows in splits.items() for row in rows)
    assert of_group["document 7"] == of_group["document 8"]


def test_inputs_may_be_what_json_has_no_word_for(tmp_path: Path) -> None:
    days = [{"id": f"r{n}", "answer": f"2026-01-0{n}"} for n in range(1, 7)]
    found = load_task(write(tmp_path, days), overrides={"data.reader": "reader.py:dated"})
    assert sorted(str(e.inputs["facts"]) for split in found.splits.values() for e in split) == [
        d["answer"] for d in days
    ]


def test_a_files_option_is_relative_to_the_task_folder(tmp_path: Path) -> None:
    write(tmp_path, rows(6))
    (tmp_path / "names.txt").write_text("Vard")
    task = load_task(tmp_path, overrides={"data.options.names_file": "names.txt"})
    assert task.splits["test"][0].inputs["names"] == "Vard"


def test_an_option_of_the_type_that_the_reader_names_is_taken(tmp_path: Path) -> None:
    write(tmp_path, rows(6))
    for least in (None, 1, 0.5):
        assert ids(tmp_path, reader="reader.py:plain", options={"words": ["a"], "least": least})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"source": None}, r"data\.source: .*none was given[\s\S]*-c data=FILE"),
    ({"source": "no.jsonl"}, r"data\.source: the file .*no\.jsonl cannot be read[\s\S]*working folder"),
    ({"options": {"most": "six"}}, r"data\.options: the option most must be of the type int, but got 'six'"),
    ({"options": {"most": True}}, r"the option most must be of the type int, but got True"),
    (
        {"reader": "reader.py:plain", "options": {"words": [], "least": "x"}},
        r"the option least must be of the type float or null, but got 'x'",
    ),
    ({"source": "rows.txt"}, r"must be a file of \.csv, .*, or hf:owner/name, but got rows\.txt"),
    ({"source": "hf:name"}, r"must be named as hf:owner/name:config@split, but got hf:name"),
    ({"options": {"mots": 1}}, r"data\.options: .*must have an option 'mots'[\s\S]*did you mean 'most'"),
    ({"reader": "reader.py:needy"}, r"needs the option 'key'[\s\S]*-c data\.options\.key"),
    ({"reader": "reader.py:needy", "options": {"key": "id"}}, r"jsonl:1: a reader must return an Example .* got str"),
    ({"reader": "reader.py:needy", "options": {"key": "x"}}, r"jsonl:1: the row must have the column 'x'"),
    ({"reader": "reader.py:reed"}, r"data\.reader: .*must have a function 'reed'[\s\S]*did you mean 'read'"),
    ({"reader": None}, r"jsonl:1: the row must have the column 'target'"),
    ({"reader": None, "source": "rows.txt"}, r"data\.source: data must be a file of \.csv"),
    ({"reader": None, "source": "hf:name"}, r"data\.source: a dataset of the Hugging Face hub must be named"),
    ({"reader": None, "options": {"most": 1}}, r"`options` goes with a reader"),
    ({"reader": None, "source": None, "split_seed": 1}, r"`split_seed` goes with one dataset[\s\S]*add source"),
    ({"reader": None, "test": "test.jsonl"}, r"but got a file for test[\s\S]*remove the files, or the dataset"),
    ({"test": "test.jsonl"}, r"but got a file for test"),
    ({"splits.test": 0}, r"data\.splits\.test: must be greater than 0"),
    ({"splits.tset": 1}, r"did you mean 'test'"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[str(list(c.items())) for c, _ in WRONG])
def test_a_mistake_in_the_data_is_one_message(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, rows(9))
    changed = Overrides(spec(), {f"data.{key}": value for key, value in changes.items()}).data
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(TaskError, match=message):
        load_task(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"rows\.jsonl: a dataset must have rows, but it is empty"),
        (rows(2), r"rows\.jsonl: .*at least one usable row for each of train, validation, test, but has 2\n"),
        (
            [{"id": f"r{n}", "facts": [], "answer": "x"} for n in range(9)],
            "but has 1 with distinct inputs and groups; rows that share either stay in one split",
        ),
        ([*rows(3), *rows(1)], r"jsonl:4: an id must be given once in a dataset, but 'r0' is also at .*jsonl:1"),
        ([{"id": "r0", "answer": "x"}], r"jsonl:1: the row must have the column 'facts'"),
        ([{"id": 7, "facts": [], "answer": "x"}], r"jsonl:1: Example: `id` must be a string, but got 7"),
    ],
)
def test_rows_that_do_not_fit_are_reported(tmp_path: Path, data: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(write(tmp_path, data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "must be a list of objects, but got a dict"),
        ("[1]", r"json: \[0\]: a row must be a JSON object"),
        ("[", "is not JSON"),
        ('[{"id": "a"}, {"id": "b", "c": [{"d": 1, "d": 1}]}]', r"rows\.json: \[1\]: .*'d' is given twice"),
        ('{"a": 1, "a": 2}', r"rows\.json: .*'a' is given twice"),
    ],
)
def test_a_json_file_of_another_shape_is_reported(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, rows(3), "rows.json")
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(TaskError, match=message):
        ids(tmp_path, source="rows.json")


@pytest.mark.parametrize("columns", [{"id": "id"}, {}])
@pytest.mark.parametrize(
    ("shares", "splits"),
    [
        ({}, ["train", "validation", "test"]),
        ({"validation": 0.5, "test": 0.5}, ["validation", "test"]),
        ({"train": 2, "validation": 1, "test": 1}, ["train", "validation", "test"]),
    ],
)
def test_a_jsonl_file_is_split_without_a_reader(
    tmp_path: Path, columns: dict[str, str], shares: dict[str, float], splits: list[str]
) -> None:
    write(tmp_path, rows(40))
    flat = {"data": {"source": "rows.jsonl", "splits": shares}, "columns": {**columns, "target": "answer"}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({**spec(), **flat}))
    found = load_task(tmp_path).splits
    assert list(found) == splits
    assert sorted(e.id for split in found.values() for e in split) == sorted(f"r{n}" for n in range(40))
    assert found["test"][0].inputs["facts"][1:] == ["b", "c"]
    assert found["test"][0].target == "Kell"


def test_a_flat_file_is_split_as_a_reader_of_the_same_rows_is(tmp_path: Path) -> None:
    read = ids(write(tmp_path, rows(40)), split_seed=3)
    flat = {"data": {"source": "rows.jsonl", "split_seed": 3}, "columns": {"target": "answer"}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({**spec(), **flat}))
    assert ids(tmp_path) == read


def test_rows_without_an_id_are_split_by_their_line(tmp_path: Path) -> None:
    write(tmp_path, [{"facts": [f"a{n}"], "target": "Kell"} for n in range(12)])
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({**spec(), "data": {"source": "rows.jsonl"}}))
    assert sorted(map(int, chain(*ids(tmp_path).values()))) == list(range(1, 13))


def test_columns_do_not_go_with_a_reader(tmp_path: Path) -> None:
    write(tmp_path, rows(3))
    with pytest.raises(TaskError, match="`columns` goes with data without a reader"):
        load_task(tmp_path, overrides={"columns.id": "id"})


class Hub:
    """A hub of one dataset, which records the last request."""

    def __init__(self, answer: list[dict[str, Any]] | Exception) -> None:
        self.answer, self.requested = answer, tuple[str | None, ...]()

    def __call__(self, name: str, config: str | None, split: str | None) -> Iterable[Mapping[str, Any]]:
        self.requested = (name, config, split)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def from_hub(folder: Path, source: str, hub: Hub) -> dict[Any, Sequence[Row]]:
    write(folder, [])
    found, _ = read_dataset(
        DataSpec(source=source, reader="reader.py:read"), folder, Functions(folder), "data", hub=hub
    )
    return found


@pytest.mark.parametrize(
    ("source", "requested"),
    [
        ("hf:org/name", ("org/name", None, None)),
        ("hf:org/name@test", ("org/name", None, "test")),
        ("hf:org/name/main@train[:9]", ("org/name", "main", "train[:9]")),
        ("hf:org/name:main@train", ("org/name", "main", "train")),
    ],
)
def test_a_dataset_of_the_hub_is_requested_by_name_configuration_and_split(
    tmp_path: Path, source: str, requested: tuple[str | None, ...]
) -> None:
    hub = Hub(rows(9))
    read = from_hub(tmp_path, source, hub)
    assert hub.requested == requested
    assert sum(map(len, read.values())) == 9


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ImportError("datasets"), r"needs the library `datasets`[\s\S]*pip install .*\[huggingface\]'"),
        (ConnectionError("no\nnetwork"), r"hf:a/b cannot be loaded: no network[\s\S]*download the rows as JSONL"),
        (ValueError("no split x"), r"cannot be loaded: no split x"),
    ],
)
def test_a_failure_of_the_hub_is_reported_with_a_remedy(tmp_path: Path, failure: Exception, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        from_hub(tmp_path, "hf:a/b", Hub(failure))


def test_what_a_library_warns_of_is_quiet_while_it_loads(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("a_library")
    with quietly("a_library"):
        logger.warning("Retrying in 1s")
        logger.error("broken")
    logger.warning("later")
    assert caplog.messages == ["broken", "later"]


LIBRARY = """
import sys
from agentopt.taskfile.hub import load_from_hub

def rows_or_error(folder, split):
    try:
        return [row["q"] for row in load_from_hub(folder, None, split)]
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"

one, two = sys.argv[1:]
for folder, split in ((one, None), (two, "test"), (two, None), (two, "nosuch"), ("org/nosuch", None)):
    print(rows_or_error(folder, split))
"""


def test_the_library_reads_a_dataset_and_needs_a_split_if_there_are_several(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for folder, splits in {"one": ("train",), "two": ("train", "test")}.items():
        (tmp_path / folder).mkdir()
        for split in splits:
            (tmp_path / folder / f"{split}.jsonl").write_text(json.dumps({"q": split}))
    # A separate process, so that the library's cache is in the test's folder, and nothing is sent to the network.
    environ = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LIBRARY, str(tmp_path / "one"), str(tmp_path / "two")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    only, test, several, wrong, missing = done.stdout.splitlines()
    assert (only, test) == ("['train']", "['test']")
    assert several.startswith("ValueError: it has the splits train, test")
    assert wrong.startswith("ValueError: Unknown split")
    assert re.match(r"(ConnectionError|OfflineModeIsEnabled|ValueError): ", missing), missing


def test_on_the_command_line_data_is_short_for_the_tasks_keys_and_relative_to_where_one_is() -> None:
    asked = ["data=a/b.jsonl", "data.options.most=6", "data.options.names_file=n.txt", "data.limit.test=2"]
    here = os.getcwd()
    assert load_config(asked).task == {
        "data.source": f"{here}/a/b.jsonl",
        "data.options.most": 6,
        "data.options.names_file": f"{here}/n.txt",
        "data.limit.test": 2,
    }
    assert load_config(["task.data.source=x.jsonl"]).task == {"data.source": f"{here}/x.jsonl"}
    assert load_config(["data=hf:a/b@c"]).task == {"data.source": "hf:a/b@c"}


def with_splits(tmp_path: Path, **changes: Any) -> Path:
    """A task whose splits are three datasets: two with readers of their own, and a file of plain rows."""
    write(tmp_path, rows(4))
    (tmp_path / "other.jsonl").write_text("\n".join(json.dumps({"id": f"o{n}", "answer": "Kell"}) for n in range(3)))
    (tmp_path / "plain.jsonl").write_text(json.dumps({"id": "p0", "facts": "x", "target": "Kell"}))
    of_other = {"source": "other.jsonl", "reader": "other.py:read"}
    (tmp_path / "other.py").write_text(
        "from agentopt.core.task import Example\n"
        "def read(row, *, prefix: str = ''):\n"
        "    return Example(prefix + row['id'], {'facts': row['id']}, row['answer']) if row['id'] != 'o1' else None\n"
    )
    train = {"source": "rows.jsonl", "reader": "reader.py:read", "options": {"most": 1}}
    data = {"train": train, "validation": "plain.jsonl", "test": of_other, **changes}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({**spec(), "data": data}))
    return tmp_path


def test_each_split_may_have_a_dataset_and_a_reader_of_its_own(tmp_path: Path) -> None:
    task = load_task(with_splits(tmp_path))
    assert {split: [e.id for e in of] for split, of in task.splits.items()} == {
        "train": ["r0", "r1", "r2", "r3"],
        "validation": ["p0"],
        "test": ["o0", "o2"],
    }
    assert task.splits["train"][0].inputs["facts"] == ["a0"]
    assert task.notes == (f"the reader left out 1 of 3 rows, such as {tmp_path / 'other.jsonl'}:2",)
    again = load_task(tmp_path, overrides={"data.test.options": {"prefix": "x"}})
    assert [e.id for e in again.splits["test"]] == ["xo0", "xo2"]


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ({"source": "other.jsonl"}, ["data.test.reader"]),
        ({"source": "other.jsonl", "reader": "other.py:read", "option": 1}, ["data.test.option", "options"]),
        ({"source": "other.jsonl", "reader": "other.py:read", "options": {"prefx": "x"}}, ["prefx", "prefix"]),
        ({"source": "none.jsonl", "reader": "other.py:read"}, ["none.jsonl"]),
        ({"source": "rows.jsonl", "reader": "reader.py:read"}, ["rows.jsonl:1", "also in train"]),
        (3, ["data.test", "source and a reader"]),
        (["other.jsonl"], ["data.test", "source and a reader"]),
    ],
)
def test_a_split_with_a_mistake_is_named(tmp_path: Path, test: Any, words: list[str]) -> None:
    with pytest.raises(TaskError) as caught:
        load_task(with_splits(tmp_path, test=test))
    assert all(word in str(caught.value) for word in words), str(caught.value)
