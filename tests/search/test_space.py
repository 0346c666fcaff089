"""The geometry of the search space and the insights: pure, so mostly properties over generated spaces."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt.core.axes import Axis
from agentopt.core.candidate import Candidate
from agentopt.core.cost import SubtaskCost, Unit
from agentopt.core.errors import TaskError
from agentopt.models.catalog import Catalog
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.from_task import search_space
from agentopt.search.insights import initial_candidates
from agentopt.search.neighbourhood import affordable, fitted, nearest_untried, with_fewer_samples
from agentopt.testing.synthetic_landscape import SyntheticLandscape, best_answer_count, synthetic_space
from agentopt.testing.toy import LARGE, SMALL, toy_task

few = settings(max_examples=40)
SIZES = {"tiny": 1e9, "small": 3e9, "medium": 8e9, "large": 70e9}

AXES = [
    Axis("temperature", (0.7, 0), "numeric"),
    Axis("effort", ("low", "medium", "high"), "ordinal"),
    Axis("knobs.style", ("brief", "long"), "categorical"),
]


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """One to three subtasks, also with a single model or count, and limits from none to one nothing fits in.

    Some have settings of each kind, also ones that only some of the models have.
    """
    subtasks = []
    for i in range(draw(st.integers(1, 3))):
        models = draw(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, max_size=3, unique=True))
        counts = draw(st.lists(st.sampled_from([1, 2, 3, 5, 9, 20]), min_size=1, max_size=3, unique=True))
        cost = SubtaskCost(draw(st.integers(64, 2048)), draw(st.integers(8, 256)), SIZES)
        axes = draw(st.lists(st.sampled_from(AXES), max_size=2, unique=True)) if i == 0 else []
        lacks = {models[0]: (axes[0].name,)} if axes and bool(draw(st.booleans())) else {}
        subtasks.append(
            SubtaskSpace(f"s{i}", tuple(models), tuple(sorted(counts)), "", cost, settings=tuple(axes), lacks=lacks)
        )
    space = SearchSpace(tuple(subtasks))
    dearest = max(space.units(c) for c in space.candidates())
    cheapest = min(space.units(c) for c in space.candidates())
    share = draw(st.sampled_from([None, -0.1, 0.0, 0.05, 0.3, 1.0]))
    limit = None if share is None else cheapest + share * (dearest - cheapest + 1)
    return SearchSpace(space.subtasks, limit)


@few
@given(spaces())
def test_the_lazy_list_of_affordable_candidates_is_the_list_of_the_space(space: SearchSpace) -> None:
    assert list(affordable(space)) == space.candidates()


@few
@given(spaces(), st.randoms(use_true_random=False))
def test_the_nearest_untried_candidate_exists_exactly_while_one_is_left(space: SearchSpace, rng: random.Random) -> None:
    every = space.candidates()
    anywhere = SearchSpace(space.subtasks).candidates()
    tried = set(rng.sample(every, rng.randint(0, len(every))))
    found = nearest_untried(space, rng.choice(anywhere), tried)
    if len(tried) == len(every):
        assert found is None
    else:
        assert found is not None
        assert space.contains(found)
        assert found not in tried


@few
@given(spaces(), st.randoms(use_true_random=False))
def test_an_affordable_untried_candidate_is_its_own_nearest(space: SearchSpace, rng: random.Random) -> None:
    every = space.candidates()
    if every:
        candidate = rng.choice(every)
        assert nearest_untried(space, candidate, set()) == candidate


@few
@given(spaces(), st.randoms(use_true_random=False))
def test_fitting_returns_an_affordable_candidate_if_there_is_one(space: SearchSpace, rng: random.Random) -> None:
    start = rng.choice(SearchSpace(space.subtasks).candidates())
    found = fitted(space, start)
    assert (found is None) == (not space.candidates())
    assert found is None or space.contains(found)
    fewer = with_fewer_samples(space, start)
    assert fewer is None or [c.model for c in fewer.values()] == [c.model for c in start.values()]


@few
@given(spaces())
def test_first_trials_are_affordable_and_distinct(space: SearchSpace) -> None:
    first = initial_candidates(space)
    assert len(set(first)) == len(first)
    assert all(space.contains(c) for c in first)


@few
@given(spaces())
def test_every_model_that_can_be_afforded_at_all_is_among_the_first_trials(space: SearchSpace) -> None:
    reachable = {(s.name, c[s.name].model) for c in space.candidates() for s in space.subtasks}
    first = {(s.name, c[s.name].model) for c in initial_candidates(space) for s in space.subtasks}
    assert first == reachable


def test_first_trials_of_the_papers_space_are_sized_by_one_pass_of_the_largest_model() -> None:
    space = synthetic_space(max_units=932.5)
    first = initial_candidates(space)
    assert len(first) == 11, "six models in each of two subtasks, the two largest at once counted once"
    answering = {c["answer"].model: c["answer"].num_samples for c in first if c["retrieve"].model == "qwen-72b"}
    # B = [24 * (256 + 64) - 128] / 64 = 118 units; a 3B model gets ((64 * 118 + 128) - 256) / 64 = 116 samples.
    assert answering["llama-3b"] == 90
    assert answering["qwen-72b"] == 1


def test_a_tight_limit_sizes_the_other_subtasks_models_down_first() -> None:
    space = synthetic_space(max_units=500)
    first = initial_candidates(space)
    assert space.candidate({"retrieve": ("qwen-32b", 1), "answer": ("qwen-72b", 1)}) in first
    assert not any(c["retrieve"].model == "qwen-72b" for c in first), "one pass of it costs 814"


def test_the_synthetic_landscape_plants_the_three_insights() -> None:
    landscape = SyntheticLandscape()

    def score(retrieve: tuple[str, int], answer: tuple[str, int]) -> float:
        return landscape.exact(landscape.space.candidate({"retrieve": retrieve, "answer": answer}))

    strong, weak = ("qwen-72b", 1), ("llama-3b", 1)
    assert score(strong, ("llama-3b", 10)) > score(weak, ("qwen-72b", 1)), "subtasks prefer different models"
    rising, peak, past = (score(strong, ("llama-3b", n)) for n in (2, 15, 90))
    assert rising < peak > past, "the score peaks in the sample count"
    assert best_answer_count(0.8) < best_answer_count(0.6) < best_answer_count(0.35)


def test_a_landscape_gives_one_noisy_score_per_candidate_and_seed() -> None:
    base = synthetic_space().baseline
    once, other = SyntheticLandscape(1), SyntheticLandscape(2)
    assert once.observed(base) == SyntheticLandscape(1).observed(base)
    assert once.observed(base) != other.observed(base)
    assert once.observed(base) == pytest.approx(once.exact(base), abs=0.05)


@few
@given(spaces())
def test_candidates_of_a_space_are_equal_by_content(space: SearchSpace) -> None:
    assert all(Candidate.from_dict(c.to_dict()) == c for c in space.candidates()[:5])


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            None,
            r"set unit to a pass [\s\S]*agentopt\.Unit\(parameters=[\d.e+]+, prompt_tokens=16, completion_tokens=4\)",
        ),
        (Path("task.yaml"), r"set cost\.unit to a pass [\s\S]*\{parameters: [\d.e+]+, prompt_tokens: 16, completion_"),
    ],
    ids=["python", "file"],
)
def test_the_remedy_for_a_unit_that_is_too_large_is_in_the_language_of_the_task(
    file: Path | None, message: str
) -> None:
    specs = {name: Catalog.load()[name] for name in (SMALL, LARGE)}
    with pytest.raises(TaskError, match=message):
        search_space(replace(toy_task(), unit=Unit(), file=file), specs)


@pytest.mark.parametrize(("file", "key"), [(None, "toy: max_units"), (Path("task.yaml"), r"toy: cost\.max_units")])
def test_a_cost_limit_below_the_baseline_is_named_as_in_the_task(file: Path | None, key: str) -> None:
    specs = {name: Catalog.load()[name] for name in (SMALL, LARGE)}
    with pytest.raises(TaskError, match=f"{key}: the baseline must cost at most max_units"):
        search_space(replace(toy_task(), max_units=1, file=file), specs)
