"""Prompt optimisation: rewards, pilot, proposers, the optimiser, and its part in a run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt.api import adiagnose, aoptimize, optimize
from agentopt.core.budget import Caps
from agentopt.core.errors import CallsFailError, ConfigError, PermanentModelError, TaskError
from agentopt.core.task import Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.base import ChatModel, Choice, Request, Response
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import Session, open_session
from agentopt.prompts.components import ComponentsProposer, authored_bank, compose, fragments_in
from agentopt.prompts.optimizer import PromptOptimizer
from agentopt.prompts.pilot import PilotError
from agentopt.prompts.proposers import Attempt, Brief, ProposerChain, ProposerError
from agentopt.prompts.race import Race
from agentopt.prompts.reflective import ReflectiveProposer, proposal_prompt, read_system_prompt
from agentopt.prompts.rewards import Cell, Rewards
from agentopt.prompts.settings import PromptSettings
from agentopt.runs.config import Config
from agentopt.testing.prompt_toy import CHANCES, INSTRUCTIONS, prompt_model, prompt_task
from agentopt.testing.toy import SMALL, toy_model, toy_task

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


async def test_if_all_calls_of_a_pilot_fail_the_reason_is_given_and_the_seed_prompt_kept(tmp_path: Path) -> None:
    def refuse(request: Request, repeat: int) -> str:
        raise PermanentModelError("gone")

    task = prompt_task()
    async with session_for(task, ScriptedModel(refuse), tmp_path) as session:
        with pytest.raises(PilotError, match="cannot be analysed"):
            await optimizer(task, session).diagnose(task.baseline, "answer")
        found = await optimizer(task, session).optimize(task.baseline, "answer")
        assert found.chosen.proposer == "seed"
        assert "cannot be analysed" in found.ended
        with pytest.raises(CallsFailError, match="first 5 examples all failed for one reason"):
            await optimizer(task, session, subset="all", rounds=1).optimize(task.baseline, "answer")


# ---- the race


async def test_one_lucky_response_does_not_lead_the_race(tmp_path: Path) -> None:
    task = prompt_task(train=8, kinds=("dates", "easy"))
    dates = INSTRUCTIONS["dates"]
    async with session_for(task, prompt_model(), tmp_path) as session:
        rewards = Rewards(Evaluator(task, session.model, session.specs), task.baseline, "answer", task.splits["train"])
        race = Race(rewards, tuple(range(8)), {"plain": "seed", dates: "x", "lucky": "x"}, repeats=3)
        await race.run(["plain", dates])
        await rewards.sample([Cell("lucky", 1, 0)])  # an easy one, and the budget is out
        order = [attempt.system_prompt for attempt in race.attempts()]
    assert rewards.table(["lucky"], range(8))[0, 1, 0] == 1
    assert order == [dates, "lucky", "plain"]


async def test_what_loses_to_the_best_gets_no_more_repeats(tmp_path: Path) -> None:
    task = prompt_task(train=12, kinds=("dates",))
    async with session_for(task, prompt_model(), tmp_path) as session:
        rewards = Rewards(Evaluator(task, session.model, session.specs), task.baseline, "answer", task.splits["train"])
        race = Race(rewards, tuple(range(12)), {INSTRUCTIONS["dates"]: "x", "plain": "seed"}, repeats=4)
        await race.run(list(race.proposers))
        responses = {attempt.system_prompt: attempt.responses for attempt in race.attempts()}
    assert responses == {INSTRUCTIONS["dates"]: 48, "plain": 12}


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
    from agentopt.prompts.proposers import Failure

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
    assert fallbacks == ["first gave only 1 new prompts of 2; second writes 1"]


async def test_a_proposer_that_fails_is_skipped_and_the_reason_is_reported() -> None:
    fallbacks: list[str] = []
    chain = ProposerChain([Fixed("first", problem="it is asleep"), Fixed("second", ["New."])], fallbacks.append)
    assert [n.proposer for n in await chain.propose(BRIEF, [], 1)] == ["second"]
    assert fallbacks == ["first cannot be used: it is asleep; second writes 1"]


# ---- the optimiser


async def test_it_finds_the_planted_instruction_and_confirms_it_in_the_finals(tmp_path: Path) -> None:
    task = prompt_task()
    async with session_for(task, prompt_model(), tmp_path) as session:
        found = await optimizer(task, session).optimize(task.baseline, "answer")
    assert any(instruction in found.chosen.system_prompt for instruction in INSTRUCTIONS.values())
    assert found.chosen.proposer == "components"
    scores = {prompt: evaluation.score for prompt, evaluation in found.finals.items()}
    assert (scores[found.chosen.system_prompt] or 0) > (scores["Answer the question."] or 0)


async def test_if_nothing_can_be_gained_nothing_is_spent_after_the_pilot(tmp_path: Path) -> None:
    task, provider = prompt_task(), prompt_model(FLAT)
    async with session_for(task, provider, tmp_path) as session:
        found = await optimizer(task, session).optimize(task.baseline, "answer")
        assert found.pilot is not None
        assert session.budget.spent.calls == found.pilot.responses
    assert found.ended.startswith("not worth it")
    assert found.chosen.system_prompt == "Answer the question."
    assert not any(r.messages[-1].content.split("|")[1].startswith("validation") for r in provider.requests)


@settings(max_examples=12)
@given(
    with_instruction=st.floats(0, 1),
    without=st.floats(0, 1),
    subset=st.sampled_from(["verdict", "p1", "random", "all"]),
)
async def test_the_chosen_prompt_never_lowers_the_validation_score(
    tmp_path_factory: pytest.TempPathFactory, with_instruction: float, without: float, subset: str
) -> None:
    chances = dict.fromkeys(CHANCES, (without, with_instruction))
    task = prompt_task(train=6, validation=8)
    async with session_for(task, prompt_model(chances), tmp_path_factory.mktemp("run")) as session:
        small = {"rounds": 1, "batch_size": 2, "user_prompts": 6, "variants": 3, "k_top": 2, "repeats": 2}
        found = await optimizer(task, session, subset=subset, **small).optimize(task.baseline, "answer")
    if found.finals:
        first = next(iter(found.finals.values())).score
        chosen = found.finals[found.chosen.system_prompt]
        assert chosen.state == "complete"
        assert (chosen.score or 0) >= (first or 0)
        assert found.chosen.proposer == "seed" or (chosen.score or 0) > (first or 0)


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
        found = await optimizer(task, session, SMALL, proposer="gepa", subset="all").optimize(task.baseline, "answer")
        assert session.spent["prompts"].calls > 0
    assert (found.chosen.system_prompt, found.chosen.proposer) == (MAGIC, "gepa")


async def test_gepa_without_a_writing_model_is_replaced_by_the_fragments(tmp_path: Path) -> None:
    task, fallbacks = prompt_task(), list[str]()
    async with session_for(task, prompt_model(), tmp_path) as session:
        found = await optimizer(task, session, None, fallbacks, proposer="gepa").optimize(task.baseline, "answer")
    assert found.chosen.proposer == "components"
    assert fallbacks[0].startswith("gepa cannot be used")


async def test_a_cap_ends_the_rounds_and_the_finals_use_what_was_found(tmp_path: Path) -> None:
    from agentopt.core.budget import Usage

    task = prompt_task()
    async with session_for(task, prompt_model(), tmp_path, Caps(calls=300)) as session:
        limited = optimizer(task, session, subset="all", finalists=2, rounds=50)
        limited.finals_usage = Usage(calls=3 * 32)
        found = await limited.optimize(task.baseline, "answer")
        assert session.budget.spent.calls <= 300
    assert "calls cap of 300" in found.ended
    assert len(found.finals) == 3


async def test_a_cap_that_is_reached_in_the_finals_keeps_the_finalists_that_were_evaluated(tmp_path: Path) -> None:
    task = prompt_task()
    small = {"subset": "all", "rounds": 1, "batch_size": 4, "repeats": 2, "finalists": 3}
    async with session_for(task, prompt_model(), tmp_path / "free") as session:
        free = await optimizer(task, session, **small).optimize(task.baseline, "answer")
        first = list(free.finals)[1]
        spent = session.budget.spent.calls
    assert free.finals[first].state == "complete"
    later = sum(len(evaluation.results) for evaluation in list(free.finals.values())[2:])
    caps = Caps(calls=spent - later + 1)
    async with session_for(task, prompt_model(), tmp_path / "capped", caps) as session:
        capped = await optimizer(task, session, **small).optimize(task.baseline, "answer")
    assert capped.ended.startswith("the finals were cut short: ")
    assert list(capped.finals) == list(free.finals)[:2]
    assert capped.chosen.system_prompt == first


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
    assert report.against_seed is not None
    assert report.against_seed.difference.mean > 0
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


async def test_prompts_take_no_more_than_their_share_of_a_cap(tmp_path: Path) -> None:
    settings = config(tmp_path, budget={"trials": 4, "calls": 400}, prompts={"share": 0.5, "rounds": 50})
    told: list[int] = []
    provider = prompt_model()

    def observe(event: object) -> None:
        if getattr(event, "kind", "") == "prompts_done":
            told.append(len(provider.requests))

    result = await aoptimize(prompt_task(), settings, provider=provider, callbacks=[observe])
    assert told[0] <= 200
    assert result.total.calls <= 400
    assert result.finalist("best").test is not None


async def test_without_a_cap_the_pilot_repeats_as_often_as_the_settings_allow(tmp_path: Path) -> None:
    settings = {"repeats": 5, "rounds": 1, "batch_size": 1}
    provider = prompt_model()
    await aoptimize(prompt_task(), config(tmp_path, prompts=settings, budget={"trials": 2}), provider=provider)
    assert max(r.first_repeat for r in provider.requests) == 4


async def test_with_a_cap_too_small_for_a_pilot_and_the_finals_nothing_is_spent_on_prompts(tmp_path: Path) -> None:
    provider = prompt_model()
    result = await aoptimize(prompt_task(), config(tmp_path, budget={"trials": 3, "calls": 150}), provider=provider)
    (report,) = result.prompts
    assert "do not fit in prompts.share" in report.ended
    assert not [r for r in provider.requests if "|train-" in r.messages[-1].content]
    assert result.finalist("best").test is not None


async def test_a_smaller_cap_makes_the_pilot_and_the_finals_smaller(tmp_path: Path) -> None:
    settings = config(tmp_path, budget={"trials": 3, "calls": 420}, prompts={"proposer": "components"})
    result = await aoptimize(prompt_task(), settings, provider=prompt_model())
    (report,) = result.prompts
    assert report.verdict is not None
    assert report.pilot_responses < 144  # 6 variants, 12 user prompts, twice
    assert len(report.finals) <= 1 + 420 // 4 // 32


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
    assert "name some of answer" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


# ---- diagnose


async def test_a_diagnosis_names_the_verdict_the_parts_and_the_user_prompts(tmp_path: Path) -> None:
    (found,) = await adiagnose(prompt_task(), config(tmp_path), provider=prompt_model())
    assert found.verdict in ("optimise on all", "optimise on these")
    assert len(found.mean) == len(found.system_prompts) == len(found.tokens)
    assert all(len(row) == len(found.examples) for row in found.mean)
    assert found.user_prompts[found.subset[0]].split("|")[1] == found.examples[found.subset[0]]
    assert found.usage.calls == found.responses


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


@pytest.mark.parametrize("text", ['{"system_prompt": "Answer with', ""])
async def test_a_writer_that_was_cut_off_is_reported_with_the_setting(text: str) -> None:
    class CutOff:
        async def generate(self, request: Request) -> Response:
            return Response(tuple(Choice(text, request.max_tokens, "length") for _ in range(request.n)), 1)

        async def aclose(self) -> None:
            pass

    with pytest.raises(ProposerError, match=r"3 of 3 replies were cut off at prompts.max_tokens \(200\)"):
        await ReflectiveProposer(CutOff(), SMALL).propose(BRIEF, [], 3)
