"""Costs that the trials measured replace nominal ones: pure functions of the space and the trials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt.core.axes import Axis
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import Pass, Price, SubtaskCost, critical_path, in_sequence
from agentopt.core.records import Evaluation, ExampleResult, SubtaskUse, Trial, latency
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.gaussian_process import Grid
from agentopt.search.insights import initial_candidates
from agentopt.search.measured_costs import measured_cost, with_measured_costs, within_limits
from agentopt.search.neighbourhood import affordable, nearest_untried
from agentopt.search.posterior import choose
from agentopt.testing.synthetic_landscape import synthetic_space

PRICES = {"plain": Price(1.0, 4.0), "thinker": Price(0.5, 2.0)}


def priced_space(**limits: float | None) -> SearchSpace:
    """Two subtasks, of which `answer` waits for `find`. By nominal tokens, `thinker` costs half as much."""
    cost = SubtaskCost(100, 10, {}, prices=PRICES, measure="usd", max_choices={"plain": 8, "thinker": 1})
    find = SubtaskSpace("find", ("plain", "thinker"), (1, 4), "", cost)
    return SearchSpace((find, replace(find, name="answer", reads=("find",))), measure="usd", **limits)


def candidate(find: str, answer: str, count: int = 1, prompt: str = "") -> Candidate:
    return Candidate.of({"find": SubtaskChoice(find, count, prompt), "answer": SubtaskChoice(answer, count, prompt)})


def trial(number: int, chosen: Candidate, *uses: SubtaskUse, score: float = 1.0, rows: int = 3) -> Trial:
    """A trial in which every row has the same uses, of `find` and then of `answer`."""
    named = dict(zip(chosen, uses, strict=False))
    row = ExampleResult("0", score, subtasks=named, seconds=latency(named, {"answer": ("find",)}))
    results = tuple(replace(row, id=str(i)) for i in range(rows))
    evaluation = Evaluation("validation", rows, results, "complete")
    return Trial(number, chosen, evaluation, "test", evaluation.usd_per_example)


def use(prompt: int, completion: int, *, usd: float = 0.0, seconds: float = 0.0, **more: float) -> SubtaskUse:
    return SubtaskUse(prompt, completion, usd=usd, responses=1, seconds=seconds, **more)  # type: ignore[arg-type]


def test_a_model_that_thinks_costs_what_its_trials_measured() -> None:
    space, thinks = priced_space(), use(100, 200, reasoning_tokens=190, seconds=6.0)
    trials = [trial(0, candidate("plain", "plain"), use(100, 10, seconds=0.5), use(100, 10, seconds=0.5))]
    by_thinker = candidate("thinker", "plain")
    assert space.units(by_thinker) < space.units(candidate("plain", "plain")), "by nominal tokens"
    before = with_measured_costs(space, trials)
    assert before.units(by_thinker) == space.units(by_thinker), "nothing measured it yet"
    after = with_measured_costs(space, [*trials, trial(1, by_thinker, thinks, use(100, 10, seconds=0.5))])
    assert after["find"].cost.units("thinker", 1) == pytest.approx((0.5 * 100 + 2 * 200) / 1e6)
    assert after["answer"].cost.units("thinker", 1) == space["answer"].cost.units("thinker", 1)
    assert after.units(by_thinker) > after.units(candidate("plain", "plain"))
    assert after.cost(by_thinker, "seconds") == 6.5
    assert after["find"].largest_model == "thinker"


def test_every_request_pays_for_the_prompt() -> None:
    cost = priced_space()["find"].cost
    assert cost.units("plain", 4) == pytest.approx((100 * 1 + 40 * 4) / 1e6), "four choices in one request"
    assert cost.units("thinker", 4) == pytest.approx((4 * 100 * 0.5 + 40 * 2) / 1e6), "one choice in each"
    assert cost.num_samples_for(cost.units("thinker", 4), "thinker") == 4
    assert cost.num_samples_for(cost.units("thinker", 1) / 2, "thinker") == 0


def test_cached_reasoning_request_and_fusion_parts_have_their_own_prices() -> None:
    price = Price(1.0, 4.0, cached_prompt=0.1, reasoning=2.0, request=0.001)
    one = Pass(100, 50, cached_tokens=60, reasoning_tokens=40, fusion_usd=0.0005)
    cost = SubtaskCost(1, 1, {}, prices={"m": price}, measure="usd", max_choices={"m": 2}, passes={"m": one})
    requests, samples = 2, 3
    tokens = requests * (40 * 1.0 + 60 * 0.1) + samples * (10 * 4.0 + 40 * 2.0)
    assert cost.units("m", samples) == pytest.approx(tokens / 1e6 + requests * 0.001 + samples * 0.0005)
    assert cost.units("m", 1) == pytest.approx((40 + 6 + 40 + 80) / 1e6 + 0.001), "one sample is not fused"


@pytest.mark.parametrize(("first", "second", "longer"), [("", "x" * 400, 100), ("x" * 400, "", -100)])
def test_a_longer_prompt_makes_a_candidate_dearer(first: str, second: str, longer: int) -> None:
    short = candidate("plain", "plain", prompt=first)
    space = priced_space().with_prompts(short)
    trials = [trial(0, short, use(500, 10), use(500, 10))]
    known = with_measured_costs(space, trials)["find"].cost
    other = with_measured_costs(space.with_prompts(candidate("plain", "plain", prompt=second)), trials)["find"].cost
    assert other.units("plain", 1) - known.units("plain", 1) == pytest.approx(longer / 1e6)
    nominal = max(100 + longer, 1)
    assert other.pass_of("thinker").prompt_tokens == nominal, "also if no trial has measured the model"
    measured = trial(1, candidate("plain", "plain", prompt=second), use(777, 10), use(777, 10))
    exact = with_measured_costs(space.with_prompts(measured.candidate), [*trials, measured])["find"].cost
    assert exact.pass_of("plain").prompt_tokens == 777, "measured with this very prompt"


def test_a_subtask_that_few_rows_call_costs_their_share() -> None:
    space, called = priced_space(), trial(0, candidate("plain", "plain"), use(100, 40), use(100, 40), rows=4)
    rest = [replace(r, subtasks={"find": r.subtasks["find"]}) for r in called.evaluation.results[1:]]
    some = replace(called, evaluation=replace(called.evaluation, results=(called.evaluation.results[0], *rest)))
    assert with_measured_costs(space, [some])["answer"].cost.pass_of("plain") == Pass(25, 10)


def test_the_latency_is_that_of_the_nearest_measured_count_and_unknown_ones_exclude_nothing() -> None:
    space = replace(priced_space(max_seconds=1.0), measure="seconds")
    space = replace(space, subtasks=tuple(replace(s, cost=replace(s.cost, measure="seconds")) for s in space.subtasks))
    assert all(map(space.affords, space.candidates()))
    assert len(space.candidates()) == 16
    slow = trial(0, candidate("thinker", "plain", 4), use(1, 1, seconds=3.0), use(1, 1, seconds=0.25))
    known = with_measured_costs(space, [slow])
    assert known.units(candidate("thinker", "plain", 1)) == 3.25
    assert [c["find"].model for c in known.candidates()] == ["plain"] * 8
    assert measured_cost(space, slow.evaluation, "seconds") == 3.25
    assert not within_limits(space, slow)
    assert all(known.affords(c) for c in initial_candidates(known))


@pytest.mark.parametrize(("seconds", "front"), [(0.168, (1,)), (0.1, (1, 2))])
def test_a_latency_that_is_lower_in_a_digit_that_no_table_shows_puts_no_trial_on_the_front(
    seconds: float, front: tuple[int, ...]
) -> None:
    last = use(1, 1, seconds=0.05)
    cheap = trial(1, candidate("plain", "plain"), use(1, 1, usd=1e-4, seconds=0.171), last)
    dear = trial(2, candidate("thinker", "plain"), use(1, 1, usd=2e-4, seconds=seconds), last)
    found = choose(priced_space(), [dear, cheap])
    assert found is not None
    assert found.pareto == front


def test_a_choice_is_within_the_limits_and_measures_costs_anew() -> None:
    cheap = trial(1, candidate("plain", "plain"), use(100, 10, usd=1e-4), use(100, 10, usd=1e-4), score=0.5)
    dear = trial(2, candidate("thinker", "plain"), use(100, 200, usd=9e-4), use(100, 10, usd=1e-4), score=1.0)
    found = choose(priced_space(), [cheap, dear], tolerance=0.0)
    assert found is not None
    assert (found.best, found.pareto) == (dear, (1, 2))
    limited = choose(priced_space(max_usd=5e-4), [cheap, dear])
    assert limited is not None
    assert limited.best == limited.recommended == cheap
    nothing_fits = choose(priced_space(max_usd=1e-6), [cheap, dear])
    assert nothing_fits is not None
    assert nothing_fits.best == dear, "a run still has a result"


def test_costs_in_units_are_never_measured() -> None:
    space = synthetic_space()
    measured = trial(0, space.baseline, use(9, 9), use(9, 9))
    assert with_measured_costs(space, [measured]) is space
    assert measured_cost(space, measured.evaluation, "units") is None


def test_the_critical_path_is_the_longest_chain() -> None:
    seconds = {"a": 1.0, "b": 2.0, "c": 0.5, "d": 1.0}
    assert critical_path(seconds, {"c": ("a", "b"), "d": ("a",)}) == 2.5
    assert critical_path(seconds, in_sequence(seconds)) == 4.5
    assert critical_path(seconds, {}) == 2.0
    assert critical_path({}, {}) == 0.0
    uses = {name: SubtaskUse(seconds=s) for name, s in seconds.items()}
    assert latency(uses, {"c": ("b",)}) == 2.5
    assert latency({**uses, "e": SubtaskUse()}, {}) is None, "the latency of one call is not known"
    assert latency({}, {}) is None


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.1, 5), st.floats(0.1, 5)), min_size=4, max_size=4),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_with_several_limits_every_affordable_candidate_is_reached(
    models: list[tuple[float, float, float]], usd_share: float, seconds_share: float
) -> None:
    names = [f"m{i}" for i in range(len(models))]
    prices = {name: Price(usd, usd) for name, (usd, _, _) in zip(names, models, strict=True)}
    sizes = {name: 1e9 * size for name, (_, size, _) in zip(names, models, strict=True)}
    passes = {n: Pass(100, 10, seconds=((1, s), (3, 1.2 * s))) for n, (_, _, s) in zip(names, models, strict=True)}
    cost = SubtaskCost(100, 10, sizes, prices=prices, measure="usd", passes=passes)
    one = SubtaskSpace("a", tuple(names), (1, 3), "", cost)
    every = SearchSpace((one, replace(one, name="b", reads=("a",))), measure="usd")

    def limit(measure: str, share: float) -> float:
        costs = sorted(every.cost(c, measure) for c in every.candidates())  # type: ignore[arg-type]
        return costs[int(share * (len(costs) - 1))]

    space = replace(
        every,
        max_usd=limit("usd", usd_share),
        max_seconds=limit("seconds", seconds_share),
        max_units=limit("units", 0.9),
    )
    listed = space.candidates()
    assert list(affordable(space)) == listed
    grid = Grid(space)

    assert {grid.candidate(point) for point in grid.pool(np.random.default_rng(0))} == set(listed)
    tried: set[Candidate] = set()
    while (found := nearest_untried(space, every.baseline, tried)) is not None:
        assert space.affords(found)
        tried.add(found)
    assert tried == set(listed)


def test_settings_cost_what_they_were_measured_to() -> None:
    axis = Axis("effort", ("low", "high"), "ordinal")
    space = priced_space()
    space = replace(space, subtasks=tuple(replace(s, settings=(axis,)) for s in space.subtasks))

    def chosen(effort: str, count: int = 1) -> Candidate:
        return space.candidate({name: ("thinker", count, {"effort": effort}) for name in ("find", "answer")})

    low = trial(0, chosen("low"), use(100, 20), use(100, 20))
    high = trial(1, chosen("high"), use(100, 400), use(100, 400))
    known = with_measured_costs(space, [low, high])
    assert known.units(chosen("low")) == pytest.approx(2 * (50 + 40) / 1e6)
    assert known.units(chosen("high")) == pytest.approx(2 * (50 + 800) / 1e6)
    assert known.units(chosen("high", 4)) == pytest.approx(2 * (4 * 50 + 4 * 800) / 1e6), "the count scales it"
    untried = with_measured_costs(space, [low])
    assert untried.units(chosen("high")) == untried.units(chosen("low")), "until it is tried"
    listed = known.candidates()
    costs = Grid(known).costs("usd", Grid(known).points(listed))
    assert costs == pytest.approx([known.units(c) for c in listed])


def test_a_choice_that_stops_or_escalates_costs_what_its_trial_measured() -> None:
    space = priced_space()
    space = replace(space, subtasks=(replace(space["find"], stops=True), space["answer"]))
    stopped = candidate("plain", "plain", 4)
    uses = (use(100, 20, usd=7e-4, seconds=0.4), use(100, 40, usd=2e-4, seconds=0.4))
    known = with_measured_costs(space, [trial(0, stopped, *uses)])
    assert known["find"].cost_of("usd", stopped["find"]) == pytest.approx(7e-4)
    assert known["find"].cost_of("seconds", stopped["find"]) == pytest.approx(0.4)
    assert known["answer"].cost_of("usd", stopped["answer"]) == pytest.approx((100 + 40 * 4) / 1e6)
    assert known["find"].cost.seen.keys() == {("plain", 4, ())}
