"""The study of a run opens in optuna-dashboard."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import optuna_dashboard

from agentopt.api import optimize
from agentopt.core.events import Event, TrialDone
from agentopt.runs.config import Config
from agentopt.runs.result import Result
from agentopt.testing.toy import toy_model, toy_task


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def dashboard(run: Path) -> Iterator[httpx.Client]:
    """The dashboard of the run's study on loopback, as `optuna-dashboard sqlite:///RUN/trials.db` serves it."""
    app = optuna_dashboard.wsgi(f"sqlite:///{run}/trials.db")
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
                yield client
        finally:
            server.shutdown()
            thread.join()


def study_of(client: httpx.Client) -> dict[str, Any]:
    (summary,) = client.get("/api/studies").json()["study_summaries"]
    assert (summary["study_name"], summary["directions"]) == ("agentopt", ["maximize"])
    detail: dict[str, Any] = client.get(f"/api/studies/{summary['study_id']}").json()
    return detail


def run_in(folder: Path, trials: int, **options: Any) -> Result:
    config = Config(strategy="random", journal=str(folder / "journal.db"), runs=folder, budget={"trials": trials})
    return optimize(toy_task(validation=6, test=4), config, provider=toy_model(), **options)


def test_a_run_opens_with_its_trials_scores_and_choices(tmp_path: Path) -> None:
    result = run_in(tmp_path, 5)
    assert result.run
    with dashboard(Path(result.run)) as client:
        assert "<title>Optuna Dashboard</title>" in client.get("/dashboard/").text
        trials = study_of(client)["trials"]
    assert [trial["number"] for trial in trials] == [line.number for line in result.trials]
    for trial, line in zip(trials, result.trials, strict=True):
        assert trial["state"] == {"complete": "Complete", "pruned": "Pruned"}[line.state]
        if line.state == "complete":
            assert trial["values"] == [line.score]
        chosen = {one["name"]: one["param_external_value"] for one in trial["params"]}
        for subtask, choice in line.candidate.items():
            assert choice.model in chosen.values(), (subtask, chosen)
            assert str(choice.num_samples) in chosen.values(), (subtask, chosen)


def test_a_run_that_goes_on_opens_and_is_not_disturbed(tmp_path: Path) -> None:
    seen: list[int] = []

    def look(event: Event) -> None:
        if isinstance(event, TrialDone):
            (run,) = (path for path in tmp_path.iterdir() if path.is_dir())
            with dashboard(run) as client:
                seen.append(len(study_of(client)["trials"]))

    result = run_in(tmp_path, 3, callbacks=[look])
    assert seen == [1, 2, 3]
    assert len(result.trials) == 3
