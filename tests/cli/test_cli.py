"""The command line: output, exit codes and the files it leaves."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, get_args

import pytest
import yaml
from filelock import FileLock

from agentopt import __version__
from agentopt.cli.commands.export import FORMATS
from agentopt.cli.help_pages import MainGroup
from agentopt.core.message_text import in_words
from agentopt.core.records import Split
from agentopt.testing.server_process import ServerProcess
from agentopt.testing.zoo import running_zoo

EXAMPLES = 12
MODELS = {"small": 3e9, "large": 7e9}
QUALITY = {"small": 0.3, "large": 0.9}
Edit = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of one command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """A folder with a task, a catalogue, runs and a journal; commands are run in it."""

    folder: Path

    @property
    def task(self) -> Path:
        return self.folder / "task"

    @property
    def runs(self) -> list[Path]:
        return sorted((self.folder / "runs").glob("*"))

    @property
    def journal(self) -> Path:
        return self.folder / "journal.db"

    @property
    def settings(self) -> list[str]:
        """`-c` options that keep all files in the folder and disable the agent, so that runs are short."""
        inside = [f"journal={self.journal}", f"runs={self.folder / 'runs'}", f"models=[{self.folder / 'models.yaml'}]"]
        return [part for setting in (*inside, "strategy=random") for part in ("-c", setting)]

    def write_catalog(self, base_url: str, **options: Any) -> None:
        entries = {
            name: {
                "base_url": base_url,
                "supports": {"seed": True},
                "parameters": size,
                "max_choices": 4,
                "usd_per_1m_prompt": 1.0,
                **options,
            }
            for name, size in MODELS.items()
        }
        (self.folder / "models.yaml").write_text(yaml.safe_dump({"models": entries}))

    def edit_task(self, edit: Edit) -> None:
        file = self.task / "task.yaml"
        spec = yaml.safe_load(file.read_text())
        edit(spec)
        file.write_text(yaml.safe_dump(spec, sort_keys=False))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "agentopt", *arguments]

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "AGENTOPT_CACHE": str(self.folder / "cache"), "AGENTOPT_CONFIG": str(self.folder)}


def spec_of_task() -> dict[str, Any]:
    shared = {"models": ["small", "large"], "max_tokens": 8, "num_samples": [1, 2, 3]}
    lengths = {"tokens": {"prompt": 128, "completion": 64}}
    return {
        "name": "planted",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [
            {"name": "find", "prompt": "the key of {{ inputs.word }} is [[{{ inputs.word }}]]", **shared, **lengths},
            {"name": "answer", "prompt": "behind {{ find.output }}: [[{{ find.output }}]]", **shared, **lengths},
        ],
        "scorer": {"kind": "exact_match"},
        "cost": {"max_units": 60},
    }


def rows(split: str, count: int = EXAMPLES) -> str:
    lines = ({"id": f"{split}{i}", "word": f"{split}-{i}", "target": f"{split}-{i}"} for i in range(count))
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A task whose models have an address that refuses connections."""
    place = Place(tmp_path)
    place.task.mkdir()
    (place.task / "task.yaml").write_text(yaml.safe_dump(spec_of_task(), sort_keys=False))
    for split in ("validation", "test"):
        (place.task / f"{split}.jsonl").write_text(rows(split))
    place.write_catalog("http://127.0.0.1:9/v1")
    for name in ("AGENTOPT_CACHE", "AGENTOPT_CONFIG"):
        monkeypatch.setenv(name, place.environ[name])
    monkeypatch.chdir(tmp_path)
    return place


@pytest.fixture
def agentopt(console_script: Callable[..., tuple[int, str, str]]) -> Callable[..., CommandResult]:
    """Calls the console script in this process."""
    return lambda *arguments: CommandResult(*console_script(*arguments))


def assert_one_message(outcome: CommandResult, *parts: str) -> None:
    """Assert exit code 2, and one message on stderr with a remedy and all `parts` in order."""
    assert outcome.code == 2, outcome
    assert outcome.err.count("agentopt: ") == 1
    assert "Traceback" not in outcome.err
    assert re.search(".*".join(map(re.escape, parts)), outcome.err, re.S), outcome.err
    assert "remedy:" in outcome.err or "mistakes" in outcome.err
    assert outcome.out == ""


def assert_nothing_is_left(place: Place) -> None:
    assert {path.name for path in place.folder.iterdir()} <= {"task", "models.yaml", "nothing"}


def test_the_version_is_printed(agentopt: Callable[..., CommandResult], place: Place) -> None:
    outcome = agentopt("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"agentopt {__version__}\n", "")
    assert_nothing_is_left(place)


def test_without_a_command_the_next_step_is_shown(agentopt: Callable[..., CommandResult], place: Place) -> None:
    outcome = agentopt()
    assert (outcome.code, outcome.err) == (0, "")
    assert "agentopt optimize task --dry-run\n`agentopt --help` lists all commands" in outcome.out
    assert_nothing_is_left(place)


def test_help_names_every_command(place: Place) -> None:
    done = subprocess.run(place.command("--help"), env=place.environ, capture_output=True, text=True, check=True)
    for name in ("optimize", "evaluate", "models", "runs"):
        assert name in done.stdout
    assert done.stderr == ""
    assert_nothing_is_left(place)


@pytest.mark.parametrize("columns", ["60", "80"])
def test_help_lists_commands_in_the_order_of_use_and_cuts_no_line(place: Place, columns: str) -> None:
    environ = {**place.environ, "COLUMNS": columns}
    for group in ([], ["journal"], ["jobs"]):
        done = subprocess.run(place.command(*group, "--help"), env=environ, capture_output=True, text=True, check=True)
        assert "..." not in done.stdout.replace("[ARGS]...", "")
        assert max(map(len, done.stdout.splitlines())) <= int(columns)
        if not group:
            lines = done.stdout.splitlines()
            headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
            assert headings == ["Options:", "Start:", "Search:", "Inspect:", "Deploy:", "Maintain:"]
            commands = re.findall(r"^  ([a-z]+) {2,}\S", done.stdout, re.MULTILINE)
            assert commands == [name for names in MainGroup.sections.values() for name in names]


@pytest.mark.parametrize(
    "arguments", [["--nope"], ["optimize", "task", "--nope"], ["optimise"], ["evaluate"], ["models", "chek"]]
)
def test_an_unknown_option_or_command_exits_with_2(
    agentopt: Callable[..., CommandResult], place: Place, arguments: list[str]
) -> None:
    outcome = agentopt(*arguments)
    assert outcome.code == 2
    assert "Usage:" in outcome.err
    assert "Traceback" not in outcome.err
    assert_nothing_is_left(place)


def subtask(spec: dict[str, Any], index: int, **changes: Any) -> None:
    spec["subtasks"][index].update(changes)


WRONG_SPECS: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "unknown key": (
        lambda spec: spec.update(scorrer="x"),
        ("task.yaml", "scorrer", "unknown key", "remedy: did you mean 'scorer'?"),
    ),
    "missing column": (
        lambda spec: spec.update(columns={"target": "answer"}),
        ("validation.jsonl:1", "must have the column 'answer'", "remedy:"),
    ),
    "cycle": (
        lambda spec: subtask(spec, 0, prompt="{{ answer.output }}"),
        ("task.yaml", "subtasks", "circle", "find -> answer -> find", "remedy:"),
    ),
    "unknown model": (
        lambda spec: subtask(spec, 1, models=["smal"]),
        ("task.yaml", "subtasks.answer.models.0", "'smal'", "remedy: did you mean 'small'?"),
    ),
    "bad template": (
        lambda spec: subtask(spec, 0, prompt="{{ inputs.word"),
        ("task.yaml", "subtasks.find.prompt", "line 1 of the template is not Jinja", "remedy:"),
    ),
}


