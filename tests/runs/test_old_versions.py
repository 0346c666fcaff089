"""Run folders and journals of version 0.1.0 open, are shown, evaluated and exported; refusals have a remedy."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from agentopt.api import aevaluate, aoptimize
from agentopt.cli.commands.runs import show_run
from agentopt.core.candidate import load_candidate
from agentopt.core.errors import ConfigError
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.deploy.deployment import find_deployment
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import open_existing_journal
from agentopt.runs.folder import RunFolder, list_runs
from agentopt.runs.result import load_result

WRITTEN = Path(__file__).parent.parent / "data" / "0.1.0"

SAMPLING = {"subtasks.answer.temperature": 0.9, "subtasks.answer.top_p": 1.0}
"""What version 0.1.0 sent by default: with it, requests have the cache keys of that version."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the files, with their paths as if they had been written there."""
    folder = tmp_path / "project"
    shutil.copytree(WRITTEN, folder)
    for file in folder.glob("*/config.yaml"):
        file.write_text(file.read_text().replace("/project", str(folder)))
    return folder


def test_a_finished_run_is_listed_loaded_and_shown(project: Path) -> None:
    assert [run.path.name for run in list_runs(project)] == ["finished", "unfinished"]
    result = load_result(project / "finished")
    assert result.ended == StopReason(StopKind.TRIALS_SPENT)
    assert str(result.best_candidate) == "answer: large x3"
    assert [trial.score for trial in result.trials] == pytest.approx([1 / 3, 0.5, 5 / 6, 1.0])
    output = io.StringIO()
    show_run(project / "finished", [], Console(file=output, width=160))
    assert "every trial was spent" in output.getvalue()
    assert "answer: large x3" in output.getvalue()
    step = f"Next:    add test rows; how many: agentopt gate {project}/finished/best.yaml --rows-needed"
    assert step in output.getvalue()


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("every trial was spent", StopKind.TRIALS_SPENT),
        ("the search had nothing more to try", StopKind.NOTHING_LEFT),
        ("the calls cap of 5 is reached: 5 spent, 1 more asked for", StopKind.UNKNOWN),
        ("every trial was spent, and more", StopKind.UNKNOWN),
    ],
)
def test_the_sentence_that_ended_an_old_run_is_read(project: Path, sentence: str, kind: StopKind) -> None:
    file = project / "finished" / "result.json"
    file.write_text(file.read_text().replace("every trial was spent", sentence))
    ended = load_result(project / "finished").ended
    assert (ended.kind, str(ended)) == (kind, sentence)


async def test_the_journal_of_an_old_run_answers(project: Path) -> None:
    run = RunFolder.open(project / "finished")
    journal = open_existing_journal(run.config.journal)
    assert journal is not None
    spent, recorded = journal.spend(run.id).by_purpose["samples"], load_result(run.path).spent["samples"]
    assert (spent.calls, spent.tokens) == (recorded.calls, recorded.tokens)
    assert spent.usd == pytest.approx(recorded.usd)  # versions of SQLite round sums differently
    journal.close()
    silent = ScriptedModel(script=[])
    config = run.config.model_copy(update={"task": SAMPLING})
    evaluation = await aevaluate(project / "task", load_candidate(run.path / "best.yaml"), config, provider=silent)
    assert evaluation.score == load_result(run.path).finalist("best").test.score  # type: ignore[union-attr]


def test_the_candidate_of_an_old_run_is_deployed(project: Path) -> None:
    deployment = find_deployment(project / "finished")
    assert str(deployment.candidate) == "answer: large x3"
    assert deployment.task.name == "capitals"


@pytest.mark.parametrize("name", ["finished", "unfinished"])
async def test_an_old_run_is_refused_with_the_remedy_and_a_new_one_takes_its_answers(project: Path, name: str) -> None:
    model, config = ScriptedModel(lambda request, repeat: "word-1"), RunFolder.open(project / name).config
    with pytest.raises(ConfigError, match=r"start a new run.*temperature: 0\.9 and top_p: 1\.0"):
        await aoptimize(project / "task", resume=project / name, provider=model)
    assert model.requests == []
    config = config.model_copy(update={"task": SAMPLING})
    result = await aoptimize(project / "task", config, provider=model)
    assert len(result.trials) == 4
    assert (len(model.requests) == 0) == (name == "finished"), "what was answered is not paid for again"
    assert load_result(result.run) == result


def test_a_result_with_costs_in_usd_per_million_is_read_in_usd(project: Path) -> None:
    file = project / "finished" / "result.json"
    before = load_result(project / "finished")
    written = json.loads(file.read_text()) | {"cost_in": "USD per 1M examples"}
    file.write_text(json.dumps(written))
    result = load_result(project / "finished")
    assert result.cost_in == "usd"
    assert [trial.units for trial in result.trials] == [trial.units / 1e6 for trial in before.trials]
    assert [f.units for f in result.finalists] == [f.units / 1e6 for f in before.finalists]
    assert "USD per 1,000 requests" in repr(result)
