"""Rows of a large JSONL or Parquet file stay on disk: with the examples, splits and errors of rows in memory."""

from __future__ import annotations

import codecs
import json
import os
import random
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopt.core.errors import TaskError
from agentopt.core.fingerprint import fingerprint
from agentopt.core.records import Split
from agentopt.core.row_notes import row_notes
from agentopt.core.stored_rows import StoredRows
from agentopt.core.task import Example, Subtask, Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.evaluation.scorers import exact_match
from agentopt.models.base import Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.taskfile.data import Row, read_rows
from agentopt.taskfile.loading import load_task
from agentopt.taskfile.reader import into_splits
from agentopt.taskfile.row_checks import check_duplicates, check_leaks, column_names
from agentopt.taskfile.row_index import KEPT_SECONDS
from agentopt.taskfile.schema import ColumnsSpec, SplitsSpec
from agentopt.taskfile.stored_files import LARGE, FileRows, examples_of, read_large_rows
from agentopt.taskfile.stored_parquet import copied_rows
from agentopt.testing.toy import draw

ID, GROUP = {"id": "id"}, {"id": "id", "group": "document"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of copies and indexes."""
    monkeypatch.setenv("AGENTOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


def in_memory(path: Path, **columns: Any) -> list[Row]:
    return read_rows(path.name, path.parent, ColumnsSpec(**columns), target_needed=True, where="data.test")


def in_file(path: Path, **columns: Any) -> FileRows:
    spec = ColumnsSpec(**columns)
    found = read_large_rows(path.name, path.parent, spec, target_needed=True, where="data.test", large=1)
    assert found is not None
    return found


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def given_rows(seed: int, count: int = 60) -> list[dict[str, Any]]:
    """Rows of which some repeat the inputs or the document of another one, or are nearly equal to it."""
    source = random.Random(seed)
    return [
        {
            "id": f"r{n}",
            "question": source.choice(["What is {}?", "what is {}", "What  is {}?"]).format(source.randrange(80)),
            "target": n,
            "document": source.choice([None, " ", f"d{source.randrange(60)}"]),
        }
        for n in range(count)
    ]


@pytest.mark.parametrize("columns", [{}, ID, GROUP, {**GROUP, "inputs": ["question"]}])
@pytest.mark.parametrize("seed", range(3))
def test_rows_groups_and_columns_are_those_of_a_list(tmp_path: Path, seed: int, columns: dict[str, Any]) -> None:
    path = write(tmp_path / "test.jsonl", given_rows(seed))
    listed, stored = in_memory(path, **columns), in_file(path, **columns)
    assert list(stored) == listed
    assert [stored[7], *stored[50:], stored[-1]] == [listed[7], *listed[50:], listed[-1]]
    assert stored[5:40][3:9][2] == listed[5:40][3:9][2]
    assert list(stored.of([9, 2, 2])[1:]) == [listed[2], listed[2]]
    assert column_names(stored) == column_names(listed)
    assert task_of(stored).groups == task_of(listed).groups
    assert task_of(stored).groups["test"]


def test_blank_lines_a_byte_order_mark_and_line_ends_are_read_as_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    lines = ["", '{"q": "a\u2028b", "target": 1}\r', " \t", '{"q": "\u00e4", "target": 2}', "\u00a0", ""]
    path.write_bytes(codecs.BOM_UTF8 + "\n".join(lines).encode())
    assert [row.example.id for row in in_file(path)] == ["2", "4"]
    assert list(in_file(path)) == in_memory(path)
    path.write_bytes(b'{"q": "x", "target": 1}')  # no line end
    assert list(in_file(path)) == in_memory(path)


@pytest.mark.parametrize("shares", [{}, {"train": 0.01, "validation": 1, "test": 0.01}, {"validation": 1, "test": 1}])
@pytest.mark.parametrize("seed", range(4))
def test_a_dataset_is_split_as_in_memory(tmp_path: Path, seed: int, shares: dict[str, float]) -> None:
    path, spec = write(tmp_path / "rows.jsonl", given_rows(seed)), SplitsSpec.model_validate(shares)
    listed = into_splits(in_memory(path, **GROUP), spec, seed, "here")
    stored = into_splits(in_file(path, **GROUP), spec, seed, "here")
    assert {split: list(rows) for split, rows in stored.items()} == {split: list(of) for split, of in listed.items()}
    assert all(isinstance(rows, FileRows) for rows in stored.values())
    check_leaks(stored)


BAD = {
    "JSON": ['{"q": 1, "target": 1}', "{"],
    "object": ['{"q": 1, "target": 1}', "[1]"],
    "twice": ['{"q": 1, "target": 1, "q": 2}'],
    "column": ['{"q": 1, "target": 1}', '{"q": 1, "traget": 1}'],
    "elsewhere": ['{"q": 1}', '{"q": 1, "target": 1}'],
    "same id": ['{"id": "a", "q": 1, "target": 1}', '{"id": "b", "q": 1, "target": 1}', '{"id": "a", "target": 1}'],
    "number as id": ['{"id": 2, "q": 1, "target": 1}', '{"q": 1, "target": 1}'],
    "kind of id": ['{"id": 2.5, "q": 1, "target": 1}'],
    "zero byte": ['{"q": 1, "target": 1}', '{"q": "\0", "target": 1}'],
    "blank": ["", " "],
}


def assert_refused_in_the_same_words(path: Path) -> None:
    with pytest.raises(TaskError) as expected:
        in_memory(path)
    with pytest.raises(TaskError) as found:
        in_file(path)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("lines", BAD.values(), ids=BAD)
def test_a_bad_row_is_refused_in_the_same_words(tmp_path: Path, lines: list[str]) -> None:
    path = write(tmp_path / "test.jsonl", lines)
    assert_refused_in_the_same_words(path)


def test_a_file_that_is_not_utf_8_is_refused_in_the_same_words(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_bytes(b'{"q": "a", "target": 1}\n{"q": "\xff", "target": 1}\n')
    with pytest.raises(TaskError, match=r"test\.jsonl:2: is not UTF-8") as expected:
        in_memory(path)
    with pytest.raises(TaskError) as found:
        in_file(path)
    assert str(found.value) == str(expected.value)


def test_a_small_file_one_in_utf_16_and_other_sources_are_read_into_memory(tmp_path: Path) -> None:
    wide = tmp_path / "wide.jsonl"
    wide.write_text('{"q": "a", "target": 1}\n', encoding="utf-16")
    write(tmp_path / "small.jsonl", [{"q": 1}])
    columns = ColumnsSpec()
    for source, large in (("wide.jsonl", 1), ("small.jsonl", LARGE), ("missing.jsonl", 1), ("hf:a/b", 1), ("", 1)):
        read = read_large_rows(source, tmp_path, columns, target_needed=False, where="data.test", large=large)
        assert read is None


def replaced(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def overwritten(path: Path) -> None:
    stamp = path.stat()
    path.write_bytes(path.read_bytes().replace(b"What", b"That"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [replaced, overwritten, Path.unlink])
def test_rows_of_a_file_that_changes_are_refused(tmp_path: Path, change: Any) -> None:
    path = write(tmp_path / "test.jsonl", given_rows(0))
    rows = in_file(path)
    change(path)
    with pytest.raises(TaskError, match=r"has changed since its rows were checked|cannot be read any more"):
        rows[0]


@pytest.mark.parametrize("kinds", [(in_file, in_file), (in_file, in_memory), (in_memory, in_file)])
def test_leaks_duplicates_and_near_duplicates_are_found_as_in_memory(tmp_path: Path, kinds: Any) -> None:
    test = [*given_rows(1), {"id": "r0", "question": "only here", "target": 0, "document": "e"}]
    names: dict[Split, Path] = {"train": tmp_path / "train.jsonl", "test": tmp_path / "test.jsonl"}
    write(names["train"], [{**row, "id": f"t{row['id']}", "document": f"t{n}"} for n, row in enumerate(given_rows(2))])
    write(names["test"], [row for row in test if row["id"] != "r0" or row["question"] == "only here"])
    listed = {split: in_memory(path, **GROUP) for split, path in names.items()}
    stored = {split: kind(path, **GROUP) for kind, (split, path) in zip(kinds, names.items(), strict=True)}
    with pytest.raises(TaskError) as expected:
        check_leaks(listed)
    with pytest.raises(TaskError) as found:
        check_leaks(stored)
    assert str(found.value) == str(expected.value)
    assert row_notes(task_of(**stored)) == row_notes(task_of(**listed))
    with pytest.raises(TaskError) as expected:
        check_duplicates("test", examples_of(listed["test"]), 0.01, "here")
    with pytest.raises(TaskError) as found:
        check_duplicates("test", examples_of(stored["test"]), 0.01, "here")
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("mark", ["id", "inputs", "group"])
def test_each_kind_of_leak_is_found(tmp_path: Path, mark: str) -> None:
    one = {"id": "a", "question": "x", "target": 1, "document": "d"}
    other = {"id": "b", "question": "y", "target": 1, "document": "e"}
    other |= {"id": {"id": "a"}, "inputs": {"question": "x"}, "group": {"document": "d"}}[mark]
    stored = {
        "validation": in_file(write(tmp_path / "v.jsonl", [one]), **GROUP, inputs=["question"]),
        "test": in_file(write(tmp_path / "t.jsonl", [other]), **GROUP, inputs=["question"]),
    }
    with pytest.raises(TaskError, match=f"its {mark}"):
        check_leaks(stored)  # type: ignore[arg-type]


def test_numbered_rows_of_two_files_share_no_id(tmp_path: Path) -> None:
    one, other = ([{"question": f"{name}{n}", "target": n} for n in range(3)] for name in "ab")
    validation, test = in_file(write(tmp_path / "v.jsonl", one)), in_file(write(tmp_path / "t.jsonl", other))
    check_leaks({"validation": validation, "test": test})


def test_memory_of_a_row_in_a_file_is_a_tenth_of_one_in_memory(tmp_path: Path) -> None:
    path = write(
        tmp_path / "test.jsonl", [{"question": f"What is {n} plus 1?", "target": str(n)} for n in range(4_000)]
    )
    in_file(path)  # what is loaded once
    tracemalloc.start()
    try:
        rows = in_file(path)
        stored, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        listed = in_memory(path)
        both, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == len(listed)
    assert stored < 0.1 * (both - stored)


def subtask() -> Subtask:
    return Subtask("say", lambda inputs, _: str(inputs["question"]), models=("small",), num_samples=(1,))


def task_of(test: Sequence[Row], **more: Sequence[Row]) -> Task:
    splits = {name: examples_of(rows) for name, rows in {"test": test, **more}.items()}
    return Task("stored", (subtask(),), exact_match(), splits)  # type: ignore[arg-type]


def test_the_fingerprint_is_that_of_the_rows_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", given_rows(0))
    stored, listed = task_of(in_file(path, **GROUP)), task_of(in_memory(path, **GROUP))
    both = replace(stored, splits={"validation": listed.splits["test"][:3], "test": stored.splits["test"]})
    assert fingerprint(stored) == fingerprint(listed)
    assert fingerprint(both) == fingerprint(replace(both, splits={s: tuple(of) for s, of in both.splits.items()}))
    assert fingerprint(replace(stored, splits={"test": stored.splits["test"][1:]})) != fingerprint(stored)


async def test_an_evaluation_has_the_results_and_the_order_of_one_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", given_rows(0))
    specs = {"small": ModelSpec(name="small", base_url="http://127.0.0.1:9")}
    found = []
    for rows in (in_memory(path, **GROUP), in_file(path, **GROUP)):
        task, model = task_of(rows), ScriptedModel(answer)
        evaluation = await Evaluator(task, model, specs, clock=lambda: 0.0).evaluate(task.baseline, "test")
        found.append((evaluation, [request.messages[-1].content for request in model.requests]))
    assert found[0] == found[1]
    assert found[0][0].groups


def answer(request: Request, repeat: int) -> str:
    return str(int(60 * draw(request.messages[-1].content, repeat)))


def refuse(done: int, total: int) -> None:
    raise AssertionError("the rows are read again")


def test_a_task_with_a_large_file_is_loaded_and_checked(tmp_path: Path, cache: Path) -> None:
    spec = {
        "name": "large",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl", "limit": {"test": 150}},
        "subtasks": [{"name": "say", "prompt": "{{ inputs.question }}", "models": ["small"]}],
        "scorer": "exact_match",
    }
    spec["subtasks"][0]["parse"] = {"kind": "choice", "options": ["yes", "no"]}  # type: ignore[index]
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(spec))
    rows = [{"question": f"{n}" + "x" * (LARGE // 160), "target": "yes"} for n in range(170)]
    write(tmp_path / "test.jsonl", rows)
    write(tmp_path / "validation.jsonl", [{"question": "a", "target": "no"}])
    shown: list[tuple[int, int]] = []
    task = load_task(tmp_path, progress=lambda done, total: shown.append((done, total)))
    test, validation = task.splits["test"], task.splits["validation"]
    assert isinstance(test, StoredRows)
    assert [len(test), test[149].id, test[149].target] == [150, "150", "yes"]
    assert validation == (Example("1", {"question": "a"}, "no"),)
    assert shown[-1] == (os.path.getsize(tmp_path / "test.jsonl"),) * 2
    before = len(list(cache.iterdir()))
    assert load_task(tmp_path, progress=refuse).splits["test"][149] == test[149]
    assert [len(list(cache.iterdir())), before] == [2, 2]  # the index, and that the targets were checked
    for wrong, problem in (("maybe", "no option of say is right"), ({"a": 1}, "target must be a string, a number")):
        write(tmp_path / "test.jsonl", [*rows, {"question": "last", "target": wrong}])
        with pytest.raises(TaskError, match=rf"test\.jsonl:171: .*{problem}"):
            load_task(tmp_path)
    write(tmp_path / "test.jsonl", [*rows, {"questoin": "last", "target": "yes"}])
    with pytest.raises(
        TaskError, match=r"test\.jsonl:171: the row must have the column 'question'.*\n.*rename 'questoin'"
    ):
        load_task(tmp_path)


TABLE: dict[str, list[Any]] = {
    "question": ["a", "b", None, "d \u2028 \0 \u00e4\n", "e"],
    "target": [1, 2, None, 2**60, 5],
    "day": [date(2026, 1, 2), None, None, None, date(2026, 1, 3)],
    "facts": [["x", None], [], None, ["y"], None],
    "of": [{"n": 0.1, "m": float("nan")}, None, None, {"n": None, "m": -1.5}, None],
}


def parquet(path: Path, table: dict[str, list[Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize("columns", [{}, {"inputs": ["question", "day", "facts"]}, {"metadata": ["of", "day"]}])
def test_rows_of_a_large_parquet_file_are_those_of_a_list(tmp_path: Path, columns: dict[str, Any]) -> None:
    path = parquet(tmp_path / "test.parquet", TABLE)
    listed, stored = in_memory(path, **columns), in_file(path, **columns)
    assert [repr(row) for row in stored] == [repr(row) for row in listed]  # NaN is not equal to itself
    assert [row.where.rpartition(":")[2] for row in stored] == ["1", "2", "4", "5"]
    assert repr(stored[2]) == repr(listed[2])
    assert column_names(stored) == column_names(listed)
    assert repr(list(in_file(path, **columns))) == repr(listed)  # from the copy of before


def test_a_row_of_a_large_parquet_file_is_refused_in_the_same_words(tmp_path: Path) -> None:
    tables: list[tuple[str, dict[str, list[Any]]]] = [
        ("bytes", {"q": ["a", "b"], "target": [b"x", b"y"]}),
        ("id", {"id": [1, 1], "target": [1, 2]}),
        ("column", {"q": ["a", "b"], "target": [1, None]}),
        ("empty", {"q": [None, None]}),
    ]
    for name, table in tables:
        path = parquet(tmp_path / f"{name}.parquet", table)
        assert_refused_in_the_same_words(path)


def test_a_parquet_file_is_copied_once_and_old_copies_are_removed(tmp_path: Path) -> None:
    one, other = (parquet(tmp_path / f"{n}.parquet", {"q": [n], "target": [1]}) for n in (1, 2))
    folder, start = tmp_path / "rows", time.time()  # systems set the time of access, unless it is in the future

    def copied(path: Path, after: float) -> int:
        assert list(copied_rows(path, "data.test", folder, 1, start + after) or []) == []  # not indexed yet
        return len(list(folder.iterdir()))

    assert [copied(one, 1), copied(one, 2)] == [1, 1]
    (copy,) = folder.iterdir()
    copy.write_text(copy.read_text().replace("1", "7"))
    changed = copy.stat().st_mtime_ns
    assert [copied(one, 10), copied(one, 20), copy.stat().st_mtime_ns] == [1, 1, changed]
    assert copied(other, KEPT_SECONDS + 19) == 2
    assert copied(parquet(tmp_path / "3.parquet", {"q": [3]}), KEPT_SECONDS + 21) == 2
    assert not copy.exists()


def test_a_parquet_file_that_is_small_broken_or_cannot_be_copied_is_read_into_memory(tmp_path: Path) -> None:
    path = parquet(tmp_path / "test.parquet", {"q": ["a"], "target": [1]})
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    (tmp_path / "file").touch()
    assert copied_rows(path, "data.test", tmp_path / "rows", LARGE) is None
    assert copied_rows(broken, "data.test", tmp_path / "rows", 1) is None
    assert copied_rows(path, "data.test", tmp_path / "file" / "rows", 1) is None
    assert copied_rows(path, "data.test", tmp_path / "rows", 1) is not None


def shown_when_read(path: Path, **columns: Any) -> tuple[list[Row], int]:
    """The rows, and how often progress was shown, which is never if an index is used."""
    calls: list[int] = []
    rows = read_large_rows(
        path.name,
        path.parent,
        ColumnsSpec(**columns),
        target_needed=True,
        where="data.test",
        progress=lambda done, total: calls.append(done),
        large=1,
    )
    assert rows is not None
    assert rows.hashes == in_file(path, **columns).hashes
    assert check_leaks({"validation": rows}) is None  # type: ignore[func-returns-value]
    return list(rows), len(calls)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_are_read_once_and_then_found_by_an_index_of_the_same_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    given = given_rows(0)
    table = {column: [row[column] for row in given] for column in given[0]}
    write(path, given) if name == "rows.jsonl" else parquet(path, table)
    listed, columns = in_memory(path, **GROUP), column_names(in_memory(path, **GROUP))
    assert [shown_when_read(path, **GROUP) for _ in range(2)] == [(listed, 1), (listed, 0)]
    assert column_names(in_file(path, **GROUP)) == columns
    assert shown_when_read(path, inputs=["question"]) == (in_memory(path, inputs=["question"]), 1)
    moved = path.rename(tmp_path / f"moved_{name}")
    assert shown_when_read(moved, **GROUP) == (in_memory(moved, **GROUP), 0)


def test_another_content_has_another_index_whatever_its_size_and_time(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", given_rows(0))
    assert shown_when_read(path)[1] == 1
    stamp, before = path.stat(), path.read_text()
    path.write_text(before.replace("What is", "That is"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert shown_when_read(path) == (in_memory(path), 1)
    path.write_text(before)
    assert shown_when_read(path) == (in_memory(path), 0)


@pytest.mark.parametrize(
    "damaged",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content.replace(b'"rows": 60', b'"rows": 59'),
        lambda content: content.replace(b'"rows": 60', b'"rows": 6e9'),
        lambda content: content.replace(b'"rows": 60', b'"rows": 999999999999999999999'),
        lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
        lambda content: b"",
        lambda content: b"[]\n",
    ],
)
def test_a_damaged_index_is_written_anew(tmp_path: Path, cache: Path, damaged: Any) -> None:
    path = write(tmp_path / "test.jsonl", given_rows(0))
    assert shown_when_read(path)[1] == 1
    (index,) = cache.glob("*.index")
    index.write_bytes(damaged(index.read_bytes()))
    assert shown_when_read(path) == (in_memory(path), 1)
    assert shown_when_read(path)[1] == 0


def test_a_file_with_a_bad_row_has_no_index_and_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, cache: Path
) -> None:
    path = write(tmp_path / "test.jsonl", BAD["same id"])
    for _ in range(2):
        with pytest.raises(TaskError, match="an id must be given once"):
            in_file(path)
    assert not cache.exists()
    cache.parent.mkdir(exist_ok=True)
    cache.touch()
    write(path, given_rows(0))
    assert [shown_when_read(path)[1] for _ in range(2)] == [1, 1]