@pytest.mark.parametrize("mistake", WRONG_SPECS)
def test_a_wrong_task_file_is_one_message_with_file_key_and_remedy_and_leaves_nothing(
    agentopt: Callable[..., CommandResult], place: Place, mistake: str
) -> None:
    edit, parts = WRONG_SPECS[mistake]
    place.edit_task(edit)
    assert_one_message(agentopt("optimize", str(place.task), *place.settings), *parts)
    assert_nothing_is_left(place)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ("", ("test.jsonl", "at least one example", "the file is empty", "remedy: add rows")),
        (rows("test", 1) * 2, ("test.jsonl:2", "id", "test.jsonl:1", "remedy:")),
    ],
    ids=["empty split", "duplicate id"],
)
def test_wrong_data_is_one_message_with_file_and_remedy_and_leaves_nothing(
    agentopt: Callable[..., CommandResult], place: Place, data: str, parts: tuple[str, ...]
) -> None:
    (place.task / "test.jsonl").write_text(data)
    assert_one_message(agentopt("optimize", str(place.task), *place.settings), *parts)
    assert_nothing_is_left(place)


def test_a_wrong_task_file_ends_the_process_without_a_traceback(place: Place) -> None:
    place.edit_task(lambda spec: spec.update(scorrer="x"))
    done = subprocess.run(
        place.command("optimize", str(place.task), *place.settings), env=place.environ, capture_output=True, text=True
    )
    assert_one_message(CommandResult(done.returncode, done.stdout, done.stderr), "scorrer")


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("budgets.calls=3", ("configuration", "budgets", "unknown key", "did you mean 'budget'?")),
        ("cost.unit=3", ("-c cost.unit=3", "is a key of the task file", "did you mean task.cost.unit?")),
        ("scorer=exact_match", ("-c scorer=exact_match", "did you mean task.scorer?")),
        ("budget.call=3", ("budget.call", "unknown key", "did you mean 'calls'?")),
        ("budget.calls=many", ("budget.calls", "must be a whole number", "'many'", "remedy:")),
        ("strategy=agnt", ("strategy", "'agnt'", "did you mean 'agent'?")),
        ("=3", ("a setting is KEY=VALUE", "but got '=3'", "write it like seed=3")),
        ("search.=3", ("no part of the key is empty, but got 'search.=3'",)),
        (".seed=3", ("no part of the key is empty, but got '.seed=3'",)),
        ("seed=[1", ("-c seed=[1", "is not valid YAML", "remedy:")),
        ("nowhere.yaml", ("nowhere.yaml", "cannot be read", "remedy:")),
        ("journal=nosuch://me:secret@x", ("journal: ", "cannot be opened", "nosuch", "remedy:")),
        ("journal=task/task.yaml/x", ("journal task/task.yaml/x", "cannot be opened", "remedy:")),
        ("runs=task/task.yaml/x", ("task/task.yaml/x", "no run can be kept here: not a directory", "remedy:")),
        ("task.subtasks.fnd.prompt=x", ("there is no 'fnd' in the list `subtasks`", "did you mean 'find'?")),
    ],
)
def test_a_wrong_setting_is_one_message(
    agentopt: Callable[..., CommandResult], place: Place, setting: str, parts: tuple[str, ...]
) -> None:
    outcome = agentopt("optimize", str(place.task), *place.settings, "-c", setting)
    assert_one_message(outcome, *parts)
    assert "secret" not in outcome.err


def test_a_missing_task_is_one_message(agentopt: Callable[..., CommandResult], place: Place) -> None:
    assert_one_message(agentopt("optimize", "nowhere", *place.settings), "nowhere", "there is no task.yaml")
    for arguments in ([], ["--dry-run"]):
        assert_one_message(agentopt("optimize", *arguments, *place.settings), "a task folder must be given")
    assert_nothing_is_left(place)


