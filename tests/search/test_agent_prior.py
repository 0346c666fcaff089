"""What the agent expects before any trial, and how far the surrogate follows it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from agentopt.core.errors import PermanentModelError
from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.search.agent import AgentSearch
from agentopt.search.agent_prior import prior_schema, read_prior, with_beliefs
from agentopt.search.base import Proposal
from agentopt.search.belief import Belief
from agentopt.search.gaussian_process import Grid
from agentopt.search.insight_strategy import InsightStrategy, measured
from agentopt.search.settings import AgentSettings
from agentopt.search.surrogate import SEARCHING, most_promising, predict
from agentopt.testing.strategies import ScriptedRunner, trial_of
from agentopt.testing.synthetic_landscape import COUNTS, SIZES, SyntheticLandscape, synthetic_space

SPACE = synthetic_space()
RANKING = ["qwen-7b", "llama-3b", "llama-8b", "qwen-32b", "llama-70b", "qwen-72b"]
GOOD = {"ranking": RANKING, "fewest": 5, "most": 10}
BELIEF = Belief(tuple(RANKING), 5, 10)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (GOOD, BELIEF),
        ({"ranking": ["Qwen-7B", *RANKING[1:]], "fewest": "10", "most": 4.6}, BELIEF),
        ({"ranking": [*RANKING, "qwen-7b"], "fewest": 5, "most": 10}, BELIEF),
        ({"ranking": ["qwen-72b"], "fewest": 1, "most": 1000}, Belief(("qwen-72b",), 1, 90)),
        ({"ranking": ["gpt-9"], "fewest": 1, "most": 3}, None),
        ({"ranking": "qwen-7b", "fewest": 1, "most": 3}, None),
        ({"ranking": RANKING, "fewest": None, "most": 3}, None),
        ("qwen-7b", None),
    ],
)
def test_a_belief_is_read_or_left_out(written: object, read: Belief | None) -> None:
    text = f"Here it is: {json.dumps({'Answer': written, 'other': 1})}"
    assert read_prior(text, SPACE) == ({} if read is None else {"answer": read})


@pytest.mark.parametrize("text", ["", "I cannot help with that.", "[1, 2]", '{"retrieve": {"ranking": ["qwen-7b"'])
def test_a_reply_without_beliefs_is_no_belief(text: str) -> None:
    assert read_prior(text, SPACE) == {}


def test_the_schema_has_every_subtask_with_all_of_its_models() -> None:
    schema = json.loads(prior_schema(SPACE))
    assert schema["required"] == ["retrieve", "answer"]
    ranking = schema["properties"]["answer"]["properties"]["ranking"]
    assert ranking["minItems"] == ranking["maxItems"] == len(ranking["items"]["enum"]) == len(SIZES)


def test_models_are_spaced_by_rank_and_counts_fall_outside_of_the_range() -> None:
    ranks = BELIEF.of_models(RANKING)
    assert ranks == sorted(ranks, reverse=True)
    assert float(np.mean(ranks)) == pytest.approx(0)
    assert float(np.std(ranks)) == pytest.approx(1)
    assert BELIEF.of_models(["unknown"]) == [0.0]
    assert Belief(("one",), 1, 1).of_models(["one", "two"]) == [0.0, 0.0]
    counts = dict(zip(COUNTS, BELIEF.of_counts(COUNTS), strict=True))
    assert counts[5] == counts[7] == counts[10] == 1 > counts[3] > counts[1] > -1
    assert counts[15] > counts[90] >= -1


def test_beliefs_decide_the_first_proposal_and_the_data_their_weight() -> None:
    believed = with_beliefs(SPACE, {"retrieve": BELIEF, "answer": BELIEF})
    landscape = SyntheticLandscape(7)
    every = SPACE.candidates()

    def weights(score: dict[int, float]) -> list[float]:
        trials = [trial_of(SPACE, i, Proposal(every[i * 97], "x"), score[i]) for i in score]
        grid, scores = Grid(believed, SEARCHING), measured(believed, trials)
        observed = grid.points(scores.candidates)
        return [p.weight for p in predict(grid, observed, scores, observed[:0], observed)]

    by_insight = {i: landscape.exact(every[i * 97]) for i in range(25)}
    grid = Grid(believed, SEARCHING)
    by_belief = dict(enumerate((0.1 * grid.beliefs(grid.points([every[i * 97] for i in range(25)]))).tolist()))
    assert weights(by_insight)[2] < 0.1, "misleading beliefs count for little"
    assert weights(by_belief)[2] > 0.9
    start = [trial_of(SPACE, 0, Proposal(SPACE.baseline, "baseline"), 0.2)]
    first = most_promising(believed, measured(believed, start), [], [SPACE.baseline], 0)[0]
    without = most_promising(SPACE, measured(SPACE, start), [], [SPACE.baseline], 0)[0]
    assert first != without
    assert {choice.model for choice in first.values()} <= {"qwen-7b", "llama-3b"}


def searched(
    model: ScriptedModel, checkpoints: Path | None, runner: ScriptedRunner, *, prior: bool = True
) -> list[Request]:
    settings = AgentSettings(model="scripted", style="shared", prior=prior)
    search = AgentSearch(model, settings, InsightStrategy(0, proposer="fallback"), "", checkpoints)
    asyncio.run(search.run(SPACE, runner))
    return [request for request in model.requests if '"ranking"' in str(request.json_schema)]


def reply(request: Request, repeat: int) -> str:
    return json.dumps({"retrieve": GOOD, "answer": GOOD}) if '"ranking"' in str(request.json_schema) else "{}"


def test_the_agent_is_called_for_its_beliefs_once_and_they_change_the_proposals(tmp_path: Path) -> None:
    landscape = SyntheticLandscape(3)
    with_prior, without = (ScriptedRunner(SPACE, landscape.observed, 6) for _ in range(2))
    requests = searched(ScriptedModel(reply), tmp_path / "state.db", with_prior)
    assert len(requests) == 1
    assert "rank its models" in requests[0].messages[1].content
    assert searched(ScriptedModel(reply), None, without, prior=False) == []
    assert [t.candidate for t in with_prior.trials] != [t.candidate for t in without.trials]
    assert [t.candidate for t in with_prior.trials[:2]] == [t.candidate for t in without.trials[:2]]
    with_prior.max_trials = 9
    assert searched(ScriptedModel(reply), tmp_path / "state.db", with_prior) == [], "a resumed search has them"


def test_an_agent_that_cannot_be_reached_has_no_beliefs() -> None:
    def fails(request: Request, repeat: int) -> str:
        raise PermanentModelError("gone")

    runner = ScriptedRunner(SPACE, SyntheticLandscape(3).observed, 4)
    searched(ScriptedModel(fails), None, runner)
    assert [t.proposer for t in runner.trials] == ["baseline", "initial", "fallback", "surrogate"]
