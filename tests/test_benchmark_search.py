"""The search benchmark: what it counts, and that strategies which ask a model work on a landscape with any endpoint."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopt.config import load_config
from agentopt.search.base import Proposal
from agentopt.testing.landscape import SyntheticChain, SyntheticLandscape
from agentopt.testing.servers import OpenAIServer
from benchmarks.search import Meter, Outcome, Spent, quartiles, report, run_asking, run_free, synthetic, worlds

TWO_STAGES = "synthetic, two stages"


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
    """What a capable endpoint would do with a schema: follow it."""
    schema = body["response_format"]["json_schema"]["schema"]
    return json.dumps(conforming(schema, random.Random(f"{body['messages']} {body.get('seed')} {index}")))


async def test_strategies_that_ask_a_model_run_on_a_landscape_with_any_endpoint(tmp_path: Path) -> None:
    async with OpenAIServer(answer) as server:
        entry = {"base_url": server.base_url, "json_schema": True, "context_length": 16_384}
        (tmp_path / "my.yaml").write_text(yaml.safe_dump({"models": {"capable": entry}}))
        settings = [f"models={tmp_path / 'my.yaml'}", f"journal={tmp_path / 'j.db'}", "agent.model=capable"]
        wanted = ["agent", "llm_zero_shot"]
        outcomes = await run_asking(TWO_STAGES, range(1), load_config(settings), wanted)
    assert [o.strategy for o in outcomes] == wanted
    assert all(o.calls > 0 for o in outcomes)
    assert sum(o.calls for o in outcomes) == server.calls
    told = server.requests[0].body["messages"]
    assert "Stage retrieve" in told[0]["content"]
    assert f"| agent | {outcomes[0].close.trials if outcomes[0].close else '>50'}" in report(outcomes)


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
    outcomes = run_free(TWO_STAGES, ["random", "tpe, limit not avoided", "optuna, insight"], 3)
    assert [o.most for o in outcomes] == [300, 150, 150]
    assert all(o.close is None or o.close.trials <= o.most for o in outcomes)
    assert all(len(o.curve) == 50 and max(o.curve) <= 1 for o in outcomes)
    insight = outcomes[2]
    assert insight.close is not None
    assert insight.close.trials < 50


def test_searches_that_were_given_up_are_shown_as_such() -> None:
    assert quartiles([5, 7, float("inf")], ">300") == "7 (5 to >300)"
    given_up = Outcome(TWO_STAGES, "random", 0, 300, None, (0.5,) * 50)
    line = next(row for row in report([given_up]).splitlines() if row.startswith("| random"))
    assert line.startswith("| random | >300 (>300 to >300) | - (- to -)")


def test_the_landscapes_that_were_recorded_are_among_the_worlds() -> None:
    names = [name for name in worlds() if name.startswith("recorded")]
    assert "recorded, quickstart" in names
    for name in names:
        world = worlds()[name](0)
        assert max(map(world.exact, world.space.candidates())) == pytest.approx(world.optimum)
        assert len(world.evaluate(world.space.baseline).scores) >= 24


def test_a_drawn_chain_is_a_function_of_its_seed() -> None:
    one, same, other = SyntheticChain(1), SyntheticChain(1), SyntheticChain(2)
    base = one.space.baseline
    assert one.observed(base) == same.observed(base)
    assert (one.space, one.optimum) == (same.space, same.optimum)
    assert one.optimum != other.optimum
    assert 0 < one.exact(base) < one.optimum <= 1
