"""`agentopt report` from the command line: finished and killed runs, hostile names, unwritable files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agentopt.api import optimize
from agentopt.core.events import Event, TrialDone
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import load_config
from tests.cli.recorded import SETTINGS, answer, record_run, write_task

NAME = "<img src=x onerror=alert(1)> & \u202e'quotes\" %s"
"""A name of a task, and with it of a run's folder, that HTML, shells and terminals may take for more than a name."""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def report(console_script: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: console_script("report", *arguments, *SETTINGS)


def killed_run(folder: Path, task: Path) -> Path:
    def kill(event: Event) -> None:
        if isinstance(event, TrialDone):
            raise KeyboardInterrupt

    given = [f"journal={folder / 'journal.db'}", f"runs={folder / 'runs'}", f"models=[{folder / 'models.yaml'}]"]
    with pytest.raises(KeyboardInterrupt):
        optimize(task, load_config([*given, "strategy=grid"]), provider=ScriptedModel(answer), callbacks=[kill])
    (run,) = (folder / "runs").iterdir()
    return run


def test_a_finished_run_with_a_hostile_name_has_a_page_with_every_trial(report: Command, tmp_path: Path) -> None:
    run = record_run(tmp_path, write_task(tmp_path, name=NAME))
    before = {
        path: path.read_bytes()
        for path in run.iterdir()
        if path.is_file() and path.name != "report.html" and path.suffix != ".db-shm"
    }
    code, out, err = report(run.name, "--every-trial")
    shown = run.name.replace("\u202e", "\\u202e")  # the terminal shows control characters as escapes
    assert (code, out, err) == (0, f"report: runs/{shown}/report.html\n", "")
    page = (run / "report.html").read_text()
    assert "<img" not in page.replace("<img src=data:", "")
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert {path: path.read_bytes() for path in before} == before, "a report changes nothing of a run"

    out_file = tmp_path / f"{NAME}.html"
    code, out, _ = report(str(run), "--out", str(out_file), "--json")
    assert (code, json.loads(out)) == (0, {"report": str(out_file)})
    elsewhere = out_file.read_text()
    assert "<img" not in elsewhere.replace("<img src=data:", "")
    assert "&lt;img src=x onerror=alert(1)&gt;" in elsewhere


def test_a_killed_run_has_a_page_that_names_the_command_to_resume(report: Command, tmp_path: Path) -> None:
    run = killed_run(tmp_path, write_task(tmp_path))
    code, out, err = report(run.name)
    assert (code, out, err) == (0, f"report: runs/{run.name}/report.html\n", "")
    page = (run / "report.html").read_text()
    assert "The run was stopped: 1 trial so far" in page
    assert "--resume" in page


@pytest.mark.parametrize("place", ["missing/page.html", "folder"])
def test_a_file_that_cannot_be_written_is_one_message(report: Command, tmp_path: Path, place: str) -> None:
    run = record_run(tmp_path, write_task(tmp_path), trials=1)
    (tmp_path / "folder").mkdir()
    code, out, err = report(run.name, "--out", place)
    assert (code, out) == (2, "")
    assert place in err
    assert "remedy:" in err
    assert len(err.strip().splitlines()) <= 2
    assert not (tmp_path / "missing").exists()


def _edit_prompt(task: Path) -> None:
    file = task / "task.yaml"
    file.write_text(file.read_text().replace("Repeat the word.", "Repeat it."))


def _edit_row(task: Path) -> None:
    file = task / "test.jsonl"
    file.write_text(file.read_text().replace('"test 3"', '"test three"'))


def _break(task: Path) -> None:
    (task / "task.yaml").write_text("name: [")


@pytest.mark.parametrize("change", [_edit_prompt, _edit_row, _break, shutil.rmtree])
def test_a_run_whose_task_has_changed_keeps_the_page_that_was_written(
    report: Command, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    task = write_task(tmp_path)
    run = record_run(tmp_path, task, trials=1)
    assert report(run.name)[0] == 0
    page = (run / "report.html").read_bytes()
    change(task)
    code, out, err = report(run.name)
    note, path = out.splitlines()
    assert (code, path, err) == (0, f"report: runs/{run.name}/report.html", "")
    assert note.startswith("this page was written before, and cannot be written anew: ")
    code, out, err = report(run.name, "--json")
    assert (code, json.loads(out)) == (0, {"report": f"runs/{run.name}/report.html"})
    assert err.splitlines() == [note]
    assert (run / "report.html").read_bytes() == page
    for options in (["--out", "other.html"], ["--every-trial"]):
        code, out, err = report(run.name, *options)
        assert (code, out) == (2, "")
        assert "remedy:" in err
    (run / "report.html").unlink()
    assert report(run.name)[:2] == (2, "")
