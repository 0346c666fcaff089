"""Short runs on real local models: the whole way from a task file to a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentopt.api import optimize
from agentopt.runs.config import load_config

QUICKSTART = Path(__file__).parents[2] / "tasks" / "quickstart"
SMALL = "smollm2-135m"
PROMPTS = (
    "prompts={subtasks: [answer], proposer: components, user_prompts: 3, repeats: 2, responses: 6, rounds: 1, "
    "batch_size: 1, share: 0.9}"
)
"""The whole of prompt optimisation in about 20 calls."""


def settings(tmp_path: Path, examples: int, *more: str) -> list[str]:
    limits = [f"task.data.limit.{split}={examples}" for split in ("validation", "test")]
    return [f"journal={tmp_path}/journal.db", f"runs={tmp_path}/runs", *limits, *more]


@pytest.mark.real
def test_quickstart_runs_on_the_smallest_local_model_and_then_for_free(tmp_path: Path) -> None:
    alone = [f"task.subtasks.{name}.models=[{SMALL}]" for name in ("find", "answer")]
    asked = settings(tmp_path, 4, *alone, "strategy=optuna", "search.early_stopping=null", PROMPTS)
    first = optimize(QUICKSTART, load_config([*asked, "budget.trials=3"]))
    assert {trial.state for trial in first.trials} == {"complete"}
    assert first.prompts[0].responses >= 9
    assert first.finalist("best").test is not None
    assert first.spent["samples"].completion_tokens > 0
    again = optimize(QUICKSTART, load_config([*asked, "budget.trials=3"]))
    assert again.spent == {}
    assert again.best_candidate == first.best_candidate


@pytest.mark.slow
@pytest.mark.real
def test_the_half_billion_model_is_a_working_agent(tmp_path: Path) -> None:
    asked = settings(tmp_path, 3, "agent.model=qwen2.5-coder-0.5b", "budget.trials=7", "search.batch_size=2", PROMPTS)
    result = optimize(QUICKSTART, load_config(asked))
    assert "agent" in {trial.proposer for trial in result.trials}
    assert result.spent["agent"].calls > 0
