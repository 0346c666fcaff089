"""`agentopt whatif`: another choice among the trials of a run, without a model call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopt.api import LoadedTask, aoptimize, load, optimize
from agentopt.cli.commands.whatif import to_measure
from agentopt.core.candidate import Candidate, SubtaskChoice, load_candidate
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.records import Split
from agentopt.core.task import Example, Fusion, Subtask, Task, TokenLengths
from agentopt.evaluation.scorers import exact_match
from agentopt.models.base import Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import Result
from agentopt.runs.whatif import NewPrice, Option, Question, WhatIf, read_prices, what_if

ROWS = 100
RIGHT = {"small": 60, "middle": 89, "large": 90}
"""Of 100 examples, those that each model answers right."""
PRICES = {"small": 1.0, "middle": 4.0, "large": 6.0}


def specs(**prices: float) -> list[ModelSpec]:
    return [
        ModelSpec(
            name=name,
            base_url="http://127.0.0.1:9/v1",
            usd_per_1m_prompt=price,
            usd_per_1m_completion=price,
        )
        for name, price in {**PRICES, **prices}.items()
    ]


def task(models: tuple[str, ...] = tuple(PRICES)) -> Task:
    subtask = Subtask(
        name="answer",
        render=lambda inputs, outputs: str(inputs["number"]),
        models=models,
        num_samples=(1, 2),
        max_tokens=4,
    )
    names: tuple[Split, ...] = ("validation", "test")
    splits: dict[Split, tuple[Example, ...]] = {
        split: tuple(Example(f"{split}-{i}", {"number": i}, target=f"word-{i}") for i in range(ROWS)) for split in names
    }
    return Task(name="words", subtasks=(subtask,), scorer=exact_match(), splits=splits)


def answer(request: Request, repeat: int) -> str:
    number = int(request.messages[-1].content)
    return f"word-{number}" if number % ROWS < RIGHT[request.model] else "no"


async def run(folder: Path, prices: Mapping[str, float] = {}) -> tuple[RunFolder, LoadedTask, Result, ScriptedModel]:
    model = ScriptedModel(answer)
    settings: dict[str, Any] = {
        "strategy": "grid",
        "models": specs(**prices),
        "journal": str(folder / "journal.db"),
        "runs": folder / "runs",
        "search": {"early_stopping": None},
    }
    config = Config(**settings)
    result = await aoptimize(task(), config, provider=model)
    return RunFolder.open(result.run), load(task(), config), result, model


def of(model: str, samples: int = 1) -> Candidate:
    return Candidate.of({"answer": SubtaskChoice(model, samples)})


@pytest.mark.parametrize(
    ("changed", "expected"), [({"middle": 8.0}, "large"), ({"large": 3.0}, "large"), ({"small": 2.0}, "middle")]
)
async def test_new_prices_change_the_choice_as_a_search_from_scratch_does_without_a_call(
    changed: dict[str, float], expected: str, tmp_path: Path
) -> None:
    folder, loaded, result, model = await run(tmp_path / "before")
    assert result.recommended_candidate == of("middle")
    calls = len(model.requests)
    prices = {n: NewPrice(usd_per_1m_prompt=usd, usd_per_1m_completion=usd) for n, usd in changed.items()}
    found = what_if(folder, loaded.task, loaded.specs, Question(prices=prices))
    _, _, scratch, _ = await run(tmp_path / "after", changed)
    assert found.chosen
    assert found.chosen.candidate == scratch.recommended_candidate == of(expected)
    assert found.best
    assert found.best.candidate == scratch.best_candidate
    line = next(trial for trial in scratch.trials if trial.candidate == of(expected))
    assert found.chosen.cost == pytest.approx(line.units)
    assert [option.candidate for option in found.front] == [
        next(t.candidate for t in scratch.trials if t.number == number) for number in scratch.pareto
    ]
    assert found.before.candidate == of("middle")
    assert len(model.requests) == calls


async def test_the_same_prices_give_the_same_costs(tmp_path: Path) -> None:
    folder, loaded, result, _ = await run(tmp_path)
    prices = {name: NewPrice(usd_per_1m_prompt=usd, usd_per_1m_completion=usd) for name, usd in PRICES.items()}
    unchanged, same = (what_if(folder, loaded.task, loaded.specs, Question(prices=given)) for given in (None, prices))
    assert unchanged.chosen
    assert same.chosen
    assert same.chosen.cost == pytest.approx(unchanged.chosen.cost)
    assert unchanged.chosen.candidate == same.chosen.candidate == result.recommended_candidate
    assert unchanged.chosen == unchanged.before
    assert unchanged.untried == 0
    assert unchanged.promising == ()


async def test_the_same_prices_give_the_same_costs_of_votes_that_stop(tmp_path: Path) -> None:
    vote = Fusion("vote", options={"stop": ["decided", 0.8]})
    stopping = replace(task().subtasks[0], num_samples=(1, 5), fusion=vote)
    words = replace(task(), subtasks=(stopping,))
    model = ScriptedModel(lambda request, repeat: f"{answer(request, repeat)}{repeat % 2 or ''}")
    models = [spec.model_copy(update={"max_choices": 8}) for spec in specs()]
    settings: dict[str, Any] = {"models": models, "journal": str(tmp_path / "j.db"), "runs": tmp_path / "runs"}
    config = Config(strategy="grid", search={"early_stopping": None}, **settings)
    result = await aoptimize(words, config, provider=model)
    loaded = load(words, config)
    prices = {name: NewPrice(usd_per_1m_prompt=usd, usd_per_1m_completion=usd) for name, usd in PRICES.items()}
    found = what_if(RunFolder.open(result.run), loaded.task, loaded.specs, Question(prices=prices))
    costs = {trial.number: trial.units for trial in result.trials}
    assert {option.trial: option.cost for option in found.front} == {
        option.trial: pytest.approx(costs[option.trial or 0]) for option in found.front
    }
    assert any(option.candidate["answer"].num_samples == 5 for option in found.front)


async def test_the_cost_of_what_was_not_tried_is_that_of_the_tokens_that_its_model_took(tmp_path: Path) -> None:
    nominal = replace(task().subtasks[0], tokens=TokenLengths(500, 100))
    words = replace(task(), subtasks=(nominal,))
    settings: dict[str, Any] = {"models": specs(), "journal": str(tmp_path / "j.db"), "runs": tmp_path / "runs"}
    config = Config(strategy="grid", budget={"trials": 3}, **settings)
    result = await aoptimize(words, config, provider=ScriptedModel(answer))
    loaded = load(words, config)
    found = what_if(RunFolder.open(result.run), loaded.task, loaded.specs, Question())
    costs = {option.candidate: option.cost for option in found.promising if option.trial is None}
    measured = next(trial.units for trial in result.trials if trial.candidate == of("small"))
    assert costs[of("small", 2)] == pytest.approx(2 * measured), "each sample is a request of its own"
    assert costs[of("middle")] == pytest.approx(600 * PRICES["middle"] / 1e6), "nominal: no trial has used it"


async def test_limits_scores_and_models_narrow_the_choice(tmp_path: Path) -> None:
    folder, loaded, _, _ = await run(tmp_path)

    def ask(**changes: Any) -> Any:
        return what_if(folder, loaded.task, loaded.specs, Question(**changes))

    front = {option.candidate: option for option in ask().front}
    middle, small = front[of("middle")].usd, front[of("small")].usd
    assert ask(max_usd=(middle + small) / 2).chosen.candidate == of("small")
    assert ask(max_usd=(middle + small) / 2).before.is_allowed is False
    assert ask(max_usd=small / 2).chosen is None
    assert ask(min_score=0.55).chosen.candidate == of("small")
    assert ask(min_score=0.8).chosen.candidate == of("middle")
    assert ask(min_score=0.99).chosen is None
    with pytest.raises(
        UserError, match=r"the least score must be at most 1, .* but got 2\n  remedy: write --min-score"
    ):
        ask(min_score=2)
    middle = ask(min_score=0.8).chosen.score
    assert ask(min_score=middle + 1e-12).chosen.candidate == of("middle")
    assert ask(models=("small", "large")).chosen.candidate == of("large")
    with pytest.raises(UserError, match=r"subtask answer may use small, middle and large.*\n.*--models"):
        ask(models=("other",))


async def test_what_was_not_tried_is_suggested(tmp_path: Path) -> None:
    model = ScriptedModel(answer)
    settings: dict[str, Any] = {"models": specs(), "journal": str(tmp_path / "j.db"), "runs": tmp_path / "runs"}
    config = Config(strategy="grid", budget={"trials": 2}, **settings)
    result = await aoptimize(task(), config, provider=model)
    loaded = load(task(), config)
    found = what_if(RunFolder.open(result.run), loaded.task, loaded.specs, Question())
    assert found.untried == 4
    assert len([option for option in found.promising if option.trial is None]) == 3
    tried = {trial.candidate for trial in result.trials}
    assert not tried & {option.candidate for option in found.promising}
    assert found.rows == ROWS
    drawn = {choice.model: choice.num_samples for c in tried for choice in c.values()}
    for option in found.promising:
        ((_, choice),) = option.candidate.items()
        assert option.to_call == (0 if choice.num_samples <= drawn.get(choice.model, 0) else ROWS)


async def test_a_cheaper_trial_that_was_stopped_early_is_worth_completing(tmp_path: Path) -> None:
    dearest_first = task(("large", "middle", "small"))
    settings: dict[str, Any] = {"models": specs(), "journal": str(tmp_path / "j.db"), "runs": tmp_path / "runs"}
    config = Config(strategy="grid", **settings)
    result = await aoptimize(dearest_first, config, provider=ScriptedModel(answer))
    pruned = {trial.candidate: trial.number for trial in result.trials if trial.state == "pruned"}
    loaded = load(dearest_first, config)
    found = what_if(RunFolder.open(result.run), loaded.task, loaded.specs, Question(min_score=0.3))
    assert found.chosen
    stopped = [option for option in found.promising if option.trial is not None]
    assert of("small") in {option.candidate for option in stopped}
    for option in stopped:
        assert pruned[option.candidate] == option.trial
        assert option.cost < found.chosen.cost
        assert option.score is not None
        assert option.score >= 0.3


async def test_a_changed_task_is_refused(tmp_path: Path) -> None:
    folder, loaded, _, _ = await run(tmp_path)
    other = replace(loaded.task, subtasks=(replace(loaded.task.subtasks[0], max_tokens=5),))
    with pytest.raises(ConfigError, match="the task has changed since the run began"):
        what_if(folder, other, loaded.specs, Question())


BUT_GOT = "no price may be above 0, but got"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {smal: {usd_per_1m_prompt: 1}}", "the run has no model 'smal'"),
        ("models: {small: {usd_per_1m_promt: 1}}", "models.small.usd_per_1m_promt"),
        ("models: {small: {usd_per_1m_prompt: -1}}", "models.small.usd_per_1m_prompt"),
        *(
            (f"models: {{small: {{price: free, {key}: 4}}}}", f"models.small: with `price: free`, {BUT_GOT} `{key}: 4`")
            for key in sorted(NewPrice.model_fields.keys() - {"price"})
        ),
    ],
)
def test_a_mistake_in_a_price_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_prices(tmp_path / "new.yaml", {spec.name: spec for spec in specs()})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("to_call", "words"),
    [
        (0, "; measuring it costs 0 USD: the journal has all of its responses"),
        (25, "; measuring it takes about 0.05 USD: the journal has those of 75 of 100 rows"),
        (100, "; measuring it takes about 0.2 USD"),
    ],
)
def test_what_a_measurement_costs_leaves_out_the_journals_responses(to_call: int, words: str) -> None:
    option = Option(of("middle"), None, None, 0.002, 0.002, None, is_allowed=True, to_call=to_call)
    found = WhatIf("usd", None, None, option, (), 1, (option,), ROWS)
    assert to_measure(option, found) == words


def test_the_command_prints_the_answer_and_writes_the_candidate(
    tmp_path: Path, console_script: Callable[..., tuple[int, str, str]]
) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    for split, first in (("validation", 0), ("test", ROWS)):
        rows = ({"id": str(i), "number": i, "target": f"word-{i}"} for i in range(first, first + ROWS))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "name": "words",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [{"name": "answer", "prompt": "{{ inputs.number }}", "models": [*PRICES], "max_tokens": 4}],
        "scorer": {"kind": "exact_match"},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    config = Config(
        strategy="grid",
        models=specs(),
        journal=str(tmp_path / "j.db"),
        runs=tmp_path / "runs",
        search={"early_stopping": None},
    )
    result = optimize(folder, config, provider=ScriptedModel(answer))
    new, out = tmp_path / "new.yaml", tmp_path / "chosen.yaml"
    new.write_text("models: {middle: {usd_per_1m_prompt: 8, usd_per_1m_completion: 8}}")
    code, printed, errors = console_script("whatif", result.run, "--prices", str(new), "--out", str(out))
    assert (code, errors) == (0, "")
    assert "chosen: answer: large x1" in printed
    assert "the run recommends: answer: middle x1" in printed
    file = f"{result.run}/chosen.yaml"
    assert f"on the test split; --out {file}, then `agentopt gate {file}` does it" in printed
    assert printed.endswith("no model was called\n")
    assert load_candidate(out) == of("large")
    code, printed, _ = console_script("whatif", result.run, "--min-score", "0.95")
    assert code == 0
    assert "chosen: none, because no trial within the limits has a score of 0.95; the highest is 0.9" in printed
    for models, cheapest in ((",".join(PRICES), "small"), ("large,middle", "middle"), ("large", "large")):
        code, printed, _ = console_script("whatif", result.run, "--max-usd-per-1000", "1e-9", "--models", models)
        assert (code, f"nearest to the limits: answer: {cheapest} x1 | trial " in printed) == (0, True), printed
    for arguments, message in (
        (["--models", "smal"], "did you mean 'small'?"),
        (["--max-usd-per-1000", "-1"], "must be a positive number"),
        (["--prices", str(tmp_path / "none.yaml")], "none.yaml"),
    ):
        code, _, errors = console_script("whatif", result.run, *arguments)
        assert (code, message in errors) == (2, True), errors
