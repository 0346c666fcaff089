"""The Python API: objects in place of files, inside and outside of an event loop."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import agentopt
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import BudgetExceeded, CatalogError, ConfigError
from agentopt.core.events import Event, RunStarted, TrialDone
from agentopt.core.records import Trial
from agentopt.models.base import Request, Response
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.example_costs import ExampleCosts
from agentopt.runs.folder import RunFolder
from agentopt.search.base import Proposal, Runner, SearchSpace
from agentopt.testing.toy import LARGE, SMALL, toy_model, toy_task


def config(tmp_path: Path, **changes: object) -> agentopt.Config:
    settings = {"strategy": "random", "journal": str(tmp_path / "journal.db"), "runs": str(tmp_path / "runs")}
    return agentopt.Config.model_validate({**settings, "budget": {"trials": 4}, **changes})


class MostSamples:
    """A strategy: the candidates with most samples first."""

    async def propose(self, space: SearchSpace, trials: Sequence[Trial], k: int) -> list[Proposal]:
        tried = {trial.candidate for trial in trials}
        left = sorted(space.candidates(), key=lambda c: -sum(choice.num_samples for choice in c.values()))
        return [Proposal(c, "most samples") for c in left if c not in tried][:k]


class LargeOnly:
    """A search that runs one trial."""

    async def run(self, space: SearchSpace, runner: Runner) -> None:
        await runner.run(Proposal(space.candidate({"find": (LARGE, 1), "answer": (LARGE, 1)}), "large only"))


@pytest.mark.parametrize(
    ("strategy", "proposers"),
    [
        (MostSamples(), ["baseline", "most samples", "most samples", "most samples"]),
        (LargeOnly(), ["baseline", "large only"]),
    ],
)
async def test_a_strategy_or_a_search_is_passed_as_an_object(
    tmp_path: Path, strategy: agentopt.Strategy | agentopt.Search, proposers: list[str]
) -> None:
    events: list[Event] = []
    asked = config(tmp_path, strategy="agent", agent={"model": "not in the catalogue"})
    result = await agentopt.aoptimize(
        toy_task(), asked, strategy=strategy, callbacks=[events.append], provider=toy_model()
    )
    assert [trial.proposer for trial in result.trials] == proposers
    assert [e.trial.number for e in events if isinstance(e, TrialDone)] == [t.number for t in result.trials]
    assert next(e.folder for e in events if isinstance(e, RunStarted)) == Path(result.run)

    silent = ScriptedModel(script=[])
    with pytest.raises(ConfigError, match=r"custom is an object.*\n.*pass the object again"):
        await agentopt.aoptimize(toy_task(), resume=result.run, provider=silent)
    again = await agentopt.aoptimize(toy_task(), strategy=strategy, resume=result.run, provider=silent)
    assert again.trials == result.trials


async def test_an_object_that_is_no_strategy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a strategy has a method `propose`, or `run`"):
        await agentopt.aoptimize(toy_task(), config(tmp_path), strategy=object(), provider=toy_model())  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()


async def test_the_blocking_functions_work_inside_a_running_event_loop(tmp_path: Path) -> None:
    threads: list[str] = []
    result = agentopt.optimize(
        toy_task(),
        config(tmp_path),
        callbacks=[lambda event: threads.append(threading.current_thread().name)],
        provider=toy_model(),
    )
    assert len(result.trials) == 4
    assert set(threads) == {"agentopt"}
    evaluation = agentopt.evaluate(toy_task(), result.best_candidate, config(tmp_path), provider=toy_model())
    assert evaluation.state == "complete"
    with pytest.raises(agentopt.errors.TaskError, match="a pilot needs a train split"):
        agentopt.diagnose(toy_task(), config(tmp_path), provider=toy_model())


def test_an_exception_of_a_blocking_function_has_no_other_one_before_it(tmp_path: Path) -> None:
    with pytest.raises(agentopt.errors.TaskError) as outside:
        agentopt.optimize(tmp_path / "none", config(tmp_path))
    assert chain_of(outside.value) == [agentopt.errors.TaskError]


async def test_nor_has_one_inside_a_running_event_loop(tmp_path: Path) -> None:
    with pytest.raises(agentopt.errors.TaskError) as inside:
        agentopt.evaluate(tmp_path / "none", config=config(tmp_path))
    assert chain_of(inside.value) == [agentopt.errors.TaskError]


def chain_of(error: BaseException | None) -> list[type[BaseException]]:
    """The exceptions that a traceback prints, the last one first."""
    found = []
    while error is not None:
        found.append(type(error))
        error = error.__cause__ or error.__context__
    return found


async def test_ctrl_c_inside_a_running_event_loop_ends_the_run_after_the_calls_in_flight(tmp_path: Path) -> None:
    class Interrupting(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            if not self.requests:
                threading.Timer(0.1, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
            response = await super().generate(request)
            await asyncio.sleep(0.5)
            return response

    model = Interrupting(toy_model()._answer)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            agentopt.evaluate(toy_task(test=4), config=config(tmp_path), provider=model)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not [thread for thread in threading.enumerate() if thread.name == "agentopt"]
    assert len(model.requests) == 4, "the second subtask was not called"


@pytest.mark.parametrize(("name", "cap"), [("calls", 0), ("calls", 5), ("tokens", 1), ("tokens", 60)])
@pytest.mark.parametrize("repeats", [1, 2])
def test_the_cap_that_an_evaluation_suggests_pays_for_all_of_it(
    tmp_path: Path, name: str, cap: int, repeats: int
) -> None:
    def evaluated(cap: int, journal: str) -> agentopt.Evaluation:
        settings = config(tmp_path, budget={name: cap}, journal=str(tmp_path / journal))
        return agentopt.evaluate(toy_task(test=4), config=settings, provider=toy_model(), repeats=repeats)

    with pytest.raises(BudgetExceeded, match=rf"raise budget.{name} to [\d]+, which suffices without") as caught:
        evaluated(cap, "one.db")
    enough = int(str(caught.value).partition(f"budget.{name} to ")[2].partition(",")[0])
    assert evaluated(enough, "other.db").state == "complete"
    assert caught.value.partial or not cap


SPEC = ModelSpec(name="mine", base_url="http://127.0.0.1:9/v1", parameters=2e9, api_key_env="MY_SECRET_KEY")


@pytest.mark.parametrize("given", [SPEC, [SPEC], {"mine": SPEC}, Catalog({"mine": SPEC})])
def test_models_are_given_as_objects(tmp_path: Path, given: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET_KEY", "sk-never-in-a-file")
    asked = config(tmp_path, models=given)
    assert Catalog.load(*asked.models)["mine"] == SPEC
    run = RunFolder.create(toy_task(), asked)
    text = (run.path / "config.yaml").read_text()
    assert "sk-never-in-a-file" not in text
    assert RunFolder.open(str(run.path)).config.models == (SPEC,), "the run's folder is enough to resume it"


def test_a_model_object_that_breaks_a_rule_is_refused() -> None:
    with pytest.raises(CatalogError, match="exactly one of litellm, base_url and weights"):
        Catalog.load(ModelSpec(name="nowhere"))


def test_settings_are_given_as_objects_and_files_as_text(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": {"other": {"base_url": "http://127.0.0.1:9"}}}))
    asked = agentopt.Config(
        budget=agentopt.BudgetConfig(trials=3),
        search=agentopt.SearchSettings(batch_size=2),
        agent=agentopt.AgentSettings(model="small"),
        prompts=agentopt.PromptSettings(when="never"),
        models=(tmp_path / "models.yaml", SPEC),
    )
    assert asked.budget.caps().trials == 3
    assert {"other", "mine"} <= set(Catalog.load(*asked.models))
    by_path = agentopt.Config.model_validate({"models": str(tmp_path / "models.yaml")})
    assert by_path.models == (tmp_path / "models.yaml",)


async def test_a_result_offers_its_candidate_its_trials_and_its_verdict(tmp_path: Path) -> None:
    result = await agentopt.aoptimize(
        toy_task(validation=40, test=40), config(tmp_path, budget={"trials": 8}), provider=toy_model()
    )
    assert result.best_candidate == result.finalist("best").candidate
    assert result.trials[0].candidate == toy_task().baseline
    assert result.verdict in ("superior", "non-inferior", "inferior", "not enough rows")
    assert agentopt.load_result(result.run) == result
    assert agentopt.load_candidate(f"{result.run}/best.yaml") == result.best_candidate


@pytest.mark.parametrize("subtasks", [2, 40])
async def test_the_repr_of_a_result_fits_a_screen(tmp_path: Path, subtasks: int) -> None:
    result = await agentopt.aoptimize(toy_task(), config(tmp_path, budget={"trials": 8}), provider=toy_model())
    wide = Candidate.of({f"subtask-{i}": SubtaskChoice(SMALL, 3) for i in range(subtasks)})
    shown = repr(replace(result, finalists=tuple(replace(f, candidate=wide) for f in result.finalists))).splitlines()
    assert len(shown) <= 25
    assert max(map(len, shown)) <= 100
    assert "verdict on the test split" in shown[-1]
    with pytest.raises(agentopt.errors.NoFinalistError, match=r"no finalist 'bset'\n  remedy: did you mean 'best'"):
        result.finalist("bset")  # type: ignore[arg-type]


async def test_the_repr_of_a_result_wraps_a_line_without_cutting_a_number(tmp_path: Path) -> None:
    result = await agentopt.aoptimize(toy_task(), config(tmp_path, budget={"trials": 2}), provider=toy_model())
    slow = ExampleCosts(0.000123, 12.345, 23.456)
    finalists = tuple(replace(f, measures=slow, trial=123) for f in result.finalists)
    shown = repr(replace(result, cost_in="usd", finalists=finalists))
    assert max(map(len, shown.splitlines())) <= 100
    words = "; on validation 0.123 USD per 1,000 requests, 12.35 s (p50) and 23.46 s (p95) (trial 123)"
    assert " ".join(shown.split()).count(words) == len(finalists)


async def test_the_repr_of_an_evaluation_fits_a_screen(tmp_path: Path) -> None:
    evaluation = await agentopt.aevaluate(toy_task(), None, config(tmp_path), provider=toy_model())
    failed = replace(evaluation.results[0], score=None, error="no answer\nat all " + 200 * "x")
    broken = replace(evaluation, results=(failed, *evaluation.results[1:]), state="incomplete")
    for one, expected in ((evaluation, "16 test examples: complete"), (broken, "1 example without a score")):
        shown = repr(one)
        assert expected in shown
        assert f"score {one.score:.3f}" in shown
        assert "USD per 1,000 requests" in shown
        assert len(shown.splitlines()) <= 10
        assert max(map(len, shown.splitlines())) <= 160


@pytest.mark.parametrize("reader", [agentopt.load_result, agentopt.load_candidate, agentopt.load_task, RunFolder.open])
def test_a_path_is_taken_as_text(reader: Callable[[str], object]) -> None:
    with pytest.raises(agentopt.errors.UserError):
        reader("no/such/place")
