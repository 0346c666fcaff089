"""The formats of data: equal rows give equal examples, and files that cannot be read as they are meant are refused."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopt.core.column_report import Column, columns_of
from agentopt.core.errors import TaskError
from agentopt.core.extras import install_command
from agentopt.core.task import Example
from agentopt.taskfile.data import Row, read_rows
from agentopt.taskfile.loading import load_task
from agentopt.taskfile.schema import ColumnsSpec
from agentopt.taskfile.sources import rows_of
from agentopt.testing.toy import toy_task

pyarrow = pytest.importorskip("pyarrow", reason="needs the extra data")
pytest.importorskip("python_calamine", reason="needs the extra data")
openpyxl = pytest.importorskip("openpyxl", reason="needs the extra dev")

TABLE = [
    ["id", "question", "target"],
    ["a1", "Where is\nKell?", "north, by the sea"],
    ["a2", 'She said "no"', "Größe; 5"],
    ["007", "1e5", "-1"],
]


def delimited(delimiter: str, ends: str = "\n", encoding: str = "utf-8") -> Callable[[Path, list[list[Any]]], Any]:
    def write(path: Path, table: list[list[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=delimiter, lineterminator=ends).writerows(table)
        path.write_bytes(text.getvalue().encode(encoding))

    return write


def write_xlsx(path: Path, table: list[list[Any]], sheet: str = "Data") -> None:
    book = openpyxl.Workbook()
    book.active.title = sheet
    for row in table:
        book.active.append(row)
    book.save(path)


def write_parquet(path: Path, table: list[list[Any]]) -> None:
    import pyarrow.parquet

    columns = [list(column) for column in zip(*table[1:], strict=True)]
    pyarrow.parquet.write_table(pyarrow.table(columns, names=table[0]), path)


def objects(table: list[list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(table[0], row, strict=True)) for row in table[1:]]


def write_jsonl(encoding: str, ends: str) -> Callable[[Path, list[list[Any]]], Any]:
    def write(path: Path, table: list[list[Any]]) -> None:
        path.write_bytes(ends.join(json.dumps(row, ensure_ascii=False) for row in objects(table)).encode(encoding))

    return write


FORMATS: dict[str, tuple[str, Callable[[Path, list[list[Any]]], Any]]] = {
    "csv": ("d.csv", delimited(",")),
    "csv with BOM and CRLF": ("d.CSV", delimited(",", "\r\n", "utf-8-sig")),
    "csv with semicolons": ("d.csv", delimited(";", "\r\n")),
    "csv with tabs in UTF-16, Excel's Unicode text": ("d.csv", delimited("\t", "\r\n", "utf-16")),
    "tsv": ("d.tsv", delimited("\t")),
    "xlsx": ("d.xlsx", write_xlsx),
    "parquet": ("d.parquet", write_parquet),
    "json": ("d.json", lambda path, table: path.write_text(json.dumps(objects(table)))),
    "jsonl": ("d.jsonl", write_jsonl("utf-8", "\n")),
    "jsonl with BOM and CRLF": ("d.jsonl", write_jsonl("utf-8-sig", "\r\n")),
    "jsonl in UTF-16": ("d.jsonl", write_jsonl("utf-16", "\n")),
}


def read(folder: Path, source: str, **columns: Any) -> list[Row]:
    return read_rows(source, folder, ColumnsSpec(**columns), target_needed=True, where="data.test")


@pytest.mark.parametrize(("name", "write"), FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_examples(
    tmp_path: Path, name: str, write: Callable[[Path, list[list[Any]]], Any]
) -> None:
    write(tmp_path / name, TABLE)
    found = [(row.example.id, dict(row.example.inputs), row.example.target) for row in read(tmp_path, name)]
    assert found == [(row[0], {"question": row[1]}, row[2]) for row in TABLE[1:]]


TYPED: list[list[Any]] = [
    ["n", "x", "day", "at", "yes", "target"],
    [3, 2.5, datetime.date(2024, 1, 2), datetime.datetime.fromisoformat("2024-01-02T03:04"), True, 7],
    [-1, 0.1, datetime.date(2025, 1, 2), datetime.datetime.fromisoformat("2025-01-02T03:04"), False, 8],
]


@pytest.mark.parametrize(("name", "write"), [FORMATS["xlsx"], FORMATS["parquet"]], ids=["xlsx", "parquet"])
def test_numbers_stay_numbers_and_dates_become_iso_text(
    tmp_path: Path, name: str, write: Callable[[Path, list[list[Any]]], Any]
) -> None:
    write(tmp_path / name, TYPED)
    first = read(tmp_path, name)[0].example
    assert dict(first.inputs) == {"n": 3, "x": 2.5, "day": "2024-01-02", "at": "2024-01-02T03:04:00", "yes": True}
    assert type(first.inputs["n"]) is int
    assert (first.id, first.target) == ("1" if name == "d.parquet" else "2", 7)


def test_parquet_keeps_whole_numbers_lists_and_structures_exactly(tmp_path: Path) -> None:
    big = 2**62 + 1
    write_parquet(tmp_path / "d.parquet", [["id", "facts", "target"], [big, ["a", "b"], {"text": ["x"]}]])
    example = read(tmp_path, "d.parquet", target="target.text")[0].example
    assert (example.id, example.inputs["facts"], example.target) == (str(big), ["a", "b"], ["x"])


@pytest.mark.parametrize("name", ["csv", "tsv", "xlsx", "parquet"])
def test_empty_cells_are_missing_and_empty_rows_are_skipped(tmp_path: Path, name: str) -> None:
    file, write = FORMATS[name]
    empty = None if name in ("xlsx", "parquet") else ""
    write(tmp_path / file, [["id", "q", "hint", "target"], ["a", "x", empty, "1"], [empty] * 4, ["b", "y", "h", "2"]])
    assert [dict(row.example.inputs) for row in read(tmp_path, file)] == [{"q": "x"}, {"q": "y", "hint": "h"}]
    with pytest.raises(TaskError, match=r"must have a value in the column 'hint' \(columns\.target\), but the cell"):
        read(tmp_path, file, target="hint")
    assert [row.example.metadata["hint"] for row in read(tmp_path, file, metadata=["hint"])] == [None, "h"]
    assert [row.example.group for row in read(tmp_path, file, group="hint")] == [None, "h"]


def test_columns_are_mapped_by_name_and_by_dotted_path(tmp_path: Path) -> None:
    row = {"meta": {"key": 7, "topic": "t"}, "Frage (de)": "Wo?", "docs": [{"text": "a"}, {"text": "b"}], "answer": "x"}
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    columns = {"id": "meta.key", "group": "meta.topic", "target": "answer", "metadata": {"topic": "meta.topic"}}
    example = read(tmp_path, "d.jsonl", inputs={"question": "Frage (de)", "facts": "docs.text"}, **columns)[0].example
    assert (example.id, example.group, example.metadata) == ("7", "t", {"topic": "t"})
    assert dict(example.inputs) == {"question": "Wo?", "facts": ["a", "b"]}
    rest = read(tmp_path, "d.jsonl", **columns)[0].example
    assert set(rest.inputs) == {"Frage (de)", "docs"}
    with pytest.raises(TaskError, match=r"must have 'docs\.txt' \(columns\.inputs\)[\s\S]*did you mean 'text'"):
        read(tmp_path, "d.jsonl", inputs={"facts": "docs.txt"}, target="answer")


@pytest.mark.parametrize(
    ("columns", "row", "suggestion"),
    [
        ({"target": "answr"}, {"answer": "x"}, "did you mean 'answer'"),
        ({"target": "question1"}, {}, ""),
        ({"target": "notes2"}, {}, ""),
        ({"target": "topic2"}, {}, ""),
        ({"target": "topic2"}, {"topics": "x"}, "did you mean 'topics'"),
        ({"target": "labell", "inputs": {"q": "labels"}}, {"labels": "x", "label": "y"}, "did you mean 'label'"),
    ],
)
def test_only_a_column_that_no_key_uses_is_suggested(
    tmp_path: Path, columns: dict[str, Any], row: dict[str, Any], suggestion: str
) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps({"question": "q", "notes": "n", "topic": {"key": 1}, **row}))
    used = {"inputs": {"q": "question"}, "metadata": {"notes": "notes", "topic": "topic.key"}}
    with pytest.raises(TaskError) as raised:
        read(tmp_path, "d.jsonl", **{**used, **columns})
    assert "did you mean" not in str(raised.value) if not suggestion else suggestion in str(raised.value)


MISSPELLED = [
    ({}, "question", {"target": "x", "questoin": "q"}, "rename 'questoin' to 'question' in the row"),
    ({}, "question", {"target": "x"}, "add it to the row, or remove the row"),
    ({"inputs": {"q": "question"}}, "question", {"target": "x", "questoin": "q"}, "rename 'questoin' to 'question'"),
    ({"inputs": {"q": "question"}}, "question", {"target": "x"}, "add it to the row, or remove the row"),
    ({}, "target", {"question": "q", "taget": "x"}, "rename 'taget' to 'target' in the row"),
    ({"target": "label"}, "label", {"question": "q", "labels": "x"}, "rename 'labels' to 'label' in the row"),
]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("columns", "name", "row", "remedy"), MISSPELLED)
def test_a_row_with_a_misspelled_column_is_to_be_corrected(
    tmp_path: Path, columns: dict[str, Any], name: str, row: dict[str, str], remedy: str, place: int
) -> None:
    right = {"question": "q", columns.get("target", "target"): "x"}
    rows = [{**one, "n": i} for i, one in enumerate([right, right, right])]
    rows[place] = {**row, "n": place}
    for file, of in (("v.jsonl", rows), ("t.jsonl", [{**right, "n": 9}])):
        (tmp_path / file).write_text("\n".join(map(json.dumps, of)))
    prompt = "{{ inputs.n }}" if columns.get("inputs") else "{{ inputs.n }}{{ inputs.question }}"
    subtask = {"name": "a", "prompt": prompt, "models": ["m"]}
    if columns.get("inputs"):
        columns = {"inputs": {**columns["inputs"], "n": "n"}}
    spec = {"name": "t", "scorer": "exact_match", "subtasks": [subtask], "columns": columns}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({**spec, "data": {"validation": "v.jsonl", "test": "t.jsonl"}}))
    with pytest.raises(TaskError, match=rf"v\.jsonl:{place + 1}: the row must have the column '{name}'") as raised:
        load_task(tmp_path)
    assert remedy in str(raised.value)


def test_long_cells_are_read_and_the_limit_of_the_csv_module_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    delimited(",")(tmp_path / "d.csv", [["q", "target"], ["x" * 300_000, "1"]])
    assert len(read(tmp_path, "d.csv")[0].example.inputs["q"]) == 300_000
    assert csv.field_size_limit() == limit


def sheets(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        book = openpyxl.Workbook()
        book.remove(book.active)
        for name in names:
            sheet = book.create_sheet(name)
            if not name.startswith("Empty"):
                sheet.append(["q", "target"])
                sheet.append([name, "1"])
        book.save(path)

    return write


def test_a_sheet_is_chosen_by_name_or_is_the_only_one_with_cells(tmp_path: Path) -> None:
    sheets("Empty 1", "v1.2 #a")(tmp_path / "one.xlsx")
    sheets("A", "B")(tmp_path / "two.xlsx")
    assert read(tmp_path, "one.xlsx")[0].example.inputs == {"q": "v1.2 #a"}
    assert read(tmp_path, "one.xlsx#v1.2 #a")[0].where == f"{tmp_path}/one.xlsx#v1.2 #a:2"
    assert read(tmp_path, "two.xlsx#B")[0].example.inputs == {"q": "B"}
    with pytest.raises(TaskError, match=r"one sheet must be chosen, but .*two.xlsx has A, B\n.*two.xlsx#A"):
        read(tmp_path, "two.xlsx")
    with pytest.raises(TaskError, match=r"must have the sheet 'Sheet1'"):
        read(tmp_path, "two.xlsx#Sheet1")


def test_a_table_may_begin_anywhere_and_a_formula_has_its_stored_value(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for cell, value in {"C4": "q", "D4": "target", "C5": "x", "D5": "=1+1", "C6": "y", "D6": "2"}.items():
        book.active[cell] = value
    book.save(tmp_path / "d.xlsx")
    with pytest.raises(TaskError, match=r"Sheet:5: .*a value in the column 'target'.* but the cell is empty"):
        read(tmp_path, "d.xlsx")  # openpyxl stores the formula without a value
    book.active["D5"] = 2
    book.save(tmp_path / "d.xlsx")
    assert [(row.example.id, row.example.target) for row in read(tmp_path, "d.xlsx")] == [("5", 2), ("6", "2")]


def merged(path: Path) -> None:
    book = openpyxl.Workbook()
    for row in TABLE:
        book.active.append(row)
    book.active.merge_cells("B2:C2")
    book.save(path)


def encrypted(path: Path) -> None:
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512))


def of_table(name: str, *table: list[Any]) -> tuple[str, Callable[[Path], None]]:
    file, write = FORMATS[name]
    return file, lambda path: write(path, list(table))


def of_bytes(name: str, content: bytes) -> tuple[str, Callable[[Path], None]]:
    return name, lambda path: (path.write_bytes(content), None)[1]


REFUSED: list[tuple[tuple[str, Callable[[Path], None]], str]] = [
    (of_table("csv", ["q", "target", "q"], ["a", "b", "c"]), r"d\.csv:1: a header must have each column once, but 'q'"),
    (of_table("xlsx", ["q", "target", "Q "], ["a", "b", "c"]), r"d\.xlsx#Data:1: a header must have each column once"),
    (of_table("tsv", ["q", "", "target"], ["a", "b", "c"]), r"d\.tsv:2: .*column 2 has 'b'\n.*named: q, target"),
    (of_table("xlsx", ["Report 2024", None, None], ["q", "target", "x"]), r"#Data:2: .*column 2 has 'target'"),
    (of_table("csv", ["q", "target"], ["a"]), r"d\.csv:2: a row must have at least 2 cells.*got 1"),
    (of_table("csv", ["q", "target"], ["a", "b", "c"]), r"d\.csv:2: a row must have at most 2 cells.*got 3"),
    (of_table("tsv", ["q", "target"], ["a", "b"], ["a"]), r"d\.tsv:3: a row must have at least 2 cells"),
    (of_bytes("d.csv", b'q,target\n"never closed,1\n'), r"d\.csv:2: is not CSV"),
    (of_bytes("d.csv", "q,target\nGröße,1\n".encode("cp1252")), r"d\.csv:2: is not UTF-8[\s\S]*save the file as UTF-8"),
    (of_bytes("d.csv", "q,target\nx,1\n".encode("utf-16-le")), r"d\.csv:1: must be text, but has a zero byte"),
    (of_bytes("d.csv", b"\xff\xfeq"), r"d\.csv:1: is not UTF-16"),
    (of_bytes("d.csv", b""), r"at least one example, but the file is empty"),
    (of_bytes("d.csv", b"q,target\n\n,\n"), r"at least one example, but the file is empty"),
    (("d.xlsx", sheets("Empty")), r"at least one example, but the file is empty"),
    (("d.xlsx", sheets("A", "B", "Empty")), r"data\.test: one sheet must be chosen"),
    (("d.xlsx", merged), r"#Sheet:2: .*those of B2:C2 are merged\n.*unmerge them"),
    (of_table("xlsx", ["id", "target"], [12345678901234567, "x"]), r"#Data:2: a spreadsheet rounds numbers to 15"),
    (of_table("xlsx", ["id", "target"], [10**15, "x"]), r"#Data:2: [\s\S]*format the column as text"),
    (of_bytes("d.xlsx", b"q,target\n"), r"data\.test: the spreadsheet .*d\.xlsx cannot be read"),
    (("d.xlsx", encrypted), r"data\.test: the spreadsheet .*d\.xlsx cannot be read: [\s\S]*without a password"),
    (of_bytes("d.parquet", b"q,target\n"), r"data\.test: the file .*d\.parquet is not Parquet"),
    (of_bytes("d.parquet", b""), r"data\.test: the file .*d\.parquet is not Parquet"),
    (of_table("parquet", ["q", "target"], [b"x", "y"]), r"d\.parquet:1: a cell must be text, .* but got b'x'"),
    (of_table("parquet", ["q", "q"], ["x", "y"]), r"d\.parquet: a header must have each column once"),
    (of_table("parquet", ["id", "target"], [0.5, "y"]), r"d\.parquet:1: an id must be a string or a whole number"),
    (of_bytes("d.json", b'{"q": 1}'), r"a \.json dataset must be a list of objects"),
    (("folder.csv", lambda path: path.mkdir()), r"data must be a file, but .*folder\.csv is a folder"),
    (("folder.parquet", lambda path: path.mkdir()), r"data must be a file, but .*folder\.parquet is a folder"),
    (("pipe.jsonl", os.mkfifo), r"data must be a file, but .*pipe\.jsonl is a pipe"),
    (("pipe.xlsx", os.mkfifo), r"data must be a file, but .*pipe\.xlsx is a pipe"),
    (("null.csv", lambda path: path.symlink_to("/dev/null")), r"null\.csv is a device"),
    (("gone.parquet", lambda path: None), r"gone\.parquet cannot be read: No such file"),
]


@pytest.mark.parametrize(("file", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_a_file_that_cannot_be_read_as_meant_is_refused(
    tmp_path: Path, file: tuple[str, Callable[[Path], None]], message: str
) -> None:
    name, write = file
    write(tmp_path / name)
    with pytest.raises(TaskError, match=message) as refused:
        read(tmp_path, name)
    assert "remedy: " in str(refused.value)


@pytest.mark.parametrize("name", ["a\0b.csv", "a\0b.xlsx", "a\0b.xlsx#x", "a\0b.parquet", "d.csv\0"])
def test_a_zero_byte_in_a_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskError, match=r"data\.test: "):
        read(tmp_path, name)


@pytest.mark.parametrize(
    ("library", "name"), [("python_calamine", "d.xlsx"), ("pyarrow", "d.parquet"), ("datasets", "hf:a/b")]
)
def test_a_missing_library_is_an_error_with_its_extra(tmp_path: Path, library: str, name: str) -> None:
    (tmp_path / "d.xlsx").touch()
    (tmp_path / "d.parquet").touch()
    script = f"""
