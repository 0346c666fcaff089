"""The proposer `gepa`: the reflective evolution of the gepa library, evaluated through `Rewards`."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, TypeVar

from agentopt.core.errors import BudgetExceeded
from agentopt.core.extras import install_command
from agentopt.prompts.prompt_proposers import Attempt, Brief, ProposerError
from agentopt.prompts.reflective import ReflectiveProposer
from agentopt.prompts.rewards import Cell, Reward, Rewards

T = TypeVar("T")

COMPONENT = "system_prompt"
"""Name of the one text that gepa evolves."""

Row = tuple[int, int]
"""(position of an example, repeat): gepa has no repeats, so each one is a row of its data."""


class GepaProposer:
    """Runs gepa once over the user prompts.

    Args:
        rewards: Evaluates the system prompts.
        writer: Makes gepa's calls for reflection, so that they are journalled and charged like all others.
        repeats: Responses of each system prompt on each user prompt.
        metric_calls: Number of evaluations after which gepa stops.
        seed: Seed of gepa's choices.
    """

    name = "gepa"

    def __init__(
        self,
        rewards: Rewards,
        writer: ReflectiveProposer,
        *,
        repeats: int,
        metric_calls: int,
        seed: int = 0,
    ) -> None:
        self._rewards, self._writer = rewards, writer
        self._repeats, self._metric_calls, self._seed = repeats, metric_calls, seed

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[str]:
        """Return the `k` best texts that gepa evaluated; see `PromptProposer.propose`.

        Both exceptions are raised only if gepa evaluated no new text before.
        """
        if importlib.util.find_spec("gepa") is None:
            raise ProposerError(f"gepa is not installed ({install_command('gepa')})")
        calls = _Calls()
        adapter, reflection = _Adapter(self._rewards, calls), _Reflection(self._writer, calls)
        examples = range(len(self._rewards.examples))
        data = [(example, repeat) for repeat in range(self._repeats) for example in examples]
        start = max(history, key=lambda attempt: attempt.reward).system_prompt if history else brief.seed_prompt
        try:
            await asyncio.to_thread(self._evolve, start, data, adapter, reflection)
        except (ProposerError, BudgetExceeded):
            if not adapter.evaluated(start):
                raise
        finally:
            await calls.aclose()
        return [text for text, _ in adapter.evaluated(start)[:k]]

    def _evolve(self, start: str, data: list[Row], adapter: _Adapter, reflection: _Reflection) -> None:
        from gepa.api import optimize

        optimize(
            seed_candidate={COMPONENT: start},
            trainset=data,
            valset=data,
            adapter=adapter,  # type: ignore[arg-type]  # its protocol needs a proposer method or a literal None
            reflection_lm=reflection,
            reflection_minibatch_size=min(4, len(data)),
            max_metric_calls=self._metric_calls,
            logger=_Silent(),
            seed=self._seed,
        )


class _Calls:
    """Calls of gepa's thread in the event loop. They end with the proposer, though the thread may go on."""

    def __init__(self) -> None:
        self._loop, self._tasks = asyncio.get_running_loop(), set[asyncio.Task[Any]]()
        self._closed = False

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Return what `call` returns; from gepa's thread."""
        if self._closed:
            call.close()
            raise CancelledError
        return asyncio.run_coroutine_threadsafe(self._run(call), self._loop).result()

    async def _run(self, call: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._closed:  # since it was scheduled
            task.cancel()
        return await task

    async def aclose(self) -> None:
        """Cancel the calls, and wait until they have ended."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass
class _Adapter:
    """gepa's adapter. It is called in gepa's thread, and samples rewards in the event loop."""

    rewards: Rewards
    calls: _Calls
    # gepa looks for a proposer in the adapter, and uses its default if this is None.
    propose_new_texts: None = None

    def __post_init__(self) -> None:
        self._texts: dict[str, dict[Row, float]] = {}

    def evaluate(self, batch: list[Row], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        from gepa.core.adapter import EvaluationBatch

        text = candidate[COMPONENT].strip()
        cells = [Cell(text, example, repeat) for example, repeat in batch]
        self.calls.run(self.rewards.sample(cells))
        rewards = [self.rewards.of(text, [cell.example])[cell] for cell in cells]
        # A call that failed permanently is not a wrong answer, but gepa has no missing scores.
        scores = [0.0 if reward.reward is None else reward.reward for reward in rewards]
        self._texts.setdefault(text, {}).update(zip(batch, scores, strict=True))
        return EvaluationBatch(
            outputs=[reward.output for reward in rewards],
            scores=scores,
            trajectories=rewards if capture_traces else None,
        )

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {COMPONENT: [_record(reward) for reward in eval_batch.trajectories]}

    def evaluated(self, start: str) -> list[tuple[str, float]]:
        """New texts and their mean scores, the most evaluated ones first, then the best."""
        means = [(text, len(s), sum(s.values()) / len(s)) for text, s in self._texts.items() if text != start.strip()]
        return [(text, mean) for text, _, mean in sorted(means, key=lambda m: (-m[1], -m[2], m[0]))]


def _record(reward: Reward) -> dict[str, str]:
    feedback = reward.feedback or ("right" if (reward.reward or 0.0) >= 1 else "not right")
    return {"Inputs": reward.user_prompt, "Generated Outputs": reward.output, "Feedback": feedback}


@dataclass
class _Reflection:
    """gepa's language model. Each call with the same prompt gets a further sample."""

    writer: ReflectiveProposer
    calls: _Calls

    def __post_init__(self) -> None:
        self._calls: dict[str, int] = {}

    def __call__(self, prompt: str | list[dict[str, Any]]) -> str:
        text = str(prompt)
        repeat = self._calls[text] = self._calls.get(text, -1) + 1
        return self.calls.run(self.writer.generate(text, first_repeat=repeat))


class _Silent:
    """Discards gepa's log: progress is reported as events."""

    def log(self, message: str) -> None:
        """Discard the message."""
