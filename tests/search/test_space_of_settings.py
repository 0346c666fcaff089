"""Settings in a search: the agent's replies, the Gaussian process, and spaces of many choices per subtask."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from agentopt.core.axes import as_axes
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import SubtaskCost
from agentopt.search.agent_prompts import proposal_prompt, system_message
from agentopt.search.agent_reply import read_reply
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.gaussian_process import Grid
from agentopt.search.neighbourhood import neighbours, step
from agentopt.search.optuna_strategy import OptunaStrategy
from agentopt.search.recorded_landscape import USES, Landscape
from agentopt.search.settings import AgentSettings
from agentopt.search.strategy_loop import LoopSearch
from agentopt.testing.strategies import ScriptedRunner

SIZES = {"small-1b": 1e9, "medium-8b": 8e9, "large-70b": 70e9}
NOTHING: Mapping[str, tuple[str, ...]] = {}
VALUES: Mapping[str, Any] = {
    "temperature": (0, 0.7),
    "max_tokens": (64, 128, 256),
    "effort": ("low", "medium", "high"),
    "knobs.style": ("brief", "long"),
}


def space(subtasks: int = 1, lacks: Mapping[str, tuple[str, ...]] = NOTHING) -> SearchSpace:
    axes = as_axes(VALUES)
    cost = SubtaskCost(500, 100, SIZES)
    return SearchSpace(
        tuple(
            SubtaskSpace(f"s{i}", tuple(SIZES), (1, 2, 4), "", cost, settings=axes, lacks=lacks)
            for i in range(subtasks)
        )
    )


def entry(text: Any) -> str:
    return json.dumps({"candidates": [{"s0": text}]})


@pytest.mark.parametrize(
    ("written", "settings"),
    [
        ("medium x2", {}),
        ("medium x2 temperature=0.7", {"temperature": 0.7}),
        ("medium x2 temperature=0 effort=low", {}),
        ("medium x2, effort = HIGH, knobs.style=long", {"effort": "high", "knobs.style": "long"}),
        ("medium x2 max_tokens=200 temperature=0.9", {"max_tokens": 256, "temperature": 0.7}),
        ({"model": "medium", "samples": 2, "effort": "medium"}, {"effort": "medium"}),
        ({"model": "medium", "num_samples": 2, "settings": {"max_tokens": 128}}, {"max_tokens": 128}),
        ("medium x2 top_k=3", {}),
    ],
)
def test_settings_in_a_reply_are_read_however_they_are_written(written: Any, settings: dict[str, Any]) -> None:
    (proposal,) = read_reply(entry(written), space(), (), 1).proposals
    assert proposal.candidate.to_dict()["s0"].get("settings", {}) == settings
    assert (proposal.candidate["s0"].model, proposal.candidate["s0"].num_samples) == ("medium-8b", 2)


def test_an_unknown_value_in_a_reply_is_not_guessed_and_a_setting_the_model_lacks_is_left_out() -> None:
    reply = read_reply(entry("medium x2 effort=maximal"), space(), (), 1)
    assert not reply.proposals
    assert "effort of s0 must be one of low, medium, high" in reply.problem
    (proposal,) = read_reply(entry("small x2 effort=high"), space(lacks={"small-1b": ("effort",)}), (), 1).proposals
    assert not proposal.candidate["s0"].settings


def test_the_agent_is_shown_the_settings_and_their_form() -> None:
    shown = system_message(space(lacks={"small-1b": ("effort",)}), AgentSettings(), "").content
    assert "temperature 0 unless given, or 0.7;" in shown
    assert "effort low unless given, or medium, high (only medium, large);" in shown
    assert '"s0":"model xN setting=value"' in proposal_prompt(space(), (), (), "", 2)
    plain = SearchSpace((SubtaskSpace("s0", tuple(SIZES), (1, 2), "", SubtaskCost(500, 100, SIZES)),))
    assert "setting" not in proposal_prompt(plain, (), (), "", 2) + system_message(plain, AgentSettings(), "").content


def test_every_candidate_is_a_point_and_back() -> None:
    varied = space(lacks={"small-1b": ("effort",), "large-70b": ("temperature", "knobs.style")})
    grid, every = Grid(varied), varied.candidates()
    points = grid.points(every)
    assert points[:, 0].tolist() == list(range(varied.size))
    assert [grid.candidate(point) for point in points] == every
    covariance = grid.kernel(points, points)
    assert np.allclose(covariance, covariance.T)
    assert np.allclose(covariance.diagonal(), grid.variance)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9


def test_close_values_are_more_alike_and_categories_are_not() -> None:
    def likeness(name: str, *values: Any) -> list[float]:
        grid = Grid(space())
        base = {"s0": {"model": "small-1b"}}
        candidates = [Candidate.from_dict({"s0": {**base["s0"], "settings": {name: v} if v else {}}}) for v in values]
        points = grid.points(candidates)
        return [float(value) for value in grid.kernel(points[:1], points)[0]]

    for name, values in {"max_tokens": (None, 128, 256), "effort": (None, "medium", "high")}.items():
        assert all(nearer > farther for nearer, farther in pairwise(likeness(name, *values)))


async def test_the_search_finds_the_settings_that_score_best() -> None:
    best = {"temperature": 0.7, "max_tokens": 128, "effort": "medium"}

    def score(candidate: Candidate) -> float:
        choice, settings = candidate["s0"], dict(candidate["s0"].settings)
        return 0.3 + 0.1 * (choice.model == "medium-8b") + sum(0.1 * (settings.get(n) == v) for n, v in best.items())

    runner = ScriptedRunner(space(), score, max_trials=40)
    await LoopSearch(OptunaStrategy(1), 1).run(space(), runner)
    assert max(trial.score or 0.0 for trial in runner.trials) == pytest.approx(0.7)


@pytest.mark.parametrize("sampler", ["insight", "tpe", "random"])
async def test_samplers_propose_only_choices_of_a_space_too_large_to_list(sampler: str) -> None:
    large = space(3, lacks={"small-1b": ("effort",)})
    assert large.size > 100_000
    trials = ScriptedRunner(large, lambda c: 0.5, 1).trials
    proposals = await OptunaStrategy(1, sampler).propose(large, trials, 3)
    assert len({p.candidate for p in proposals}) == 3
    assert all(large.contains(p.candidate) for p in proposals)


def test_a_landscape_keeps_the_settings_of_its_space(tmp_path: Any) -> None:
    varied = space(lacks={"small-1b": ("effort",)})
    uses = {name: np.zeros((varied.size, 1)) for name in USES}
    landscape = Landscape("toy", "", varied, ("e",), np.zeros((varied.size, 1)), uses)
    landscape.save(tmp_path / "toy.npz")
    assert Landscape.load(tmp_path / "toy.npz").space == varied


INERT = as_axes({"fuse.stop": ("decided", 0.9), "cascade.below": ("off", 0.0, 0.5, 1.0), "temperature": (0, 0.7)})


def of_one_and_three(subtasks: int = 1, lacks: Mapping[str, tuple[str, ...]] = NOTHING) -> SearchSpace:
    cost = SubtaskCost(500, 100, SIZES)
    of_each = [
        SubtaskSpace(f"s{i}", tuple(SIZES), (1, 3), "", cost, settings=INERT, lacks=lacks, big="large-70b", stops=True)
        for i in range(subtasks)
    ]
    return SearchSpace(tuple(of_each))


def test_settings_that_make_no_difference_to_one_sample_make_no_candidates() -> None:
    found = of_one_and_three(lacks={"large-70b": ("cascade.below",)})["s0"]
    of_one = [choice for choice in found.choices() if choice.num_samples == 1]
    assert {choice.settings for choice in of_one if choice.model != "large-70b"} == {
        (),
        (("temperature", 0.7),),
        (("cascade.below", 0),),
        (("cascade.below", 0), ("temperature", 0.7)),
    }
    assert found.size == len(set(found.choices())) == 2 * (4 + 16) + 2 + 4
    assert found.choice("small-1b", 1, {"cascade.below": 1.0, "fuse.stop": 0.9}).settings == (("cascade.below", 0),)
    assert not found.allows(SubtaskChoice("small-1b", 1, "", (("fuse.stop", 0.9),)))


def test_each_place_is_one_choice_also_on_the_grid_of_the_surrogate() -> None:
    both = of_one_and_three(2, lacks={"large-70b": ("cascade.below",)})
    found, grid = both["s0"], Grid(both)
    assert [found.choice_at(place) for place in range(found.size)] == list(found.choices())
    every = both.candidates()
    assert [grid.candidate(point) for point in grid.points(every)] == every
    drawn = grid.pool(np.random.default_rng(0))
    assert {grid.candidate(point) for point in drawn} <= set(every)
    assert grid.costs("units", grid.points(every)).tolist() == pytest.approx([both.cost(c, "units") for c in every])


def test_steps_to_one_sample_leave_out_what_makes_no_difference() -> None:
    both = of_one_and_three()
    three = both.candidate({"s0": ("small-1b", 3, {"fuse.stop": 0.9, "cascade.below": 0.5})})
    assert step(both["s0"], three, -1) == both.candidate({"s0": ("small-1b", 1, {"cascade.below": 0.0})})
    assert all(both.contains(near) for near in neighbours(both, three))