import sys
sys.modules[{library!r}] = None
from pathlib import Path
from agentopt.core.column_report import Column, columns_of
from agentopt.core.errors import TaskError
from agentopt.core.task import Example
from agentopt.taskfile.sources import rows_of
from agentopt.testing.toy import toy_task
try:
    list(rows_of({name!r}, Path({str(tmp_path)!r}), "data.test"))
except TaskError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    extra = "huggingface" if library == "datasets" else "data"
    assert re.search(rf"data\.test: .*needs the library `{library}`\n", done.stdout)
    assert f"remedy: {install_command(extra)}, or give a .csv or .jsonl file" in done.stdout


def test_a_dataset_of_the_hub_needs_no_reader(tmp_path: Path) -> None:
    rows = [{"q": "x", "target": None, "day": datetime.date(2024, 1, 2)}]
    assert list(rows_of("hf:a/b:c@d", tmp_path, "data", lambda *named: rows if named == ("a/b", "c", "d") else [])) == [
        ("hf:a/b:c@d:1", {"q": "x", "target": None, "day": "2024-01-02"})
    ]


def test_a_task_reads_a_spreadsheet_as_its_source(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "d.xlsx", [["Customer question", "Label"], *([f"q{n}", "ab"[n % 2]] for n in range(12))])
    spec = {
        "name": "toy",
        "data": {"source": "d.xlsx"},
        "columns": {"target": "Label", "inputs": {"question": "Customer question"}},
        "subtasks": [{"name": "answer", "prompt": "{{ inputs.question }}", "models": ["small"]}],
        "scorer": "exact_match",
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(spec))
    task = load_task(tmp_path)
    assert sum(map(len, task.splits.values())) == 12
    assert load_task(tmp_path, overrides={"data.source": f"{tmp_path}/d.xlsx#Data"}).splits == task.splits
    assert columns_of(task) == (
        Column("question", "input", "text", 0),
        Column("target", "target", "text", 0, {"a": 6, "b": 6}),
    )


