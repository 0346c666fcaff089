"""Prompt reports: their sentences, their table, what version 0.1.0 wrote, and the shipped quickstart."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentopt.api import aoptimize
from agentopt.cli.commands.optimize import estimate_run
from agentopt.core.budget import Usage
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.prompts.adoption import Adoption
from agentopt.prompts.components import authored_bank
from agentopt.prompts.diagnosis import Diagnosis
from agentopt.prompts.outcome import PromptDecision
from agentopt.report.prompts import print_diagnosis, prompt_tables
from agentopt.runs.config import load_config
from agentopt.runs.folder import RunFolder
from agentopt.runs.prompt_report import PromptReport, PromptTried
from agentopt.runs.result import load_result
from agentopt.testing.toy import draw

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "data" / "0.1.0" / "finished"
QUICKSTART = ROOT / "tasks" / "quickstart"

TRIED = tuple(
    PromptTried(f"prompt {n}", proposer, 0.5, 20, 4.0)
    for n, proposer in enumerate(("seed", "reflective", "reflective", "components"))
)


def report(decision: PromptDecision, **more: Any) -> PromptReport:
    return PromptReport("answer", "before", decision, "Answer.", "seed", 80, tried=TRIED, **more)


@pytest.mark.parametrize("decision", list(PromptDecision))
def test_every_decision_has_a_sentence(decision: PromptDecision) -> None:
    assert report(decision).outcome.startswith("replaced" if decision is PromptDecision.REPLACED else "kept")


def test_not_worth_it_names_the_variants_that_it_rests_on() -> None:
    outcome = report(PromptDecision.NOT_WORTH_IT).outcome
    assert outcome.endswith("won the race against 3 variants (2 by reflective, 1 from the authored bank)")


def test_the_cap_that_cut_a_race_short_is_in_the_sentence() -> None:
    stopped = StopReason(StopKind.CAP_REACHED, "calls", "the calls cap of 90 is reached")
    assert report(PromptDecision.CUT_SHORT, stopped=stopped).outcome == (
        "kept: cut short after 80 responses; the calls cap of 90 is reached"
    )


@pytest.mark.parametrize(
    ("decision", "shown"), [(PromptDecision.REPLACED, "+0.081"), (PromptDecision.NOT_CONFIRMED, "-")]
)
def test_the_table_shows_the_shrunk_gain_beside_the_raw_one(decision: PromptDecision, shown: str) -> None:
    output = io.StringIO()
    console = Console(file=output, width=200)
    replaced = decision is PromptDecision.REPLACED
    compared = Adoption(adopted=replaced, gain=0.081, raw_gain=0.125, p_value=0.03, rows=24)
    for part in prompt_tables([report(decision, adoption=compared)]):
        console.print(part)
    row = next(line for line in output.getvalue().splitlines() if "before the search" in line)
    assert [cell.strip() for cell in row.split("│")][3:7] == [decision, "-", shown, "+0.125 p=0.03"]


def test_prompts_kept_for_one_reason_share_a_line() -> None:
    not_worth = report(PromptDecision.NOT_WORTH_IT)
    reports = [not_worth, replace(not_worth, subtask="check"), replace(report(PromptDecision.UNKNOWN), subtask="find")]
    lines = [line for line in prompt_tables(reports) if isinstance(line, str)]
    assert [line for line in lines if "kept" in line] == [
        f"  answer, check: {not_worth.outcome}",
        f"  find: {reports[-1].outcome}",
    ]
    earned = "prompts by seed 1 (best 0.500), reflective 2 (best 0.500), components 1 (best 0.500)"
    assert [line for line in lines if "prompts by" in line] == [f"  {n}: {earned}" for n in ("answer", "check", "find")]


def test_a_report_of_0_1_0_is_read_and_shown(tmp_path: Path) -> None:
    interval = {"low": 0.3, "high": 0.9, "confidence": 0.95}
    old = {
        "subtask": "answer",
        "phase": "before",
        "verdict": "optimise on all",
        "reason": "system prompts differ",
        "pilot_responses": 60,
        "user_prompts": ["t1", "t2"],
        "chosen": "Be brief.",
        "proposer": "components",
        "finals": [
            {
                "system_prompt": "Be brief.",
                "proposer": "components",
                "state": "complete",
                "validation": {"score": 0.75, "interval": interval, "n": 24, "planned": 24},
                "tokens": 4.0,
            },
            {"system_prompt": "x", "proposer": "seed", "state": "incomplete", "validation": None, "tokens": 4.0},
        ],
        "tried": [
            {"system_prompt": "Be brief.", "proposer": "components", "reward": 0.8, "responses": 8, "tokens": 4.0}
        ],
        "against_seed": {"difference": {"mean": 0.2, "interval": interval, "p_value": 0.1}, "verdict": "better"},
        "ended": "every round was made",
        "fallbacks": [],
    }
    folder = tmp_path / "run"
    shutil.copytree(OLD, folder)
    result = json.loads((folder / "result.json").read_text())
    kept = {**old, "against_seed": None, "ended": "not worth it: no difference"}
    (folder / "result.json").write_text(json.dumps({**result, "prompts": [old, kept]}))
    replaced, unknown = load_result(folder).prompts
    assert (replaced.decision, replaced.chosen, replaced.responses) == (PromptDecision.REPLACED, "Be brief.", 8)
    assert [final.score for final in replaced.finals] == [0.75, None]
    assert unknown.decision is PromptDecision.UNKNOWN
    assert unknown.outcome == "kept; not worth it: no difference"
    assert list(prompt_tables([replaced, unknown]))


@pytest.mark.parametrize(("subset", "row_filter"), [("verdict", "adaptive"), ("p1", "p1"), ("all", "all")])
def test_the_settings_in_a_run_folder_of_0_1_0_are_read(tmp_path: Path, subset: str, row_filter: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(OLD, folder)
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("subset: verdict", f"subset: {subset}"))
    assert RunFolder.open(folder).config.prompts.filter == row_filter


def diagnosed(*, right: bool) -> str:
    """A printed diagnosis of two user prompts of two lines each."""
    always = (0, 1) if right else (0,)
    numbers = {"signal": 0.0, "noise": 0.0, "ratio": 0.0, "responses_needed": None, "all_p_value": 1.0}
    subset = {"subset": (0,), "subset_score": 0.0, "subset_p_value": 1.0, "subset_ratio": 0.0, "chance_score": 0.0}
    texts = {"examples": ("a", "b"), "user_prompts": ("one\ntwo",) * 2, "system_prompts": {"Be\nbrief.": "seed"}}
    found = Diagnosis(
        **{**numbers, **subset, **texts},  # type: ignore[arg-type]
        task="t",
        subtask="find",
        verdict="not worth it",
        reason="why",
        intended=(2, 2.0),
        cross_fitted_score=None,
        search="exact",
        estimator="unbiased",
        always_right=always,
        always_wrong=(),
        mean=((1.0, 1.0 if right else 0.5),),
        tokens=(3.0,),
        responses=168,
        usage=Usage(calls=196),
    )
    output = io.StringIO()
    print_diagnosis(found, Console(file=output, width=200))
    return output.getvalue()


def test_a_diagnosis_of_right_answers_prints_no_table_of_zeros() -> None:
    shown = diagnosed(right=True)
    assert "signal" not in shown
    assert "subset" not in shown
    assert "\nWhy.\n" in shown
    assert shown.splitlines()[-2] == "Analysed: 168 responses of find."
    assert shown.splitlines()[-1].startswith("Spent, with the calls of other subtasks, judges and prompt writers: 196")


def test_the_lines_of_a_prompt_are_indented_in_a_diagnosis() -> None:
    shown = diagnosed(right=False)
    assert "signal" in shown
    assert "  1. example a: one\n     two\n" in shown
    assert "Be\n     brief." in shown


def test_the_dry_run_of_the_quickstart_states_what_prompts_use_at_most() -> None:
    output = io.StringIO()
    estimate_run(QUICKSTART, [str(ROOT / "configs" / "quickstart.yaml")], Console(file=output, width=200))
    assert "System prompts use at most 236 calls (prompts.share: 0.3 of the run's caps)." in output.getvalue()
    assert "Validation: with 24 rows a difference below 0.27 may not be detected" in output.getvalue()


async def test_the_quickstart_ends_with_an_improved_prompt_where_there_is_one(tmp_path: Path) -> None:
    """The model reads the landmark off the fact mostly if its system prompt bounds the length, and rarely if not."""
    bounds = authored_bank()["length"]

    def answer(request: Request, repeat: int) -> str:
        *before, question = request.messages
        if person := re.search(r"does (\w+) live", question.content):
            return "".join(re.findall(rf"{person[1]} lives in (\w+)", question.content))
        helped = any(bound in message.content for message in before for bound in bounds)
        right = draw(before, question, repeat, request.seed) < (0.9 if helped else 0.3)
        return "".join(re.findall(r"^The \w+ (\w+)", question.content)) if right else "unknown"

    config = load_config(
        [
            str(ROOT / "configs" / "quickstart.yaml"),
            f"journal={tmp_path}/journal.db",
            f"runs={tmp_path}/runs",
            "strategy=optuna",
            "budget.trials=2",
            "prompts.proposer=components",
        ]
    )
    result = await aoptimize(QUICKSTART, config, provider=ScriptedModel(answer))
    (found,) = result.prompts
    assert found.decision is PromptDecision.REPLACED
    assert any(bound in found.chosen for bound in bounds)
    assert found.adoption is not None
    assert 0.2 < found.adoption.gain < 0.8
    assert load_result(result.run) == result
    assert result.total.calls <= 790
