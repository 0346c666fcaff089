"""Optimises the system prompt of one subtask: pilot, rounds of proposals, finals.

The pilot decides whether to optimise and on which user prompts. In each round new prompts race on those user prompts.
In the finals the best ones are compared with the seed prompt on the validation split; the seed prompt is kept unless
one of them scores higher there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agentopt.core.budget import Budget, Usage
from agentopt.core.candidate import Candidate
from agentopt.core.errors import BudgetExceeded
from agentopt.core.records import Evaluation
from agentopt.core.stopping import StopTest
from agentopt.core.task import Example, Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.base import ChatModel
from agentopt.prompts.filter import FilterVerdict
from agentopt.prompts.pilot import Pilot, PilotError, run_pilot
from agentopt.prompts.proposers import Attempt, Brief, NewPrompt, PromptProposer, ProposerChain, ProposerError
from agentopt.prompts.race import SEED, Race
from agentopt.prompts.reflective import ReflectiveProposer
from agentopt.prompts.rewards import Reward, Rewards
from agentopt.prompts.settings import PromptSettings

EVERY_ROUND = "every round was made"
"""`Optimized.ended` if nothing cut the rounds short."""

STOP_LEVEL = 0.05
"""Level of the test that stops a finalist early on the validation split."""


@dataclass(frozen=True, slots=True, eq=False)
class Optimized:
    """The result of optimising one subtask's system prompt."""

    subtask: str
    """Name of the subtask."""
    chosen: NewPrompt
    """The best prompt of the finals: the seed prompt unless another one scored higher."""
    pilot: Pilot | None
    """The pilot; None if there was none."""
    examples: tuple[str, ...]
    """Ids of the training examples that were optimised on."""
    attempts: tuple[Attempt, ...]
    """All attempts on these examples, the best first."""
    finals: Mapping[str, Evaluation]
    """System prompt -> its evaluation on the validation split, the seed prompt first."""
    ended: str
    """Why the optimisation ended, in words."""


