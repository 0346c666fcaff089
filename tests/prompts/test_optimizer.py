"""Prompt optimisation: rewards, pilot, proposers, the optimiser, and its part in a run."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from agentopt.api import adiagnose, aoptimize, optimize
from agentopt.core.budget import Caps, Usage
from agentopt.core.errors import BudgetExceeded, ConfigError, PermanentModelError, TaskError
from agentopt.core.events import Event, Note
from agentopt.core.stop_reason import StopKind
from agentopt.core.task import Example, Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.base import ChatModel, Choice, Request, Response
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import Session, open_session
from agentopt.prompts.components import ComponentsProposer, authored_bank, compose, fragments_in
from agentopt.prompts.halving import RaceSettings
from agentopt.prompts.optimizer import Optimized, PromptOptimizer, attempts
from agentopt.prompts.outcome import PromptDecision
from agentopt.prompts.pilot import PilotError
from agentopt.prompts.prompt_proposers import Attempt, Brief, NewPrompt, ProposerChain, ProposerError
from agentopt.prompts.race import Race, RacePlan
from agentopt.prompts.reflective import ReflectiveProposer, proposal_prompt, read_system_prompt
from agentopt.prompts.rewards import Cell, Rewards
from agentopt.prompts.settings import PromptSettings
from agentopt.report.prompts import print_diagnosis
from agentopt.runs.config import Config, load_config
from agentopt.runs.prompt_share import PromptShare
from agentopt.testing.prompt_toy import CHANCES, INSTRUCTIONS, prompt_model, prompt_task
from agentopt.testing.toy import SMALL, toy_model, toy_task
from agentopt.workflow.parsers import choice

FLAT = {kind: (without, without) for kind, (without, _) in CHANCES.items()}
"""No system prompt matters."""

MAGIC = "Mind the house style."
"""An instruction that no fragment of the bank holds."""

BRIEF = Brief("a task", "answer", "Answer the question.", ("When?",))


@asynccontextmanager
async def session_for(
    task: Task, provider: ChatModel, folder: Path, caps: Caps = Caps(), purpose_caps: dict[str, Caps] | None = None
) -> AsyncIterator[Session]:
    catalog = Catalog.load()
    specs = {name: catalog[name] for name in task.models}
    journal = str(folder / "journal.db")
    async with open_session(
        specs, "run", caps=caps, purpose_caps=purpose_caps, journal=journal, provider=provider
    ) as session:
        yield session


def optimizer(
    task: Task, session: Session, writer: str | None = None, fallbacks: list[str] | None = None, **changes: object
) -> PromptOptimizer:
    return PromptOptimizer(
        task,
        Evaluator(task, session.model, session.specs),
        session.model,
        session.budget,
        PromptSettings.model_validate(changes),
        writer,
        on_fallback=(fallbacks if fallbacks is not None else []).append,
    )


# ---- rewards


async def test_a_repeat_samples_the_subtask_and_its_dependants_again_but_nothing_before(tmp_path: Path) -> None:
    task, provider = toy_task(), toy_model()
    async with session_for(task, provider, tmp_path) as session:
        evaluator = Evaluator(task, session.model, session.specs)
        examples = task.splits["validation"][:4]
        rewards = Rewards(evaluator, task.baseline, "answer", examples)
        await rewards.sample(Cell("", k, m) for k in range(4) for m in range(3))
        called = [r.messages[-1].content.partition("|")[0] for r in provider.requests]
        assert called.count("find") == 4
        assert called.count("answer") == 12
        provider.requests.clear()
        rewards = Rewards(evaluator, task.baseline, "find", examples)
        await rewards.sample(Cell("", k, 1) for k in range(4))
        assert {r.first_repeat for r in provider.requests} == {1}


async def test_a_cell_whose_call_fails_has_no_reward_and_the_others_keep_theirs(tmp_path: Path) -> None:
    class Failing(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            if request.messages[-1].content.endswith("train-1"):
                raise PermanentModelError("refused")
            return await super().generate(request)

    task = prompt_task()
    async with session_for(task, Failing(prompt_model()._answer), tmp_path) as session:
        rewards = Rewards(
            Evaluator(task, session.model, session.specs), task.baseline, "answer", task.splits["train"][:3]
        )
        await rewards.sample(Cell("Be brief.", k, 0) for k in range(3))
        table = rewards.table(["Be brief."], range(3))
    assert table.shape == (1, 3, 1)
    assert np.isnan(table[0, :, 0]).tolist() == [False, True, False]


# ---- the pilot


async def test_the_pilot_repeats_only_where_the_choice_is_open(tmp_path: Path) -> None:
    task = prompt_task()
    async with session_for(task, prompt_model(), tmp_path) as session:
        pilot, _ = await optimizer(task, session, repeats=6, k_top=2).diagnose(task.baseline, "answer")
    counts = (~np.isnan(pilot.rewards)).sum(axis=2)
    assert counts.min() == 2
    assert 2 < counts.max() <= 6
    assert pilot.responses < 6 * counts.size
    assert next(iter(pilot.proposers.items())) == ("Answer the question.", "seed")


async def test_a_repeated_pilot_is_the_same_and_costs_nothing(tmp_path: Path) -> None:
    task, provider = prompt_task(), prompt_model()
    async with session_for(task, provider, tmp_path) as session:
        pilot, _ = await optimizer(task, session).diagnose(task.baseline, "answer")
    calls = len(provider.requests)
    async with session_for(task, provider, tmp_path) as session:
        again, _ = await optimizer(task, session).diagnose(task.baseline, "answer")
    assert len(provider.requests) == calls
    np.testing.assert_array_equal(pilot.rewards, again.rewards)


async def test_the_pilot_chooses_the_user_prompts_that_discriminate_between_system_prompts(tmp_path: Path) -> None:
    task = prompt_task(train=12, kinds=("dates", "easy", "hard"))
    async with session_for(task, prompt_model(), tmp_path) as session:
        pilot, rewards = await optimizer(task, session, variants=8, repeats=6, k_top=3).diagnose(
            task.baseline, "answer"
        )
    chosen = [rewards.examples[k].inputs["kind"] for k in pilot.analysis.subset]
    assert chosen == ["dates"] * 3


async def test_if_all_calls_fail_the_seed_prompt_is_kept_and_nothing_more_is_sent(tmp_path: Path) -> None:
    def refuse(request: Request, repeat: int) -> str:
        raise PermanentModelError("gone")

    task, provider = prompt_task(), ScriptedModel(refuse)
    async with session_for(task, provider, tmp_path) as session:
        with pytest.raises(PilotError, match="cannot be analysed"):
            await optimizer(task, session).diagnose(task.baseline, "answer")
        provider.requests.clear()
        found = await optimizer(task, session).optimize(task.baseline, "answer")
    assert (found.chosen.proposer, found.decision) == ("seed", PromptDecision.FAILED)
    assert len(provider.requests) <= len(task.splits["train"])


# ---- the race


async def raced(task: Task, session: Session, new: Sequence[str], plan: RacePlan) -> tuple[Race, Rewards]:
    """A race of these prompts, in batches as planned."""
    examples = task.splits["train"]
    rewards = Rewards(Evaluator(task, session.model, session.specs), task.baseline, "answer", examples)
    race = Race(rewards, len(examples), "plain", RaceSettings(repeats=4))
    left = [NewPrompt(text, "x") for text in new]

    async def propose(k: int) -> list[NewPrompt]:
        return [left.pop(0) for _ in range(min(k, len(left)))]

    await race.look(plan.each)
    await race.run(plan, propose)
    return race, rewards


async def test_the_planted_prompt_wins_the_race_from_any_batch(tmp_path: Path) -> None:
    task, dates = prompt_task(train=12, kinds=("dates", "easy")), INSTRUCTIONS["dates"]
    others = ["one", "two", "three", "four", "five"]
    for position in (0, 5):
        texts = [*others[:position], dates, *others[position:]]
        async with session_for(task, prompt_model(), tmp_path / str(position)) as session:
            race, rewards = await raced(task, session, texts, RacePlan(3, 2, 7 * 24))
        assert race.entrants[race.leader].system_prompt == dates
        assert len(race.entrants) == 7
        assert race.responses <= 7 * 24
        first = attempts(race, rewards)[0]
        assert first.system_prompt == dates
        assert first.reward > 0.75
        assert first.failures == () or "right-" in first.failures[0].feedback


async def test_good_prompts_get_more_responses_than_weak_ones(tmp_path: Path) -> None:
    task, dates = prompt_task(train=12, kinds=("dates",)), INSTRUCTIONS["dates"]
    async with session_for(task, prompt_model(), tmp_path) as session:
        race, rewards = await raced(task, session, ["one", dates, "two", "three"], RacePlan(1, 4, 5 * 16))
    drawn = {attempt.system_prompt: attempt.responses for attempt in attempts(race, rewards)}
    assert drawn[dates] == max(drawn.values()) > 2 * min(drawn.values())


async def test_a_race_without_new_prompts_ends_with_the_seed_prompt(tmp_path: Path) -> None:
    task = prompt_task()
    async with session_for(task, prompt_model(), tmp_path) as session:
        race, _ = await raced(task, session, [], RacePlan(3, 2, 100))
    assert (race.leader, race.alive) == (0, (0,))


@pytest.mark.parametrize(
    ("responses", "plan"),
    [
        (10_000, RacePlan(3, 4, 13 * 48)),
        (300, RacePlan(3, 4, 300)),
        (100, RacePlan(1, 4, 100)),
        (36, RacePlan(1, 2, 36)),
        (24, RacePlan(1, 1, 24)),
        (23, None),
        (0, None),
    ],
)
def test_fewer_responses_make_fewer_proposals(responses: int, plan: RacePlan | None) -> None:
    assert RacePlan.within(PromptSettings(), responses) == plan


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 60), st.floats(0, 2000))
def test_a_plan_is_within_the_settings(rounds: int, batch: int, each: int, responses: float) -> None:
    settings = PromptSettings(rounds=rounds, batch_size=batch, responses=each)
    plan = RacePlan.within(settings, responses)
    if plan is None:
        assert responses < 2 * min(12, each)
    else:
        assert plan.responses <= responses
        assert 1 <= plan.batches <= rounds
        assert 1 <= plan.batch_size <= batch
        assert min(12, each) <= plan.each <= each
        assert plan.upto(plan.batches - 1) == plan.responses


# ---- proposers


@given(st.data())
def test_fragments_are_found_again_in_what_was_composed_of_them(data: st.DataObject) -> None:
    bank = authored_bank()
    chosen = {slot: data.draw(st.sampled_from(["", *options])) for slot, options in bank.items()}
    assert fragments_in(compose("Answer.", chosen, bank), bank) == chosen


def test_no_fragment_of_the_bank_is_part_of_another() -> None:
    fragments = [f for options in authored_bank().values() for f in options]
    assert not [(a, b) for a in fragments for b in fragments if a != b and a in b]


async def test_components_proposes_new_texts_only_and_the_same_ones_for_the_same_history() -> None:
    history = [Attempt("Answer the question.", "seed", 0.1, 8, 1.0)]
    proposer = ComponentsProposer(seed=3)
    for reward in (0.2, 0.9, 0.4, 0.1, 0.3, 0.6):
        new = await proposer.propose(BRIEF, history, 2)
        assert new == await ComponentsProposer(seed=3).propose(BRIEF, history, 2)
        assert len(set(new) - {a.system_prompt for a in history}) == 2
        history += [Attempt(text, "components", reward, 8, 1.0) for text in new]


async def test_components_learns_which_fragment_raises_the_reward() -> None:
    """A history in which one fragment decides the reward makes TPE propose it more often than chance would."""
    wanted, bank = INSTRUCTIONS["dates"], authored_bank()
    history: list[Attempt] = []
    proposer = ComponentsProposer(seed=1)
    for _ in range(8):
        new = await proposer.propose(BRIEF, history, 4)
        history += [Attempt(text, "components", 0.9 if wanted in text else 0.1, 8, 1.0) for text in new]
    late = history[-8:]
    by_chance = (1 - 0.6) / len(bank["dates"])
    assert sum(wanted in a.system_prompt for a in late) / len(late) > 2 * by_chance


@given(st.text())
def test_reading_a_system_prompt_never_raises(text: str) -> None:
    found = read_system_prompt(text)
    assert found is None or found == found.strip() != ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"system_prompt": " Be brief. "}', "Be brief."),
        ('Sure: ```json\n{"system_prompt": "Be brief."}\n```', "Be brief."),
        ("{'system_prompt': 'Be brief.',}", "Be brief."),
        ('{"system_prompt": "Answer "yes" or "no"."}', 'Answer "yes" or "no".'),
        ('{"system_prompt": "Be', None),
        ('{"system_prompt": ["Be brief."]}', None),
        ('{"system_prompt": "  "}', None),
        ("Be brief.", None),
    ],
)
def test_what_counts_as_a_system_prompt(text: str, found: str | None) -> None:
    assert read_system_prompt(text) == found


def test_the_writer_is_shown_the_scores_and_failures_of_the_best(tmp_path: Path) -> None:
    from agentopt.prompts.prompt_proposers import Failure

    failed = Failure("When was it?", "May 5", "expected 2020-05-05, got May 5")
    prompt = proposal_prompt(
        BRIEF, [Attempt("Bad.", "seed", 0.1, 4, 1.0), Attempt("Good.", "x", 0.7, 4, 1.0, (failed,))]
    )
    assert prompt.index("0.70: Good.") < prompt.index("0.10: Bad.")
    assert "expected 2020-05-05, got May 5" in prompt


class Fixed:
    """A proposer that offers the same texts in every call, or raises `ProposerError`."""

    def __init__(self, name: str, texts: Sequence[str] = (), problem: str = "") -> None:
        self.name, self._texts, self._problem = name, list(texts), problem

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[str]:
        if self._problem:
            raise ProposerError(self._problem)
        return self._texts


async def test_empty_long_known_and_equal_prompts_are_dropped_and_the_next_proposer_is_called() -> None:
    first = Fixed("first", ["", "x" * 50, "Answer  the question.", "Known.", "New.", " New. "])
    fallbacks: list[str] = []
    chain = ProposerChain([first, Fixed("second", ["Other.", "Third."])], fallbacks.append, longest=40)
    found = await chain.propose(BRIEF, [Attempt("Known.", "seed", 0.0, 1, 0.0)], 2)
    assert [(n.system_prompt, n.proposer) for n in found] == [("New.", "first"), ("Other.", "second")]
    assert fallbacks == ["first gave only 1 new prompt of 2; second writes 1"]


async def test_a_proposer_that_fails_is_skipped_and_the_reason_is_reported() -> None:
    fallbacks: list[str] = []
    chain = ProposerChain([Fixed("first", problem="it is asleep"), Fixed("second", ["New."])], fallbacks.append)
    assert [n.proposer for n in await chain.propose(BRIEF, [], 1)] == ["second"]
    assert fallbacks == ["first cannot be used: it is asleep; second writes 1"]


# ---- the optimiser


async def test_it_finds_the_planted_instruction_and_confirms_it_on_validation(tmp_path: Path) -> None:
    task = prompt_task()
    async with session_for(task, prompt_model(), tmp_path) as session:
        found = await optimizer(task, session).optimize(task.baseline, "answer")
    assert any(instruction in found.chosen.system_prompt for instruction in INSTRUCTIONS.values())
    assert (found.chosen.proposer, found.decision) == ("components", PromptDecision.REPLACED)
    assert found.adoption is not None
    assert found.adoption.gain > 0
    assert list(found.finals) == ["Answer the question.", found.chosen.system_prompt]


async def test_the_first_batch_is_written_from_failures_of_the_seed_prompt(tmp_path: Path) -> None:
    task = prompt_task()
    provider = prompt_model(writes='{"system_prompt": "Write dates as YYYY-MM-DD."}')
    async with session_for(task, provider, tmp_path) as session:
        await optimizer(task, session, SMALL).optimize(task.baseline, "answer")
    first = next(r for r in provider.requests if r.purpose == "prompts").messages[-1].content
    assert "Failures of the best one" in first
    assert "Answer the question." in first
    assert "expected" in first
    shown = [line for line in first.splitlines() if line.startswith("- user message:")]
    assert shown
    assert all("|train-" in line for line in shown), "validation rows are held out"


def means(text: str, chance: float) -> ScriptedModel:
    """Answers right with this chance if the system prompt is `text`, and half of the time if not; writes `text`."""
    chances = dict.fromkeys(CHANCES, (0.5, chance))
    return prompt_model(chances, instructions=dict.fromkeys(CHANCES, text), writes=json.dumps({"system_prompt": text}))


async def test_a_worse_prompt_is_not_worth_it_and_costs_no_validation(tmp_path: Path) -> None:
    task, provider = prompt_task(), means(MAGIC, 0.0)
    async with session_for(task, provider, tmp_path) as session:
        found = await optimizer(task, session, SMALL, rounds=1, batch_size=1, responses=24).optimize(
            task.baseline, "answer"
        )
    assert (found.decision, found.chosen.system_prompt) == (PromptDecision.NOT_WORTH_IT, "Answer the question.")
    assert [attempt.proposer for attempt in found.attempts] == ["seed", "reflective"]
    assert not any("|validation" in r.messages[-1].content for r in provider.requests)


async def test_where_every_answer_is_right_nothing_is_written(tmp_path: Path) -> None:
    task = prompt_task(train=24)
    async with session_for(task, prompt_model(dict.fromkeys(CHANCES, (1.0, 1.0))), tmp_path) as session:
        found = await optimizer(task, session).optimize(task.baseline, "answer")
        assert session.budget.spent.calls == found.responses == 24
    assert found.decision is PromptDecision.NOTHING_TO_GAIN


@settings(max_examples=12)
@given(
    with_instruction=st.floats(0, 1),
    without=st.floats(0, 1),
    row_filter=st.sampled_from(["adaptive", "p1", "random", "all"]),
)
async def test_a_prompt_that_is_worse_on_validation_never_replaces_the_seed(
    tmp_path_factory: pytest.TempPathFactory, with_instruction: float, without: float, row_filter: str
) -> None:
    chances = dict.fromkeys(CHANCES, (without, with_instruction))
    task = prompt_task(train=6, validation=8)
    async with session_for(task, prompt_model(chances), tmp_path_factory.mktemp("run")) as session:
        small: dict[str, Any] = {"rounds": 2, "batch_size": 2, "k_top": 2, "repeats": 2, "responses": 8}
        found = await optimizer(task, session, filter=row_filter, **small).optimize(task.baseline, "answer")
    if found.decision is PromptDecision.REPLACED:
        first, chosen = found.finals.values()
        assert (chosen.score or 0) > (first.score or 0)
    else:
        assert found.chosen.proposer == "seed"


Writes = Callable[[], ScriptedModel]


def broken(error: Exception) -> ScriptedModel:
    """The planted model, whose writing fails."""

    class Broken(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            if request.purpose == "prompts":
                raise error
            return await super().generate(request)

    return Broken(prompt_model()._answer)


@pytest.mark.parametrize(
    ("provider", "purpose_caps", "reason"),
    [
        (lambda: broken(PermanentModelError("no such model")), None, "cannot be reached: no such model"),
        (lambda: prompt_model(writes="I would rather not."), None, "contained a system prompt as JSON"),
        (lambda: prompt_model(writes='{"system_prompt": "Answer the question."}'), None, "gave only 0 new prompts"),
        (lambda: prompt_model(), {"prompts": Caps(calls=0)}, "there is no budget for it: the prompts.calls cap of 0"),
    ],
)
async def test_if_the_writer_fails_the_fragments_are_used_and_the_reason_is_reported(
    tmp_path: Path, provider: Writes, purpose_caps: dict[str, Caps] | None, reason: str
) -> None:
    task, fallbacks = prompt_task(), list[str]()
    async with session_for(task, provider(), tmp_path, purpose_caps=purpose_caps) as session:
        found = await optimizer(task, session, SMALL, fallbacks).optimize(task.baseline, "answer")
    assert found.chosen.proposer == "components"
    assert any(reason in each and "; components writes" in each for each in fallbacks)


async def test_a_good_text_by_the_writer_is_chosen_and_credited(tmp_path: Path) -> None:
    task = prompt_task()
    provider = prompt_model(instructions=dict.fromkeys(CHANCES, MAGIC), writes=f'{{"system_prompt": "{MAGIC}"}}')
    async with session_for(task, provider, tmp_path) as session:
        found = await optimizer(task, session, SMALL).optimize(task.baseline, "answer")
        assert session.spent["prompts"].calls > 0
    assert (found.chosen.system_prompt, found.chosen.proposer) == (MAGIC, "reflective")


async def test_gepa_evolves_on_the_user_prompts_and_its_calls_are_charged(tmp_path: Path) -> None:
    pytest.importorskip("gepa")
    task = prompt_task()
    provider = prompt_model(instructions=dict.fromkeys(CHANCES, MAGIC), writes=f"```\n{MAGIC}\n```")
    async with session_for(task, provider, tmp_path) as session:
        found = await optimizer(task, session, SMALL, proposer="gepa", filter="all").optimize(task.baseline, "answer")
        assert session.spent["prompts"].calls > 0
    assert (found.chosen.system_prompt, found.chosen.proposer) == (MAGIC, "gepa")


async def test_calls_of_gepa_end_with_it(tmp_path: Path) -> None:
    pytest.importorskip("gepa")
    task, held, release = prompt_task(), asyncio.Event(), asyncio.Event()
    answering = prompt_model(writes="a text")

    class Held(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            if request.purpose == "prompts":
                held.set()
                await release.wait()
            return await answering.generate(request)

    async with session_for(task, Held(lambda *_: ""), tmp_path) as session:
        searching = asyncio.create_task(
            optimizer(task, session, SMALL, proposer="gepa", filter="all").optimize(task.baseline, "answer")
        )
        await asyncio.wait_for(held.wait(), 60)
        searching.cancel()
        await asyncio.wait([searching])
        left = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
        release.set()
        assert searching.cancelled()
        assert "ReflectiveProposer.generate" not in left, "it would find its journal closed"


async def test_gepa_without_a_writing_model_is_replaced_by_the_fragments(tmp_path: Path) -> None:
    task, fallbacks = prompt_task(), list[str]()
    async with session_for(task, prompt_model(), tmp_path) as session:
        found = await optimizer(task, session, None, fallbacks, proposer="gepa").optimize(task.baseline, "answer")
    assert found.chosen.proposer == "components"
    assert fallbacks[0].startswith("gepa cannot be used")


async def test_a_cap_ends_the_race_and_the_best_so_far_is_compared(tmp_path: Path) -> None:
    task = prompt_task()
    async with session_for(task, prompt_model(), tmp_path, Caps(calls=240)) as session:
        limited = optimizer(task, session)
        limited.final_usage = Usage(calls=2 * 32)
        found = await limited.optimize(task.baseline, "answer")
        assert session.budget.spent.calls <= 240
    assert found.stopped is not None
    assert found.stopped.kind is StopKind.CAP_REACHED
    assert found.stopped.cap == "calls"
    assert len(found.finals) == 2
    assert found.adoption is not None


async def test_a_cap_that_is_reached_on_validation_keeps_the_seed_prompt(tmp_path: Path) -> None:
    async def run(folder: str, caps: Caps) -> tuple[Optimized, int]:
        task = prompt_task()
        async with session_for(task, prompt_model(), tmp_path / folder, caps) as session:
            found = await optimizer(task, session, rounds=1).optimize(task.baseline, "answer")
            return found, session.budget.spent.calls

    free, spent = await run("free", Caps())
    assert free.decision is PromptDecision.REPLACED
    capped, within = await run("capped", Caps(calls=spent - 1))
    assert within <= spent - 1
    assert (capped.decision, capped.chosen.proposer) == (PromptDecision.CUT_SHORT, "seed")
    assert capped.stopped is not None
    assert capped.attempts == free.attempts
    assert list(capped.finals) == list(free.finals)[:1]


async def test_a_race_cut_in_the_middle_is_replayed_from_the_journal(tmp_path: Path) -> None:
    """An earlier session was killed after 90 calls: the next one repeats none of them, and ends as one in one go."""

    class Killed(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            if len(self.requests) >= 90:
                raise asyncio.CancelledError
            return await super().generate(request)

    task, whole, second = prompt_task(), prompt_model(), prompt_model()
    killed = Killed(prompt_model()._answer)
    async with session_for(task, whole, tmp_path / "whole") as session:
        expected = await optimizer(task, session).optimize(task.baseline, "answer")
    with pytest.raises(asyncio.CancelledError):
        async with session_for(task, killed, tmp_path / "killed") as session:
            await optimizer(task, session).optimize(task.baseline, "answer")
    async with session_for(task, second, tmp_path / "killed") as session:
        found = await optimizer(task, session).optimize(task.baseline, "answer")
    assert (found.chosen, found.adoption, found.attempts) == (expected.chosen, expected.adoption, expected.attempts)
    assert 0 < len(second.requests) <= len(whole.requests) - len(killed.requests)


# ---- in a run


def config(folder: Path, **changes: object) -> Config:
    base = {"strategy": "optuna", "journal": str(folder / "journal.db"), "runs": str(folder / "runs")}
    return Config.model_validate({**base, "budget": {"trials": 8}, **changes})


async def test_prompts_come_before_allocations_and_the_search_uses_them(tmp_path: Path) -> None:
    result = await aoptimize(prompt_task(), config(tmp_path), provider=prompt_model())
    assert [t.proposer for t in result.trials[:2]] == ["baseline", "prompts before"]
    improved = result.trials[1].candidate["answer"].system_prompt
    assert result.trials[0].candidate["answer"].system_prompt == "Answer the question."
    assert {t.candidate["answer"].system_prompt for t in result.trials[1:]} == {improved}
    (report,) = result.prompts
    assert report.chosen == improved
    assert report.adoption is not None
    assert report.adoption.gain > 0
    assert report.outcome == f"replaced by one of components, improved by {report.adoption.gain:+.3f}"
    assert result.finalist("best").against_baseline is not None


@pytest.mark.parametrize(
    ("when", "phases"), [("never", []), ("before", ["before"]), ("after", ["after"]), ("both", ["before", "after"])]
)
async def test_when_prompts_are_optimised_is_a_setting(tmp_path: Path, when: str, phases: list[str]) -> None:
    settings = config(tmp_path, prompts={"when": when}, budget={"trials": 4})
    result = await aoptimize(prompt_task(), settings, provider=prompt_model())
    assert [report.phase for report in result.prompts] == phases
    if when == "after":
        assert result.trials[-1].proposer == "prompts after"


async def test_a_task_without_a_train_split_keeps_its_prompts_and_the_reason_is_reported(tmp_path: Path) -> None:
    result = await aoptimize(toy_task(), config(tmp_path), provider=toy_model())
    assert result.prompts == ()
    assert any("no train split" in note for note in result.notes)


@pytest.mark.parametrize("share", [0.2, 0.3, 0.5])
async def test_prompts_take_no_more_than_their_share_of_a_cap(tmp_path: Path, share: float) -> None:
    settings = config(tmp_path, budget={"trials": 4, "calls": 400}, prompts={"share": share, "rounds": 50})
    calls: list[int] = []
    provider = prompt_model()

    def observe(event: object) -> None:
        if getattr(event, "kind", "") in ("prompts_started", "prompts_done"):
            calls.append(len(provider.requests))

    result = await aoptimize(prompt_task(), settings, provider=provider, callbacks=[observe])
    assert 24 <= calls[1] - calls[0] <= share * 400
    assert result.total.calls <= 400
    assert result.finalist("best").test is not None


@pytest.mark.parametrize("share", [0.9, 1.0])
async def test_a_large_share_leaves_room_for_the_baseline_and_the_test(tmp_path: Path, share: float) -> None:
    settings = config(tmp_path, budget={"trials": 2, "calls": 300}, prompts={"share": share})
    result = await aoptimize(prompt_task(test=16), settings, provider=prompt_model())
    (report,) = result.prompts
    assert report.stopped is None
    assert report.responses > 100
    assert result.finalist("best").test is not None
    assert result.total.calls <= 300


@pytest.mark.parametrize(("when", "calls"), [("before", 600), ("both", 1300), ("after", 600)])
async def test_all_subtasks_and_phases_together_use_at_most_the_share(tmp_path: Path, when: str, calls: int) -> None:
    task = toy_task(validation=12, test=12)
    train = tuple(Example(f"train-{i}", {"number": f"train-{i}"}, f"word-train-{i}") for i in range(12))
    task = dataclasses.replace(task, splits={**task.splits, "train": train})
    settings = config(tmp_path, budget={"trials": 4, "calls": calls}, prompts={"when": when})
    provider, counted = toy_model(), list[int]()

    def observe(event: object) -> None:
        if getattr(event, "kind", "") in ("prompts_started", "prompts_done"):
            counted.append(len(provider.requests))

    result = await aoptimize(task, settings, provider=provider, callbacks=[observe])
    assert [report.subtask for report in result.prompts] == ["find", "answer"] * (2 if when == "both" else 1)
    assert all(report.responses >= 24 for report in result.prompts), [report.outcome for report in result.prompts]
    assert 0 < sum(after - before for before, after in zip(counted[::2], counted[1::2], strict=True)) <= 0.3 * calls


async def test_without_a_cap_prompts_take_their_share_of_the_worst_case(tmp_path: Path) -> None:
    """Two trials and three tests of 32 rows: at most 160 calls beside those of the prompts, which are 30% of all."""
    provider, large = prompt_model(), {"responses": 200, "user_prompts": 16, "repeats": 16}
    settings = config(tmp_path, prompts=large, budget={"trials": 2})
    result = await aoptimize(prompt_task(), settings, provider=provider)
    (report,) = result.prompts
    assert 30 <= report.responses <= 0.3 / 0.7 * 160


async def test_the_unused_share_of_a_subtask_is_available_to_the_next_one() -> None:
    share = PromptShare(Caps(calls=200), PromptSettings(), 0)
    one, split = Usage(calls=1), Usage(calls=40)
    assert share.plan(2, one, split) == RacePlan(1, 4, 60)
    share.charge(Usage(calls=20))
    assert share.plan(1, one, split) == RacePlan(2, 4, 140)
    share.charge(Usage(calls=140))
    assert share.plan(1, one, split) is None


async def test_with_a_share_too_small_for_a_race_and_its_comparison_nothing_is_spent_on_prompts(tmp_path: Path) -> None:
    provider, events = prompt_model(), list[Event]()
    settings = config(tmp_path, budget={"trials": 3, "calls": 150})
    result = await aoptimize(prompt_task(), settings, provider=provider, callbacks=[events.append])
    (report,) = result.prompts
    notes = [event.message for event in events if isinstance(event, Note)]
    (note,) = (note for note in notes if "prompts.share" in note)
    start = r"no race of system prompts fits in prompts\.share of the caps; "
    assert re.fullmatch(start + r"raise it, or set budget\.calls=\d+ or more", note)
    assert report.decision is PromptDecision.TOO_SMALL
    assert report.outcome == "kept: no race fits in prompts.share of the caps"
    assert not [r for r in provider.requests if "|train-" in r.messages[-1].content]
    assert result.finalist("best").test is not None


async def test_a_smaller_cap_makes_the_race_smaller(tmp_path: Path) -> None:
    found = []
    for calls in (420, 1500):
        settings = config(tmp_path, budget={"trials": 3, "calls": calls}, prompts={"proposer": "components"})
        found.append((await aoptimize(prompt_task(), settings, provider=prompt_model())).prompts[0])
    assert len(found[0].tried) < len(found[1].tried) == 13
    assert 24 <= found[0].responses <= 0.3 * 420 - 32


async def test_if_no_cap_allows_the_agents_call_the_fallback_proposes(tmp_path: Path) -> None:
    dear = {"model": SMALL, "max_tokens": 100_000, "guideline_tokens": 100_000}
    settings = config(
        tmp_path, strategy="agent", agent=dear, budget={"trials": 5, "tokens": 20_000}, prompts={"when": "never"}
    )
    result = await aoptimize(toy_task(validation=8, test=8), settings, provider=toy_model())
    assert any("no budget for the agent" in reason for reason in result.fallbacks)
    assert len(result.trials) == 5


async def test_a_resumed_run_pays_for_no_prompt_twice(tmp_path: Path) -> None:
    provider = prompt_model()
    first = await aoptimize(prompt_task(), config(tmp_path), provider=provider)
    calls = len(provider.requests)
    again = await aoptimize(prompt_task(), None, resume=Path(first.run), provider=provider)
    assert len(provider.requests) == calls
    assert again.prompts == first.prompts
    assert again.trials == first.trials


def test_a_subtask_that_the_task_does_not_have_is_rejected_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="answr") as refused:
        optimize(prompt_task(), config(tmp_path, prompts={"subtasks": ["answr"]}), provider=prompt_model())
    rule = "configuration: prompts.subtasks: must name subtasks of task prompt-toy, but got answr"
    assert f"{rule}\n  remedy: did you mean 'answer'?" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


# ---- diagnose


async def test_a_diagnosis_names_the_verdict_the_parts_and_the_user_prompts(tmp_path: Path) -> None:
    (found,) = await adiagnose(prompt_task(), config(tmp_path), provider=prompt_model())
    assert found.verdict in ("optimise on all", "optimise on these")
    assert len(found.mean) == len(found.system_prompts) == len(found.tokens)
    assert all(len(row) == len(found.examples) for row in found.mean)
    assert found.user_prompts[found.subset[0]].split("|")[1] == found.examples[found.subset[0]]
    assert found.usage.calls == found.responses
    lines = repr(found).splitlines()
    assert lines[0] == f"Diagnosis of {found.task}, subtask answer: {found.verdict}"
    assert (len(lines), max(map(len, lines)) <= 100) == (5, True)


@pytest.mark.parametrize("rows", [range(100), (1,), (0, 2, 4), ()], ids=["all", "one", "three", "none"])
async def test_a_model_that_always_answers_a_prompt_alike_is_diagnosed(tmp_path: Path, rows: Sequence[int]) -> None:
    def answer(request: Request, repeat: int) -> str:
        *before, question = request.messages
        example = question.content.split("|")[1]
        is_right = any(example == f"train-{row}" for row in rows) and crc32(str(before).encode()) % 2
        return f"right-{example}" if is_right else "wrong"

    (found,) = await adiagnose(prompt_task(), config(tmp_path), provider=ScriptedModel(answer))
    output = io.StringIO()
    print_diagnosis(found, Console(file=output, width=200))
    assert not re.search(r"\b(inf|nan|None)\b", output.getvalue())
    assert found.noise == 0
    assert ("there is a signal and no noise" in found.reason) is bool(rows)
    assert ("infinite, as there is no noise" in output.getvalue()) is bool(rows)


@pytest.mark.parametrize(("name", "cap"), [("calls", 0), ("calls", 20), ("tokens", 1), ("tokens", 900)])
async def test_the_cap_that_a_diagnosis_suggests_pays_for_all_of_it(tmp_path: Path, name: str, cap: int) -> None:
    async def diagnosed(cap: int, journal: str) -> None:
        settings = config(tmp_path, budget={name: cap}, journal=str(tmp_path / journal))
        await adiagnose(prompt_task(), settings, provider=prompt_model())

    with pytest.raises(BudgetExceeded, match=rf"raise budget.{name} to \d+, which suffices") as caught:
        await diagnosed(cap, "one.db")
    await diagnosed(int(str(caught.value).partition(f"budget.{name} to ")[2].partition(",")[0]), "other.db")


def unreadable_task(read: int = 0) -> Task:
    """The toy task with a train split, of which `find` is parsable on the first `read` examples only."""
    task, keys = toy_task(), [f"key-validation-{i}" for i in range(read)]
    return dataclasses.replace(
        task,
        splits={**task.splits, "train": task.splits["validation"]},
        subtasks=(dataclasses.replace(task["find"], parse=choice([*keys, "none"])), task["answer"]),
    )


@pytest.mark.parametrize("writer", [None, SMALL])
async def test_subtasks_behind_unparsable_responses_have_no_verdict_and_no_responses(
    tmp_path: Path, writer: str | None
) -> None:
    model = toy_model()
    changes = {"agent": {"model": writer}} if writer else {}
    found = await adiagnose(unreadable_task(), config(tmp_path, **changes), provider=model)
    sentence = "find: no response could be parsed for 12 of 12 examples, such as: expected one of none, got "
    assert [diagnosis.verdict for diagnosis in found] == ["no verdict", "no verdict"]
    assert [diagnosis.reason[: len(sentence)] for diagnosis in found] == [sentence] * 2
    assert found[0].responses > 12
    assert found[1].responses == 0
    assert found[1].usage.calls == 0
    assert f"no verdict\n  {sentence}"[:90] in repr(found[1])
    assert "examples to optimise on: none" in repr(found[1])
    output = io.StringIO()
    print_diagnosis(found[1], Console(file=output, width=200))
    assert "Analysed: 0 responses of answer." in output.getvalue()
    assert "every answer" not in output.getvalue()
    assert "signal" not in output.getvalue()


@pytest.mark.parametrize(("read", "is_judged"), [(7, False), (9, True), (16, True)])
async def test_a_subtask_has_a_verdict_if_half_of_its_examples_are_parsable(
    tmp_path: Path, read: int, is_judged: bool
) -> None:
    find = ScriptedModel(lambda request, repeat: f"key-{request.messages[-1].content.split('|')[1]}")
    settings = config(tmp_path, prompts={"pilot_user_prompts": 16})
    found = await adiagnose(unreadable_task(read), settings, subtask="answer", provider=find)
    assert [each.verdict != "no verdict" for each in found] == [is_judged]
    assert found[0].responses == found[0].usage.calls - 16, "the calls of answer, without those of find"


async def test_the_prompt_of_a_subtask_that_was_never_called_is_not_raced(tmp_path: Path) -> None:
    task, model = unreadable_task(), toy_model()
    async with session_for(task, model, tmp_path) as session:
        found = await optimizer(task, session, writer=SMALL).optimize(task.baseline, "answer")
    assert found.decision is PromptDecision.NOT_CALLED
    assert found.chosen.system_prompt == task.baseline["answer"].system_prompt
    assert {request.purpose for request in model.requests} == {"samples"}


async def test_a_diagnosis_needs_training_examples(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="train split of two or more"):
        await adiagnose(toy_task(), config(tmp_path), provider=toy_model())


async def test_the_writer_requests_all_prompts_as_choices_of_one_call(tmp_path: Path) -> None:
    task, provider = prompt_task(), prompt_model(writes='{"system_prompt": "Be brief."}')
    async with session_for(task, provider, tmp_path) as session:
        texts = await ReflectiveProposer(session.model, SMALL).propose(BRIEF, [], 3)
    assert texts == ["Be brief."] * 3
    assert sum(r.n for r in provider.requests) == 3
    assert {r.purpose for r in provider.requests} == {"prompts"}


@pytest.mark.parametrize(
    "text",
    [
        '<think>fill {"system_prompt": ...} and {x}.</think>{"system_prompt": "Answer with one word."}',
        '<think>{"system_prompt": "A thought."}</think>\n```json\n{"system_prompt": "Answer with one word."}\n```',
        '{"system_prompt": "A thought."}</think>{"system_prompt": "Answer with one word."}',
    ],
)
def test_a_written_prompt_is_not_read_from_thoughts(text: str) -> None:
    assert read_system_prompt(text) == "Answer with one word."


class CutOff:
    """A model whose replies end for one reason."""

    def __init__(self, text: str, reason: str) -> None:
        self.text, self.reason = text, reason
        self.rooms = list[int]()

    async def generate(self, request: Request) -> Response:
        self.rooms.append(request.max_tokens)
        return Response(tuple(Choice(self.text, request.max_tokens, self.reason) for _ in range(request.n)), 1)

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("text", ['{"system_prompt": "Answer with', ""])
async def test_a_writer_that_was_cut_off_is_reported_with_the_setting(text: str) -> None:
    with pytest.raises(ProposerError, match=r"3 of 3 replies were cut off at 600 tokens; prompts.max_length"):
        await ReflectiveProposer(CutOff(text, "length"), SMALL, max_length=500).propose(BRIEF, [], 3)


@pytest.mark.parametrize("text", ['{"system_prompt": "Answer with', '{"system_prompt": "Answer."}'])
async def test_a_writer_that_a_content_filter_cut_off_gets_no_more_tokens(text: str) -> None:
    model = CutOff(text, "content_filter")
    with pytest.raises(ProposerError, match="3 of 3 replies were cut off by the provider's content filter"):
        await ReflectiveProposer(model, SMALL, context_length=32_000).propose(BRIEF, [], 3)
    assert len(model.rooms) == 1


@pytest.mark.parametrize("length", [300, 6_000, 20_000])
async def test_a_prompt_of_any_length_is_read_whole(length: int) -> None:
    """A reply longer than the first call allows is requested again with more tokens."""
    text, rooms = "Rule. " * (length // 6), list[int]()

    class Long:
        async def generate(self, request: Request) -> Response:
            rooms.append(request.max_tokens)
            reply = json.dumps({"system_prompt": text})
            cut = reply[: 4 * request.max_tokens]
            choice = Choice(cut, len(cut) // 4, "stop" if cut == reply else "length")
            return Response((choice,) * request.n, 1)

        async def aclose(self) -> None:
            pass

    assert await ReflectiveProposer(Long(), SMALL, context_length=32_000).propose(BRIEF, [], 2) == [text.strip()] * 2
    assert rooms == sorted(set(rooms))


async def test_a_bound_on_the_length_is_in_the_request_and_longer_prompts_are_dropped() -> None:
    model = ScriptedModel(lambda request, repeat: json.dumps({"system_prompt": "x" * 30}))
    fallbacks: list[str] = []
    chain = ProposerChain([ReflectiveProposer(model, SMALL, max_length=20)], fallbacks.append, longest=20)
    assert await chain.propose(BRIEF, [], 2) == []
    (request,) = model.requests
    assert "at most 20 characters" in request.messages[0].content
    assert json.loads(request.json_schema or "")["properties"]["system_prompt"]["maxLength"] == 20


def test_long_attempts_are_left_out_beyond_the_context() -> None:
    history = [Attempt(f"{name} " * 1000, "x", reward, 4, 1.0) for name, reward in (("low", 0.1), ("high", 0.9))]
    shown = proposal_prompt(BRIEF, history, most_bytes=7000)
    assert "high" in shown
    assert "low" not in shown
    assert "low" in proposal_prompt(BRIEF, history, most_bytes=11_000)


@pytest.mark.parametrize("name", ["subset", "finalists", "max_tokens"])
def test_a_setting_of_0_1_0_is_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"prompts\.{name}.*version 0\.1\.0.*\n?.*remedy: (set prompts\.|remove it)"):
        load_config([f"prompts.{name}=4"])
