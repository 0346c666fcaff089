"""The loopback company: its truth is exact, its servers keep what it plants, and a search finds the planted optimum."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agentopt.api import aevaluate
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.runs.config import Config
from agentopt.testing.company import (
    STAFF,
    WRONG,
    cheapest_as_good,
    company_answer,
    company_specs,
    company_task,
    every_candidate,
    true_score,
    true_seconds,
    true_usd,
    vote_rate,
)
from agentopt.testing.servers import OpenAIServer
from agentopt.workflow.fusion import vote
from benchmarks.money import LIMIT, Found, planted, run


@pytest.mark.parametrize("right", [0.45, 0.9])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_the_exact_rate_of_a_vote_is_that_of_many_draws(right: float, samples: int) -> None:
    rng = random.Random(f"{right} {samples}")
    votes = ("right", *(f"wrong-{i}" for i in range(WRONG)))
    weights = (right, *[(1 - right) / WRONG] * WRONG)
    hits = sum(vote(rng.choices(votes, weights, k=samples)) == "right" for _ in range(20_000))
    assert vote_rate(right, samples) == pytest.approx(hits / 20_000, abs=0.012)


def test_the_planted_optimum_is_clear_and_a_limit_changes_it() -> None:
    best, limited = planted(None), planted(LIMIT)
    assert (str(best), str(limited)) == ("find: mini x5, answer: nano x5", "find: mini x5, answer: flash x5")
    assert true_seconds(best) > LIMIT >= true_seconds(limited)
    cheaper = [c for c in every_candidate() if true_usd(c) < true_usd(best)]
    assert max(map(true_score, cheaper)) < true_score(best) - 0.05
    assert cheapest_as_good(0.0) != best


def test_a_miss_is_seen_as_one() -> None:
    best = planted(None)
    assert Found(best, best, None).is_success
    assert not Found(best, planted(LIMIT), LIMIT).is_success, "too slow"
    dearer = planted(LIMIT)
    assert not Found(dearer, best, None).is_success
    worse = Candidate.of({"find": SubtaskChoice("nano"), "answer": SubtaskChoice("nano")})
    assert not Found(worse, best, None).is_success


async def test_measured_usd_and_seconds_are_those_that_the_company_plants(tmp_path: Path) -> None:
    chosen = Candidate.of({"find": SubtaskChoice("thinker", 2), "answer": SubtaskChoice("mini", 5)})
    async with OpenAIServer(company_answer()) as server:
        specs = company_specs(server.base_url)
        config = Config.model_validate({"models": specs, "journal": str(tmp_path / "journal.db")})
        task = company_task(validation=12, test=1)
        evaluation = await aevaluate(task, chosen, config, split="validation")
    assert evaluation.usd_per_example == pytest.approx(true_usd(chosen), rel=0.01)
    assert len(evaluation.latencies) == 12, "the loopback server takes some time, which is in the journal"
    assert min(evaluation.latencies) > 0
    uses = evaluation.results[0].subtasks
    assert uses["find"].completion_tokens == 2 * STAFF["thinker"].words


async def test_the_search_finds_the_cheapest_configuration_that_is_as_good(tmp_path: Path) -> None:
    found = await run(0, LIMIT, trials=10, rows=40, folder=tmp_path)
    assert found.is_success, found