def test_resuming_or_showing_a_folder_without_a_run_is_one_message(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    for folder, message in (
        ("task", "this is a task folder, not a run"),
        ("nowhere", "and no run of this name in runs"),
    ):
        assert_one_message(agentopt("optimize", "--resume", folder), folder, message)
        assert_one_message(agentopt("runs", "show", folder), folder, message)
    (place.folder / "other").mkdir()
    (place.folder / "other" / "config.yaml").write_text("learning_rate: 0.1\n")
    assert_one_message(agentopt("optimize", "--resume", "other"), "config.yaml", "learning_rate")


def test_an_unknown_model_is_reported_with_the_closest_name(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    for command in ("check", "pull"):
        assert_one_message(agentopt("models", command, "smal", *place.settings), "'smal'", "did you mean 'small'?")
    agent = [*place.settings, "-c", "strategy=agent", "-c", "agent.model=lagre"]
    assert_one_message(agentopt("optimize", str(place.task), *agent), "'lagre'", "did you mean 'large'?")
    assert_nothing_is_left(place)


def test_an_unset_key_variable_is_reported_before_anything_is_spent(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    place.write_catalog("http://127.0.0.1:9/v1", api_key_env="AGENTOPT_TEST_KEY")
    for command in (["optimize", str(place.task)], ["evaluate", str(place.task)], ["models", "check", "small"]):
        assert_one_message(agentopt(*command, *place.settings), "AGENTOPT_TEST_KEY", "export AGENTOPT_TEST_KEY=")
        assert_nothing_is_left(place)


@pytest.mark.parametrize(
    ("path", "fields", "hint"),
    [
        ("openai-plain/v1", {"api_key_env": "AGENTOPT_TEST_KEY"}, "check the API key"),
        ("openai-plain/v1", {}, "the entry sends no API key, set api_key_env"),
        ("nowhere/v1", {}, "check the model's name and its base_url"),
    ],
)
def test_a_model_that_refuses_every_call_is_reported_once_with_one_remedy(
    agentopt: Callable[..., CommandResult],
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    fields: dict[str, str],
    hint: str,
) -> None:
    monkeypatch.setenv("AGENTOPT_TEST_KEY", "wrong")
    with running_zoo() as zoo:
        place.write_catalog(f"{zoo.url}/{path}", **fields)
        optimized = agentopt("optimize", str(place.task), *place.settings)
        checked = agentopt("models", "check", "small", *place.settings)
    assert (optimized.code, checked.code) == (1, 1)
    for outcome in (optimized, checked):
        assert (outcome.out + outcome.err).count(hint) == 1
    assert optimized.err.count("remedy: ") == 1
    assert f"remedy: fix the cause, then `agentopt optimize --resume {place.runs[0]}`" in optimized.err


@pytest.mark.parametrize("is_measured", [True, False])
@pytest.mark.parametrize(("cap", "twice"), [("calls=3", 6), ("tokens=150", 300)])
def test_a_cap_below_the_baseline_has_one_remedy_the_command_with_a_larger_cap(
    agentopt: Callable[..., CommandResult], place: Place, is_measured: bool, cap: str, twice: int
) -> None:
    if is_measured:
        place.edit_task(lambda spec: [subtask.pop("tokens") for subtask in spec["subtasks"]])
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.write_catalog(server.base_url)
        outcome = agentopt("optimize", str(place.task), *place.settings, "-c", f"budget.{cap}")
    assert outcome.code == 1, outcome.err
    assert outcome.err.count("remedy: ") == 1
    command = f"remedy: `agentopt optimize --resume {place.runs[0]} -c budget.{cap.partition('=')[0]}="
    value, _, rest = outcome.err.partition(command)[2].partition("`")
    assert rest.startswith("; answers that were paid for are kept")
    assert int(value) > 10 * twice, "what the whole run is expected to take"
    assert outcome.err.count("--resume") == 1


def test_a_search_that_a_cap_ended_names_the_command_that_continues_it(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.write_catalog(server.base_url)
        first = agentopt("optimize", str(place.task), *place.settings, "-c", "budget.calls=60")
        assert first.code == 0, first.err
        (resumed,) = (line for line in first.out.splitlines() if line.startswith("Resume:  "))
        assert resumed.startswith(f"Resume:  agentopt optimize --resume {place.runs[0]} -c budget.calls=")
        again = agentopt(*shlex.split(resumed)[2:])
    assert again.code == 0, again.err
    assert "calls cap of " not in again.out


def test_a_dry_run_prints_the_worst_case_and_leaves_nothing(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    # Nothing answers at the models' address, so a call would fail; a key is not needed either.
    place.write_catalog("http://127.0.0.1:9/v1", api_key_env="AGENTOPT_TEST_KEY")
    add_train(place)
    prompts = "prompts={user_prompts: 6, repeats: 2, rounds: 1, batch_size: 1}"
    settings = [*place.settings, "-c", "budget.trials=4", "-c", prompts]
    outcome = agentopt("optimize", str(place.task), *settings, "--dry-run")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.partition("Worst case for 4 trials")[2].partition("Time: ")[0].splitlines()
    cells = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in lines if "│" in line}
    assert set(cells) == {"search", "agent", "prompts", "test", "total"}
    # Three samples fit one request, so a subtask takes one call an example: 4 trials, then at most 3 finalists. For
    # each of two subtasks two prompts meet six examples twice, and the winner the validation split: 144 calls, of which
    # the share has room for 72.
    calls = {part: int(row[0].replace(",", "")) for part, row in cells.items()}
    assert calls == {"search": 96, "agent": 0, "prompts": 72, "test": 72, "total": 240}
    note = "does not fit in prompts.share (0.3 of the run's worst case); raise it"
    assert note in " ".join(outcome.out.split())
    assert "or set budget" not in outcome.out
    assert "without early stopping and without the answers that trials share:" in outcome.out
    larger = agentopt("optimize", str(place.task), *settings, "--dry-run", "-c", "prompts.share=0.5")
    assert "System prompts use at most 144 calls (prompts.share: 0.5 of the run's worst case)." in larger.out
    assert "Warning: AGENTOPT_TEST_KEY is not set; it has the API key of small, large" in outcome.out
    assert float(cells["total"][3]) > 0, "USD"
    for column in ("prompt tokens", "completion tokens", "USD", "Time: unknown"):
        assert column in outcome.out
    assert_nothing_is_left(place)


@pytest.mark.parametrize("cap", ["budget.usd=1", "agent.max_usd=1", "prompts.max_usd=1"])
def test_a_dry_run_refuses_a_cap_in_usd_without_a_price_as_the_run_does(
    agentopt: Callable[..., CommandResult], place: Place, cap: str
) -> None:
    catalog = place.folder / "models.yaml"
    catalog.write_text(catalog.read_text().replace("usd_per_1m_prompt: 1.0", "concurrency: 4"))
    for dry in (["--dry-run"], []):
        outcome = agentopt("optimize", str(place.task), *place.settings, "-c", cap, *dry)
        assert_one_message(outcome, "a cap in USD needs the prices of all models", "small", "usd_per_1m_prompt")
    dry_run = agentopt("optimize", str(place.task), *place.settings, "--dry-run")
    assert dry_run.code == 0
    assert "0 USD" not in dry_run.out
    assert dry_run.out.count("price unknown") >= 4, "search, test and their totals in both cases"


@pytest.mark.parametrize("small", ["budget.calls=100", "budget.tokens=2000", "budget.usd=0.001"])
def test_a_dry_run_reports_which_cap_has_room_for_a_race(
    agentopt: Callable[..., CommandResult], place: Place, small: str
) -> None:
    add_train(place)
    dry = ["optimize", str(place.task), *place.settings, "-c", "budget.trials=2", "--dry-run", "-c"]
    outcome = agentopt(*dry, small)
    assert outcome.code == 0, outcome.err
    found = re.search(
        r"Optimising the system prompts may be skipped:.*or set ([a-z.]+=[0-9.]+) or\s+more", outcome.out, re.S
    )
    assert found, outcome.out
    assert found[1].partition("=")[0] == small.partition("=")[0]
    assert "System prompts use at most" in agentopt(*dry, found[1]).out


def test_the_lines_of_a_dry_run_are_of_this_run(agentopt: Callable[..., CommandResult], place: Place) -> None:
    """Its trials are the candidates that there are, and it names no cap or limit that is not set."""
    add_train(place)

    def edit(spec: dict[str, Any]) -> None:
        spec["cost"] = {"measure": "units"}
        for subtask in spec["subtasks"]:
            subtask["num_samples"] = 1
            subtask.pop("tokens")

    place.edit_task(edit)
    command = ["optimize", str(place.task), *place.settings, "-c", "budget.trials=20", "--dry-run"]
    outcome = agentopt(*command, "-c", "prompts.share=0.01")
    assert outcome.code == 0, outcome.err
    text = " ".join(outcome.out.split())
    assert "Worst case for 4 trials, before caps" in text
    assert "(0.01 of the run's worst case); raise it " in text
    assert "budget.calls" not in text
    assert "within the cost limit" not in text
    assert "Time: unknown: the journal has no call of small and large" in text
    notes = json.loads(agentopt(*command, "--json").out)["notes"]
    assert all(note[0].isupper() for note in notes), notes
    assert json.loads(agentopt(*command, "--json").out)["trials"] == 4


def test_a_setting_reaches_into_the_task_file_and_leaves_its_other_keys(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    settings = [*place.settings, "-c", "task.data.limit.validation=3", "-c", "task.subtasks.find.num_samples={max: 2}"]
    outcome = agentopt("optimize", str(place.task), *settings, "-c", "budget.trials=1", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert re.search(r"search +│ +6 │", outcome.out), "three examples, two subtasks"


def test_a_dry_run_without_token_lengths_assumes_every_sample_count_is_affordable(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    place.edit_task(lambda spec: [spec["subtasks"][0].pop("tokens"), spec.update(cost={"measure": "units"})])
    outcome = agentopt("optimize", str(place.task), *place.settings, "--dry-run", "-c", "budget.trials=4")
    assert outcome.code == 0, outcome.err
    assert re.search(r"search +│ +96 │", outcome.out)
    assert "Token lengths are measured" in outcome.out
    assert_nothing_is_left(place)


def too_large_a_unit(spec: dict[str, Any]) -> None:
    spec["cost"] = {"measure": "units", "unit": {"parameters": 1e12, "prompt_tokens": 4000, "completion_tokens": 2}}


def test_a_cost_unit_that_makes_passes_free_is_refused_before_anything_is_sent(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    place.edit_task(too_large_a_unit)
    for dry in (["--dry-run"], []):
        outcome = agentopt("optimize", str(place.task), *place.settings, *dry)
        assert_one_message(outcome, "a pass must cost", "units", "cost.unit")
    assert place.runs == []


def test_a_cost_unit_that_is_too_large_for_measured_passes_is_replaced_with_a_note(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    def edit(spec: dict[str, Any]) -> None:
        too_large_a_unit(spec)
        for each in spec["subtasks"]:
            each.pop("tokens")

    place.edit_task(edit)
    dry = agentopt("optimize", str(place.task), *place.settings, "--dry-run")
    assert dry.code == 0
    note = "the task's unit is too large: a pass of the smallest model would cost 0 units or less"
    assert f"By the expected token lengths, {note}" in " ".join(dry.out.split())
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.write_catalog(server.base_url)
        outcome = agentopt("optimize", str(place.task), *place.settings, "--json")
        assert outcome.code == 0, outcome.err
        again = agentopt("optimize", "--resume", str(place.runs[0]), "--json")
    found = json.loads(outcome.out)
    assert sum(note in each for each in found["notes"]) == 1
    assert min(trial["units"] for trial in found["trials"]) >= 1
    assert all(part["units"] >= 1 for finalist in found["finalists"] for part in finalist["cost"].values())
    assert [t["units"] for t in json.loads(again.out)["trials"]] == [t["units"] for t in found["trials"]]
    archived = agentopt("whatif", str(place.runs[0]), "--json")
    assert archived.code == 0, archived.err
    assert json.loads(archived.out)["before"]["cost"] >= 1


def test_the_models_are_listed_with_how_they_are_reached(agentopt: Callable[..., CommandResult], place: Place) -> None:
    place.write_catalog("http://127.0.0.1:9/v1", requests_per_minute=600)
    outcome = agentopt("models", "list", *place.settings)
    assert outcome.code == 0
    (line,) = [line for line in outcome.out.splitlines() if re.search(r"│ large\b", line)]
    for cell in ("http://127.0.0.1:9/v1", "7B", "1 + 0", "600"):
        assert cell in line
    assert "smollm2-135m" in outcome.out, "the built-in models are there too"
    assert_nothing_is_left(place)


def test_pulling_a_hosted_model_reports_nothing_to_fetch(agentopt: Callable[..., CommandResult], place: Place) -> None:
    outcome = agentopt("models", "pull", "small", *place.settings)
    assert (outcome.code, "nothing to fetch" in outcome.out) == (0, True)


@pytest.fixture
def file_url() -> Iterator[str]:
    """The address of a file of 1,000 bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"w" * 1000)

        def log_message(self, *_: object) -> None:
            """Tests need no access log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/tiny.gguf"
        server.shutdown()


def test_pulling_a_local_model_downloads_verifies_and_prints_its_path(
    agentopt: Callable[..., CommandResult], place: Place, file_url: str
) -> None:
    weights = {"file": "tiny.gguf", "url": file_url, "size": 1000, "sha256": sha256(b"w" * 1000).hexdigest()}
    entries = {"tiny": {"weights": weights}, "forged": {"weights": {**weights, "sha256": "0" * 64, "file": "f.gguf"}}}
    (place.folder / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
    outcome = agentopt("models", "pull", "tiny", *place.settings)
    assert outcome.code == 0, outcome.err
    path = Path(outcome.out.splitlines()[-1].removeprefix("tiny: "))
    assert path.is_relative_to(place.folder / "cache")
    assert path.read_bytes() == b"w" * 1000
    assert "tiny.gguf from" in outcome.out

    forged = agentopt("models", "pull", "forged", *place.settings)
    assert forged.code == 1
    assert "0" * 64 in forged.err
    assert "Traceback" not in forged.err


def test_checking_a_model_makes_calls_each_time_and_prints_answer_latency_cost_and_abilities(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    with ServerProcess(counter=place.folder / "received.jsonl", delay=0.1) as server:
        place.write_catalog(server.base_url)
        for _ in range(2):
            outcome = agentopt("models", "check", "small", *place.settings)
            assert outcome.code == 0, outcome.err
            assert re.search(r"small \(http://127.0.0.1:\d+/v1\) answered 'answer-\d'", outcome.out)
            latency = re.search(r"in (\d+\.\d\d) s, 10 \+ 1 tokens, 0\.00001 USD", outcome.out)
            assert latency, "one token has no pace"
            assert float(latency[1]) >= 0.1
            assert "accepted: temperature, top_p, stop, system_role, tools\n" in outcome.out
            declared = "not tried, known from the entry or the bundled table: seed, no json_schema\n"
            assert outcome.out.endswith(f"{declared}6 calls in all, 0.000062 USD\n")
        # The seed is declared by the entry, and the schema is off: one call for the answer, five for the abilities.
        assert len(server.received()) == 12


def test_a_model_is_added_by_name_and_found_in_the_bundled_table(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    added = agentopt("models", "add", "openai/gpt-5-mini", "--as", "mini", "--file", str(place.folder / "models.yaml"))
    assert added.code == 0, added.err
    assert "usd_per_1m_prompt: 0.25" in added.out
    assert "the API key is read from $OPENAI_API_KEY" in added.out
    assert "no API key is sent" not in added.out
    for name, options in (("a", ["gemini/gemini-2.5-flash"]), ("b", ["openai/gpt-5-mini"]), ("c", ["own/model"])):
        file = ["--as", name, "--file", str(place.folder / "models.yaml"), "--base-url", "http://127.0.0.1:1/v1"]
        unset = agentopt("models", "add", *options, *file).out
        assert "no API key is sent to this address; if it needs one, repeat the command with --replace" in unset
        variable = {"a": "GEMINI_API_KEY", "b": "OPENAI_API_KEY", "c": "VARIABLE"}[name]
        assert f"--replace --api-key-env {variable}, or the variable that has the key" in unset
        replaced = agentopt("models", "add", *options, *file, "--replace", "--api-key-env", variable).out
        assert f"read from ${variable}" in replaced
        assert (
            "read from $MY_KEY"
            in agentopt("models", "add", *options, *file, "--as", f"{name}2", "--api-key-env", "MY_KEY").out
        )
    listed = agentopt("models", "list", *place.settings)
    assert "mini" in listed.out
    found = agentopt("models", "search", "claude-haiku-4-5")
    assert "anthropic/claude-haiku-4-5" in found.out
    drowned = agentopt("models", "search", "mini").out
    assert "gpt-5-mini" in drowned
    assert "minimax" not in drowned.lower()
    assert " more names have 'mini' within a longer word, such as gemini/" in drowned
    assert "gemini-2.5-flash" in agentopt("models", "search", "gemi").out
    assert agentopt("models", "search", "no-such-model-anywhere").code == 1
    misspelled = agentopt("models", "add", "openai/gpt-5-mni", "--file", str(place.folder / "models.yaml"))
    assert (misspelled.code, misspelled.err) == (0, "")
    shown = " ".join(misspelled.out.split())
    assert "did you mean openai/gpt-5-mini? Its price and abilities are known: add it instead, and delete the" in shown
    for word, meant in (("gpt-5-mni", "openai/gpt-5-mini"), ("Claude-Hiaku-4-5", "anthropic/claude-haiku-4-5")):
        found = agentopt("models", "search", word)
        assert found.code == 1
        assert f"has {word!r} in its name; did you mean {meant}" in f"{found.out}{found.err}"
    unknown = agentopt("models", "add", "gpt-99-mini", "--file", str(place.folder / "models.yaml"))
    assert unknown.code == 2
    assert "no provider is known" in unknown.err


def test_the_journal_is_shown_pruned_exported_and_forgotten(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    assert agentopt("journal", "size", *place.settings).code == 2, "there is none yet"
    with ServerProcess(counter=place.folder / "received.jsonl") as server:
        place.write_catalog(server.base_url)
        for name in ("small", "large"):
            assert agentopt("models", "check", name, *place.settings).code == 0
    assert agentopt("journal", "size", *place.settings).out.startswith("12 responses to 12 requests, ")
    assert re.search(r"small +│ 6 ", agentopt("journal", "list", *place.settings).out)
    lines = agentopt("journal", "export", *place.settings).out.splitlines()
    assert len([json.loads(line) for line in lines]) == 12
    (place.folder / "out.jsonl").write_text("of before")
    out = ("journal", "export", "--out", str(place.folder / "out.jsonl"), *place.settings)
    assert agentopt(*out).out == f"12 responses in {place.folder / 'out.jsonl'}\n"
    assert (place.folder / "out.jsonl").read_text().splitlines() == lines
    assert_one_message(agentopt(*out[:3], str(place.folder / "no" / "out.jsonl"), *place.settings), "no/out.jsonl: ")
    identity = json.loads(lines[0])["identity"]
    place.write_catalog("http://127.0.0.1:9/v1")  # the entries are others now
    assert identity in " ".join(agentopt("journal", "list", *place.settings).out.split())
    assert agentopt("journal", "forget", "--model", "small", *place.settings).out == "removed 0 responses\n"
    assert "removed 6 responses" in agentopt("journal", "forget", "--model", identity, *place.settings).out
    assert "removed 6 responses" in agentopt("journal", "forget", "--run", "check large", *place.settings).out
    assert "removed 0 responses" in agentopt("journal", "prune", "--older-than", "1h", *place.settings).out
    assert agentopt("journal", "prune", "--older-than", "old", *place.settings).code == 2
    assert agentopt("journal", "forget", *place.settings).code == 2
    unknown = agentopt("journal", "forget", "--run", "nope", *place.settings)
    assert (unknown.code, "the journal has no run 'nope'" in unknown.err) == (2, True)


def test_checking_an_unreachable_model_exits_with_1_and_the_reason(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    place.write_catalog("http://127.0.0.1:9/v1", max_attempts=1)
    outcome = agentopt("models", "check", "small", *place.settings)
    assert outcome.code == 1
    assert "no connection" in outcome.err
    assert outcome.err.endswith("\n  remedy: try again later; if the address or the network is wrong, correct it\n")
    assert "Traceback" not in outcome.err


def test_a_run_can_be_listed_shown_evaluated_and_run_again_for_nothing(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    optimize = ["optimize", str(place.task), *place.settings, "-c", "budget.trials=3"]
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.write_catalog(server.base_url)
        made = agentopt(*optimize)
        assert made.code == 0, made.err
        assert "Verdict on the test split" in made.out
        assert made.err.count("trial_done") == 0, "events are printed as sentences"
        assert len(re.findall(r"^trial \d: ", made.err, re.M)) == 3
        paid = len(server.received())
        (run,) = place.runs

        listed = agentopt("runs", "list", *place.settings)
        assert re.search(rf"{run.name[:8]}.*finished", listed.out.replace("\n", " "))
        shown = agentopt("runs", "show", str(run))
        page = f"Report:  {run / 'report.html'}\n"
        assert shown.out + page == made.out, "the result alone is on stdout, and the page's path"
        assert agentopt("runs", "show", run.name, *place.settings).out == shown.out, "a run's name is enough"
        assert "Spent by purpose" in agentopt("runs", "show", run.name).out, "the runs folder is runs/ by default"
        exported = agentopt("export", run.name, "--to", "yaml")
        assert exported.out == agentopt("export", str(run), "--to", "yaml").out
        assert "find:" in exported.out
        assert "\x1b" not in made.out + made.err, "control characters are for terminals"
        assert "Spent by purpose" in shown.out

        evaluated = agentopt("evaluate", str(place.task), "--candidate", str(run / "best.yaml"), *place.settings)
        best = json.loads((run / "result.json").read_text())["finalists"][-1]
        assert evaluated.code == 0, evaluated.err
        assert f"n={EXAMPLES} of {EXAMPLES}" in evaluated.out
        assert best["test"]["n"] == EXAMPLES

        resumed = agentopt("optimize", "--resume", run.name, *place.settings)
        assert resumed.code == 0, resumed.err
        assert "Verdict on the test split" in resumed.out

        again = agentopt(*optimize)
        assert again.code == 0
        assert len(place.runs) == 2
        assert len(server.received()) == paid, "the journal was used"

    stored = re.match(r"([\d,]+) responses", agentopt("journal", "size", *place.settings).out)
    assert stored
    for given, removed in ((str(run), stored[1]), (run.name, "0")):
        assert agentopt("journal", "forget", "--run", given, *place.settings).out == f"removed {removed} responses\n"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_an_evaluation_that_a_cap_or_a_signal_ends_prints_what_it_spent(
    agentopt: Callable[..., CommandResult],
    place: Place,
    ctrl_c: Callable[[bool], object],
    stop: signal.Signals,
    as_json: list[str],
) -> None:
    ctrl_c(True)
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY, delay=0.2) as server:
        place.write_catalog(server.base_url)
        evaluate = ["evaluate", str(place.task), *place.settings]
        capped = agentopt(*evaluate, "-c", "budget.calls=3")
        assert (capped.code, capped.out) == (1, "")
        assert f"spent: {len(server.received())} calls, " in capped.err
        assert "budget.calls" in capped.err

        process = subprocess.Popen(
            place.command(*evaluate, *as_json),
            env=place.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        await_requests(server, 4)
        process.send_signal(stop)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (128 + stop, "")
        assert f"spent: {len(server.received()) - 3} calls, " in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    "command",
    [["optimize", "TASK"], ["evaluate", "TASK"], ["record", "TASK", "--out", "recorded.npz"]],
    ids=lambda command: command[0],
)
def test_an_interrupted_command_reports_what_it_waits_for_and_ends_at_the_second_ctrl_c(
    agentopt: Callable[..., CommandResult], place: Place, ctrl_c: Callable[[bool], object], command: list[str]
) -> None:
    ctrl_c(True)
    arguments = [str(place.task) if word == "TASK" else word for word in command]
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY, delay=3600) as server:
        place.write_catalog(server.base_url)
        process = subprocess.Popen(
            place.command(*arguments, *place.settings), env=place.environ, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        await_requests(server, 2)
        process.send_signal(signal.SIGINT)
        lines = iter(process.stderr.readline, "")
        found = next((line for line in lines if line.startswith("stopping")), "")
        assert re.fullmatch(r"stopping: waiting for \d+ calls in flight; press Ctrl-C again to end now\n", found)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in err
    shown = agentopt("journal", "size", *place.settings)
    assert shown.code == 0, shown.err


def test_evaluating_a_wrong_candidate_or_split_is_one_message(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    file = place.folder / "nothing"
    evaluate = ["evaluate", str(place.task), *place.settings]
    assert_one_message(
        agentopt(*evaluate, "--candidate", "gone.yaml"),
        "gone.yaml",
        "there is no such file or folder, and no run of this name",
    )
    file.write_text("find: small\n")
    assert_one_message(agentopt(*evaluate, "--candidate", str(file)), "nothing", "maps each subtask to model")
    file.write_text("find: {model: small}\n")
    assert_one_message(agentopt(*evaluate, "--candidate", str(file)), "names every subtask", "find, answer")
    assert_nothing_is_left(place)


@pytest.mark.parametrize(
    ("arguments", "value", "choices"),
    [
        (["evaluate", "task", "--split", "tets"], "tets", get_args(Split)),
        (["export", "best.yaml", "--to", "pyton"], "pyton", FORMATS),
        (["jobs", "export", "nightly", "--to", "corn"], "corn", ("systemd", "cron", "kubernetes")),
        (["init", "task", "--template", "rga"], "rga", ("qa", "classify-then-write", "rag", "program")),
    ],
)
def test_an_invalid_choice_is_refused_with_the_valid_ones(
    agentopt: Callable[..., CommandResult], place: Place, arguments: list[str], value: str, choices: Iterable[str]
) -> None:
    outcome = agentopt(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    name = next(word for word in arguments if word.startswith("--"))
    assert outcome.err.startswith(
        f"agentopt: {name}: must be one of {in_words(choices)}, but got '{value}'\n  remedy: "
    )
    assert "did you mean" in outcome.err
    assert_nothing_is_left(place)


@pytest.mark.parametrize("limit", ["max_usd_per_1000=0.000001", "max_usd=0.000000001"])
def test_a_dry_run_warns_first_of_a_limit_that_no_candidate_meets(
    agentopt: Callable[..., CommandResult], place: Place, limit: str
) -> None:
    place.write_catalog("http://127.0.0.1:9/v1")
    outcome = agentopt("optimize", str(place.task), *place.settings, "--dry-run", "-c", f"task.cost.{limit}")
    assert outcome.code == 0, outcome.err
    notes = outcome.out.partition("  total: ")[2].splitlines()[1:]
    (warning,) = (note for note in notes if "is within cost.max_usd_per_1000=0.000001" in note)
    assert warning.startswith("Warning: none of the ")
    assert warning.endswith("; raise the limit, or add a cheaper model to a subtask")
    marked = [note.startswith("Warning: ") for note in notes]
    assert marked == sorted(marked, reverse=True)
    assert not all(marked)


def test_a_dry_run_takes_token_lengths_from_the_journal(agentopt: Callable[..., CommandResult], place: Place) -> None:
    def edit(spec: dict[str, Any]) -> None:
        for subtask in spec["subtasks"]:
            subtask.pop("tokens")
            subtask["max_tokens"] = 400
        spec["cost"] = {"max_usd_per_1000": 2, "measure": "usd"}

    place.edit_task(edit)
    dry = ["optimize", str(place.task), *place.settings, "--dry-run", "--json"]
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.write_catalog(server.base_url, usd_per_1m_completion=100)
        before = json.loads(agentopt(*dry).out)
        (place.folder / "baseline.yaml").write_text("find: {model: small}\nanswer: {model: small}\n")
        evaluated = ["--candidate", str(place.folder / "baseline.yaml"), "--split", "validation"]
        outcome = agentopt("evaluate", str(place.task), *evaluated, *place.settings)
        assert outcome.code == 0, outcome.err
        after = json.loads(agentopt(*dry).out)
    (warning,) = (note for note in before["notes"] if "is within cost.max_usd_per_1000=2" in note)
    assert warning.startswith("Warning: if responses have half of max_tokens, none of the ")
    assert warning.endswith("; the lengths are not known before the baseline is measured")
    assert not any("is within" in note for note in after["notes"])
    assert not any("In the journal already" in note for note in before["notes"])
    (known,) = (note for note in after["notes"] if note.startswith("In the journal already: "))
    assert int(re.findall(r"already: (\d+) of \d+ answers of ", known)[0]) > 0
    assert after["parts"]["search"]["expected"]["usd"] < before["parts"]["search"]["expected"]["usd"] / 10
    assert after["parts"]["search"]["worst"] == before["parts"]["search"]["worst"]


@pytest.mark.parametrize("cap", ["usd=0.000001", "usd=0", "tokens=1", "calls=0"])
def test_a_cap_below_the_first_call_is_refused_and_leaves_no_run(
    agentopt: Callable[..., CommandResult], place: Place, cap: str
) -> None:
    place.write_catalog("http://127.0.0.1:9/v1")
    outcome = agentopt("optimize", str(place.task), *place.settings, "-c", f"budget.{cap}")
    name = cap.partition("=")[0]
    assert outcome.code == 2, outcome.err
    assert f"agentopt: budget.{name}: the {name} cap of {cap.partition('=')[2]} is too low: the first " in outcome.err
    assert re.search(
        rf"remedy: raise budget\.{name} to [\d.]+, with which the run is expected to finish\n", outcome.err
    )
    assert not any(word in outcome.err for word in ("reached", "paid", "Traceback"))
    assert not (place.folder / "runs").exists()
    folder = re.findall(r"^run (\S+)$", outcome.err, re.MULTILINE)
    assert [f"removed {name}, which has no trial" for name in folder] == re.findall(
        r"^removed .*", outcome.err, re.MULTILINE
    )


def test_an_empty_runs_folder_is_reported(agentopt: Callable[..., CommandResult], place: Place) -> None:
    assert "no runs in" in agentopt("runs", "list", *place.settings).out


def requested(server: ServerProcess) -> Counter[tuple[str, int]]:
    """How often each choice was requested."""
    return Counter((line["key"], line["seed"] + i) for line in server.received() for i in range(line["n"]))


def await_requests(server: ServerProcess, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(server.received()) < count:
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.02)


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[bool], object]]:
    """Enables or disables SIGINT for child processes, whatever the tests were started with."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda on: signal.signal(signal.SIGINT, signal.default_int_handler if on else signal.SIG_IGN)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("stop", "in_foreground"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)]
)
def test_a_stopped_run_keeps_the_calls_in_flight_and_prints_how_to_resume(
    agentopt: Callable[..., CommandResult],
    place: Place,
    stop: signal.Signals,
    in_foreground: bool,
    ctrl_c: Callable[[bool], object],
) -> None:
    ctrl_c(in_foreground)  # a shell disables it for background processes of a script
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY, delay=0.2) as server:
        place.write_catalog(server.base_url)
        command = place.command("optimize", str(place.task), *place.settings, "-c", "budget.trials=2")
        process = subprocess.Popen(
            command, env=place.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        await_requests(server, EXAMPLES + 1)
        process.send_signal(stop)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 128 + stop, err
        assert out == ""
        (run,) = place.runs
        assert f"agentopt optimize --resume {run}\n" in err
        assert "Traceback" not in err

        listed = agentopt("runs", "list", *place.settings)
        assert "stopped" in listed.out
        resumed = agentopt("optimize", "--resume", str(run))
        assert resumed.code == 0, resumed.err
        assert "Verdict on the test split" in resumed.out
        assert max(requested(server).values()) == 1, "calls in flight at the stop were kept"


def test_a_run_whose_task_was_moved_is_resumed_with_its_new_folder(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    moved = place.folder / "moved here"
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.write_catalog(server.base_url)
        assert agentopt("optimize", str(place.task), *place.settings, "-c", "budget.trials=1").code == 0
        (run,) = place.runs
        place.task.rename(moved)
        remedy = f"agentopt optimize TASK --resume {run}, with its folder as TASK"
        for resume in (str(run), run.name):
            assert_one_message(
                agentopt("optimize", "--resume", resume, *place.settings), f"no longer at {place.task}", remedy
            )
        assert agentopt("optimize", str(moved), "--resume", str(run)).code == 0
        again = agentopt("optimize", "--resume", str(run))
        assert again.code == 0, again.err


def test_a_run_in_use_by_another_process_is_refused(agentopt: Callable[..., CommandResult], place: Place) -> None:
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.write_catalog(server.base_url)
        assert agentopt("optimize", str(place.task), *place.settings, "-c", "budget.trials=1").code == 0
        (run,) = place.runs
        paid = len(server.received())
        with FileLock(run / ".lock"):
            done = subprocess.run(
                place.command("optimize", "--resume", str(run)), env=place.environ, capture_output=True, text=True
            )
        assert_one_message(CommandResult(done.returncode, done.stdout, done.stderr), str(run), "another process works")
        assert len(server.received()) == paid


# ---- diagnose


def add_train(place: Place) -> None:
    (place.task / "train.jsonl").write_text(rows("train", 6))
    place.edit_task(lambda spec: spec["data"].update(train="train.jsonl"))


def test_a_diagnosis_prints_verdict_parts_heat_map_and_user_prompts(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    add_train(place)
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.write_catalog(server.base_url)
        dry = agentopt("diagnose", str(place.task), "--dry-run", "--json", *place.settings)
        assert_nothing_is_left(place)
        assert server.received() == []
        shown = agentopt("diagnose", str(place.task), "--subtask", "find", *place.settings, "-c", "prompts.k_top=2")
        calls = len(server.received())
        printed = agentopt(
            "diagnose", str(place.task), "--subtask", "find", "--json", *place.settings, "-c", "prompts.k_top=2"
        )
        assert len(server.received()) == calls  # the journal answers the second time
    assert shown.code == 0
    (found,) = json.loads(printed.out)
    parts = json.loads(dry.out)
    assert list(parts) == [
        *(f"{subtask}: {part}" for subtask in ("find", "answer") for part in ("responses", "prompt writer")),
        "total",
    ]
    most = [parts[f"find: {part}"] for part in ("responses", "prompt writer")]
    for name, used in found["usage"].items():
        assert 0 <= used <= sum(part[name] for part in most)
    assert most[0]["calls"] == 6 * 6 * 4 * 2, "variants x examples x repeats x subtasks of the workflow"
    assert f"planted, find: {found['verdict']}" in shown.out
    assert "system prompts x user prompts" in shown.out
    assert "noise at 6 user prompts x 4 responses" in shown.out
    for position in found["subset"]:
        text = f"the key of train-{found['examples'][position][5:]} is"
        assert found["user_prompts"][position].startswith(text)
        assert text in shown.out


def test_a_dry_run_of_a_diagnosis_prints_its_worst_case_and_the_settings_that_bound_it(
    agentopt: Callable[..., CommandResult], place: Place
) -> None:
    add_train(place)
    settings = [*place.settings, "-c", "prompts.repeats=3", "-c", "prompts.variants=2"]
    shown = agentopt("diagnose", str(place.task), "--dry-run", *settings)
    assert shown.code == 0
    assert "Worst case of the pilot, before caps; no model was called" in shown.out
    assert re.search(r"answer: responses\D+72 ", shown.out)
    assert re.search(r"total\D+\d+ ", shown.out)
    for setting in ("prompts.variants", "prompts.pilot_user_prompts", "prompts.repeats"):
        assert setting in shown.out
    assert_nothing_is_left(place)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ("train split of two or more examples", "data.train")),
        (["--subtask", "fnd"], ("there is no subtask 'fnd'", "did you mean 'find'?")),
        (["-c", "prompts.repeats=1"], ("prompts.repeats", "remedy:")),
        (["--dry-run", "--subtask", "fnd"], ("there is no subtask 'fnd'", "did you mean 'find'?")),
    ],
)
def test_a_wrong_diagnosis_is_one_message_and_leaves_nothing(
    agentopt: Callable[..., CommandResult], place: Place, arguments: list[str], parts: tuple[str, ...]
) -> None:
    if arguments:
        add_train(place)
    assert_one_message(agentopt("diagnose", str(place.task), *place.settings, *arguments), *parts)
    assert_nothing_is_left(place)