def test_an_empty_cell_that_a_template_reads_is_reported(tmp_path: Path) -> None:
    delimited(",")(tmp_path / "d.csv", [["q", "target"], ["x", "1"], ["y", "2"], ["", "3"]])
    subtask = {"name": "answer", "prompt": "{{ inputs.q }}", "models": ["small"]}
    spec = {"name": "toy", "data": {"source": "d.csv"}, "subtasks": [subtask], "scorer": "exact_match"}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(TaskError, match=r"d\.csv:4: .*'q', which a template reads, but its cell is empty\n.*fill in"):
        load_task(tmp_path)


def test_the_report_of_columns_has_types_and_missing_values() -> None:
    rows: list[dict[str, Any]] = [{"a": 1, "b": [1]}, {"a": "x", "b": {"c": 1}}, {"a": 2}, {"a": True, "b": None}]
    examples = [Example(str(n), row, f"t{n}", {"m": 0.5} if n else {}) for n, row in enumerate(rows)]
    task = replace(toy_task(), splits={"validation": tuple(examples[:2]), "test": tuple(examples[2:])})
    assert columns_of(task) == (
        Column("a", "input", "whole number or text or truth value", 0),
        Column("b", "input", "list or structure", 0.5),
        Column("target", "target", "text", 0),
        Column("m", "metadata", "number", 0.25),
    )
