"""Optimises the system prompt of one subtask: pilot, rounds of proposals on the chosen user prompts, and a final
meeting with the seed prompt on the validation split, which the seed prompt survives unless it is beaten there."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from agentopt.core.budget import Budget, Usage
from agentopt.core.candidate import Candidate
from agentopt.core.errors import BudgetExceeded
from agentopt.core.records import Evaluation
from agentopt.core.stats import loses
from agentopt.core.task import Example, Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.base import ChatModel
from agentopt.prompts.filter import FilterVerdict
from agentopt.prompts.pilot import Pilot, PilotError, run_pilot
from agentopt.prompts.proposers import Attempt, Brief, NewPrompt, NoHelpError, PromptProposer, Proposers
from agentopt.prompts.race import SEED, Race
from agentopt.prompts.reflective import ReflectiveProposer
from agentopt.prompts.rewards import Reward, Rewards
from agentopt.prompts.settings import PromptSettings

EVERY_ROUND = "every round was made"
"""How a subtask's rounds end that nothing cut short."""

STOP_LEVEL = 0.05
"""Level of the paired test that stops a finalist early on the validation split."""


@dataclass(frozen=True, slots=True, eq=False)
class Optimized:
    """What came of one subtask. `chosen` is the seed prompt unless another one beat it on the validation split.

    `examples` are the training examples that were optimised on. `finals` maps each prompt that met the validation
    split to its evaluation, the seed prompt first. `ended` says why it stopped.
    """

    subtask: str
    chosen: NewPrompt
    pilot: Pilot | None
    examples: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    finals: Mapping[str, Evaluation]
    ended: str


