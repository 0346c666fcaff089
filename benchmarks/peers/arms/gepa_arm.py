"""gepa: reflective evolution with its defaults (Pareto selection, minibatches of 3, no merge).

Every metric call is a model call; reflection is not one of gepa's metric calls, so gepa gets the whole cap as
`max_metric_calls` and the endpoint ends it. The reflection model is the task's model at temperature 1, with at most 600
tokens: the smallest model may not stop, and each call of the task would carry what it wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gepa
from gepa.adapters.default_adapter.default_adapter import DefaultAdapter, EvaluationResult
from gepa.lm import LM

from benchmarks.peers.protocol import Arm, Prompt, Row, start

COMPONENT = "system_prompt"
WRITER_TOKENS = 600


def main() -> None:
    arm = start()
    job = arm.job
    endpoint = {"api_base": job.base_url, "api_key": "none"}
    keep = Best(arm)
    keep(
        gepa.optimize(
            seed_candidate={COMPONENT: job.seed_prompt},
            trainset=[instance(row) for row in job.train],
            valset=[instance(row) for row in job.validation],
            adapter=DefaultAdapter(
                f"openai/{job.model}",
                lambda data, response: EvaluationResult(*arm.score(data["additional_context"]["id"], response)),
                max_litellm_workers=4,
                litellm_batch_completion_kwargs={
                    **endpoint,
                    "temperature": job.temperature,
                    "max_tokens": job.max_tokens,
                    "stop": list(job.stop),
                },
            ),
            reflection_lm=LM(f"openai/{job.model}", temperature=1.0, max_tokens=WRITER_TOKENS, **endpoint),
            max_metric_calls=job.calls,
            stop_callbacks=[keep],
            seed=job.seed,
        )
    )


def instance(row: Row) -> dict[str, Any]:
    return {"input": row.question, "additional_context": {"id": row.id}, "answer": row.answer}


class Best:
    """A stopper that never stops: it reports the best candidate of the state, or of the result, if it is a new one."""

    def __init__(self, arm: Arm) -> None:
        self._arm, self._reported = arm, ""

    def __call__(self, state: Any) -> bool:
        candidates: list[Mapping[str, str]] = getattr(state, "program_candidates", None) or state.candidates
        scores = getattr(state, "program_full_scores_val_set", None) or state.val_aggregate_scores
        best = max(range(len(scores)), key=lambda place: scores[place])
        text = candidates[best][COMPONENT]
        if text != self._reported:
            self._reported = text
            self._arm.report(Prompt(text), float(scores[best]), f"{len(candidates)} candidates")
        return False


if __name__ == "__main__":
    main()
