"""MIPROv2 of DSPy, with `demos` few-shot examples of each kind (its default is 4; 0 optimises the instruction only).

Its numbers are those of `auto="light"`: 6 sets of demonstrations, 3 instructions (6 without demonstrations), 10 trials
(9 without), no minibatches. Scaled to the cap: fewer candidates below 180 calls, and after bootstrapping and proposing,
as many validation rows for each trial as the calls left allow; below 10 rows, fewer trials instead. The program is one
`Predict`, sent as the plain conversation that is tested in the end: DSPy's own format would only be known to DSPy.
The model that writes is the task's model at temperature 1, with at most 600 tokens.
"""

from __future__ import annotations

import math
from typing import Any

import dspy
from dspy.teleprompt import MIPROv2

from benchmarks.peers.protocol import Arm, Prompt, start

FEWEST_ROWS = 10
WRITER_TOKENS = 600


def main() -> None:
    arm = start()
    job = arm.job
    demos = int(job.options["demos"])
    candidates = max(3, min(6, job.calls // 30))
    task_model = Counted(arm, temperature=job.temperature, max_tokens=job.max_tokens, stop=list(job.stop))
    writer = Counted(arm, temperature=1.0, max_tokens=WRITER_TOKENS)
    dspy.configure(lm=task_model, adapter=PlainForTask())
    signature = dspy.Signature("question -> answer", job.seed_prompt)

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:
        return arm.score(example.id, prediction.answer)[0]

    optimizer = Scaled(
        arm,
        metric=metric,
        prompt_model=writer,
        task_model=task_model,
        max_bootstrapped_demos=demos,
        max_labeled_demos=demos,
        auto=None,
        num_candidates=candidates,
        num_threads=4,
        max_errors=1,
        seed=job.seed,
    )
    if demos:
        optimizer.num_instruct_candidates = max(2, candidates // 2)
    rows = {
        split: [dspy.Example(id=r.id, question=r.question, answer=r.answer).with_inputs("question") for r in given]
        for split, given in (("train", job.train), ("validation", job.validation))
    }
    trials = int(max(2 * (2 if demos else 1) * math.log2(candidates), 1.5 * candidates))
    optimizer.compile(
        dspy.Predict(signature),
        trainset=rows["train"],
        valset=rows["validation"],
        num_trials=trials,
        minibatch=False,
    )


class Counted(dspy.LM):
    """The endpoint's model, without a cache; counts its calls for the schedule."""

    made = 0

    def __init__(self, arm: Arm, **parameters: Any) -> None:
        super().__init__(
            f"openai/{arm.job.model}", api_base=arm.job.base_url, api_key="none", cache=False, **parameters
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        Counted.made += 1
        return super().forward(*args, **kwargs)


class PlainForTask(dspy.ChatAdapter):
    """Sends the task's own calls as the plain conversation, and all others in DSPy's format."""

    def format(self, signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        if not is_task(signature):
            return super().format(signature, demos, inputs)
        return prompt_of(signature.instructions, demos).messages(inputs["question"])

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        return {"answer": completion} if is_task(signature) else super().parse(signature, completion)


def is_task(signature: Any) -> bool:
    return (list(signature.input_fields), list(signature.output_fields)) == (["question"], ["answer"])


def prompt_of(instructions: str, demos: list[Any]) -> Prompt:
    return Prompt(instructions, tuple((demo["question"], demo["answer"]) for demo in demos))


class Scaled(MIPROv2):
    """MIPROv2 that fits its trials into the calls left, and reports the best program so far."""

    def __init__(self, arm: Arm, **settings: Any) -> None:
        super().__init__(**settings)
        self._arm = arm

    def _optimize_prompt_parameters(
        self, program: Any, instructions: Any, demos: Any, evaluate: Any, valset: list[Any], num_trials: int, *rest: Any
    ) -> Any:
        left = self._arm.job.calls - Counted.made
        trials = max(1, min(num_trials, left // FEWEST_ROWS - 1))
        rows = max(1, min(len(valset), left // (trials + 1)))
        note = f"{Counted.made} calls before the trials; {trials} trials of {rows} rows"
        self._arm.report(Prompt(self._arm.job.seed_prompt), None, note)
        return super()._optimize_prompt_parameters(program, instructions, demos, evaluate, valset[:rows], trials, *rest)

    def _log_normal_eval(
        self, score: float, best_score: float, chosen: Any, score_data: list[dict[str, Any]], *rest: Any
    ) -> None:
        super()._log_normal_eval(score, best_score, chosen, score_data, *rest)
        *before, last = score_data
        if score > max(one["score"] for one in before):
            predictor = last["program"].predictors()[0]
            self._arm.report(prompt_of(predictor.signature.instructions, predictor.demos), score / 100)


if __name__ == "__main__":
    main()
