"""The cap that the message of a run suggests, after a cap ended it, pays for the rest of the run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt.api import aoptimize
from agentopt.core.errors import BudgetExceeded, ConfigError, NothingEvaluated, larger_cap
from agentopt.core.task import Task
from agentopt.models.base import Request, Response
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import open_session
from agentopt.runs.config import Config
from agentopt.runs.finishing_cap import with_finishing_cap
from agentopt.runs.folder import RunFolder
from agentopt.search.from_task import search_space
from agentopt.testing.company import company_specs, company_task

TRIALS = 4


def task() -> Task:
    made = company_task(validation=8, test=8)
    return replace(made, subtasks=tuple(replace(s, models=("mini", "nano"), max_tokens=400) for s in made.subtasks))


def config(folder: Path, **budget: Any) -> Config:
    return Config.model_validate(
        {
            "strategy": "grid",
            "models": [*company_specs("http://127.0.0.1:9/v1")],
            "journal": str(folder / "j.db"),
            "runs": str(folder / "runs"),
            "budget": {"trials": TRIALS, **budget},
            "prompts": {"when": "never"},
            "search": {"early_stopping": None},
        }
    )


@pytest.mark.parametrize(("name", "share"), [("usd", 0.7), ("calls", 0.3), ("tokens", 0.6)])
async def test_the_suggested_cap_finishes_the_run_at_the_first_attempt(tmp_path: Path, name: str, share: float) -> None:
    def answer(request: Any, repeat: int) -> str:
        return f"{request.messages[-1].content[:8]} {repeat} of a response of some words"

    whole = await aoptimize(task(), config(tmp_path / "whole"), provider=ScriptedModel(answer))
    spent = getattr(whole.total, name)
    cap = share * spent if name == "usd" else int(share * spent)
    short = await aoptimize(task(), config(tmp_path, **{name: cap}), provider=ScriptedModel(answer))
    assert short.ended.cap == name, short.ended
    run = RunFolder.open(short.run)
    found = re.search(rf"{name}=([\d.]+)", run.resuming_after(short.ended))
    assert found
    enough = float(found[1])
    assert 2 * cap < enough < 4 * spent, "twice the cap is too small for the rest"
    done = await aoptimize(task(), config(tmp_path, **{name: enough}), provider=ScriptedModel(answer), resume=run)
    assert len(done.trials) == TRIALS
    assert done.test_ended is None
    assert getattr(done.total, name) <= enough


@pytest.mark.parametrize(
    ("name", "cap", "refused"),
    [("usd", 1e-9, ConfigError), ("tokens", 1, ConfigError), ("calls", 0, ConfigError), ("calls", 1, NothingEvaluated)],
)
async def test_a_cap_that_pays_for_no_candidate_is_refused_with_one_that_finishes_the_run(
    tmp_path: Path, name: str, cap: float, refused: type[Exception]
) -> None:
    def answer(request: Any, repeat: int) -> str:
        return f"{request.messages[-1].content[:8]} {repeat} of a response of some words"

    with pytest.raises(refused) as ended:
        await aoptimize(task(), config(tmp_path, **{name: cap}), provider=ScriptedModel(answer))
    assert (tmp_path / "runs").exists() == (refused is NothingEvaluated)
    found = re.search(rf"{name}(?: to |=)([\d.]+)", str(ended.value))
    assert found
    enough = float(found[1]) if name == "usd" else int(found[1])
    done = await aoptimize(task(), config(tmp_path, **{name: enough}), provider=ScriptedModel(answer))
    assert (len(done.trials), done.test_ended) == (TRIALS, None)


async def test_a_folder_of_runs_that_was_there_before_is_kept(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError):
        await aoptimize(task(), config(tmp_path, calls=0), provider=ScriptedModel(lambda request, repeat: "a"))
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("trials_left", "enough"),
    [
        (0, 8 + 8 / 3 * 4),  # three trials took 8 s; one is left, and three for the test
        (2, 8 + 8 / 1 * 6),
        (3, 4 * 8),  # none is complete, and no pace is known
    ],
)
async def test_a_cap_on_seconds_is_suggested_by_the_pace_of_the_trials(
    tmp_path: Path, trials_left: int, enough: float
) -> None:
    made = task()
    specs = {spec.name: spec for spec in company_specs("http://127.0.0.1:9/v1") if spec.name in made.models}
    error = BudgetExceeded("seconds", cap=5.0, spent=8.0, wanted=0.0)
    provider = ScriptedModel(lambda request, repeat: "a")
    async with open_session(specs, "run", journal=str(tmp_path / "j.db"), provider=provider) as session:
        space = search_space(made, specs)
        stopped = await with_finishing_cap(error, made, space, session, config(tmp_path, seconds=5.0), trials_left)
    assert stopped.finishes == pytest.approx(enough)


def test_the_time_of_a_capped_run_has_no_more_digits_than_a_reader_needs() -> None:
    error = BudgetExceeded("seconds", cap=1.0, spent=1.857005931, wanted=0.0, kept=0.3393620775)
    assert error.message == "the seconds cap of 1 is reached: 1.86 spent and 0.339 kept back for later phases"
    assert "raise budget.seconds, such as to 2.82;" in str(error)


class Short(ScriptedModel):
    """Returns fewer choices than requested."""

    def __init__(self, most: int) -> None:
        super().__init__(lambda request, repeat: f"{request.messages[-1].content[:8]} {repeat}")
        self._most = most

    async def generate(self, request: Request) -> Response:
        response = await super().generate(request)
        return replace(response, choices=response.choices[: self._most])


async def test_the_test_is_paid_first_where_an_endpoint_was_found_to_return_fewer_choices(
    tmp_path: Path,
) -> None:
    made = replace(task(), subtasks=tuple(replace(s, num_samples=(1, 4, 8)) for s in task().subtasks))
    first = await aoptimize(made, config(tmp_path, calls=93), provider=Short(1))
    run = RunFolder.open(first.run)
    resumed = await aoptimize(made, config(tmp_path, calls=205), provider=Short(1), resume=run)
    assert resumed.ended.cap == "calls"
    assert resumed.test_ended is None
    assert resumed.total.calls <= 205


@pytest.mark.parametrize(
    ("cap", "enough", "finishes", "value"),
    [
        (0.5, 0.6, 0.0, "1"),
        (0.5, 0.6, 0.7123, "0.713"),
        (0.5, 0.8, 0.7123, "0.8"),
        (5, 6.0, 7.2, "8"),
        (5, 6.0, 60.0, "60"),
        (60.0, 0.0, 0.0, "120"),
    ],
)
def test_a_cap_that_finishes_the_run_is_suggested_if_it_is_known(
    cap: float, enough: float, finishes: float, value: str
) -> None:
    assert larger_cap(cap, enough, finishes) == value
