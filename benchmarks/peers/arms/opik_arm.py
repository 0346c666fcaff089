"""Opik's optimizers, without Opik's server: `optimizer` is a class of `opik_optimizer`, with its defaults.

10 trials (the default), so every trial, and the baseline, gets a share of the cap as its number of validation rows; a
tenth of the cap is left for the model that reasons, which is the task's model at temperature 1. Without a server Opik
runs its evaluations on plain rows (`ENABLE_EVALUATE_ON_DICT_ITEMS`) and traces nothing.
"""

from __future__ import annotations

import os
from typing import Any

import opik_optimizer
from opik import Dataset
from opik.evaluation.metrics.score_result import ScoreResult
from opik_optimizer import constants

from benchmarks.peers.protocol import Arm, Prompt, Row, start

TRIALS = 10


class LocalDataset(Dataset):
    """Rows in memory, in place of a dataset on Opik's server."""

    def __init__(self, name: str, rows: tuple[Row, ...]) -> None:
        self._local, self._local_name = rows, name

    @property
    def name(self) -> str:
        return self._local_name

    @property
    def id(self) -> str:
        return self._local_name

    def get_items(self, nb_samples: int | None = None, *_: Any, **__: Any) -> list[dict[str, Any]]:
        rows = [{"id": r.id, "row": r.id, "question": r.question, "answer": r.answer} for r in self._local]
        return rows[:nb_samples]


def reporting(kind: type[Any], arm: Arm) -> type[Any]:
    """The optimizer's class, with a report of each new best prompt."""

    class Reporting(kind):  # type: ignore[misc]
        def on_trial(self, context: Any, prompts: Any, score: float, prev_best_score: float | None = None) -> None:
            super().on_trial(context, prompts, score, prev_best_score)
            if prev_best_score is None or score > prev_best_score:
                arm.report(prompt_of(prompts), score, f"trial {context.trials_completed}")

    return Reporting


def prompt_of(prompts: Any) -> Prompt:
    (chat,) = prompts.values() if isinstance(prompts, dict) else (prompts,)
    return Prompt("\n\n".join(m["content"] for m in chat.get_messages() if m["role"] == "system"))


def main() -> None:
    arm = start()
    job = arm.job
    os.environ["OPENAI_API_BASE"] = os.environ["OPENAI_BASE_URL"] = job.base_url
    os.environ["OPENAI_API_KEY"] = "none"
    constants.ENABLE_EVALUATE_ON_DICT_ITEMS = True

    def house_style(dataset_item: dict[str, Any], llm_output: str) -> ScoreResult:
        value, feedback = arm.score(dataset_item["row"], llm_output)
        return ScoreResult(name="house_style", value=value, reason=feedback)

    model = f"openai/{job.model}"
    kind = reporting(getattr(opik_optimizer, str(job.options["optimizer"])), arm)
    optimizer = kind(model=model, model_parameters={"temperature": 1.0}, n_threads=4, seed=job.seed, verbose=0)
    optimizer.optimize_prompt(
        prompt=opik_optimizer.ChatPrompt(
            system=job.seed_prompt,
            user="{question}",
            model=model,
            model_parameters={
                "temperature": job.temperature,
                "max_tokens": job.max_tokens,
                "stop": list(job.stop),
            },
        ),
        dataset=LocalDataset("train", job.train),
        validation_dataset=LocalDataset("validation", job.validation),
        metric=house_style,
        n_samples=max(1, min(len(job.validation), job.calls * 9 // 10 // (TRIALS + 1))),
        max_trials=TRIALS,
    )


if __name__ == "__main__":
    main()
