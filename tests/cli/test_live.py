"""`optimize --live` and `report --live`: the page is served while the command works, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest
import yaml

from agentopt.testing.server_process import ServerProcess
from tests.cli.recorded import SETTINGS, record_run, write_task

ROOT = Path(__file__).parents[2]
OPTIONS = [*SETTINGS, "-c", "strategy=grid", "-c", "budget.trials=2", "-c", "prompts.when=never"]
SUBTASK = {"name": "answer", "prompt": "Repeat [[{{ inputs.word }}]]", "models": ["small", "large"]}
open_url = build_opener(ProxyHandler({})).open


def served_task(folder: Path, server: ServerProcess) -> Path:
    task = write_task(folder, subtasks=[{**SUBTASK, "max_tokens": 8}])
    entry = {"base_url": server.base_url, "usd_per_1m_prompt": 1.0}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": {"small": entry, "large": entry}}))
    return task


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process, with Ctrl-C enabled, as in the foreground of a shell."""
    paths = {"AGENTOPT_CACHE": str(folder / "cache"), "AGENTOPT_CONFIG": str(folder), "PYTHONPATH": str(ROOT)}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "agentopt", *arguments],
        cwd=folder, env={**os.environ, **paths}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def address_in(stream: IO[str] | None) -> str:
    assert stream
    seen = []
    for line in stream:
        if found := re.match(r"live page: (http://127\.0\.0\.1:\d+/[\w-]{20,}/)$", line):
            return found[1]
        seen.append(line)
    raise AssertionError("".join(seen))


def await_that(is_so: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while not (found := is_so()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def data_at(address: str) -> Any:
    with open_url(f"{address}data") as response:
        return json.load(response)


def is_refused(address: str) -> bool:
    try:
        open_url(address).close()
    except URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    return False


@pytest.mark.parametrize("as_json", [False, True])
def test_the_page_is_served_while_the_run_goes_on_and_ends_with_it(tmp_path: Path, as_json: bool) -> None:
    with ServerProcess(counter=tmp_path / "received.jsonl", delay=0.1) as server:
        task = served_task(tmp_path, server)
        more = ["--json"] if as_json else []
        with started(tmp_path, "optimize", str(task), "--live", *more, *OPTIONS) as process:
            address = address_in(process.stderr)
            with open_url(address) as page:
                assert b"<title>agentopt: report of a run</title>" in page.read()
            with open_url(f"{address}events") as stream:
                names = [line[7:].strip() for line in stream if line.startswith(b"event: ")]
            out, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (0, False), err
    assert {b"progress", b"page"} < set(names)
    assert names[-1] == b"ended"
    assert is_refused(address)
    if as_json:
        assert json.loads(out)["task"] == "planted"
        assert "report.html" in err
    else:
        assert "Verdict: " in out
        assert "report.html" in out


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_leaves_no_server(tmp_path: Path, stop: signal.Signals) -> None:
    with ServerProcess(counter=tmp_path / "received.jsonl", delay=1.0) as server:
        task = served_task(tmp_path, server)
        with started(tmp_path, "optimize", str(task), "--live", *OPTIONS) as process:
            address = address_in(process.stderr)
            await_that(server.received)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
            process.send_signal(stop)
            _, err = process.communicate(timeout=120)
    assert process.returncode == (-9 if stop == signal.SIGKILL else 128 + stop)
    assert "Traceback" not in err
    assert ("agentopt optimize --resume" in err) == (stop != signal.SIGKILL)
    await_that(lambda: is_refused(address))
    await_that(lambda: not any(is_python(pid) for pid in pids))


def is_python(pid: int) -> bool:
    try:
        return b"live_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_a_port_in_use_is_one_message_and_nothing_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console_script: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    with ServerProcess(counter=tmp_path / "received.jsonl") as server:
        task = served_task(tmp_path, server)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            code, out, err = console_script("optimize", str(task), "--live", "--port", port, *OPTIONS)
        assert server.received() == []
    assert (code, out) == (2, "")
    assert err.startswith(f"agentopt: cannot serve the page at 127.0.0.1, port {port}: address already in use")
    assert "choose another --port" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "journal.db").exists()


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("optimize", "planted", "--port", "8000"), "--port is an option of --live"),
        (("optimize", "planted", "--open"), "--open is an option of --live"),
        (("optimize", "planted", "--live", "--dry-run"), "a dry run estimates a new run, but got --live"),
        (("optimize", "planted", "--live", "--port", "70000"), "--port"),
        (("optimize", "nowhere", "--live"), "nowhere"),
        (("report", "nowhere", "--live"), "nowhere"),
        (("report", "nowhere", "--port", "8000"), "--port is an option of --live"),
        (("report", "nowhere", "--live", "--json"), "--live writes no file"),
        (("report", "nowhere", "--live", "--out", "page.html"), "--live writes no file"),
        (("report", "nowhere", "--live", "--every-trial"), "--live writes no file"),
    ],
)
def test_a_wrong_option_is_one_message_without_a_page(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    console_script: Callable[..., tuple[int, str, str]],
    words: tuple[str, ...],
    rule: str,
) -> None:
    write_task(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, _, err = console_script(*words, *SETTINGS)
    assert code == 2
    assert rule in err
    assert "live page: " not in err
    assert not (tmp_path / "runs").exists()


def test_the_report_of_a_run_is_served_until_ctrl_c(tmp_path: Path) -> None:
    run = record_run(tmp_path, write_task(tmp_path))
    with started(tmp_path, "report", run.name, "--live", *SETTINGS) as process:
        address = address_in(process.stdout)
        data = await_that(lambda: data_at(address))
        assert (data["state"], len(data["trials"])) == ("finished", 2)
        with open_url(f"{address}report/trial-1.js") as script:
            assert script.read().startswith(b"agentoptTraces(1, ")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert is_refused(address)
