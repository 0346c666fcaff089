"""A run that is stopped anywhere and resumed has the trials and the result of an undisturbed one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt.api import optimize
from agentopt.core.budget import Budget
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import Unit
from agentopt.core.errors import CallbackError
from agentopt.core.events import (
    Event,
    Note,
    PromptsDone,
    PromptsStarted,
    RewardDrawn,
    RunStarted,
    SearchStarted,
    TestStarted,
    TrialDone,
)
from agentopt.core.records import Evaluation, ExampleResult, Split, TrialState
from agentopt.core.stop_reason import KEPT_FOR_PROMPTS
from agentopt.core.task import Example, Subtask, Task, TokenLengths
from agentopt.evaluation.scorers import exact_match
from agentopt.models.base import Request
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import Result
from agentopt.runs.trial_store import TrialStore
from agentopt.search.base import Proposal
from agentopt.search.from_task import search_space
from agentopt.testing.toy import LARGE, SMALL, draw, toy_task

ROWS = 12
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def task() -> Task:
    answer = Subtask(
        "answer",
        lambda inputs, outputs: f"q{inputs['n']}",
        models=(SMALL, LARGE),
        num_samples=(1, 2, 3),
        max_tokens=4,
        tokens=TokenLengths(16, 4),
    )
    rows = {s: tuple(Example(f"{s}-{i}", {"n": f"{s}{i}"}, target="yes") for i in range(ROWS)) for s in SPLITS}
    return Task("words", (answer,), exact_match(), rows, unit=Unit(134.5e6, 16, 4))


def reply(request: Request, repeat: int) -> str:
    """Right more often with a long system prompt."""
    prompted = len(request.messages) > 1 and len(request.messages[0].content) > 40
    drawn = draw(request.model, request.messages[-1].content, repeat, request.seed, prompted)
    return "yes" if drawn < (0.75 if prompted else 0.4) else "no"


def stop_at_test(event: Event) -> None:
    if isinstance(event, TestStarted):
        raise KeyboardInterrupt


def resumed_twice(folder: Path, settings: dict[str, Any]) -> list[Result]:
    """The result of an undisturbed run, and of the second and the third session of one stopped before its test."""
    whole, cut = (Config(journal=str(folder / name), runs=folder / f"{name}s", **settings) for name in ("whole", "cut"))
    results = [optimize(task(), whole, provider=ScriptedModel(reply))]
    started: list[Path] = []

    def remember(event: Event) -> None:
        if isinstance(event, RunStarted):
            started.append(event.folder)

    with pytest.raises(KeyboardInterrupt):
        optimize(task(), cut, provider=ScriptedModel(reply), callbacks=[remember, stop_at_test])
    return [*results, *(optimize(task(), resume=started[0], provider=ScriptedModel(reply)) for _ in range(2))]


@pytest.mark.parametrize("stopped_after", [0, 2])
def test_a_resumed_run_reports_the_trials_that_it_keeps_and_measures_nothing_again(
    tmp_path: Path, stopped_after: int
) -> None:
    unmeasured = replace(task(), subtasks=tuple(replace(s, tokens=None) for s in task().subtasks))
    config = Config(strategy="grid", budget={"trials": 5}, journal=str(tmp_path / "j.db"), runs=tmp_path / "runs")
    sessions: list[list[str]] = [[], []]

    def note(event: Event) -> None:
        if isinstance(event, Note):
            sessions[-1].append(event.text)

    def stop(event: Event) -> None:
        if isinstance(event, Note):
            sessions[0].append(event.text)
        if isinstance(event, TrialDone) and event.trial.number == stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(unmeasured, config, provider=ScriptedModel(reply), callbacks=[stop])
    (run,) = (tmp_path / "runs").iterdir()
    optimize(unmeasured, resume=run, provider=ScriptedModel(reply), callbacks=[note])
    measuring = f"measuring token lengths: the baseline runs on {ROWS} validation examples"
    assert [measuring in notes for notes in sessions] == [True, False]
    kept = f"resumed: {stopped_after + 1} trial{'s' if stopped_after else ''} of earlier sessions kept"
    assert [kept in notes for notes in sessions] == [False, True]


@pytest.mark.parametrize(
    ("budget", "when"),
    [({"trials": 2}, "before"), ({"trials": 4}, "after"), ({"trials": 20}, "both"), ({"calls": 90}, "before")],
)
def test_a_run_stopped_in_its_test_keeps_its_trials_and_prompt_reports(
    tmp_path: Path, budget: dict[str, int], when: str
) -> None:
    prompts = {"proposer": "components", "share": 0.9, "when": when}
    whole, *resumed = resumed_twice(tmp_path, {"strategy": "random", "budget": budget, "prompts": prompts})
    assert whole.prompts
    for again in resumed:
        assert again.prompts == whole.prompts
        assert again.trials == whole.trials
        assert again.best_candidate == whole.best_candidate
        assert again.ended == whole.ended


@pytest.mark.parametrize(("when", "calls", "share"), [("after", 150, 0.3), ("both", 150, 0.3), ("before", 90, 0.4)])
@pytest.mark.parametrize("rewards", [3, 14, 23])
def test_a_run_stopped_in_a_prompt_phase_keeps_its_share(
    tmp_path: Path, when: str, calls: int, share: float, rewards: int
) -> None:
    prompts = {"proposer": "components", "share": share, "when": when}
    settings: dict[str, Any] = {"strategy": "random", "budget": {"calls": calls}, "prompts": prompts}
    whole, cut = (Config(journal=str(tmp_path / n), runs=tmp_path / f"{n}s", **settings) for n in ("whole", "cut"))
    undisturbed = optimize(task(), whole, provider=ScriptedModel(reply))
    drawn: list[Event] = []
    started: list[Path] = []

    def stop(event: Event) -> None:
        if isinstance(event, RunStarted):
            started.append(event.folder)
        if isinstance(event, RewardDrawn):
            drawn.append(event)
            if len(drawn) == rewards:
                raise RuntimeError("stopped")  # unlike a kill, this awaits the calls in flight

    with pytest.raises(CallbackError, match="stopped"):
        optimize(task(), cut, provider=ScriptedModel(reply), callbacks=[stop])
    resumed = optimize(task(), resume=started[0], provider=ScriptedModel(reply))
    assert resumed.prompts == undisturbed.prompts
    assert resumed.spent == undisturbed.spent
    assert resumed.trials == undisturbed.trials
    assert resumed.ended == undisturbed.ended
    assert sum(usage.calls for usage in resumed.spent.values()) <= calls


@pytest.mark.parametrize("rewards", [3, 14, 23])
def test_a_run_killed_in_a_prompt_phase_spends_no_more_than_the_share_in_both_sessions(
    tmp_path: Path, rewards: int
) -> None:
    prompts = {"proposer": "components", "share": 0.3, "when": "after"}
    settings: dict[str, Any] = {"strategy": "random", "budget": {"calls": 150}, "prompts": prompts}
    config = Config(journal=str(tmp_path / "journal.db"), runs=tmp_path / "runs", **settings)
    folders: list[Path] = []
    budgets: list[Budget] = []
    spent: dict[type[Event], int] = {}
    drawn: list[Event] = []

    def watch(event: Event) -> None:
        if isinstance(event, RunStarted):
            folders.append(event.folder)
        if isinstance(event, SearchStarted):
            budgets.append(event.budget)
        if isinstance(event, PromptsStarted | PromptsDone):
            spent.setdefault(type(event), budgets[-1].spent.calls)
        if isinstance(event, RewardDrawn):
            drawn.append(event)
            if len(drawn) == rewards:
                raise KeyboardInterrupt  # calls in flight are lost, and count as spent

    with pytest.raises(KeyboardInterrupt):
        optimize(task(), config, provider=ScriptedModel(reply), callbacks=[watch])
    optimize(task(), resume=folders[0], provider=ScriptedModel(reply), callbacks=[watch])
    assert spent[PromptsDone] - spent[PromptsStarted] <= 45


@pytest.mark.parametrize(("calls", "completed"), [(130, False), (300, True)])
def test_a_pruned_trial_is_completed_only_if_the_share_of_later_prompts_remains(
    tmp_path: Path, calls: int, completed: bool
) -> None:
    settings: dict[str, Any] = {
        "strategy": "random",
        "budget": {"calls": calls, "trials": 4},
        "prompts": {"proposer": "components", "share": 0.5, "when": "after"},
        "search": {"early_stopping": None},
    }
    config = Config(journal=str(tmp_path / "journal.db"), runs=tmp_path / "runs", **settings)
    folders: list[Path] = []
    budgets: list[Budget] = []
    left: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, RunStarted):
            folders.append(event.folder)
        if isinstance(event, SearchStarted):
            budgets.append(event.budget)
        if isinstance(event, TrialDone) and event.trial.number == 1 and len(folders) == 1:
            raise RuntimeError("stopped")
        if isinstance(event, PromptsStarted):
            left.append(calls - budgets[-1].spent.calls - budgets[-1].held_back.calls)

    with pytest.raises(CallbackError, match="stopped"):
        optimize(task(), config, provider=ScriptedModel(reply), callbacks=[watch])
    store = TrialStore(folders[0] / "trials.db", search_space(task(), Catalog.load()))
    pruned = next(c for c in store.space.candidates() if store.find(c, unfinished=True) is None)
    store.add(Proposal(pruned, "grid"), evaluation(8, "pruned"))
    resumed = optimize(task(), resume=folders[0], provider=ScriptedModel(reply), callbacks=[watch])
    assert left[0] >= 0.5 * calls
    assert [trial.state == "complete" for trial in resumed.trials if trial.candidate == pruned] == [completed]
    assert [report.responses > 0 for report in resumed.prompts] == [True]


@pytest.mark.parametrize("calls", [25, 37])
def test_a_trial_that_a_cap_cut_short_is_one_trial_after_each_resume(tmp_path: Path, calls: int) -> None:
    settings = {"strategy": "random", "budget": {"calls": calls}, "prompts": {"when": "never"}}
    whole, *resumed = resumed_twice(tmp_path, settings)
    assert "incomplete" in {trial.state for trial in whole.trials}
    for again in resumed:
        assert again.trials == whole.trials


def evaluation(scored: int, state: TrialState) -> Evaluation:
    return Evaluation("validation", ROWS, tuple(ExampleResult(f"validation-{i}", 1.0) for i in range(scored)), state)


@pytest.mark.parametrize(
    ("records", "kept"),
    [
        ([(2, "incomplete"), (2, "incomplete")], (2, "incomplete")),
        ([(4, "incomplete"), (2, "incomplete")], (4, "incomplete")),
        ([(2, "incomplete"), (4, "incomplete"), (12, "complete")], (12, "complete")),
        ([(10, "incomplete"), (8, "pruned")], (8, "pruned")),
        ([(8, "pruned"), (10, "incomplete")], (8, "pruned")),
        ([(8, "pruned"), (12, "complete")], (12, "complete")),
    ],
)
def test_the_records_of_a_candidate_are_one_trial(
    tmp_path: Path, records: list[tuple[int, TrialState]], kept: tuple[int, TrialState]
) -> None:
    space = search_space(task(), Catalog.load())
    store = TrialStore(tmp_path / "trials.db", space)
    one, other = (Candidate.of({"answer": SubtaskChoice(model)}) for model in (LARGE, SMALL))
    for scored, state in records:
        store.add(Proposal(one, "grid"), evaluation(scored, state))
    store.add(Proposal(other, "grid"), evaluation(ROWS, "complete"))
    for read in (store, TrialStore(tmp_path / "trials.db", space)):
        assert [trial.number for trial in read.trials] == [0, 1]
        assert (len(read.trials[0].evaluation.scores), read.trials[0].state) == kept
        assert read.completions == (records == [(8, "pruned"), (12, "complete")])


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("postgresql://u:s3cret@h:5432/d?sslmode=require", "postgresql://u@h:5432/d?sslmode=require"),
        ("postgresql://h/d?user=u&password=s3cret", "postgresql://h/d?user=u"),
        ("mysql+pymysql://u:s3%40cret@h/d?ssl_key_password=s3cret", "mysql+pymysql://u@h/d"),
        ("postgresql://u:s3cret@h:no/d", "a URL that cannot be read"),
        ("postgresql://u@h/d?passfile=f", "postgresql://u@h/d?passfile=f"),
        ("sqlite:////tmp/a b.db", "sqlite:////tmp/a b.db"),
        ("/tmp/a:b@c.db", "/tmp/a:b@c.db"),
    ],
)
def test_the_folder_of_a_run_keeps_no_password_of_the_journal(tmp_path: Path, url: str, kept: str) -> None:
    config = Config(journal=url, runs=tmp_path)
    run = RunFolder.create(toy_task(), config)
    assert run.config.journal == url
    assert RunFolder.open(run.path).config.journal == kept
    assert "cret" not in (run.path / "config.yaml").read_text()


@pytest.mark.parametrize("note", ["guess", "completed, because the agent requested it"])
def test_a_trial_that_the_agent_had_completed_is_complete_to_the_search(tmp_path: Path, note: str) -> None:
    space = search_space(task(), Catalog.load())
    store = TrialStore(tmp_path / "trials.db", space)
    one, other = (Candidate.of({"answer": SubtaskChoice(model)}) for model in (LARGE, SMALL))
    for candidate, in_search in ((one, True), (other, False)):
        store.add(Proposal(candidate, "agent", note), evaluation(8, "pruned"))
        store.add(Proposal(candidate, "agent", note, completed_in_search=in_search), evaluation(ROWS, "complete"))
    for read in (store, TrialStore(tmp_path / "trials.db", space)):
        assert [trial.state for trial in read.searched] == ["complete", "pruned"]
        assert read.completions == 1, "only what the run completed at its end counts"


@pytest.mark.parametrize("trials", [3, 5])
def test_a_trial_that_was_kept_for_better_prompts_is_why_a_search_ended(tmp_path: Path, trials: int) -> None:
    settings: dict[str, Any] = {
        "strategy": "random",
        "budget": {"trials": trials},
        "prompts": {"proposer": "components", "when": "after"},
    }
    config = Config(journal=str(tmp_path / "journal.db"), runs=tmp_path / "runs", **settings)
    result = optimize(task(), config, provider=ScriptedModel(lambda request, repeat: "no"))
    assert len(result.trials) == trials - 1
    assert str(result.ended) == f"every trial was spent: {KEPT_FOR_PROMPTS}"