@dataclass
class PromptOptimizer:
    """Call `optimize` once per subtask.

    `model` answers for the writing proposer, whose catalogue name is `writer` (None: the authored fragments alone).
    `finals_usage` and `finals_seconds` are held back from the rounds, so that what they find can always be tested.
    """

    task: Task
    evaluator: Evaluator
    model: ChatModel
    budget: Budget
    settings: PromptSettings
    writer: str | None
    seed: int = 0
    finals_usage: Usage = field(default_factory=Usage)
    finals_seconds: float = 0.0
    say: Callable[[str], None] = lambda _: None
    fall_back: Callable[[str], None] = lambda _: None
    on_draw: Callable[[Reward], None] = lambda _: None

    async def diagnose(self, candidate: Candidate, subtask: str) -> tuple[Pilot, Rewards]:
        """The pilot alone, and the rewards that it drew. Raises as `run_pilot` does."""
        rewards = self._rewards(candidate, subtask)
        return await self._pilot(rewards, candidate, subtask), rewards

    async def optimize(self, candidate: Candidate, subtask: str) -> Optimized:
        """Search a better system prompt for one subtask of the candidate, the others as they are.

        A cap that is reached ends the rounds, not the run: what was found so far meets the validation split. Raises
        `BudgetExceeded` where not even that is possible.
        """
        if self.settings.proposer == "gepa" and self.writer is None:
            # Known before anything is spent: there will be no gepa.
            self.fall_back("gepa is of no help: it needs a model that writes prompts; components takes its place")
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
        finals, cut = await self._meet(candidate, subtask, race.ranked(self.settings.finalists))
        best = _best(finals, seed_prompt)
        examples = tuple(rewards.examples[k].id for k in race.examples)
        chosen = NewPrompt(best, race.proposers[best])
        return Optimized(subtask, chosen, pilot, examples, tuple(race.attempts()), finals, cut or ended)

    def _rewards(self, candidate: Candidate, subtask: str) -> Rewards:
        examples = sampled_examples(self.task.splits.get("train", ()), self.settings.user_prompts, self.seed)
        return Rewards(self.evaluator, candidate, subtask, examples, self.on_draw)

    async def _pilot(self, rewards: Rewards, candidate: Candidate, subtask: str) -> Pilot:
        seed_prompt = candidate[subtask].system_prompt
        proposers = Proposers(self._proposers(), self.fall_back)
        written = await proposers.propose(self._brief(candidate, subtask, rewards), [], self.settings.variants - 1)
        variants = {seed_prompt: SEED, **{new.system_prompt: new.proposer for new in written}}
        return await run_pilot(rewards, variants, self.settings, seed=self.seed, say=self.say)

    def _chosen(self, count: int, pilot: Pilot | None) -> tuple[int, ...]:
        """Positions of the user prompts to optimise on."""
        everyone = tuple(range(count))
        if self.settings.subset == "random":
            drawn = random.Random(self.seed).sample(everyone, min(self.settings.k_top, count))
            return tuple(sorted(drawn))
        if pilot is None:
            return everyone
        chosen: FilterVerdict = "optimise on these" if self.settings.subset == "p1" else pilot.analysis.verdict
        return pilot.analysis.subset if chosen == "optimise on these" else everyone

    async def _rounds(self, race: Race, pilot: Pilot | None, brief: Brief) -> str:
        """Propose and race until the rounds are spent. Returns why it ended."""
        if pilot is not None:
            race.proposers.update(pilot.proposers)
        await race.run([brief.seed_prompt])
        writer = self._reflective()
        if self.settings.proposer == "gepa" and writer and await self._evolve(race, brief, writer):
            return "gepa made its own rounds"
        proposers = Proposers(self._proposers(), self.fall_back)
        for number in range(self.settings.rounds):
            new = await proposers.propose(brief, race.attempts(), self.settings.batch_size)
            if not new:
                return "the proposers had nothing new"
            race.proposers.update({each.system_prompt: each.proposer for each in new})
            await race.run([each.system_prompt for each in new])
            best = f"{race.best.reward:.3f} by {race.best.proposer}" if race.best else "none"
            self.say(f"round {number + 1} of {self.settings.rounds}: best {best}")
        return EVERY_ROUND

    async def _evolve(self, race: Race, brief: Brief, writer: ReflectiveProposer) -> bool:
        """Let gepa make its rounds, with as many draws as ours would take at most. False where it is of no help."""
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
        except NoHelpError as error:
            self.fall_back(f"gepa is of no help: {error}; other proposers take its place")
            return False
        race.proposers.update(dict.fromkeys(found, gepa.name))
        return True

    def _proposers(self) -> list[PromptProposer]:
        """Who is asked, in order; the authored fragments always stand last."""
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
        asked = (rewards.user_prompt(k) for k in range(len(rewards.examples)))
        return Brief(
            self.task.description or self.task.name,
            named,
            candidate[subtask].system_prompt,
            tuple(prompt for prompt in asked if prompt),
        )

    async def _meet(
        self, candidate: Candidate, subtask: str, attempts: Sequence[Attempt]
    ) -> tuple[dict[str, Evaluation], str]:
        """The seed prompt and the finalists on the validation split, each stopped early when it loses; and what cut
        the meeting short, if anything: the finalists that were through it by then keep their place.

        Raises `BudgetExceeded` where it ends before the seed prompt is through.
        """
        seed_prompt = candidate[subtask].system_prompt
        finals = {seed_prompt: await self.evaluator.evaluate(candidate)}
        for attempt in attempts:
            to_beat = finals[_best(finals, seed_prompt)].scores
            self.say(f"validating a prompt by {attempt.proposer}")
            try:
                finals[attempt.system_prompt] = await self.evaluator.evaluate(
                    candidate.having(subtask, system_prompt=attempt.system_prompt),
                    stop=partial(loses, incumbent=to_beat, level=STOP_LEVEL, looks=self.evaluator.looks - 1),
                )
            except BudgetExceeded as error:
                return finals, f"validation was cut short: {str(error).splitlines()[0]}"
        return finals, ""

    def _unchanged(self, candidate: Candidate, subtask: str, pilot: Pilot | None, why: str) -> Optimized:
        return Optimized(subtask, NewPrompt(candidate[subtask].system_prompt, SEED), pilot, (), (), {}, why)


def sampled_examples(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` of the examples at random, in their own order; all where there are no more."""
    chosen = random.Random(f"{seed}:user prompts").sample(range(len(examples)), min(count, len(examples)))
    return [examples[i] for i in sorted(chosen)]


def _best(finals: Mapping[str, Evaluation], seed_prompt: str) -> str:
    """The prompt with the highest complete validation score; the seed prompt unless another one is above it."""
    complete = {p: e.score for p, e in finals.items() if e.state == "complete" and e.score is not None}
    if seed_prompt not in complete:
        return seed_prompt
    best = max(complete, key=lambda p: complete[p])
    return best if complete[best] > complete[seed_prompt] else seed_prompt
