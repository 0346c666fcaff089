"""The search benchmark: its counts, and strategies that call a model on a landscape with any endpoint."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopt.core.errors import PermanentModelError, UserError
from agentopt.models.base import Message, Request
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import load_config
from agentopt.search.base import Proposal
from agentopt.testing.servers import OpenAIServer
from agentopt.testing.synthetic_landscape import SyntheticChain, SyntheticLandscape
from benchmarks.search import (
    Meter,
    RequiredModel,
    configured,
    main,
    report,
    run_free,
    run_with_model,
    synthetic,
    worlds,
)
from benchmarks.search_tables import AIMS, SearchOutcome, Spent, misses, quantile, table

TWO_SUBTASKS = "synthetic, two subtasks"


def conforming(schema: dict[str, Any], rng: random.Random) -> Any:
    """Something that the schema admits."""
    if "anyOf" in schema:
        return conforming(rng.choice(schema["anyOf"]), rng)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if schema["type"] == "array":
        return [conforming(schema["items"], rng) for _ in range(schema["minItems"])]
    if schema["type"] == "object":
        return {name: conforming(part, rng) for name, part in schema["properties"].items()}
    return "go on"


def answer(body: dict[str, Any], index: int) -> str:
    """Follow a schema, as a capable endpoint does."""
    schema = body["response_format"]["json_schema"]["schema"]
    return json.dumps(conforming(schema, random.Random(f"{body['messages']} {body.get('seed')} {index}")))


async def test_strategies_with_a_model_run_on_a_landscape_with_any_endpoint(tmp_path: Path) -> None:
    async with OpenAIServer(answer) as server:
        entry = {"base_url": server.base_url, "supports": {"seed": True}, "json_schema": True, "context_length": 16_384}
        (tmp_path / "my.yaml").write_text(yaml.safe_dump({"models": {"capable": entry}}))
        settings = [f"models={tmp_path / 'my.yaml'}", f"journal={tmp_path / 'j.db'}", "agent.model=capable"]
        wanted = ["agent", "llm_zero_shot"]
        outcomes = await run_with_model(TWO_SUBTASKS, range(1), load_config(settings), wanted)
    assert [o.strategy for o in outcomes] == wanted
    assert all(o.calls > 0 for o in outcomes)
    assert sum(o.calls for o in outcomes) == server.calls
    messages = server.requests[0].body["messages"]
    assert "Subtask retrieve" in messages[0]["content"]
    assert [f"| {o.strategy} |" in report(outcomes) for o in outcomes] == [True, True]
    assert all(len(o.chosen or ()) > 3 for o in outcomes), "the trials after the first ones"
    assert f"| agent | {outcomes[0].close.trials if outcomes[0].close else '>50'}" in report(outcomes)


async def test_proposals_of_the_fallback_are_not_counted_as_the_models(tmp_path: Path) -> None:
    async with OpenAIServer(lambda body, index: "I would rather not.") as server:
        entry = {"base_url": server.base_url, "supports": {"seed": True}, "context_length": 16_384}
        (tmp_path / "my.yaml").write_text(yaml.safe_dump({"models": {"useless": entry}}))
        settings = [f"models={tmp_path / 'my.yaml'}", f"journal={tmp_path / 'j.db'}", "agent.model=useless"]
        outcomes = await run_with_model("recorded, quickstart", range(1), load_config(settings), ["agent_hpo"])
    assert set(outcomes[0].chosen or ()) == {"fallback"}
    assert report(outcomes).splitlines()[4].endswith(f"| {outcomes[0].calls} | 0% |")


def test_the_share_of_own_proposals_is_of_the_trials_of_all_runs() -> None:
    calls, chosen = (4, 6), (("agent", "agent", "fallback"), ("agent",))
    runs = [SearchOutcome(TWO_SUBTASKS, "agent", i, 50, None, (0.5,) * 50, 13, calls[i], chosen[i]) for i in range(2)]
    head, _, line = table(runs).splitlines()
    assert head.endswith("| model: calls | model: own proposals |")
    assert line.endswith("| 5 | 75% |")
    nobody = SearchOutcome(TWO_SUBTASKS, "agent", 0, 50, None, (0.5,) * 50, chosen=())
    assert table([nobody]).endswith("| 0 | no trial |")
    asks_none = SearchOutcome(TWO_SUBTASKS, "random", 0, 50, None, (0.5,) * 50)
    assert table([asks_none]).endswith("|  |  |")


def test_an_unreachable_endpoint_ends_the_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({"models": {"dead": dead}}))
    settings = ["-c", f"models={tmp_path / 'my.yaml'}", "-c", f"journal={tmp_path / 'j.db'}"]
    with pytest.raises(SystemExit, match=r"agent dead: the model gave no reply: .*\n.*remedy: check its entry"):
        main(["--on", "recorded, quickstart", *settings, "-c", "agent.model=dead"])
    assert "|" not in capsys.readouterr().out, "no figure is printed under its name"


async def test_a_model_that_answered_once_may_fail_later(tmp_path: Path) -> None:
    script: dict[str, int] = {"calls": 0}

    def once(request: Request, repeat: int) -> str:
        script["calls"] += 1
        if script["calls"] > 1:
            raise PermanentModelError("gone")
        return "text"

    model = RequiredModel(ScriptedModel(once), "flaky")
    request = Request("flaky", (Message("user", "?"),), max_tokens=1)
    assert (await model.generate(request)).choices[0].text == "text"
    with pytest.raises(PermanentModelError):
        await model.generate(request)
    with pytest.raises(UserError, match="gave no reply: gone"):
        await RequiredModel(ScriptedModel(once), "flaky").generate(request)


def test_the_agent_is_given_by_an_option_or_by_a_setting_and_none_otherwise() -> None:
    assert configured([], None).agent.model is None
    assert configured(["agent.model=mine"], None).agent.model == "mine"
    assert configured(["seed=3"], "mine") == configured(["agent.model=mine", "seed=3"], None)


@pytest.mark.parametrize(
    ("given", "problem"), [(["--on", "nowhere"], "no landscape"), (["--only", "x"], "no strategy")]
)
def test_a_name_that_selects_nothing_is_the_users_mistake(given: list[str], problem: str) -> None:
    with pytest.raises(SystemExit, match=problem):
        main(["--seeds", "1", "--processes", "1", *given])


def test_the_report_gives_how_many_of_the_defaults_trials_were_a_search() -> None:
    start_alone = run_free("recorded, quickstart", ["optuna, insight"], 0)
    assert report(start_alone).endswith(
        "Of the default's 2 trials at the median 0 came after the start, "
        "the baseline and one pass of the largest models: nothing was searched."
    )
    searched = run_free(TWO_SUBTASKS, ["optuna, insight"], 3)
    assert searched[0].start == 1 + 1, "the largest model in both subtasks"
    assert searched[0].close is not None
    spent = searched[0].close.trials
    assert report(searched).endswith(
        f"Of the default's {spent} trials at the median {spent - 2} came after the start, "
        "the baseline and one pass of the largest models."
    )
    given_up = SearchOutcome(TWO_SUBTASKS, "optuna, insight", 0, 150, None, (0.5,) * 50, 13)
    assert report([given_up]).endswith("At the median the default was given up.")


@pytest.mark.parametrize("name", [*AIMS])
def test_the_aims_are_those_of_the_landscapes(name: str) -> None:
    assert name in worlds()


def test_the_short_form_prints_the_default_beside_its_aims(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--short", "--processes", "1", "--on", "recorded", "two subtasks, strengths"])
    printed = capsys.readouterr().out
    assert "| optuna, insight |" in printed
    assert "| random |" not in printed
    assert "Aims of the default: a median of at most 12 trials: " in printed
    assert "Aims of the default: a median of at most 5 trials: " in printed
    assert "12 searches in" in printed


def of_default(*trials: int | None) -> list[SearchOutcome]:
    closes = [None if spent is None else Spent(spent, 1, 1.0) for spent in trials]
    return [SearchOutcome(TWO_SUBTASKS, "optuna, insight", i, 150, c, (0.5,) * 50) for i, c in enumerate(closes)]


def test_a_missed_aim_is_named() -> None:
    assert misses(of_default(12, 12, 25)) == []
    assert misses(of_default(12, 13, 25)) == [f"{TWO_SUBTASKS}: 50% within 13 trials, not 12"]
    assert misses(of_default(8, 8, None)) == [f"{TWO_SUBTASKS}: 90% within more than all trials, not 25"]


async def test_a_meter_counts_what_was_spent_until_the_search_came_close() -> None:
    landscape = SyntheticLandscape(0, noise=0)
    world = synthetic(landscape)
    meter = Meter(world, most=10)
    assert meter.spent == Spent(1, 2, landscape.space.units(landscape.space.baseline))
    best = max(landscape.space.candidates(), key=landscape.exact)
    meter.waste()
    assert meter.close is None
    assert meter.trials_left == 8
    await meter.run(Proposal(best, "x"))
    drawn = sum(choice.num_samples for choice in best.values())
    assert meter.close == Spent(3, 2 + drawn, meter.spent.units)
    assert meter.trials_left == 0
    assert meter.curve == [meter.curve[0], meter.curve[0], landscape.optimum]


def test_free_strategies_come_close_or_are_given_up_at_their_limit() -> None:
    outcomes = run_free(TWO_SUBTASKS, ["random", "tpe, limit not avoided", "optuna, insight"], 3)
    assert [o.most for o in outcomes] == [300, 150, 150]
    assert all(o.close is None or o.close.trials <= o.most for o in outcomes)
    assert all(len(o.curve) == 50 and max(o.curve) <= 1 for o in outcomes)
    insight = outcomes[2]
    assert insight.close is not None
    assert insight.close.trials < 50


def test_searches_that_were_given_up_are_shown_as_such() -> None:
    assert [quantile([5, 7, float("inf")], share) for share in (0.5, 0.75, 1)] == [7, float("inf"), float("inf")]
    given_up = SearchOutcome(TWO_SUBTASKS, "random", 0, 300, None, (0.5,) * 50)
    line = next(row for row in report([given_up]).splitlines() if row.startswith("| random"))
    assert line.startswith("| random | >300 | >300 | >300 | >300 | - | -")


def test_the_landscapes_that_were_recorded_are_among_the_worlds() -> None:
    names = [name for name in worlds() if name.startswith("recorded")]
    assert "recorded, quickstart" in names
    for name in names:
        world = worlds()[name](0)
        assert max(map(world.exact, world.space.candidates())) == pytest.approx(world.optimum)
        assert len(world.evaluate(world.space.baseline).scores) >= 24


def test_a_random_chain_is_a_function_of_its_seed() -> None:
    one, same, other = SyntheticChain(1), SyntheticChain(1), SyntheticChain(2)
    base = one.space.baseline
    assert one.observed(base) == same.observed(base)
    assert (one.space, one.optimum) == (same.space, same.optimum)
    assert one.optimum != other.optimum
    assert 0 < one.exact(base) < one.optimum <= 1
