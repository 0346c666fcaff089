"""`agentopt` alone, `quickstart` and `doctor`: the first commands of a newcomer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from agentopt.api import optimize
from agentopt.cli.commands.doctor import Check, engine_check, sandbox_check
from agentopt.cli.commands.init import LOCAL
from agentopt.core.extras import install_command
from agentopt.models import engine
from agentopt.models.catalog import Catalog
from agentopt.models.providers import PROVIDERS
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import BudgetConfig, Config
from agentopt.runs.folder import TRACKED, RunFolder
from agentopt.testing.toy import toy_model, toy_task
from agentopt.workflow.parsers import choice

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, without a user catalogue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AGENTOPT_CONFIG", str(tmp_path / "config"))
    return tmp_path


def test_the_next_step_depends_on_what_is_here(place: Path, console_script: Command) -> None:
    code, printed, errors = console_script()
    assert (code, errors) == (0, "")
    assert "agentopt quickstart\n  agentopt init FOLDER --from data.csv" in printed
    console_script("init", "my task")
    assert "agentopt optimize 'my task' -c 'my task/config.yaml' --dry-run" in console_script()[1]
    shutil.copytree(ROOT / "tasks" / "quickstart", place / "alone")
    shutil.rmtree(place / "my task")
    assert "  agentopt optimize alone --dry-run" in console_script()[1]


def test_a_run_that_a_process_works_on_is_shown_live_and_a_stopped_one_resumed(console_script: Command) -> None:
    run = RunFolder.create(toy_task(), Config(runs=Path("runs")))
    with run.locked():
        assert f"is running.\n  agentopt report {run.path.name} --live" in console_script()[1]
    assert f"was stopped.\n  agentopt optimize --resume {run.path.name}\n" in console_script()[1]
    (run.path / f"mlflow{TRACKED}").touch()
    assert f"was stopped.\n  agentopt optimize --resume {run.path.name} --track mlflow\n" in console_script()[1]


def test_a_run_that_a_cap_ended_before_a_candidate_is_resumed_and_a_finished_one_gated(console_script: Command) -> None:
    config = Config.model_validate({"runs": "runs", "journal": "j.db", "strategy": "random", "budget": {"trials": 2}})
    capped = config.model_copy(update={"budget": BudgetConfig(trials=2, calls=48)})
    stopped = optimize(toy_task(num_samples=(1,)), capped, provider=toy_model())
    assert stopped.unsearched
    name = Path(stopped.run).name
    assert f"The run {name} {stopped.unsearched}.\n  agentopt optimize --resume {name}" in console_script()[1]
    finished = Path(optimize(toy_task(), config, provider=toy_model()).run).name
    printed = console_script()[1]
    assert f"The last run here is {finished}.\n  agentopt runs show {finished}\n  agentopt gate {finished}" in printed


def test_a_run_of_which_no_response_could_be_parsed_is_inspected(console_script: Command) -> None:
    config = Config.model_validate({"runs": "runs", "journal": "j.db", "strategy": "random", "budget": {"trials": 2}})
    task = toy_task()
    task = replace(task, subtasks=(replace(task["find"], parse=choice(["Raven", "Lion"])), task["answer"]))
    name = Path(optimize(task, config, provider=ScriptedModel(lambda request, repeat: "key-3")).run).name
    assert f"here is {name}: no response of find could be parsed.\n  agentopt inspect {name}" in console_script()[1]


def test_the_quickstart_estimates_what_the_first_block_of_the_readme_runs(place: Path, console_script: Command) -> None:
    code, printed, errors = console_script("quickstart", "--dry-run")
    assert (code, errors) == (0, "")
    files = [str(ROOT / "tasks" / "quickstart"), "-c", str(ROOT / "configs" / "quickstart.yaml")]
    assert printed == console_script("optimize", *files, "--dry-run")[1]
    assert sorted(path.name for path in place.iterdir()) == []


def test_the_quickstart_without_its_engine_downloads_nothing(
    place: Path, console_script: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "is_installed", lambda: False)
    code, printed, errors = console_script("quickstart")
    assert (code, printed) == (2, "")
    assert f"needs the embedded engine, which is not installed\n  remedy: {install_command('local')}\n" in errors
    assert list(place.iterdir()) == []


def test_the_hosted_quickstart_takes_a_model_of_the_catalogue(
    place: Path, console_script: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    dry = ("quickstart", "--hosted", "openai/gpt-5-mini", "--dry-run")
    others = place / "others.yaml"
    others.write_text("models: {other: {base_url: 'http://127.0.0.1:1/v1', price: free}}")
    estimates = []
    for settings in ((), ("-c", f"models=[{others}]")):
        code, printed, errors = console_script(*dry, *settings)
        assert (code, errors) == (0, "")
        note, _, estimate = printed.partition("\n")
        assert note.startswith("gpt-5-mini is not in the catalogue yet: without --dry-run, it is added to ")
        estimates.append(estimate)
    others.unlink()
    assert list(place.iterdir()) == []
    console_script("models", "add", "openai/gpt-5-mini")
    for name, note in (
        ("openai/gpt-5-mini", "gpt-5-mini is in the catalogue: https://api.openai.com/v1\n"),
        ("gpt-5-mini", ""),
    ):
        code, printed, errors = console_script("quickstart", "--hosted", name, "--dry-run")
        assert (code, errors, printed[: len(note)]) == (0, "", note)
        estimates.append(printed[len(note) :])
    assert len(set(estimates)) == 1, "the entry of a dry run is the one that is added"
    both = console_script("quickstart", "--hosted", "openai/gpt-5-nano", "--hosted", "gpt-5-mini", "--dry-run")
    assert both[0] == 0
    assert "of find: gpt-5-nano x1 " in both[1]
    assert ", gpt-5-mini x1 " in both[1]


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
@pytest.mark.parametrize("model", ["nosuch", "nosuch/model"])
def test_the_hosted_quickstart_refuses_an_unknown_provider(
    place: Path, console_script: Command, dry_run: tuple[str, ...], model: str
) -> None:
    code, printed, errors = console_script("quickstart", "--hosted", model, *dry_run)
    assert (code, printed) == (2, "")
    assert f"no provider is known for the model '{model}'" in errors
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(("model", "meant"), [("openai/gpt-5-mni", "openai/gpt-5-mini"), ("openai/qq-9", None)])
@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_the_hosted_quickstart_adds_no_model_without_a_known_price(
    place: Path,
    console_script: Command,
    monkeypatch: pytest.MonkeyPatch,
    dry_run: tuple[str, ...],
    model: str,
    meant: str | None,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code, printed, errors = console_script("quickstart", "--hosted", model, *dry_run)
    assert (code, printed) == (2, "")
    assert f"the price of the model '{model}' is not known, and the quickstart has a cap in USD" in errors
    assert (f"remedy: did you mean {meant}?" in errors) is bool(meant)
    assert f"agentopt models add {model}" in errors
    assert list(place.iterdir()) == []


class Endpoint(BaseHTTPRequestHandler):
    """Answers GET with status 401, as an endpoint without a key does, and records the headers."""

    seen: list[dict[str, str]] = []  # noqa: RUF012 - of the server's class

    def do_GET(self) -> None:
        self.seen.append({"path": self.path, **self.headers})
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_doctor_prints_names_of_keys_and_endpoints_that_answer(
    place: Path, console_script: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in KEYS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    Thread(target=server.serve_forever, daemon=True).start()
    url, gone = f"http://127.0.0.1:{server.server_port}/v1", "http://127.0.0.1:9/v1"
    entries = {"here": {"base_url": url, "price": "free", "api_key_env": "OPENAI_API_KEY"}}
    (place / "models.yaml").write_text(json.dumps({"models": entries}))
    try:
        code, printed, errors = console_script("doctor", "--json", "-c", "models=models.yaml", "--endpoint", gone)
    finally:
        server.shutdown()
        server.server_close()
    assert (code, errors) == (0, "")
    found = {check["name"]: check for check in json.loads(printed)["checks"]}
    extras = {name: check["status"] for name, check in found.items() if name.startswith("extra ")}
    assert set(extras.values()) <= {"ok", "optional"}
    assert "extra docs" not in extras
    assert found["python"]["status"] == found["agentopt"]["status"] == "ok"
    assert "OPENAI_API_KEY" in found["keys"]["detail"]
    assert "sk-secret" not in printed
    assert found[f"endpoint {url}"] == {
        "name": f"endpoint {url}",
        "status": "ok",
        "detail": "reachable (status 401 for GET /models)",
    }
    assert found[f"endpoint {gone}"]["status"] == "missing"
    assert [seen["path"] for seen in Endpoint.seen] == ["/v1/models"]
    assert all("sk-secret" not in str(seen) for seen in Endpoint.seen)
    assert {"engine", "sandbox", "model files", "journal"} <= set(found)
    assert not (place / "cache").exists()


def test_the_doctor_lists_every_extra(console_script: Command) -> None:
    code, printed, _ = console_script("doctor")
    assert code == 0
    for extra in ("local", "serve", "tasks"):
        assert f"extra {extra}" in printed


def test_the_doctor_loads_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in (("loads", ""), ("fails", "raise ImportError('no AVX')"), ("crashes", "import os; os.abort()")):
        (tmp_path / f"engine_that_{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert engine_check("engine_that_loads") == Check("engine", "ok", "it loads")
    fails = engine_check("engine_that_fails")
    assert (fails.status, fails.detail) == ("broken", "engine_that_fails: ImportError: no AVX")
    assert engine_check("engine_that_crashes").status == "broken"
    missing = engine_check("engine_that_is_not_there")
    assert missing.status == "missing"
    assert install_command("local") in missing.detail


def test_the_doctor_prints_how_to_install_a_sandbox() -> None:
    check = sandbox_check([])
    assert check.status == "missing"
    assert "none is installed" in check.detail
    assert f"install bubblewrap, or {install_command('tasks')}" in check.detail


@pytest.mark.parametrize("source", ["nope", "runs/nope", "nope.yaml"])
def test_a_missing_run_is_reported_before_a_missing_extra(source: str, tmp_path: Path) -> None:
    script = f"import sys; sys.modules['uvicorn'] = None; sys.argv[1:] = ['serve', {source!r}]; "
    done = subprocess.run(
        [sys.executable, "-c", script + "from agentopt.cli.main import main; main()"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert f"{source}: there is no such file or folder" in done.stderr
    assert "uvicorn" not in done.stderr


def doctors(console_script: Command, *options: str) -> dict[str, tuple[str, str]]:
    _, printed, _ = console_script("doctor", "--json", *options)
    return {check["name"]: (check["status"], check["detail"]) for check in json.loads(printed)["checks"]}


@pytest.mark.parametrize(
    ("variable", "set_keys", "expected"),
    [
        (None, {}, ("ok", "no API key variable is set")),
        (
            "MY_KEY",
            {},
            ("missing", "not set, but needed by models of the catalogue: MY_KEY; no API key variable is set"),
        ),
        (
            "MY_KEY",
            {"OPENAI_API_KEY": "k"},
            ("missing", "not set, but needed by models of the catalogue: MY_KEY; set: OPENAI_API_KEY"),
        ),
        ("MY_KEY", {"MY_KEY": "k"}, ("ok", "set: MY_KEY")),
        (None, {"OPENAI_API_KEY": "k"}, ("ok", "set: OPENAI_API_KEY")),
    ],
)
def test_a_key_is_missing_only_if_a_model_needs_it(
    place: Path,
    console_script: Command,
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    set_keys: dict[str, str],
    expected: tuple[str, str],
) -> None:
    for provider in PROVIDERS.values():
        monkeypatch.delenv(provider.api_key_env or "MY_KEY", raising=False)
    for name, value in set_keys.items():
        monkeypatch.setenv(name, value)
    entry = {"base_url": "http://127.0.0.1:9/v1", "price": "free", **({"api_key_env": variable} if variable else {})}
    (place / "models.yaml").write_text(json.dumps({"models": {"here": entry}}))
    assert doctors(console_script, "-c", "models=models.yaml")["keys"] == expected


def test_the_download_of_the_first_local_run_is_announced(
    place: Path, console_script: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = "the first run with smollm2-135m and qwen2.5-coder-0.5b downloads"
    assert doctors(console_script)["model files"] == ("missing", f"none downloaded yet; {first} 590 MB")
    for provider in PROVIDERS.values():
        monkeypatch.delenv(provider.api_key_env or "MY_KEY", raising=False)
    assert "The first run downloads the files of its local models: 590 MB." in console_script("init", "new")[1]
    for name in LOCAL:
        weights = Catalog.load()[name].weights
        assert weights is not None
        file = place / "cache" / "weights" / str(weights.sha256)[:16] / weights.file
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(1_000_000))
    status, detail = doctors(console_script)["model files"]
    assert status == "ok"
    assert detail.startswith("2.0 MB in ")
    assert "first run" not in detail
    assert "The first run downloads" not in console_script("init", "other")[1]


@pytest.mark.parametrize("url", ["nonsense", "http://[", "http://127.0.0.1:99999", "ftp://127.0.0.1"])
def test_an_endpoint_that_is_no_address_is_reported(console_script: Command, url: str) -> None:
    code, printed, errors = console_script("doctor", "--json", "--endpoint", url)
    assert (code, errors) == (0, "")
    assert '"no answer: ' in printed
