"""A cap that a remedy suggests has room for what it was suggested for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt.api import aoptimize, load
from agentopt.core.budget import Budget, Caps, Usage
from agentopt.core.demos import Demos
from agentopt.core.errors import BudgetExceeded
from agentopt.core.events import Note
from agentopt.core.task import Task
from agentopt.core.usd_text import usd_at_least
from agentopt.prompts.outcome import PromptDecision
from agentopt.runs.config import BudgetConfig, Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.prompt_share import Beside, caps_for, left_beside
from agentopt.runs.worst_case import estimate
from agentopt.search.from_task import search_space
from agentopt.testing.prompt_toy import prompt_model, prompt_task


def config(folder: Path, share: float, caps: dict[str, Any]) -> Config:
    return Config.model_validate(
        {
            "strategy": "random",
            "journal": str(folder / "journal.db"),
            "runs": str(folder / "runs"),
            "budget": {"trials": 3, **caps},
            "prompts": {"share": share, "proposer": "components"},
        }
    )


def suggested(task: Task, settings: Config) -> tuple[str, ...]:
    """The caps that the dry run suggests."""
    loaded, specs = load(task, settings)
    worst = estimate(loaded, search_space(loaded, specs), specs, settings, None)
    return caps_for(worst.least_races, worst.prompt_limits, settings.prompts.share, worst.beside)


# Without what is paid or kept beside it, the share of the cap would have room for the race.
@pytest.mark.parametrize("cap", ["calls", "tokens"])
@pytest.mark.parametrize(
    ("share", "sizes", "demos"),
    [
        (0.3, {"train": 8, "validation": 120, "test": 240}, None),
        (0.7, {"train": 16, "validation": 32, "test": 64}, None),
        (0.3, {"train": 40, "validation": 80, "test": 80}, Demos((0, 4))),
    ],
)
async def test_the_cap_that_the_dry_run_suggests_has_room_for_a_race(
    tmp_path: Path, cap: str, share: float, sizes: dict[str, Any], demos: Demos | None
) -> None:
    task = prompt_task(**sizes)
    task = replace(task, subtasks=(replace(task.subtasks[0], demos=demos),))
    (named,) = suggested(task, config(tmp_path, share, {cap: 1}))
    least = int(named.removeprefix(f"budget.{cap}="))
    settings = config(tmp_path, share, {cap: least})
    assert not suggested(task, settings)
    assert suggested(task, config(tmp_path, share, {cap: least - 1}))
    result = await aoptimize(task, settings, provider=prompt_model())
    (report,) = result.prompts
    assert report.decision is not PromptDecision.TOO_SMALL
    assert cap == "tokens" or report.stopped is None  # a proposal may be longer than the race was planned for
    assert result.finalist("best").test is not None


async def test_the_note_of_a_run_suggests_a_cap_above_its_own(tmp_path: Path) -> None:
    """A cap whose share has room, but not what it leaves beside the baseline and the test."""
    task, notes = prompt_task(train=8, validation=120, test=240), list[str]()
    (named,) = suggested(task, config(tmp_path, 0.3, {"calls": 1}))
    needed = int(named.removeprefix("budget.calls="))
    await aoptimize(
        task,
        config(tmp_path, 0.3, {"calls": int(needed * 0.9)}),
        provider=prompt_model(),
        callbacks=[lambda event: notes.append(event.message) if isinstance(event, Note) else None],
    )
    assert f"no race of system prompts fits in prompts.share of the caps; raise it, or set {named} or more" in notes


@pytest.mark.parametrize("share", [0.07, 0.29, 0.3, 0.57, 0.9, 1.0])
@pytest.mark.parametrize("test", [0, 40, 5000])
def test_the_least_cap_suffices_and_one_less_does_not(share: float, test: int) -> None:
    beside = Beside(Usage(calls=50), Usage(calls=test))
    for calls in (1, 28, 29, 58, 400):
        needed = Usage(calls=calls)

        def missing(cap: int, needed: Usage = needed) -> tuple[str, ...]:
            caps = Caps(calls=cap)
            return caps_for(needed, left_beside(caps, beside, caps.scaled(share)), share, beside)

        least = int(missing(1)[0].removeprefix("budget.calls="))
        assert not missing(least)
        assert missing(least - 1)


@pytest.mark.parametrize(("cap", "kept", "wanted"), [(10, 5, 8), (100, 80, 30), (3, 1, 7), (1e-4, 5e-5, 1.2344e-4)])
async def test_a_cap_that_the_first_call_suggests_has_room_although_more_is_kept_of_it(
    cap: float, kept: float, wanted: float
) -> None:
    """What is kept for later phases is a share of the cap."""
    name = "usd" if cap < 1 else "calls"

    async def reserve(of: float) -> BudgetExceeded | None:
        budget = Budget(Caps(**{name: of}))  # type: ignore[arg-type]
        with budget.holding_back(Usage(**{name: of * kept / cap})):  # type: ignore[arg-type]
            try:
                await budget.reserve(Usage(**{name: wanted}), "samples")  # type: ignore[arg-type]
            except BudgetExceeded as error:
                return error
        return None

    error = await reserve(cap)
    remedy = str(error).partition(f"raise budget.{name} to ")[2].partition(" or more")[0]
    assert await reserve(float(remedy)) is None, remedy


@pytest.mark.parametrize("usd", [0.0001514, 0.00015, 1.005, 12.34, 1234.5, 9.999, 0.0])
def test_an_amount_that_is_enough_is_rounded_up(usd: float) -> None:
    shown = float(usd_at_least(usd).replace(",", ""))
    assert usd <= shown + 1e-12
    assert shown <= usd * 1.01


def test_a_budget_of_the_suggestion_is_a_valid_setting() -> None:
    assert BudgetConfig(usd=float(usd_at_least(0.0001514))).usd == 0.000152


@pytest.mark.parametrize(
    ("name", "cap", "spent", "wanted", "kept", "value"),
    [
        ("usd", 1e-7, 0.0, 0.000177, 0.0, "0.000177"),
        ("usd", 1e-7, 0.0, 0.000177, 5e-8, "0.000354"),
        ("usd", 1e-7, 1e-7, 1e-8, 0.0, "0.0000002"),
        ("usd", 0.5, 0.4, 0.7, 0.0, "1.1"),
        ("calls", 3, 3, 1, 0, "6"),
        ("calls", 3, 2, 9, 0, "11"),
        ("tokens", 1000, 900, 2_000_000, 0, "2000900"),
        ("seconds", 60.0, 60.0, 0.0, 0.0, "120"),
    ],
)
def test_the_cap_of_a_resumed_run_has_room_for_the_next_call(
    tmp_path: Path, name: str, cap: float, spent: float, wanted: float, kept: float, value: str
) -> None:
    settings = config(tmp_path, 0.3, {name: cap})
    stopped = BudgetExceeded(name, cap=cap, spent=spent, wanted=wanted, kept=kept).stopped
    run = replace(RunFolder.create(prompt_task(), settings), task=tmp_path)
    assert run.resuming_after(stopped).endswith(f" -c budget.{name}={value}")
    assert getattr(config(tmp_path, 0.3, {name: value}).budget, name) == float(value)
