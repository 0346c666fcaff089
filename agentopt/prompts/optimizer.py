"""Optimises the system prompt of one subtask: a race on training examples, then one comparison on the validation split.

The seed prompt answers training examples first; the proposers write from its failures. All prompts race against each
other, batch by batch. The winner replaces the seed prompt if validation rows confirm it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from agentopt.core.budget import Budget, Usage
from agentopt.core.candidate import Candidate
from agentopt.core.comparison import shared_scores
from agentopt.core.errors import BudgetExceeded
from agentopt.core.message_text import counted
from agentopt.core.records import Evaluation
from agentopt.core.stop_reason import StopReason
from agentopt.core.task import Example, Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.base import ChatModel
from agentopt.prompts.adoption import Adoption, adoption
from agentopt.prompts.halving import RaceSettings, standing
from agentopt.prompts.outcome import PromptDecision, RaceRewards, race_rewards
from agentopt.prompts.pilot import Pilot, run_pilot
from agentopt.prompts.prompt_proposers import Attempt, Brief, Failure, NewPrompt, PromptProposer, ProposerChain
from agentopt.prompts.race import Race, RacePlan
from agentopt.prompts.reflective import ReflectiveProposer
from agentopt.prompts.rewards import Reward, Rewards
from agentopt.prompts.settings import PromptSettings

FAILURES_KEPT = 6
"""Failures per attempt that are kept for the proposers."""

ENOUGH_ROWS = 20
"""Training examples that the seed prompt must all answer with the full reward to end a race before it begins."""


@dataclass(frozen=True, slots=True, eq=False)
class Optimized:
    """The result of optimising one subtask's system prompt."""

    subtask: str
    """Name of the subtask."""
    decision: PromptDecision
    """What became of the seed prompt."""
    chosen: NewPrompt
    """The prompt to use: the winner of the race if it is adopted, else the seed prompt."""
    stopped: StopReason | None = None
    """What cut the race or the comparison short; None if nothing did."""
    adoption: Adoption | None = None
    """The comparison of the winner with the seed prompt; None if there was none."""
    attempts: tuple[Attempt, ...] = ()
    """Every prompt of the race that has rewards, the best first."""
    examples: tuple[str, ...] = ()
    """Ids of the training examples that were drawn."""
    responses: int = 0
    """Responses of the race that have a reward."""
    finals: Mapping[str, Evaluation] = field(default_factory=dict)
    """System prompt -> its evaluation on the validation split, the seed prompt first; empty if it won the race."""
    rewards: RaceRewards | None = None
    """The rewards of the race; None if it drew none."""


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
    context_length: int | None = None
    """Context length of that model, in tokens; None if it is not known."""
    seed: int = 0
    """Seed of every random choice."""
    final_usage: Usage = field(default_factory=Usage)
    """Usage that is reserved for the comparison on the validation split."""
    final_seconds: float = 0.0
    """Seconds that are reserved for it."""
    on_note: Callable[[str], None] = lambda _: None
    """Called with lines of progress."""
    on_fallback: Callable[[str], None] = lambda _: None
    """Called with the reason when a proposer is replaced by the next one."""
    on_reward: Callable[[Reward], None] = lambda _: None
    """Called with each sampled reward."""

    async def diagnose(self, candidate: Candidate, subtask: str) -> tuple[Pilot, Rewards]:
        """Measure a few prompts for the p1 filter to analyse; see `run_pilot` for the exceptions.

        Args:
            candidate: The models and system prompts to use.
            subtask: Name of the subtask.

        Returns:
            The pilot, and the rewards that it sampled.
        """
        rewards, race = self._race(candidate, subtask, self.settings.pilot_user_prompts)
        await race.look(race.rows)
        written = await self._chain(rewards)(race, self.settings.variants - 1)
        variants = {entrant.system_prompt: entrant.proposer for entrant in (*race.entrants, *written)}
        return await run_pilot(rewards, variants, self.settings, seed=self.seed, on_note=self.on_note), rewards

    async def optimize(self, candidate: Candidate, subtask: str, plan: RacePlan | None = None) -> Optimized:
        """Search for a better system prompt of one subtask.

        A cap that is reached ends the race but not the run: the best prompt so far is compared with the seed prompt, if
        what was reserved for it allows that.

        Args:
            candidate: The models and system prompts to use; the other subtasks keep theirs.
            subtask: Name of the subtask.
            plan: Numbers of proposals and responses. Default: those of the settings.
        """
        rewards, race = self._race(candidate, subtask, self.settings.user_prompts)
        stopped = None
        try:
            with self.budget.holding_back(self.final_usage, self.final_seconds):
                decision = await self._raced(race, rewards, plan or RacePlan.of(self.settings))
        except BudgetExceeded as error:
            decision, stopped = PromptDecision.CUT_SHORT, error.stopped
        texts, wrote = zip(*((e.system_prompt, e.proposer) for e in race.entrants), strict=True)
        drawn = race_rewards(race.table(), texts, wrote, [example.id for example in rewards.examples])
        found = Optimized(
            subtask,
            decision,
            race.entrants[0],
            stopped,
            attempts=tuple(attempts(race, rewards)),
            examples=drawn.examples if drawn else (),
            responses=race.responses,
            rewards=drawn,
        )
        return found if race.leader == 0 else await self._compared(candidate, race, found)

    async def _raced(self, race: Race, rewards: Rewards, plan: RacePlan) -> PromptDecision:
        """Race, and return the decision if the seed prompt wins."""
        metric_calls = 0
        if self.settings.proposer == "gepa":  # it evaluates prompts itself, for half of the responses
            plan = replace(plan, responses=plan.responses // 2)
            metric_calls = plan.responses // plan.batches
        await race.look(plan.each)
        drawn = race.table()[~np.isnan(race.table())]
        if not drawn.size:
            return PromptDecision.FAILED
        if not rewards.responses:
            return PromptDecision.NOT_CALLED
        if len(drawn) >= ENOUGH_ROWS and (drawn >= 1).all():
            return PromptDecision.NOTHING_TO_GAIN
        chain = self._chain(rewards, metric_calls)

        async def propose(k: int) -> Sequence[NewPrompt]:
            self.on_note(f"{counted(len(race.entrants), 'system prompt')} raced, {counted(race.responses, 'response')}")
            return await chain(race, k)

        return PromptDecision.NOT_WORTH_IT if await race.run(plan, propose) else PromptDecision.NOTHING_WRITTEN

    async def _compared(self, candidate: Candidate, race: Race, found: Optimized) -> Optimized:
        """Compare the winner of the race with the seed prompt on the validation split."""
        winner = race.entrants[race.leader]
        self.on_note(f"validating a prompt by {winner.proposer}")
        finals: dict[str, Evaluation] = {}
        try:
            for text in (race.entrants[0].system_prompt, winner.system_prompt):
                finals[text] = await self.evaluator.evaluate(candidate.having(found.subtask, system_prompt=text))
        except BudgetExceeded as error:
            return replace(found, decision=PromptDecision.CUT_SHORT, stopped=error.stopped, finals=finals)
        of_seed, of_winner = finals.values()
        if {of_seed.state, of_winner.state} != {"complete"}:
            return replace(found, decision=PromptDecision.FAILED, finals=finals)
        decided = adoption(*shared_scores(of_winner, of_seed), race.table(), (race.leader, 0))
        found = replace(found, decision=PromptDecision.NOT_CONFIRMED, adoption=decided, finals=finals)
        return replace(found, decision=PromptDecision.REPLACED, chosen=winner) if decided.adopted else found

    def _race(self, candidate: Candidate, subtask: str, most_rows: int) -> tuple[Rewards, Race]:
        settings, examples = self.settings, sampled_examples(self.task.splits.get("train", ()), most_rows, self.seed)
        rewards = Rewards(self.evaluator, candidate, subtask, examples, self.on_reward)
        how = RaceSettings(settings.filter, min(settings.k_top, len(examples)), settings.repeats, settings.estimator)
        return rewards, Race(rewards, len(examples), candidate[subtask].system_prompt, how, seed=self.seed)

    def _chain(self, rewards: Rewards, metric_calls: int = 0) -> Callable[[Race, int], Awaitable[list[NewPrompt]]]:
        """Writes at most `k` new prompts from a race. With `metric_calls`, gepa may use as many evaluations first."""
        chain = ProposerChain(
            self._proposers(rewards, metric_calls), self.on_fallback, longest=self.settings.max_length
        )

        async def propose(race: Race, k: int) -> list[NewPrompt]:
            return await chain.propose(self._brief(rewards), attempts(race, rewards), k)

        return propose

    def _proposers(self, rewards: Rewards, metric_calls: int) -> list[PromptProposer]:
        """The proposers in the order of the calls; the authored fragments are always the last."""
        from agentopt.prompts.components import ComponentsProposer
        from agentopt.prompts.gepa_proposer import GepaProposer

        settings, components = self.settings, ComponentsProposer(self.seed)
        if settings.proposer == "gepa" and self.writer is None:
            self.on_fallback("gepa cannot be used: it needs a model that writes prompts; components is used")
        if settings.proposer == "components" or self.writer is None or not rewards.responses:
            return [components]
        reflective = ReflectiveProposer(
            self.model,
            self.writer,
            temperature=settings.temperature,
            max_length=settings.max_length,
            context_length=self.context_length,
            seed=self.seed,
        )
        if not metric_calls:
            return [reflective, components]
        gepa = GepaProposer(rewards, reflective, repeats=settings.repeats, metric_calls=metric_calls, seed=self.seed)
        return [gepa, reflective, components]

    def _brief(self, rewards: Rewards) -> Brief:
        about = self.task[rewards.subtask].description
        user_prompts = (rewards.user_prompt(k) for k in range(len(rewards.examples)))
        return Brief(
            self.task.description or self.task.name,
            f"{rewards.subtask}: {about}" if about else rewards.subtask,
            rewards.candidate[rewards.subtask].system_prompt,
            tuple(prompt for prompt in user_prompts if prompt),
        )


def attempts(race: Race, rewards: Rewards) -> list[Attempt]:
    """The prompts of a race that have rewards, by estimated mean reward, the best first.

    Args:
        race: The race so far.
        rewards: Its rewards, with the responses that they are for.
    """
    table = race.table()
    if np.isnan(table).all():
        return []
    ranked, rows = standing(table, range(len(race.entrants)), race.settings), range(race.rows)
    low, high = np.nanmin(table), np.nanmax(table)
    return [
        Attempt(
            race.entrants[n].system_prompt,
            race.entrants[n].proposer,
            float(np.clip(score, low, high)),
            int((~np.isnan(table[n])).sum()),
            rewards.mean_tokens(race.entrants[n].system_prompt, rows),
            _failures(rewards, race.entrants[n].system_prompt),
        )
        for n, score in zip(ranked.candidates, ranked.scores, strict=True)
        if np.isfinite(score)
    ]


def _failures(rewards: Rewards, system_prompt: str) -> tuple[Failure, ...]:
    """Responses with less than full reward, the lowest first, one for each user prompt."""
    known = rewards.of(system_prompt, range(len(rewards.examples))).values()
    failed = sorted((r for r in known if r.reward is not None and r.reward < 1), key=lambda r: r.reward or 0.0)
    distinct = {r.user_prompt: Failure(r.user_prompt, r.output, r.feedback) for r in reversed(failed)}
    return tuple(list(distinct.values())[::-1][:FAILURES_KEPT])


def sampled_examples(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Sample examples without replacement, in their original order; a smaller sample is part of a larger one.

    Args:
        examples: The examples to sample from.
        count: Number of examples; all if there are fewer.
        seed: Seed of the sample.
    """
    order = list(range(len(examples)))
    random.Random(f"{seed}:user prompts").shuffle(order)
    return [examples[i] for i in sorted(order[:count])]