@dataclass
class PromptOptimizer:
    """Optimises system prompts, one subtask per call of `optimize`."""

    task: Task
    """The task."""
    evaluator: Evaluator
    """Evaluates candidates on the task."""
    model: ChatModel
    """The client that the calls to the prompt-writing model go through."""
    budget: Budget
    """The run's budget."""
    settings: PromptSettings
    """How to optimise."""
    writer: str | None
    """Catalogue name of the prompt-writing model; None to use the authored fragments only."""
    seed: int = 0
    """Seed of every random choice."""
    finals_usage: Usage = field(default_factory=Usage)
    """Usage that is reserved for the finals."""
    finals_seconds: float = 0.0
    """Seconds that are reserved for the finals."""
    on_note: Callable[[str], None] = lambda _: None
    """Called with lines of progress."""
    on_fallback: Callable[[str], None] = lambda _: None
    """Called with the reason when a proposer is replaced by the next one."""
    on_reward: Callable[[Reward], None] = lambda _: None
    """Called with each sampled reward."""

    async def diagnose(self, candidate: Candidate, subtask: str) -> tuple[Pilot, Rewards]:
        """Run the pilot only; see `run_pilot` for the exceptions.

        Args:
            candidate: The models and system prompts to use.
            subtask: Name of the subtask.

        Returns:
            The pilot, and the rewards that it sampled.
        """
        rewards = self._rewards(candidate, subtask)
        return await self._pilot(rewards, candidate, subtask), rewards

    async def optimize(self, candidate: Candidate, subtask: str) -> Optimized:
        """Search for a better system prompt of one subtask.

        A cap that is reached ends the rounds but not the run: the finals use the prompts found so far.

        Args:
            candidate: The models and system prompts to use; the other subtasks keep theirs.
            subtask: Name of the subtask.

        Raises:
            BudgetExceeded: The finals cannot evaluate the seed prompt within the caps.
        """
        if self.settings.proposer == "gepa" and self.writer is None:
            self.on_fallback("gepa cannot be used: it needs a model that writes prompts; components is used")
            self.settings = self.settings.model_copy(update={"proposer": "components"})
        rewards = self._rewards(candidate, subtask)
        seed_prompt = candidate[subtask].system_prompt
        race = Race(rewards, (), {seed_prompt: SEED}, self.settings.repeats)
        pilot, ended = None, ""
        try:
            with self.budget.holding_back(self.finals_usage, self.finals_seconds):
                if self.settings.subset in ("verdict", "p1"):
                    pilot = await self._pilot(rewards, candidate, subtask)
                    verdict = pilot.analysis.verdict
                    if verdict == "not worth it" and self.settings.subset == "verdict":
                        return self._unchanged(candidate, subtask, pilot, f"{verdict}: {pilot.analysis.reason}")
                race.examples = self._chosen(len(rewards.examples), pilot)
                ended = await self._rounds(race, pilot, self._brief(candidate, subtask, rewards))
        except BudgetExceeded as error:
            ended = str(error).splitlines()[0]
        except PilotError as error:
            return self._unchanged(candidate, subtask, pilot, str(error))
        finals, cut = await self._finals(candidate, subtask, race.ranked(self.settings.finalists))
        best = _best(finals, seed_prompt)
        examples = tuple(rewards.examples[k].id for k in race.examples)
        chosen = NewPrompt(best, race.proposers[best])
        return Optimized(subtask, chosen, pilot, examples, tuple(race.attempts()), finals, cut or ended)

    def _rewards(self, candidate: Candidate, subtask: str) -> Rewards:
        examples = sampled_examples(self.task.splits.get("train", ()), self.settings.user_prompts, self.seed)
        return Rewards(self.evaluator, candidate, subtask, examples, self.on_reward)

    async def _pilot(self, rewards: Rewards, candidate: Candidate, subtask: str) -> Pilot:
        seed_prompt = candidate[subtask].system_prompt
        proposers = ProposerChain(self._proposers(), self.on_fallback)
        written = await proposers.propose(self._brief(candidate, subtask, rewards), [], self.settings.variants - 1)
        variants = {seed_prompt: SEED, **{new.system_prompt: new.proposer for new in written}}
        return await run_pilot(rewards, variants, self.settings, seed=self.seed, on_note=self.on_note)

    def _chosen(self, count: int, pilot: Pilot | None) -> tuple[int, ...]:
        """The user prompts to optimise on, as positions in the training examples."""
        everyone = tuple(range(count))
        if self.settings.subset == "random":
            drawn = random.Random(self.seed).sample(everyone, min(self.settings.k_top, count))
            return tuple(sorted(drawn))
        if pilot is None:
            return everyone
        chosen: FilterVerdict = "optimise on these" if self.settings.subset == "p1" else pilot.analysis.verdict
        return pilot.analysis.subset if chosen == "optimise on these" else everyone

    async def _rounds(self, race: Race, pilot: Pilot | None, brief: Brief) -> str:
        """Propose and race until all rounds are done. Returns why they ended."""
        if pilot is not None:
            race.proposers.update(pilot.proposers)
        await race.run([brief.seed_prompt])
        writer = self._reflective()
        if self.settings.proposer == "gepa" and writer and await self._evolve(race, brief, writer):
            return "gepa ran in place of the rounds"
        proposers = ProposerChain(self._proposers(), self.on_fallback)
        for number in range(self.settings.rounds):
            new = await proposers.propose(brief, race.attempts(), self.settings.batch_size)
            if not new:
                return "the proposers returned no new prompt"
            race.proposers.update({each.system_prompt: each.proposer for each in new})
            await race.run([each.system_prompt for each in new])
            best = f"{race.best.reward:.3f} by {race.best.proposer}" if race.best else "none"
            self.on_note(f"round {number + 1} of {self.settings.rounds}: best {best}")
        return EVERY_ROUND

    async def _evolve(self, race: Race, brief: Brief, writer: ReflectiveProposer) -> bool:
        """Run gepa with as many responses as the rounds would need at most. Returns False if it cannot be used."""
        from agentopt.prompts.gepa_proposer import GepaProposer

        settings = self.settings
        calls = settings.rounds * settings.batch_size * settings.repeats * len(race.examples)
        gepa = GepaProposer(
            race.rewards,
            race.examples,
            writer,
            repeats=settings.repeats,
            metric_calls=calls,
            seed=self.seed,
        )
        try:
            found = await gepa.propose(brief, race.attempts(), settings.finalists)
        except ProposerError as error:
            self.on_fallback(f"gepa cannot be used: {error}; other proposers are used in its place")
            return False
        race.proposers.update(dict.fromkeys(found, gepa.name))
        return True

    def _proposers(self) -> list[PromptProposer]:
        """The proposers in the order of the calls; the authored fragments are always the last."""
        from agentopt.prompts.components import ComponentsProposer

        reflective = None if self.settings.proposer == "components" else self._reflective()
        return [*([reflective] if reflective else []), ComponentsProposer(self.seed)]

    def _reflective(self) -> ReflectiveProposer | None:
        if self.writer is None:
            return None
        settings = self.settings
        return ReflectiveProposer(
            self.model, self.writer, temperature=settings.temperature, max_tokens=settings.max_tokens, seed=self.seed
        )

    def _brief(self, candidate: Candidate, subtask: str, rewards: Rewards) -> Brief:
        about = self.task[subtask].description
        named = f"{subtask}: {about}" if about else subtask
        user_prompts = (rewards.user_prompt(k) for k in range(len(rewards.examples)))
        return Brief(
            self.task.description or self.task.name,
            named,
            candidate[subtask].system_prompt,
            tuple(prompt for prompt in user_prompts if prompt),
        )

    async def _finals(
        self, candidate: Candidate, subtask: str, attempts: Sequence[Attempt]
    ) -> tuple[dict[str, Evaluation], str]:
        """Evaluate the seed prompt and the finalists on the validation split, stopping those that lose.

        Returns the evaluations, and why the finals were cut short (empty if they were not). Raises `BudgetExceeded` if
        a cap is reached before the seed prompt is evaluated.
        """
        seed_prompt = candidate[subtask].system_prompt
        finals = {seed_prompt: await self.evaluator.evaluate(candidate)}
        for attempt in attempts:
            to_beat = finals[_best(finals, seed_prompt)].scores
            self.on_note(f"validating a prompt by {attempt.proposer}")
            try:
                finals[attempt.system_prompt] = await self.evaluator.evaluate(
                    candidate.having(subtask, system_prompt=attempt.system_prompt),
                    stop=StopTest(to_beat, "the best prompt", STOP_LEVEL),
                )
            except BudgetExceeded as error:
                return finals, f"the finals were cut short: {str(error).splitlines()[0]}"
        return finals, ""

    def _unchanged(self, candidate: Candidate, subtask: str, pilot: Pilot | None, why: str) -> Optimized:
        return Optimized(subtask, NewPrompt(candidate[subtask].system_prompt, SEED), pilot, (), (), {}, why)


def sampled_examples(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Sample examples without replacement, in their original order.

    Args:
        examples: The examples to sample from.
        count: Number of examples; all if there are fewer.
        seed: Seed of the sample.
    """
    chosen = random.Random(f"{seed}:user prompts").sample(range(len(examples)), min(count, len(examples)))
    return [examples[i] for i in sorted(chosen)]


def _best(finals: Mapping[str, Evaluation], seed_prompt: str) -> str:
    """The prompt with the highest complete validation score; the seed prompt if none is above it."""
    complete = {p: e.score for p, e in finals.items() if e.state == "complete" and e.score is not None}
    if seed_prompt not in complete:
        return seed_prompt
    best = max(complete, key=lambda p: complete[p])
    return best if complete[best] > complete[seed_prompt] else seed_prompt
