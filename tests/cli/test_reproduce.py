"""`agentopt reproduce`: the experiments' files, the table, and a grid on the loopback world that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentopt.cli.commands.reproduce import ReproduceOptions, estimate_reproduction, run_reproduction
from agentopt.cli.output import stderr_console
from agentopt.cli.reproduce.experiment import Cell, Experiment, cells_of, find_experiment
from agentopt.cli.reproduce.grid import CellResult, Grid
from agentopt.cli.reproduce.table import as_text, entries_of
from agentopt.core.errors import ConfigError, UserError
from agentopt.models.catalog import Catalog
from agentopt.taskfile.loading import read_spec
from agentopt.testing.papers_world import models_file, papers_answer, write_data
from agentopt.testing.servers import OpenAIServer, prompt_text
from agentopt.testing.toy import draw

CONFIGS = Path(__file__).parents[2] / "configs" / "papers"
FILES = [path.stem for path in sorted(CONFIGS.glob("*-*.yaml")) if not path.stem.startswith("models")]
TABLES = [stem.partition("-")[::2] for stem in FILES]


@pytest.mark.parametrize(("paper", "table"), TABLES, ids=FILES)
def test_every_experiment_names_what_is_there(paper: str, table: str, tmp_path: Path) -> None:
    experiment, file = find_experiment(paper, table, CONFIGS)
    for column in experiment.columns.values():
        for wanted in column.data.values():
            (tmp_path / wanted.file).touch()
    grid = Grid(experiment, file, tmp_path / "out", tmp_path)
    assert len(list(cells_of(experiment))) == len(experiment.rows) * len(experiment.columns) * len(experiment.seeds)
    (first, *_), (a_row, *_), seed = experiment.columns, experiment.rows, experiment.seeds[0]
    cells = {Cell(row, first, seed) for row in experiment.rows} | {Cell(a_row, of, seed) for of in experiment.columns}
    for cell in cells:
        config = grid.config(cell)
        catalogue = Catalog.load(*config.models)
        _, spec = read_spec(file.parent / experiment.columns[cell.column].task, config.task)
        models = {model for subtask in spec.subtasks for model in subtask.models}
        assert {config.agent.model, config.writer, *models} - {None, "auto"} <= set(catalogue)
        assert all(catalogue[model].is_priced and catalogue[model].parameters for model in models)
        assert all(str(tmp_path) in str(value) for key, value in config.task.items() if key.endswith("source"))


def test_the_tables_have_the_papers_figures() -> None:
    experiment, _ = find_experiment("agenttts", "1", CONFIGS)
    ours = [row for row in experiment.rows if not experiment.rows[row].paper]
    assert ours == ["agentopt's default"]
    assert all(set(row.paper) == set(experiment.columns) for row in experiment.rows.values() if row.paper)
    assert experiment.rows["AgentTTS"].paper["WebQSP EM"] == "7.8 h / .89"
    assert sum(text.startswith("- /") for row in experiment.rows.values() for text in row.paper.values()) == 19


def cell_result(
    validation: Sequence[float | None], test: Mapping[str, tuple[float | None, ...]], hour: float = 1.0
) -> CellResult:
    seconds = tuple(3600 * hour * (n + 1) for n in range(len(validation)))
    return CellResult("run", "ended", "candidate", tuple(validation), seconds, dict(test), 20.0, {}, (), "same")


def experiment_of(**changes: Any) -> Experiment:
    given = {
        "title": "toy",
        "source": "nowhere",
        "shows": "trials and score",
        "columns": {"words": {"task": "task"}},
        "rows": {"a": {"paper": {"words": "1 h / .5"}}, "b": {}},
    }
    return Experiment.model_validate({**given, **changes})


def test_an_entry_counts_the_trials_to_the_best_score_of_any_run_and_has_an_interval_over_examples_and_seeds() -> None:
    scores: list[list[float | None]] = [[0.1, None, 0.7, 0.8], [0.1, 0.8], [0.2, 0.3]]
    tests = [{"x": (1.0,), "y": (0.0,), "z": (n / 2,)} for n in range(3)]
    results = {Cell("a", "words", n): cell_result(scores[n], tests[n], hour=n + 1.0) for n in range(3)}
    results[Cell("b", "words", 0)] = cell_result([0.5], {"x": (None,), "y": (1.0,), "z": (1.0,)})
    experiment = experiment_of()
    optimum, entries = entries_of(experiment, results)
    assert optimum == {"words": 0.8}
    entry, other = entries["a"]["words"], entries["b"]["words"]
    assert (entry.runs, entry.reached.runs, entry.reached.trials, entry.reached.hours) == (3, 2, 3.0, 4.0)
    assert entry.score == pytest.approx(0.5)
    assert entry.interval.low < 0.5 < entry.interval.high
    assert (entry.paper, other.paper) == ("1 h / .5", None)
    assert (other.reached.trials, other.score, other.examples) == (None, 1.0, 2)
    assert as_text(entry, experiment).startswith("3 (4 h) / 0.500 (")
    assert as_text(other, experiment).startswith("- / 1.000 (")
    assert as_text(entry, experiment_of(shows="score and tokens")).endswith(", 20 tokens")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": {"a": {"paper": {"word": "1"}}}}, ["rows.a.paper", "'word'", "words"]),
        ({"rows": {"a": {"experience_of": "b"}}}, ["rows.a.experience_of", "'b'"]),
        ({"rows": {"a": {"experience_of": "b"}, "b": {}}}, ["like"]),
        ({"rows": {"a": {"experience_of": "a"}}}, ["without experience"]),
        ({"columns": {"words": {"task": "task", "like": "other"}}}, ["columns.words.like", "'other'"]),
        ({"seeds": []}, ["seeds"]),
    ],
)
def test_a_mistake_in_an_experiment_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - pydantic's
        experiment_of(**changes)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"paper": "agentts"}, ["no experiment of 'agentts'"]),
        ({"paper": "p/../agenttts"}, ["no experiment"]),
        ({"table": "2"}, ["no table '2'", "ablation"]),
        ({"configs": Path("nowhere")}, ["--configs"]),
        ({"rows": ("Randm",)}, ["no row 'Randm'", "Random"]),
        ({"columns": ("CWQ",)}, ["no column 'CWQ'", "CWQ EM"]),
        ({}, ["2wikimultihopqa.jsonl", "https://github.com/Alab-NII/2wikimultihop", "--data"]),
    ],
)
@pytest.mark.parametrize("command", [run_reproduction, estimate_reproduction])
def test_a_wrong_name_or_missing_data_are_refused_before_anything_is_made(
    changes: dict[str, Any], words: list[str], command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"paper": "agenttts", "table": "1", "out": tmp_path / "out", "data": tmp_path / "data", **changes}
    with pytest.raises(ConfigError) as caught:
        command(ReproduceOptions(**options), [], stderr_console())
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert list(tmp_path.iterdir()) == []


ROWS = ("Random", "AgentTTS")
FEW = (
    "budget.trials=8",
    "search.batch_size=2",
    "task.data.limit.validation=4",
    "task.data.limit.test=4",
    "task.data.splits={validation: 0.5, test: 0.5}",
    "task.subtasks.retrieve.num_samples=[1, 2, 5]",
    "task.subtasks.answer.num_samples=[1, 3, 10, 35]",
)


def settings(folder: Path, base_url: str, *more: str) -> list[str]:
    (folder / "models.yaml").write_text(models_file(base_url))
    return [f"models={folder / 'models.yaml'}", *more]


def command(folder: Path, out: str, given: list[str], *more: str) -> list[str]:
    arguments = ["reproduce", "agenttts", "--table", "1", "--out", str(folder / out), "--data", str(folder / "data")]
    arguments += ["--configs", str(CONFIGS), "--json", *more]
    return [sys.executable, "-m", "agentopt", *arguments, *(part for setting in given for part in ("-c", setting))]


class Watched:
    """The answers of the loopback world, which set an event after a number of further choices."""

    def __init__(self) -> None:
        self.answer, self.left, self.reached = papers_answer(), 0, asyncio.Event()

    def __call__(self, body: dict[str, Any], index: int) -> str | None:
        self.left -= 1
        if self.left == 0:
            self.reached.set()
        return self.answer(body, index)


async def killed(arguments: list[str], server: OpenAIServer, watched: Watched, after: int) -> int:
    """Run the command and kill it after so many choices. Return the number of its calls in flight."""
    watched.left = after
    watched.reached.clear()
    process = await asyncio.create_subprocess_exec(*arguments, stderr=asyncio.subprocess.DEVNULL, env={**os.environ})
    ended = asyncio.create_task(process.wait())
    reached = asyncio.create_task(watched.reached.wait())
    await asyncio.wait([ended, reached], return_when=asyncio.FIRST_COMPLETED)
    assert not ended.done(), "the command ended before it could be killed"
    process.kill()
    in_flight = server.in_flight
    await ended
    return in_flight


async def finished(arguments: list[str]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE, env={**os.environ})
    out, _ = await process.communicate()
    assert process.returncode == 0
    return dict(json.loads(out))


def table_of(found: dict[str, Any]) -> dict[str, Any]:
    """What must be the same however often the grid was interrupted: all but the money and the measured latencies."""
    rows = {
        row: {column: {**entry, "reached": {**entry["reached"], "hours": None}} for column, entry in of.items()}
        for row, of in found["entries"].items()
    }
    return {"optimum": found["optimum"], "entries": rows}


async def reproduced(folder: Path, kills: tuple[int, ...], given: tuple[str, ...], *more: str) -> dict[str, Any]:
    """The table of a grid that was killed; it has paid for nothing twice but the calls in flight."""
    watched = Watched()
    async with OpenAIServer(watched, delay=0.01) as server:
        arguments = command(folder, "out", settings(folder, server.base_url, *given), *more)
        lost = sum([await killed(arguments, server, watched, after) for after in kills])
        found = await finished(arguments)
        asked = Counter((request.key, request.seed) for request in server.requests)
        assert sum(count - 1 for count in asked.values()) <= lost + 16 * len(kills)
    return found


@pytest.mark.parametrize("kills", [(30,), pytest.param((12, 30), marks=pytest.mark.faults)], ids=["once", "twice"])
async def test_a_table_that_is_killed_is_that_of_an_unbroken_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kills: tuple[int, ...]
) -> None:
    write_data(tmp_path / "data", 16, distractors=6)
    chosen = ["--column", "2Wiki EM", "--seeds", "1", *(part for row in ROWS for part in ("--row", row))]
    found = await reproduced(tmp_path, kills, FEW, *chosen)
    assert set(found["entries"]) == set(ROWS)
    assert found["entries"]["AgentTTS"]["2Wiki EM"]["paper"] == "2.5 h / .72"
    assert found["agent_usd"] > 0
    whole = ReproduceOptions(
        "agenttts", "1", tmp_path / "unbroken", tmp_path / "data", CONFIGS, ROWS, ("2Wiki EM",), 1, as_json=True
    )
    async with OpenAIServer(papers_answer()) as server:
        given = settings(tmp_path, server.base_url, *FEW)
        for _ in range(2):  # the second time it reads the cells
            capsys.readouterr()
            await asyncio.to_thread(run_reproduction, whole, given, stderr_console())
            unbroken = json.loads(capsys.readouterr().out)
            assert table_of(unbroken) == table_of(found)
            assert unbroken["calls"] == server.calls, "its own cost, printed twice and paid once"


@pytest.mark.slow
async def test_the_whole_of_table_1_on_four_datasets_and_three_seeds(tmp_path: Path) -> None:
    write_data(tmp_path / "data", 60)
    sizes = ("budget.trials=30", "task.data.limit.validation=20", "task.data.limit.test=30")
    given = (*sizes, "task.data.splits={validation: 0.4, test: 0.6}")
    columns = ("2Wiki EM", "Hotpot EM", "CWQ EM", "WebQSP EM")
    chosen = [part for column in columns for part in ("--column", column)]
    found = await reproduced(tmp_path, (500, 3000), given, *chosen)
    experiment, _ = find_experiment("agenttts", "1", CONFIGS)
    assert {row: set(of) for row, of in found["entries"].items()} == {row: set(columns) for row in experiment.rows}
    assert all(entry["runs"] == 3 for of in found["entries"].values() for entry in of.values())


async def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path / "data", 16, distractors=6)
    options = ReproduceOptions(
        "agenttts", "1", tmp_path / "out", tmp_path / "data", CONFIGS, ("Random",), ("CWQ EM",), 1, as_json=True
    )
    async with OpenAIServer(papers_answer()) as server:
        given = settings(tmp_path, server.base_url, *FEW)
        await asyncio.to_thread(run_reproduction, options, [*given, "budget.trials=2"], stderr_console())
        calls = server.calls
        capped = [*given, "budget.trials=2", "budget.usd=9"]
        await asyncio.to_thread(run_reproduction, options, capped, stderr_console())
        with pytest.raises(UserError, match="was run with other settings"):
            await asyncio.to_thread(run_reproduction, options, [*given, "budget.trials=3"], stderr_console())
        assert server.calls == calls, "neither a cap nor a refusal makes a call"


def contest(body: dict[str, Any], index: int) -> str:
    """Solves a problem whose answer is between marks, with a probability that depends on the system prompt."""
    text = prompt_text(body)
    if "[[" not in text:
        return "no prompt from me"  # so that the authored fragments are used
    system = body["messages"][0]["content"]
    right = draw("p1", text, int(body.get("seed") or 0) + index) < 0.1 + 0.8 * draw("ability", system)
    return f"so it is \\boxed{{{text.partition('[[')[2].partition(']]')[0] if right else 0}}}"


async def test_prompts_of_p1_are_optimised_on_the_filtered_user_prompts_and_tested_repeatedly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("math_verify", reason="needs the extra tasks")
    data = tmp_path / "data"
    data.mkdir()
    for file, count in (("aime24.jsonl", 6), ("aime22-23.jsonl", 8), ("hmmt-nov25.jsonl", 4)):
        rows = (json.dumps({"id": n, "problem": f"{file} {n} [[{n + 1}]]", "answer": n + 1}) for n in range(count))
        (data / file).write_text("\n".join(rows))
    entry = {"price": "free", "parameters": 4e9, "context_length": 32768, "supports": {"seed": True}, "max_choices": 8}
    few = ("prompts.variants=4", "prompts.repeats=8", "prompts.responses=8", "prompts.rounds=1", "prompts.batch_size=2")
    chosen = ("base", "all 30 user prompts", "p1 (2 user prompts)")
    options = ReproduceOptions(
        "p1", "aime", tmp_path / "out", data, CONFIGS, chosen, ("4B HMMT Nov25",), 1, as_json=True
    )
    async with OpenAIServer(contest) as server:
        (tmp_path / "models.yaml").write_text(
            json.dumps({"models": {"qwen3-4b": {**entry, "base_url": server.base_url}}})
        )
        given = [f"models={tmp_path / 'models.yaml'}", *few]
        await asyncio.to_thread(run_reproduction, options, given, stderr_console())
        table = json.loads(capsys.readouterr().out)
        assert table["calls"] == server.calls
        cells = list((tmp_path / "out").glob("cells/*/*/seed 0/cell.json"))
        drawn = [scores for cell in cells for scores in json.loads(cell.read_text())["test"].values()]
    entries = {row: of["4B HMMT Nov25"] for row, of in table["entries"].items()}
    assert [entry["paper"] for entry in entries.values()] == ["40.7", None, "45.4"]
    assert len(drawn) == 3 * 4
    assert all(len(scores) == 16 and None not in scores for scores in drawn), "avg@16"
    assert all(entry["examples"] == 4 and entry["tokens"] > 0 for entry in entries.values())
