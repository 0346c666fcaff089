"""The canary through whole runs: what an unchanged night costs, when drift raises the alarm, and what a kill costs."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from jobs_place import QUALITY, Job, Place, claimed, interrupted, resumed, until
from test_webhook import SECRET, Receiver

from agentopt.jobs.canary import REFERENCE_DRAWS
from agentopt.jobs.drift import ALARM
from agentopt.jobs.worker import as_owner
from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.testing.servers import OpenAIServer, planted_answer

pytestmark = pytest.mark.usefixtures("only_its_folders")

DEFAULT = 0.1
LARGE = ["strategy=grid", "budget.trials=2", "response_seed=1", "journal=journal.db", "models=[models.yaml]"]
"""The seed decides which rows are drawn: in 1% of such jobs the alarm comes a night later (`test_drift`)."""


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer(planted_answer(QUALITY)) as server:
        yield server


class Answers(ScriptedModel):
    """Answers each question with its own chance of being right: .65 on average, mostly decided.

    Attributes:
        kept: Share of the right answers that are still given.
    """

    def __init__(self) -> None:
        super().__init__(self._reply)
        self.kept = 1.0

    def _reply(self, request: Request, repeat: int) -> str:
        word = request.messages[-1].content.split("[[")[1].split("]]")[0]
        chance = random.Random(word).betavariate(0.65 * 0.5, 0.35 * 0.5)
        drawn = random.Random(json.dumps([word, request.seed, repeat])).random()
        return word if drawn < self.kept * chance else "wrong"


def large_job(folder: Path, examples: int, **changes: object) -> Job:
    """One model, which no server has, so that a test has to pass a provider."""
    return Job(Place(folder, "http://127.0.0.1:9/v1", examples=examples), config=LARGE, canary=DEFAULT, **changes)


async def test_a_champion_that_answers_everything_wrong_raises_the_alarm_on_the_first_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", SECRET)
    receiver = Receiver()
    async with receiver.listening() as target:
        await first_nights(large_job(tmp_path, 200, webhook=target.model_dump(mode="json")))
    assert [json.loads(body)["type"] for _, body in receiver.got] == ["agentopt.job.alarm"]


async def first_nights(job: Job) -> None:
    model = Answers()
    await job.run(provider=model)
    already = len(model.requests)
    calm = [await job.run(provider=model) for _ in range(2)]
    assert [(run.state, run.alarm, run.spent.calls) for run in calm] == [("unchanged", None, 20)] * 2
    assert len(model.requests) - already == 40

    model.kept = 0.0
    night = await job.run(provider=model)
    assert night.alarm is not None
    assert "drift: the champion has become worse (20 rows drawn anew: mean score 0.000" in night.alarm
    assert night.state != "unchanged", "everything is measured anew"
    assert night.spent.calls > 200
    assert "alarm" in job.log.events()

    after = await job.run(provider=model)
    assert (after.state, after.alarm, after.spent.calls) == ("unchanged", None, 20), "it drifted once"


async def test_a_champion_that_stays_as_it_was_raises_no_alarm_over_nine_nights(tmp_path: Path) -> None:
    job, model = large_job(tmp_path, 60), Answers()
    runs = [await job.run(provider=model) for _ in range(10)]
    assert {run.state for run in runs[1:]} == {"unchanged"}
    assert {run.alarm for run in runs} == {None}
    last = job.store.evidence.last_canary("nightly")
    assert last is not None
    assert last.evidence is not None
    assert last.evidence < ALARM
    nights = job.store.evidence.of("nightly", last.subject, "canary")
    drawn = [row for night in nights for row in night.scores]
    assert (len(nights), len(drawn), len(set(drawn))) == (9, 180, 60), "all rows come in turn"


async def test_an_unchanged_night_costs_its_canary_alone_and_without_a_canary_nothing(
    tmp_path: Path, server: OpenAIServer
) -> None:
    for folder, canary, calls in (("on", DEFAULT, 12), ("off", 0, 0)):
        (tmp_path / folder).mkdir()
        job = Job(Place(tmp_path / folder, server.base_url), canary=canary)
        await job.run()
        for _ in range(3):
            before = server.calls
            run = await job.run()
            assert run.state == "unchanged"
            assert server.calls - before == run.spent.calls == calls
        assert ("a model that changed under its name is not seen" in run.message) == (canary == 0)


@pytest.mark.parametrize("event", ["canary", "run_started"])
async def test_a_run_that_was_stopped_after_its_canary_pays_for_no_row_twice_and_keeps_its_alarm(
    tmp_path: Path, event: str
) -> None:
    job, model = large_job(tmp_path, 60), Answers()
    await job.run(provider=model)
    model.kept = 0.0
    await interrupted(job, event, provider=model)
    run = await resumed(job, provider=model)
    assert run.alarm is not None
    assert "drift" in run.alarm
    keys = [(r.messages, r.seed, i) for r in model.requests for i in range(r.first_repeat, r.first_repeat + r.n)]
    assert len(keys) == len(set(keys))
    last = job.store.evidence.last_canary("nightly")
    assert last is not None
    assert (last.slot, len(last.scores)) == (run.id, 20)


async def test_a_run_that_was_stopped_in_its_canary_pays_for_no_row_twice(tmp_path: Path, server: OpenAIServer) -> None:
    job = Job(Place(tmp_path, server.base_url, max_choices=1), canary=DEFAULT)
    await job.run()
    before, job.clock.time = server.calls, job.clock.time + 2
    with as_owner(job.store, job.place.data, job.clock, log=job.log) as worker:
        task = asyncio.create_task(worker.work(claimed(worker, "nightly")))
        await until(lambda: server.calls > before)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    run = await resumed(job)
    assert (run.state, run.spent.calls, server.calls - before) == ("unchanged", 12, 12)


async def test_a_cap_that_the_reference_exceeds_lets_later_runs_complete_it(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = Job(Place(tmp_path, server.base_url, max_choices=1), canary=DEFAULT, caps={"per_run": {"calls": 54}})
    first = await job.run()
    assert first.spent.calls <= 54
    subject = None
    for _ in range(4):
        run = await job.run()
        assert run.spent.calls <= 54
        if last := job.store.evidence.last_canary("nightly"):
            subject = last.subject
    assert subject is not None, "it gets its canary in the end"
    assert len(job.store.evidence.of("nightly", subject, "reference")) == REFERENCE_DRAWS


async def test_before_a_promotion_the_challengers_rows_are_drawn_anew_and_recorded(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]), canary=DEFAULT)
    assert (await job.run()).state == "promoted"
    paid = server.calls
    assert (await job.run()).state == "unchanged"
    assert server.calls - paid == 12
    current, last = job.place.champions.current(), job.store.evidence.last_canary("nightly")
    assert current is not None
    assert last is not None
    first, second = job.store.evidence.of("nightly", last.subject, "reference")
    assert current.record.by_row == first.scores
    assert len(second.scores) == 12


async def test_a_challenger_whose_recorded_scores_are_out_of_date_is_not_promoted(tmp_path: Path) -> None:
    """Its recorded responses were right, and the model behind the name has changed since."""

    def answer(request: Request, repeat: int) -> str:
        word = request.messages[-1].content.split("[[")[1].split("]]")[0]
        if request.model == "small":
            return word if int(word.rsplit("-", 1)[1]) % 3 == 0 else "wrong"
        return word if request.seed == 0 else "wrong"

    place = Place(tmp_path, "http://127.0.0.1:9/v1", models=["small", "better"], examples=24)
    run = await Job(place, canary=DEFAULT).run(provider=ScriptedModel(answer))
    assert run.state == "kept"
    assert "its rows score worse when they are drawn anew" in run.message
    assert "set another response_seed" in run.message
