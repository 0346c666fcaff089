"""The gepa library as a proposer: its reflective evolution, evaluated through the same rewards as everything else."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentopt.core.errors import BudgetExceeded
from agentopt.prompts.proposers import Attempt, Brief, NoHelpError
from agentopt.prompts.reflective import ReflectiveProposer
from agentopt.prompts.rewards import Cell, Reward, Rewards

COMPONENT = "system_prompt"
"""What gepa calls the one text that it evolves."""

Place = tuple[int, int]
"""An example by its position, and a repeat: gepa has no repeats of its own, so each is a row of its data."""


class GepaProposer:
    """One run of gepa over the chosen user prompts and `repeats`, which ends after `metric_calls` evaluations.

    gepa reflects through `writer`'s model, so that its calls are journalled and charged like all others.
    """

    name = "gepa"

    def __init__(
        self,
        rewards: Rewards,
        examples: Sequence[int],
        writer: ReflectiveProposer,
        *,
        repeats: int,
        metric_calls: int,
        seed: int = 0,
    ) -> None:
        self._rewards, self._examples, self._writer = rewards, tuple(examples), writer
        self._repeats, self._metric_calls, self._seed = repeats, metric_calls, seed

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[str]:
        """The `k` best texts that gepa evaluated. Raises `NoHelpError`, and `BudgetExceeded` when there are none."""
        if importlib.util.find_spec("gepa") is None:
            raise NoHelpError("gepa is not installed (pip install 'agentopt[gepa]')")
        adapter = _Adapter(self._rewards, asyncio.get_running_loop())
        reflection = _Reflection(self._writer, asyncio.get_running_loop())
        data = [(example, repeat) for repeat in range(self._repeats) for example in self._examples]
        start = max(history, key=lambda attempt: attempt.reward).system_prompt if history else brief.seed_prompt
        try:
            await asyncio.to_thread(self._evolve, start, data, adapter, reflection)
        except (NoHelpError, BudgetExceeded):
            if not adapter.evaluated(start):
                raise
        return [text for text, _ in adapter.evaluated(start)[:k]]

    def _evolve(self, start: str, data: list[Place], adapter: _Adapter, reflection: _Reflection) -> None:
        from gepa.api import optimize

        optimize(
            seed_candidate={COMPONENT: start},
            trainset=data,
            valset=data,
            adapter=adapter,  # type: ignore[arg-type]  # its protocol wants a proposer of its own or a literal None
            reflection_lm=reflection,
            reflection_minibatch_size=min(4, len(data)),
            max_metric_calls=self._metric_calls,
            logger=_Silent(),
            seed=self._seed,
        )


@dataclass
class _Adapter:
    """gepa's side of the evaluation. It runs in gepa's thread, the draws in the event loop."""

    rewards: Rewards
    loop: asyncio.AbstractEventLoop
    # gepa looks for a proposer of the adapter's own and takes its default where there is none.
    propose_new_texts: None = None

    def __post_init__(self) -> None:
        self._texts: dict[str, dict[Place, float]] = {}

    def evaluate(self, batch: list[Place], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        from gepa.core.adapter import EvaluationBatch

        text = candidate[COMPONENT].strip()
        cells = [Cell(text, example, repeat) for example, repeat in batch]
        asyncio.run_coroutine_threadsafe(self.rewards.draw(cells), self.loop).result()
        draws = [self.rewards.of(text, [cell.example])[cell] for cell in cells]
        # A call that failed for good is no wrong answer, but gepa knows no missing scores.
        scores = [0.0 if draw.reward is None else draw.reward for draw in draws]
        self._texts.setdefault(text, {}).update(zip(batch, scores, strict=True))
        return EvaluationBatch(
            outputs=[draw.output for draw in draws], scores=scores, trajectories=draws if capture_traces else None
        )

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {COMPONENT: [_record(draw) for draw in eval_batch.trajectories]}

    def evaluated(self, start: str) -> list[tuple[str, float]]:
        """Texts other than the one it started from with their mean scores: the most evaluated first, then the best."""
        means = [(text, len(s), sum(s.values()) / len(s)) for text, s in self._texts.items() if text != start.strip()]
        return [(text, mean) for text, _, mean in sorted(means, key=lambda m: (-m[1], -m[2], m[0]))]


def _record(draw: Reward) -> dict[str, str]:
    feedback = draw.feedback or ("right" if (draw.reward or 0.0) >= 1 else "not right")
    return {"Inputs": draw.user_prompt, "Generated Outputs": draw.output, "Feedback": feedback}


@dataclass
class _Reflection:
    """gepa's language model: asks through the journal. Asked the same again, it draws another answer."""

    writer: ReflectiveProposer
    loop: asyncio.AbstractEventLoop

    def __post_init__(self) -> None:
        self._asked: dict[str, int] = {}

    def __call__(self, prompt: str | list[dict[str, Any]]) -> str:
        text = str(prompt)
        repeat = self._asked[text] = self._asked.get(text, -1) + 1
        asking = self.writer.ask(text, first_repeat=repeat)
        return asyncio.run_coroutine_threadsafe(asking, self.loop).result()[0]


class _Silent:
    """gepa tells its progress to a logger; ours is told elsewhere."""

    def log(self, message: str) -> None:
        """Nothing."""
