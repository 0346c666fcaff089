"""`agentopt gate`: verdicts, exit codes, what is printed and written, and the ready jobs of configs/ci."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.main import get_command

from agentopt.cli import main as cli
from agentopt.cli.commands.gate import SUMMARY
from agentopt.cli.commands.optimize import show_result
from agentopt.cli.run_names import candidate_of
from agentopt.core.errors import ConfigError
from agentopt.core.gate import MARGIN, GateVerdict
from agentopt.core.stats import Difference, Interval
from agentopt.report.gate import CostRatio, GateReport
from agentopt.runs.config import BudgetConfig, Config
from agentopt.runs.example_costs import ExampleCosts, SubtaskCostShown
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import Comparison, Role, load_result
from agentopt.testing.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
Command = Callable[..., tuple[int, str, str]]


def report(mean: float, low: float, high: float, *, n: int = 100, p_value: float = 0.01, **more: Any) -> GateReport:
    difference = Difference(mean, Interval(low, high, 0.95), n, p_value)
    options = {"margin": 0.02, "cost": CostRatio(1, "USD"), **more}
    return GateReport("new.yaml", "baseline", "test", difference, **options)


def test_measured_usd_and_latency_are_shown_where_they_are_known() -> None:
    measured = (ExampleCosts(0.002, 1.5, 3.25), ExampleCosts(0.0))
    found = report(0.1, 0.05, 0.15, measures=measured)
    line = "2 USD per 1,000 requests, 1.50 s (p50) and 3.25 s (p95)"
    assert [each for each in found.lines() if each.startswith("measured")] == [
        f"measured on the test split, candidate: {line}"
    ]
    assert f"| measured on the test split, candidate | {line} |" in found.markdown()
    assert found.data.measured == {"candidate": measured[0], "reference": measured[1]}
    assert "measured" not in report(0.1, 0.05, 0.15).markdown()


@pytest.mark.parametrize(
    ("found", "verdict", "code"),
    [
        (report(0.1, 0.05, 0.15), "superior", 0),
        (report(0.0, -0.01, 0.01, p_value=1), "non-inferior", 0),
        (report(-0.1, -0.15, -0.05), "inferior", 1),
        (report(0.0, -0.1, 0.1, p_value=1), "not enough rows", 3),
        (report(0.5, 0.2, 0.8, n=5), "not enough rows", 3),
        (report(0.1, 0.05, 0.15, cost=CostRatio(1.2, "USD"), max_cost_ratio=1), "superior", 1),
        (report(0.1, 0.05, 0.15, cost=CostRatio(1.0, "USD"), max_cost_ratio=1), "superior", 0),
        (report(0.0, -0.1, 0.1, p_value=1, cost=CostRatio(1.2, "USD"), max_cost_ratio=1), "not enough rows", 1),
        (GateReport("a.yaml", "b.yaml", "test", None, 0.02, CostRatio(1, None)), "non-inferior", 0),
        (GateReport("a.yaml", "b.yaml", "test", None, 0.0, CostRatio(1, None), 0.5), "non-inferior", 1),
    ],
)
def test_the_verdict_and_the_cost_give_the_exit_code(found: GateReport, verdict: str, code: int) -> None:
    assert (found.verdict, found.exit_code) == (verdict, code)
    text, page = "\n".join(found.lines()), found.markdown()
    assert text.startswith(f"{verdict}: ")
    assert (": the gate fails" in text) == found.too_dear == (", above the limit of " in page)
    assert {0: "passes", 1: "fails", 3: "is undecided"}[code] in page.splitlines()[0]
    assert page.count("\n|") == len(re.findall(r"^\|.*\|$", page, re.MULTILINE)), "every row of the table is closed"


def test_costs_are_compared_in_the_first_measure_that_both_have() -> None:
    def cost(**fields: float) -> dict[str, SubtaskCostShown]:
        return {"a": SubtaskCostShown(**{**dict.fromkeys(SubtaskCostShown.__dataclass_fields__, 0.0), **fields})}

    assert CostRatio.of(cost(usd=1, fusion_usd=1, units=9), cost(usd=4, units=1)) == CostRatio(0.5, "USD")
    assert CostRatio.of(cost(usd=1, units=3), cost(units=1)) == CostRatio(3, "units")
    assert CostRatio.of(cost(units=-1, completion_tokens=3), cost(units=2, prompt_tokens=6)) == CostRatio(0.5, "tokens")
    assert CostRatio.of(cost(), cost()).value == 1
    assert CostRatio.of(cost(prompt_tokens=1), cost()).value == float("inf")


@pytest.fixture
def agentopt(console_script: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls the console script in this process."""
    monkeypatch.delenv(SUMMARY, raising=False)
    monkeypatch.setenv("AGENTOPT_CACHE", "cache")
    monkeypatch.setenv("AGENTOPT_CONFIG", "nothing")
    return console_script


