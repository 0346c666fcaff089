"""`agentopt init` writes a task that a dry run accepts as it is, from data in every format, and never overwrites."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from agentopt.cli.commands.init import LOCAL
from agentopt.core.extras import install_command
from agentopt.models import engine
from agentopt.taskfile.loading import load_task
from agentopt.taskfile.profile import profile_of

pyarrow = pytest.importorskip("pyarrow", reason="needs the extra data")
pytest.importorskip("python_calamine", reason="needs the extra data")
openpyxl = pytest.importorskip("openpyxl", reason="needs the extra dev")

Command = Callable[..., tuple[int, str, str]]
TEMPLATES = ("qa", "classify-then-write", "rag", "program")
HEADER = ["ID", "Customer question", "Notes {x}", "Label"]
ROWS = [
    [f"r{n}", f"Where is my order {n}?", f"Order {n}\nLate" if n % 2 else "On time", "ab"[n % 2]] for n in range(12)
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, without keys and user catalogue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AGENTOPT_CONFIG", str(tmp_path / "config"))
    for provider in ("OPENAI", "ANTHROPIC", "GEMINI", "MISTRAL", "DEEPSEEK", "GROQ"):
        monkeypatch.delenv(f"{provider}_API_KEY", raising=False)
    return tmp_path


def write_data(path: Path) -> None:
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([HEADER, *ROWS])
    elif path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in (HEADER, *ROWS):
            book.active.append(row)
        book.save(path)
    elif path.suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table([list(c) for c in zip(*ROWS, strict=True)], names=HEADER), path)
    else:
        objects = [dict(zip(HEADER, row, strict=True)) for row in ROWS]
        lines = "\n".join(map(json.dumps, objects))
        path.write_text(json.dumps(objects) if path.suffix == ".json" else lines)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".parquet", ".json", ".jsonl"])
def test_what_is_written_loads_as_it_is(place: Path, console_script: Command, template: str, suffix: str) -> None:
    write_data(place / f"data{suffix}")
    code, printed, errors = console_script("init", "new", "--from", f"data{suffix}", "--template", template)
    assert (code, errors) == (0, "")
    assert "Next: agentopt optimize new -c new/config.yaml --dry-run" in printed
    task = load_task(place / "new")
    assert {split: len(rows) for split, rows in task.splits.items()} == {"validation": 6, "test": 6}
    first = task.splits["test"][0]
    assert first.id.startswith("r")
    assert set(first.inputs) == {"customer_question", "notes_x"}
    assert first.target in ("a", "b")


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_dry_run_accepts_a_new_task_without_data(place: Path, console_script: Command, template: str) -> None:
    code, printed, _ = console_script("init", "new", "--template", template)
    assert code == 0
    assert "twelve invented rows" in printed
    assert "with 6 rows a difference below" in printed
    code, printed, errors = console_script("optimize", "new", "-c", "new/config.yaml", "--dry-run")
    assert (code, errors) == (0, "")
    assert "Foxhill: 4" in printed


def test_models_without_a_known_price_are_noted(place: Path, console_script: Command) -> None:
    printed = console_script("init", "new", "--models", "openai/gpt-5-mni", "--models", "openai/gpt-5-nano")[1]
    assert "The price of gpt-5-mni is not known: add usd_per_1m_prompt and usd_per_1m_completion" in printed
    assert "budget.usd) needs them. Did you mean openai/gpt-5-mini?" in printed
    console_script("models", "add", "own-model", "--base-url", "http://127.0.0.1:9/v1")
    printed = console_script("init", "own", "--models", "own-model", "--models", "ollama/llama3.2")[1]
    assert "The price of own-model is not known" in printed
    assert "Did you mean" not in printed
    assert "is not known" not in console_script("init", "free", "--models", "ollama/llama3.2", "--models", LOCAL[0])[1]


def test_local_models_without_their_engine_are_noted(
    place: Path, console_script: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "smollm2-135m and qwen2.5-coder-0.5b"
    note = f"{names} need an engine that is not installed: {install_command('local')}"
    monkeypatch.setattr(engine, "is_installed", lambda: False)
    assert note in console_script("init", "local")[1]
    assert note not in console_script("init", "hosted", "--models", "openai/gpt-5-mini")[1]
    dry = ("optimize", "local", "-c", "local/config.yaml", "--dry-run")
    assert f"Warning: {note}" in console_script(*dry)[1]
    assert f"Warning: {note}" in json.loads(console_script(*dry, "--json")[1])["notes"]
    monkeypatch.setattr(engine, "is_installed", lambda: True)
    assert "engine" not in console_script("init", "installed")[1]
    assert "engine" not in console_script(*dry)[1]


def test_equal_rows_give_equal_files(place: Path, console_script: Command) -> None:
    write_data(place / "d.csv")
    for folder in ("one", "two"):
        console_script("init", folder, "--from", "d.csv")
    for file in ("data/test.jsonl", "data/validation.jsonl"):
        assert (place / "one" / file).read_bytes() == (place / "two" / file).read_bytes()


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("OPENAI_API_KEY", ["gpt-5-nano", "gpt-5-mini"]), ("ANTHROPIC_API_KEY", ["claude-haiku-4-5"])],
)
def test_models_are_those_whose_key_is_set(
    place: Path, console_script: Command, monkeypatch: pytest.MonkeyPatch, variable: str, expected: list[str]
) -> None:
    monkeypatch.setenv(variable, "sk-secret")
    code, printed, _ = console_script("init", "new")
    assert code == 0
    assert f"Models: {', '.join(expected)}." in printed
    assert all("sk-secret" not in file.read_text() for file in (place / "new").rglob("*") if file.is_file())
    code, printed, errors = console_script("optimize", "new", "-c", "new/config.yaml", "--dry-run")
    assert (code, errors) == (0, "")
    assert "usd: 1" in (place / "new/config.yaml").read_text()


def test_models_that_the_user_added_come_first_if_their_key_is_set(
    place: Path, console_script: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ("--base-url", "http://127.0.0.1:1/v1", "--api-key-env")
    console_script("models", "add", "openai/gpt-5", *at, "MY_KEY")
    for name in ("openai/gpt-5-mini", "openai/gpt-4.1", "openai/gpt-5-nano"):
        console_script("models", "add", name, *at, "OPENAI_API_KEY")
    console_script("models", "add", "ollama/llama3.2")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    printed = console_script("init", "three")[1]
    assert "Models: gpt-5-nano, gpt-5-mini, gpt-4.1." in printed
    assert "http" not in (place / "three/models.yaml").read_text(), "they are in the catalogue"
    monkeypatch.setenv("MY_KEY", "sk-own")
    assert "Models: gpt-5-nano, gpt-5-mini, gpt-5." in console_script("init", "cheapest")[1]
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "Models: gpt-5." in console_script("init", "own")[1]
    monkeypatch.delenv("MY_KEY")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-other")
    assert "Models: claude-haiku-4-5." in console_script("init", "other")[1]


def test_models_may_be_named_by_provider_or_catalogue_name(place: Path, console_script: Command) -> None:
    code, printed, _ = console_script("init", "--models", "smollm2-135m", "--models", "ollama/llama3.2")
    assert code == 0
    assert "Models: smollm2-135m, llama3.2." in printed
    assert "base_url" in (place / "task/models.yaml").read_text()
    assert console_script("optimize", "task", "-c", "task/config.yaml", "--dry-run")[0] == 0


@pytest.mark.parametrize("template", TEMPLATES)
def test_comments_name_what_an_installed_package_has(place: Path, console_script: Command, template: str) -> None:
    console_script("init", "new", "--template", template)
    written = "".join((place / "new" / file).read_text() for file in ("task.yaml", "config.yaml", "models.yaml"))
    assert "docs/" not in written
    named = set(re.findall(r"\bagentopt\.[\w.]*\w", written))
    assert {"agentopt.runs.config", "agentopt.taskfile.schema", "agentopt.models.catalog"} == named
    assert all(find_spec(module) for module in named)


def test_models_of_the_users_own_catalogue_are_named(place: Path, console_script: Command) -> None:
    console_script("models", "add", "ollama/llama3.2", "--as", "mine")
    console_script("models", "add", "ollama/qwen3", "--as", "other")
    notes = console_script("init", "both", "--models", "mine", "--models", "other")[1]
    assert "mine and other are in your own catalogue, not in models.yaml: copy the entries there" in notes
    note = "mine is in your own catalogue, not in models.yaml: copy the entry there for other users."
    assert note in console_script("init", "--models", "mine", "--models", "smollm2-135m")[1]
    assert "own catalogue" not in console_script("init", "other", "--models", "smollm2-135m")[1]


def test_a_task_whose_models_cost_usd_has_a_cap_wherever_their_entries_are(
    place: Path, console_script: Command
) -> None:
    for model in ("openai/gpt-4o-mini", "ollama/llama3.2"):
        assert console_script("models", "add", model)[0] == 0
    for folder, model, is_capped in (
        ("own", "gpt-4o-mini", True),
        ("new", "openai/gpt-5-mini", True),
        ("free", "llama3.2", False),
        ("local", "smollm2-135m", False),
    ):
        assert console_script("init", folder, "--models", model)[0] == 0
        assert ("usd: 1 " in (place / folder / "config.yaml").read_text()) == is_capped


def test_an_entry_in_place_of_one_of_the_catalogue_is_mentioned(place: Path, console_script: Command) -> None:
    console_script("models", "add", "gpt-4o-mini", "--base-url", "http://127.0.0.1:9/v1")
    printed = console_script("init", "new", "--models", "openai/gpt-4o-mini")[1]
    assert "models.yaml has an entry of its own for gpt-4o-mini" in printed
    assert "without its provider: --models gpt-4o-mini." in printed
    assert "an entry of its own" not in console_script("init", "other", "--models", "gpt-4o-mini")[1]


AS_A_RUN = [
    ["report", "new"],
    ["inspect", "new"],
    ["compare", "new", "new"],
    ["whatif", "new"],
    ["gate", "new"],
    ["export", "new", "--to", "yaml"],
    ["serve", "new"],
    ["runs", "show", "new"],
    ["storage", "check", "new"],
    ["optimize", "--resume", "new"],
    ["evaluate", "new", "--candidate", "new"],
]


@pytest.mark.parametrize("command", AS_A_RUN, ids=" ".join)
def test_a_task_folder_in_place_of_a_run_is_named_as_one(
    place: Path, console_script: Command, command: list[str]
) -> None:
    console_script("init", "new")
    code, printed, errors = console_script(*command)
    assert (code, printed) == (2, "")
    assert "new: this is a task folder, not a run\n  remedy: see `agentopt runs list`" in errors
    (place / "new" / "config.yaml").unlink()
    assert "this is a task folder" in console_script(*command)[2]


REFUSED: list[tuple[dict[str, str], list[str], str]] = [
    ({"new/task.yaml": "mine"}, [], r"nothing is overwritten, but there is task.yaml"),
    ({"new/README.md": "mine", "new/data/test.jsonl": ""}, [], r"there is data/test.jsonl, README.md"),
    ({"new": "a file"}, [], r"a task is a folder, but this is a file"),
    *(
        ({}, ["--from", file], rf"--from: the file {file} .*\n  remedy: correct the path; .* to the working folder\n")
        for file in ("gone.csv", "gone.json", "gone.jsonl", "gone.xlsx", "gone.parquet")
    ),
    ({"d.txt": "x"}, ["--from", "d.txt"], r"--from: data must be a file of .csv"),
    *(
        ({name: text}, ["--from", name], rf"{name}: data must have at least one row, but has none\n  remedy: add rows")
        for name, text in (("d.csv", "q,a\n"), ("e.csv", ""), ("d.jsonl", ""), ("d.json", "[]"), ("b.csv", "\ufeff"))
    ),
    ({"d.csv": "q\nx\ny\n"}, ["--from", "d.csv"], r"one with the expected answer, but got q\n"),
    ({"d.csv": "q,a\nx,1\nx,1\n"}, ["--from", "d.csv"], r"at least two rows with different inputs .* has 1"),
    ({"d.csv": "q,a\nx,1\ny,2\n"}, ["--from", "d.csv", "--target", "b"], r"--target: there is no column 'b'"),
    ({"d.csv": "q,a\nx,1\ny\n"}, ["--from", "d.csv"], r"d.csv:3: a row must have at least 2 cells"),
    ({}, ["--models", "nosuch"], r"no provider is known for the model 'nosuch'"),
    ({}, ["--models", "smollm2-135n"], r"'smollm2-135n'\n  remedy: did you mean 'smollm2-135m', .* your catalogue\?"),
    ({}, ["--models", "small"], r"remedy: .*`agentopt models add small --base-url URL`"),
]


@pytest.mark.parametrize(("files", "options", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_bad_input_is_one_message_without_a_side_effect(
    place: Path, console_script: Command, files: dict[str, str], options: list[str], message: str
) -> None:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    before = sorted((path, path.is_file() and path.read_bytes()) for path in place.rglob("*"))
    code, printed, errors = console_script("init", "new", *options)
    assert (code, printed) == (2, "")
    assert re.search(message, errors), errors
    assert "remedy: " in errors
    assert sorted((path, path.is_file() and path.read_bytes()) for path in place.rglob("*")) == before


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["yes", "no"] * 4, "label"),
        ([True, False] * 4, "label"),
        (["Yes", "yes", "no", "no"], "short"),  # labels that differ in case only would make one option of two
        (["1", "-2.5", "3"], "number"),
        ([1, 2.5, 3], "number"),
        (["Paris", "Rome", "Oslo", "Bern"], "short"),
        ([["a", "b"], ["c"]], "short"),
        (["word " * 30, "word " * 40], "long"),
    ],
)
def test_what_an_answer_is_follows_from_the_data(answers: list[Any], kind: str) -> None:
    rows = [{"q": str(n), "answer": answer} for n, answer in enumerate(answers)]
    assert profile_of(rows, None, "d").kind == kind


@pytest.mark.parametrize(("ids", "is_used"), [((1, 2, 3), True), ((1, 1, 2), False), (("a", "", "b"), False)])
def test_a_column_called_id_that_does_not_identify_rows_is_left_out(
    place: Path, console_script: Command, ids: tuple[int | str, ...], is_used: bool
) -> None:
    rows = "".join(f"{one},Message {n},{'ab'[n % 2]}\n" for n, one in enumerate(ids))
    (place / "d.csv").write_text(f"Id,Message,Team\n{rows}")
    code, printed, _ = console_script("init", "new", "--from", "d.csv")
    assert code == 0
    assert "prompts read message." in printed
    note = "The column 'Id' is not used: its values repeat, or some are no id. Rows are numbered."
    assert (note in printed) is not is_used
    found = {example.id for rows in load_task(place / "new").splits.values() for example in rows}
    assert found == {"1", "2", "3"}


def test_a_column_called_id_that_is_the_only_one_is_read() -> None:
    profile = profile_of([{"id": "a", "label": "x"}, {"id": "a", "label": "y"}], None, "d")
    assert (profile.inputs, profile.unused) == ({"id_1": "id"}, None)


@pytest.mark.parametrize(
    ("columns", "target", "inputs"),
    [
        (["Answer", "Text"], "Answer", {"text": "Text"}),
        (["a", "b"], "b", {"a": "a"}),
        (["Größe", "1st", "items", "label"], "label", {"gr_e": "Größe", "column_1st": "1st", "items": "items"}),
        (["A b", "a-b", "label"], "label", {"a_b": "A b", "a_b_2": "a-b"}),
        (["target", "id", "q"], "target", {"q": "q"}),
    ],
)
def test_columns_get_names_that_templates_can_read(columns: list[str], target: str, inputs: dict[str, str]) -> None:
    rows = [dict.fromkeys(columns, f"v{n}") for n in range(3)]
    found = profile_of(rows, None, "d")
    assert (found.target, found.inputs) == (target, inputs)