SETTINGS = ["-c", "journal=journal.db", "-c", "runs=runs", "-c", "models=models.yaml"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task of one subtask and two candidates: one of the small model, one of the large."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task").mkdir()
    spec = {
        "name": "planted",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [{"name": "answer", "prompt": "[[{{ inputs.word }}]]", "models": ["small", "large"]}],
        "scorer": "exact_match",
    }
    (tmp_path / "task" / "task.yaml").write_text(yaml.safe_dump(spec))
    for split in ("validation", "test"):
        rows = [json.dumps({"id": f"{split}-{i}", "word": f"{split}-{i}", "target": f"{split}-{i}"}) for i in range(40)]
        (tmp_path / "task" / f"{split}.jsonl").write_text("\n".join(rows))
    for name in ("small", "large"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"answer": {"model": name, "num_samples": 1}}))
    return tmp_path


@pytest.fixture
def server(place: Path) -> Iterator[ServerProcess]:
    """The large model is always right and costs twice as much as the small one, which is right in 3 of 10 cases."""
    with ServerProcess(counter=place / "received.jsonl", quality={"small": 0.3, "large": 1.0}) as server:
        price = {"small": 1.0, "large": 2.0}
        models = {name: {"base_url": server.base_url, "usd_per_1m_prompt": usd} for name, usd in price.items()}
        (place / "models.yaml").write_text(yaml.safe_dump({"models": models}))
        yield server


def calls(place: Path) -> int:
    return len((place / "received.jsonl").read_text().splitlines())


def test_two_candidate_files_are_compared_and_the_journal_answers_what_it_has(
    agentopt: Command, place: Path, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    against = ["--task", "task", *SETTINGS]
    code, out, _ = agentopt("gate", "large.yaml", "--against", "small.yaml", *against)
    assert code == 0
    assert out.startswith("superior: +0.")
    assert (
        "n=40, margin 0.02\nlarge.yaml against small.yaml, on the test split\ncost: 2 times the reference's USD" in out
    )
    spent = calls(place)
    assert spent == 80

    assert agentopt("gate", "small.yaml", "--against", "large.yaml", *against)[0] == 1
    monkeypatch.setenv(SUMMARY, "summary.md")
    code, out, _ = agentopt(
        "gate", "large.yaml", "--json", "--rows-needed", "--max-cost-ratio", "1.5", "--markdown", "gate.md", *against
    )
    data = json.loads(out)
    assert (code, data["exit_code"], data["verdict"], data["reference"]) == (1, 1, "superior", "baseline")
    assert (data["cost_ratio"], data["cost_in"], data["difference"]["n"]) == (2.0, "USD", 40)
    assert data["rows_needed"] > 1000, "70% of the rows are discordant, and the margin is .02"
    page = (place / "gate.md").read_text()
    assert page.startswith("## The release gate fails: superior\n")
    assert (place / "summary.md").read_text() == page
    assert calls(place) == spent


@pytest.mark.parametrize("cap", ["usd=0.0000001", "usd=0.0001", "calls=3"])
def test_a_cap_that_ends_the_evaluation_gives_no_verdict_and_a_cap_that_suffices(
    agentopt: Command, place: Path, server: ServerProcess, cap: str
) -> None:
    command = ("gate", "large.yaml", "--against", "small.yaml", "--task", "task", *SETTINGS)
    name = cap.partition("=")[0]
    code, out, errors = agentopt(*command, "-c", f"budget.{cap}", "--json")
    assert (code, json.loads(out)["exit_code"]) == (4, 4)
    enough = re.findall(rf"raise budget.{name} to ([\d.]+), which suffices without retries", errors)
    assert agentopt(*command, "-c", f"budget.{name}={enough[0]}")[0] == 0


@pytest.mark.parametrize(("samples", "is_noted"), [(1, False), (3, False), (4, True), (7, True)])
def test_a_number_of_samples_that_the_task_does_not_list_is_noted(
    agentopt: Command, place: Path, server: ServerProcess, samples: int, is_noted: bool
) -> None:
    (place / "given.yaml").write_text(yaml.safe_dump({"answer": {"model": "large", "num_samples": samples}}))
    note = f"has num_samples {samples} for answer, which is not in the task's list (1, 2, 3, 5, 8): "
    code, out, _ = agentopt("gate", "given.yaml", "--against", "small.yaml", "--task", "task", *SETTINGS)
    assert (code, f"\ngiven.yaml: the candidate {note}" in out) == (0, is_noted)
    code, out, _ = agentopt("gate", "small.yaml", "--against", "given.yaml", "--task", "task", *SETTINGS, "--json")
    notes = json.loads(out)["notes"]
    assert [one.startswith(f"given.yaml: the candidate {note}") for one in notes] == [True] * is_noted
    code, _, errors = agentopt("evaluate", "task", "--candidate", "given.yaml", *SETTINGS)
    assert (code, errors.count(note)) == (0, is_noted)


def test_an_endpoint_that_cannot_be_reached_gives_no_verdict(agentopt: Command, place: Path) -> None:
    entry = {"base_url": "http://127.0.0.1:9/v1", "price": "free", "max_attempts": 1}
    (place / "models.yaml").write_text(yaml.safe_dump({"models": {"small": entry, "large": entry}}))
    code, out, errors = agentopt("gate", "large.yaml", "--against", "small.yaml", "--task", "task", *SETTINGS)
    assert (code, out) == (4, "")
    assert "remedy: " in errors


def test_a_run_is_compared_with_its_baseline_without_a_call(
    agentopt: Command, place: Path, server: ServerProcess
) -> None:
    search = ["-c", "strategy=grid", "-c", "budget.trials=7", *SETTINGS]
    assert agentopt("optimize", "task", *search)[0] == 0
    (run,) = (place / "runs").iterdir()
    spent = calls(place)
    best = load_result(run).finalist("best")
    code, out, _ = agentopt("gate", run.name, *SETTINGS)
    assert code == 0
    assert best.against_baseline
    assert out.startswith(f"superior: {best.against_baseline.difference.mean:+.3f} ")
    assert "against baseline, on the test split" in out
    assert agentopt("gate", str(run), "--against", "small.yaml", *SETTINGS)[1].startswith("superior: "), (
        "from the journal"
    )
    assert agentopt("gate", str(run), "--max-cost-ratio", "1", *SETTINGS)[0] == 1
    assert "measured on the test split, candidate: " in out
    *lines, rows, if_real = agentopt("gate", run.name, "--rows-needed", *SETTINGS)[1].splitlines()
    assert (lines, rows.startswith("rows needed: ")) == (out.splitlines(), True), "one source with every option"
    measured = re.fullmatch(r"rows needed: (\d+), if the measured (\+0\.\d+) is the true difference", if_real)
    assert measured, if_real
    assert int(measured[1]) < 40, "the 40 rows of the test showed it"
    assert float(measured[2]) == pytest.approx(best.against_baseline.difference.mean, abs=5e-4)
    assert calls(place) == spent

    (run / "record.jsonl").unlink()  # as version 0.1.0 leaves a run
    without = agentopt("gate", str(run), *SETTINGS)[1]
    assert "measured on the validation split, candidate: " in without
    assert "USD per example, on the validation split" in without
    assert agentopt("gate", str(run), "--rows-needed", *SETTINGS)[1].splitlines()[-2:] == [rows, if_real]
    assert calls(place) == spent


@pytest.mark.parametrize("against", ["copy.yaml", "reordered.yaml", "baseline"])
def test_a_candidate_that_is_the_reference_passes_without_a_call(agentopt: Command, place: Path, against: str) -> None:
    nowhere = {name: {"base_url": "http://127.0.0.1:9/v1"} for name in ("small", "large")}
    (place / "models.yaml").write_text(yaml.safe_dump({"models": nowhere}))
    (place / "copy.yaml").write_text((place / "small.yaml").read_text())
    (place / "reordered.yaml").write_text("answer: {num_samples: 1, model: small}\n")
    code, out, err = agentopt("gate", "small.yaml", "--against", against, "--task", "task", *SETTINGS)
    assert (code, err) == (0, "")
    same = "baseline" if against == "baseline" else "reference"
    assert out.startswith(f"non-inferior: the candidate is the {same} itself\n")
    assert "cost: that of the reference, which is the same candidate\n" in out
    data = json.loads(agentopt("gate", "small.yaml", "--against", against, "--task", "task", "--json", *SETTINGS)[1])
    assert (data["verdict"], data["exit_code"], data["difference"]) == ("non-inferior", 0, None)


@pytest.fixture
def best_first(place: Path) -> Iterator[ServerProcess]:
    """The small model, which is the baseline's, is always right; the large one never is."""
    with ServerProcess(counter=place / "received.jsonl", quality={"small": 1.0, "large": 0.0}) as server:
        models = {name: {"base_url": server.base_url, "usd_per_1m_prompt": 1} for name in ("small", "large")}
        (place / "models.yaml").write_text(yaml.safe_dump({"models": models}))
        yield server


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_run_that_keeps_the_baseline_passes(
    agentopt: Command, place: Path, best_first: ServerProcess, split: str
) -> None:
    search = ["-c", "strategy=grid", "-c", "task.subtasks.answer.num_samples=[1]", *SETTINGS]
    assert agentopt("optimize", "task", *search)[0] == 0
    (run,) = (place / "runs").iterdir()
    spent = calls(place)
    code, out, _ = agentopt("gate", run.name, "--split", split, *SETTINGS)
    assert (code, load_result(run).verdict) == (0, "non-inferior")
    assert out.startswith("non-inferior: the candidate is the baseline itself\n")
    for same in (run.name, str(run / "best.yaml")):
        again = agentopt("gate", same, "--split", split, "--rows-needed", *SETTINGS)[1]
        assert again.partition("\n")[0] == out.partition("\n")[0]
        assert again.splitlines()[2:] == [*out.splitlines()[2:], "rows needed: none, because nothing is compared"]
    assert calls(place) == spent
    kept = "non-inferior: the best candidate is the baseline itself"
    shown = agentopt("runs", "show", run.name, *SETTINGS)[1]
    assert f"Verdict: {kept}. No other candidate has a higher shrunk score on validation." in shown
    assert "Use it:" not in shown
    assert f"  verdict: {kept}" in repr(load_result(run)).splitlines()
    assert "non-inferior: the best candidate is the baseline" in agentopt("runs", "list", *SETTINGS)[1]


def test_the_only_candidate_passes(agentopt: Command, place: Path, server: ServerProcess) -> None:
    one = ["-c", "task.subtasks.answer.models=[small]", "-c", "task.subtasks.answer.num_samples=[1]"]
    assert agentopt("optimize", "task", "-c", "strategy=grid", *one, *SETTINGS)[0] == 0
    (run,) = (place / "runs").iterdir()
    assert agentopt("gate", run.name, *SETTINGS)[0] == 0
    shown = agentopt("runs", "show", run.name, *SETTINGS)[1]
    assert "the best candidate is the baseline itself. Nothing else was evaluated." in shown


@pytest.mark.parametrize("cap", ["usd=0.0002", "calls=60", "calls=85", "tokens=300", "trials=1"])
def test_a_run_that_a_cap_ended_before_any_candidate_was_measured_has_no_verdict(
    agentopt: Command, place: Path, server: ServerProcess, cap: str
) -> None:
    name, _, value = cap.partition("=")
    code, out, _ = agentopt("optimize", "task", "-c", "strategy=grid", "-c", f"budget.{cap}", *SETTINGS)
    (run,) = (place / "runs").iterdir()
    result, why = (
        load_result(run),
        f"stopped at the cap budget.{name} before any candidate but the baseline was measured",
    )
    assert (code, result.verdict, result.unsearched) == (0, None, why)
    assert f"Verdict: none, because the run {why}." in " ".join(out.split())
    (resume,) = (line.removeprefix("Resume:  ") for line in out.splitlines() if line.startswith("Resume:  "))
    command, _, suggested = resume.rpartition("=")
    assert command == f"agentopt optimize --resume runs/{run.name} -c budget.{name}"
    assert float(suggested) >= 2 * float(value)
    for source in (run.name, str(run / "best.yaml"), str(run / "recommended.yaml")):
        for split in ("test", "validation"):
            code, out, err = agentopt("gate", source, "--split", split, *SETTINGS)
            assert (code, out) == (2, "")
            assert f"a verdict needs a candidate that was measured, but the run {why}\n" in err
            assert "remedy: agentopt optimize --resume " in err
            assert resume.partition("--resume ")[2] in err
    page = " ".join((run / "report.html").read_text().split())
    assert f"There is no verdict: the run {why}" in page
    assert f"Resume the run: {resume}" in page
    (listed,) = json.loads(agentopt("runs", "list", "--json", *SETTINGS)[1])["runs"]
    assert listed["verdict"] is None
    shown = "".join(agentopt("runs", "list", *SETTINGS)[1].split())
    assert "non-inferior" not in shown
    assert f"budget.{name}" in shown
    assert f"  verdict: none, {why}" in repr(result).splitlines()
    assert "non-inferior" not in agentopt("runs", "show", run.name, *SETTINGS)[1]


def test_the_candidate_of_a_run_comes_with_the_settings_of_the_run(
    agentopt: Command, place: Path, server: ServerProcess
) -> None:
    task = place / "task" / "task.yaml"
    task.write_text(task.read_text().replace("  - large\n", ""))
    search = ["-c", "strategy=grid", "-c", "task.subtasks.answer.models=[large]", "-c", "budget.calls=200", *SETTINGS]
    assert agentopt("optimize", "task", "-c", "task.data.limit.test=30", *search)[0] == 0
    (run,) = (place / "runs").iterdir()
    spent = calls(place)
    for candidate in (run.name, str(run), str(run / "best.yaml"), str(run / "recommended.yaml")):
        code, out, err = agentopt("evaluate", "task", "--candidate", candidate)
        assert (code, "n=30 of 30" in out) == (0, True), err
    assert "n=20 of 20" in agentopt("evaluate", "task", "--candidate", run.name, "-c", "task.data.limit.test=20")[1]
    assert calls(place) == spent, "the journal is that of the run"

    (place / "best.yaml").write_text((run / "best.yaml").read_text())
    code, _, err = agentopt("evaluate", "task", "--candidate", "best.yaml", *SETTINGS)
    assert (code, "found with -c settings needs these settings too" in err) == (2, True), err


def test_the_three_commands_with_a_candidate_share_how_they_read_it(place: Path) -> None:
    run = RunFolder.open(ROOT / "tests" / "data" / "0.1.0" / "finished")
    for source in (run.path, run.path / "best.yaml", run.path / "recommended.yaml"):
        candidate, config = candidate_of(source, ["seed=7"])
        assert candidate
        assert (config.task, config.journal, config.seed) == (run.config.task, run.config.journal, 7)
        assert config.budget == BudgetConfig(), "the budget was for the search"
    (place / "config.yaml").write_text("seed: 3\n")
    assert candidate_of(place / "small.yaml", [])[1] == Config(), "a config.yaml of the user's own is no run"
    assert candidate_of(None, ["seed=7"]) == (None, Config(seed=7))
    with pytest.raises(ConfigError, match=r"the run has no gone\.yaml"):
        candidate_of(run.path / "gone.yaml", [])


@pytest.mark.parametrize("in_python", [False, True])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("roles", [(), ("baseline",)])
def test_the_result_names_the_file_of_each_chosen_candidate_but_the_baseline(
    in_python: bool, same: bool, roles: tuple[Role, ...]
) -> None:
    result, output = load_result(ROOT / "tests" / "data" / "0.1.0" / "finished"), io.StringIO()
    compared = Comparison(Difference(0.5, Interval(0.4, 0.6, 0.95), 100, 0.001), "superior")
    found = replace(result.finalist("best"), against_baseline=compared)
    best = replace(found, roles=("best", "recommended") if same else ("best",))
    cheaper = replace(best, roles=("baseline",) if same else (*roles, "recommended"))
    baseline = () if same or roles else (replace(best, roles=("baseline",)),)
    result = replace(result, finalists=(*baseline, cheaper, best))
    show_result(result, None if in_python else Path("my task"), Console(file=output, width=200))
    lines = output.getvalue().partition("Use it:")[2].splitlines()
    files = ["best"] if same or roles else ["best", "recommended"]
    expected = [f"{result.run}/{name}.yaml" for name in (*files, *([] if in_python else ["best"]))]
    assert len(lines) == len(expected)
    assert all(file in line for file, line in zip(expected, lines, strict=True))
    assert ("load_candidate(" if in_python else "agentopt serve ") in lines[0]
    assert in_python or lines[-1].strip().startswith("agentopt export ")
    assert len(files) == 1 or "  # the cheapest" in lines[1]


@pytest.mark.parametrize("in_python", [False, True])
@pytest.mark.parametrize("verdict", ["inferior", "not enough rows"])
def test_a_candidate_that_is_not_decided_for_is_not_offered_for_use(in_python: bool, verdict: GateVerdict) -> None:
    result, output = load_result(ROOT / "tests" / "data" / "0.1.0" / "finished"), io.StringIO()
    compared = Comparison(Difference(-0.1, Interval(-0.3, 0.1, 0.95), 10, 0.5), verdict)
    finalists = (result.finalist("baseline"), replace(result.finalist("best"), against_baseline=compared))
    result = replace(result, finalists=finalists)
    show_result(result, None if in_python else Path("my task"), Console(file=output, width=200))
    printed = output.getvalue()
    assert "Use it:" not in printed
    gate = "" if in_python else f"; how many: agentopt gate {result.run}/best.yaml --rows-needed"
    step = f"add test rows{gate}" if verdict == "not enough rows" else "keep the baseline, or search further: "
    assert f"Next:    {step}" in printed
    assert "agentopt serve" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml: there is no such file or folder, and no run of this name in runs"),
        (["nope"], "see `agentopt runs list`, or give the path of a candidate file such as best.yaml"),
        (["no/such/run"], "no/such/run: there is no such file or folder\n  remedy: see `agentopt runs list`"),
        (["large.yaml"], "a candidate needs its task folder"),
        (["task"], "this is a task folder, not a run"),
        (["large.yaml", "--task", "task", "--against", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["large.yaml", "--task", "task", "--margin", "-0.1"], "--margin must be from 0 to less than 1, but got -0.1"),
        (["large.yaml", "--task", "task", "--margin", "nan"], "--margin must be"),
        (["large.yaml", "--task", "task", "--max-cost-ratio", "0"], "--max-cost-ratio must be a positive number"),
        (["large.yaml", "--task", "task", "--markdown", "no/gate.md"], "no/gate.md: cannot be written: no such file"),
        (["large.yaml", "--task", "task", "--markdown", "task"], "task: a file is written, but this is a folder"),
        (["large.yaml", "--task", "task", "--markdown", "small.yaml/x.md"], "x.md: cannot be written: not a directory"),
        (["large.yaml", "--task", "task", "--markdown", "/proc/x.md"], "/proc/x.md: cannot be written: "),
        (
            ["large.yaml", "--task", "task", "--markdown", "/dev/null"],
            "this is a device or a pipe",
        ),
        (["large.yaml", "--task", "task", "--split", "train"], "a train split is needed"),
    ],
)
def test_wrong_input_is_one_message(agentopt: Command, place: Path, arguments: list[str], message: str) -> None:
    models = {name: {"base_url": "http://127.0.0.1:9/v1"} for name in ("small", "large")}
    (place / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    code, out, err = agentopt("gate", *arguments, *SETTINGS)
    assert (code, out) == (2, "")
    assert message in err
    assert "remedy: " in err


@pytest.mark.parametrize("summary", ["no/summary.md", "task", "small.yaml/summary.md"])
def test_a_summary_of_the_job_that_cannot_be_written_is_a_note(
    agentopt: Command, place: Path, monkeypatch: pytest.MonkeyPatch, summary: str
) -> None:
    models = {name: {"base_url": "http://127.0.0.1:9/v1"} for name in ("small", "large")}
    (place / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    monkeypatch.setenv(SUMMARY, summary)
    code, out, err = agentopt("gate", "small.yaml", "--task", "task", "--markdown", "gate.md", *SETTINGS)
    assert (code, out.partition(":")[0]) == (0, "non-inferior")
    assert err.startswith(f"{SUMMARY}: the summary cannot be written: ")
    assert (place / "gate.md").is_file()


@pytest.mark.parametrize("out", ["task", "small.yaml/x", "/proc/x", "/dev/null"])
@pytest.mark.parametrize(
    "command",
    [
        ("record", "task", *SETTINGS, "--out"),
        ("export", "small.yaml", "--task", "task", "--force", "--to", "yaml", *SETTINGS, "--out"),
        ("models", "add", "openai/gpt-5-mini", "--file"),
    ],
)
def test_an_output_file_that_cannot_be_written_is_refused_before_a_call(
    agentopt: Command, place: Path, server: ServerProcess, command: tuple[str, ...], out: str
) -> None:
    before = sorted(place.rglob("*"))
    code, printed, err = agentopt(*command, out)
    assert (code, printed) == (2, "")
    assert err.startswith(f"agentopt: {out}: ")
    assert "remedy: name a file in " in err
    assert sorted(place.rglob("*")) == before, "and so no call was received"


def options_of_gate() -> set[str]:
    command = get_command(cli.app).commands["gate"]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in parameter.opts}


def test_the_margin_of_the_command_is_that_of_the_gate() -> None:
    command = get_command(cli.app).commands["gate"]  # type: ignore[attr-defined]
    assert next(p.default for p in command.params if p.name == "margin") == MARGIN


@pytest.mark.parametrize("file", ["github-actions.yaml", "gitlab-ci.yaml"])
def test_the_jobs_for_ci_are_yaml_and_use_options_that_exist(file: str) -> None:
    loaded = yaml.safe_load((ROOT / "configs" / "ci" / file).read_text())
    steps = loaded["jobs"]["gate"]["steps"] if "jobs" in loaded else loaded["prompt-gate"]["script"]
    lines = [step if isinstance(step, str) else step.get("run", "") for step in steps]
    (gate,) = [line for line in lines if line.startswith("agentopt ")]
    used = re.findall(r"(?<!\S)--?[a-z][\w-]*", gate)
    assert {"--against", "--task", "--margin"} <= set(used) <= options_of_gate()


def test_the_page_names_options_that_exist() -> None:
    page = (ROOT / "docs" / "gate.md").read_text()
    assert set(re.findall(r"`(--[a-z-]+)", page)) | {"--task"} <= options_of_gate()
    for file in re.findall(r"\]\(\.\./(configs/ci/[\w.-]+)\)", page):
        assert (ROOT / file).is_file()
