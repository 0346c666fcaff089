"""A candidate's settings, from the task file to the requests: evaluation, served calls and exported modules agree."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from agentopt.api import load
from agentopt.core.axes import as_axes
from agentopt.core.candidate import Candidate
from agentopt.core.errors import CandidateError, TaskError
from agentopt.core.records import ExampleResult
from agentopt.deploy.deployment import Deployment, find_deployment
from agentopt.deploy.export.module import python_module
from agentopt.deploy.export.router import router_config
from agentopt.deploy.serve.handler import ChatHandler
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.base import Message
from agentopt.models.catalog import ModelSpec
from agentopt.models.openai_format import ChatCall
from agentopt.models.session import open_session
from agentopt.runs.config import Config, load_config
from agentopt.runs.example_costs import ExampleCosts
from agentopt.search.from_task import search_space
from agentopt.taskfile.loading import load_task
from agentopt.testing.company import company_task
from agentopt.testing.servers import OpenAIServer, prompt_text
from agentopt.workflow.fusion import vote, vote_key
from agentopt.workflow.sampling import request_for
from agentopt.workflow.vote_stopping import Stop, steps

SUBTASK: dict[str, Any] = {
    "name": "answer",
    "prompt": "{{ knobs.passages }} passages, {{ knobs.style }}: {{ inputs.word }}",
    "models": ["thinker", "plain"],
    "num_samples": [1, 2, 3, 5, 8],
    "temperature": [0.5, 1],
    "max_tokens": [16, 64],
    "effort": ["low", "high"],
    "knobs": {"passages": [3, 5], "style": "brief"},
}
CHOICE: dict[str, Any] = {"model": "thinker", "num_samples": 2, "system_prompt": "S"}
SETTINGS: dict[str, Any] = {"temperature": 1, "max_tokens": 64, "effort": "high", "knobs.passages": 5}


def answer(body: Mapping[str, Any], index: int) -> str:
    """One of three words that follows from the prompt and the seed, most often the first."""
    draw = random.Random(f"{prompt_text(body)} {int(body.get('seed') or 0) + index}")
    return draw.choices(("yes", "no", "perhaps"), (5, 3, 2))[0]


def write(folder: Path, base_url: str, choice: Mapping[str, Any], **subtask: Any) -> Deployment:
    """The deployment of a candidate of a task with one subtask."""
    spec = {
        "name": "toy",
        "data": {"validation": "rows.jsonl", "test": "test.jsonl"},
        "subtasks": [{**SUBTASK, **subtask}],
        "scorer": {"kind": "exact_match"},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    for name in ("rows", "test"):
        lines = (json.dumps({"id": f"{name}{i}", "word": f"{name} {i}", "target": "yes"}) for i in range(8))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    entry = {"base_url": base_url, "supports": {"seed": True}, "max_choices": 2, "parameters": 3e9}
    models = {"thinker": {**entry, "reasoning_effort": "low"}, "plain": entry}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    (folder / "best.yaml").write_text(yaml.safe_dump({"answer": dict(choice)}))
    settings = [f"models={folder / 'models.yaml'}", f"journal={folder / 'journal.db'}"]
    return find_deployment(folder / "best.yaml", folder, settings)


async def evaluated(deployment: Deployment) -> list[ExampleResult]:
    """The results of the deployed candidate on the validation split."""
    async with open_session(deployment.specs, "run", journal=deployment.config.journal) as session:
        evaluator = Evaluator(deployment.task, session.model, deployment.specs)
        found = await evaluator.evaluate(deployment.candidate)
    return sorted(found.results, key=lambda result: result.id)


async def served(deployment: Deployment) -> list[str]:
    """What the server's handler answers to the same inputs, with the seeds of an evaluation, and its own journal."""
    async with open_session(deployment.specs, "serve", journal=f"{deployment.config.journal}.served") as session:
        handler = ChatHandler(
            deployment.task, lambda: deployment.candidate, session.model, deployment.specs, seeds=itertools.repeat(0)
        )
        calls = (
            ChatCall(model="toy", messages=(Message("user", str(example.inputs["word"])),))
            for example in deployment.task.splits["validation"]
        )
        return [(await handler.answer(call, deployment.candidate)).choices[0].text for call in calls]


async def exported(deployment: Deployment) -> list[str]:
    """What the exported module answers to the same inputs."""
    module = ModuleType("exported_settings")
    sys.modules["exported_settings"] = module  # where dataclasses look their module up
    exec(python_module(deployment), module.__dict__)
    examples = deployment.task.splits["validation"]
    values = [await asyncio.to_thread(module.run, dict(example.inputs)) for example in examples]
    for called in (called for s in module.SUBTASKS for called in (s, getattr(s, "cascade", None)) if called):
        module.client(called.endpoint).close()
    return values


def sent(server: OpenAIServer, first: int) -> list[str]:
    """The bodies of the requests from number `first` on, sorted."""
    return sorted(json.dumps(request.body, sort_keys=True) for request in server.requests[first:])


async def check_that_all_agree(server: OpenAIServer, deployment: Deployment) -> list[ExampleResult]:
    """The results of the evaluation, whose requests and outputs the served and the exported program repeat."""
    results = await evaluated(deployment)
    requests = sent(server, 0)
    for run in (served, exported):
        before = len(server.requests)
        assert await run(deployment) == [result.output for result in results]
        assert sent(server, before) == requests
    return results


@pytest.mark.parametrize("settings", [{}, SETTINGS, {"knobs.passages": 5}])
async def test_evaluation_serve_and_export_send_the_settings_of_the_candidate(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    async with OpenAIServer(answer) as server:
        deployment = write(tmp_path, server.base_url, {**CHOICE, "settings": settings})
        await check_that_all_agree(server, deployment)
        body = server.requests[0].body
    chosen = {"temperature": 0.5, "max_tokens": 16, "effort": "low", "knobs.passages": 3} | settings
    assert (body["temperature"], body["max_tokens"]) == (chosen["temperature"], chosen["max_tokens"])
    assert body["reasoning_effort"] == chosen["effort"]
    assert f"{chosen['knobs.passages']} passages, brief" in prompt_text(body)


async def test_a_model_without_a_reasoning_effort_is_sent_none(tmp_path: Path) -> None:
    async with OpenAIServer(answer) as server:
        await evaluated(write(tmp_path, server.base_url, {**CHOICE, "model": "plain"}))
        assert all("reasoning_effort" not in request.body for request in server.requests)


def test_the_space_has_the_settings_and_which_models_lack_them(tmp_path: Path) -> None:
    deployment = write(tmp_path, "http://127.0.0.1:9/v1", CHOICE)
    task = load_task(tmp_path, overrides={"subtasks.answer.tokens": {"prompt": 128, "completion": 64}})
    space = search_space(task, deployment.specs)
    assert space["answer"].lacks == {"plain": ("effort",)}
    assert space.size == 5 * (2**4 + 2**3) == len(set(space["answer"].choices()))
    assert space.baseline == task.baseline == Candidate.from_dict({"answer": {"model": "thinker"}})
    assert space.contains(Candidate.from_dict({"answer": {"model": "thinker", "settings": {"effort": "high"}}}))
    assert not space.contains(Candidate.from_dict({"answer": {"model": "plain", "settings": {"effort": "high"}}}))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"temperature": [0, 3]}, "temperature"),
        ({"max_tokens": [16, 0]}, "max_tokens"),
        ({"max_tokens": [16, 16]}, "none twice"),
        ({"effort": []}, "at least one value"),
        ({"knobs": {**SUBTASK["knobs"], "two words": 1}}, "a knob's name"),
        ({"knobs": {**SUBTASK["knobs"], "__class__": 1}}, "a knob's name"),
        ({"knobs": {**SUBTASK["knobs"], "_own": 1}}, "a knob's name"),
        ({"knobs": {"passages": [1, None]}}, "knobs"),
        ({"knobs": {"passages": 3}}, "knobs.style"),
        ({"knobs": {}}, "`knobs.passages`"),
    ],
)
def test_a_mistake_in_a_setting_names_the_key(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(TaskError, match=r"subtasks\.answer\.") as caught:
        write(tmp_path, "http://127.0.0.1:9/v1", CHOICE, **change)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("effort", "got", "remedy"),
    [
        (["low", "hgih"], "'hgih'", "did you mean 'high'?"),
        ("medum", "'medum'", "did you mean 'medium'?"),
        (["LOW", "high"], "'LOW'", "did you mean 'low'?"),
        ("7", "'7'", "use one of these, or set `reasoning_effort` in the catalogue entry of a model to it"),
    ],
)
def test_a_misspelt_effort_is_refused_with_the_closest_one(tmp_path: Path, effort: Any, got: str, remedy: str) -> None:
    with pytest.raises(TaskError) as caught:
        write(tmp_path, "http://127.0.0.1:9/v1", {"model": "thinker", "samples": 1}, effort=effort)
    known = "none, minimal, low, medium, high, xhigh, max, default"
    rule = f"{tmp_path / 'task.yaml'}: subtasks.answer.effort: must be one of {known}, but got {got}"
    assert str(caught.value) == f"{rule}\n  remedy: {remedy}"


def test_efforts_of_a_task_in_python_and_of_a_setting_are_checked_and_an_entrys_own_is_allowed(
    tmp_path: Path,
) -> None:
    task = company_task(validation=4, test=2)
    models = [ModelSpec(name=m, base_url="http://127.0.0.1:9", reasoning_effort="deep") for m in task.models]
    config = Config(models=models)
    for effort in (["none", "deep"], ["xhigh"], ["low", "hihg"]):
        settings = as_axes({"effort": effort}) if effort[1:] else ()
        varied = replace(task, subtasks=tuple(replace(s, effort=effort[0], settings=settings) for s in task.subtasks))
        if "hihg" not in effort:
            assert load(varied, config).task is varied
            continue
        with pytest.raises(TaskError, match=r"^subtasks\.\w+\.effort: must be one of none, .*, deep, but got 'hihg'"):
            load(varied, config)
    write(tmp_path, "http://127.0.0.1:9/v1", CHOICE)
    of_file = load_config([f"models={tmp_path / 'models.yaml'}", "task.subtasks.answer.effort=hgih"])
    with pytest.raises(TaskError, match=r"^-c task\.subtasks\.answer\.effort=hgih: must be one of none, "):
        load(tmp_path, of_file)


@pytest.mark.parametrize("models", [["plain"], ["thinker", "plain"]])
def test_a_setting_that_no_model_has_is_refused(tmp_path: Path, models: list[str]) -> None:
    deployment = write(tmp_path, "http://127.0.0.1:9/v1", {**CHOICE, "model": "plain"}, models=models)
    task = load_task(tmp_path, overrides={"subtasks.answer.tokens": {"prompt": 128, "completion": 64}})
    if models == ["plain"]:
        with pytest.raises(TaskError, match="`effort` must apply to one of the models, but none of plain has it"):
            search_space(task, deployment.specs)
    else:
        assert search_space(task, deployment.specs).size


@pytest.mark.parametrize("settings", [{"temperature": 0.6}, {"top_k": 3}, {"knobs.passages": 4}])
def test_a_candidate_with_another_setting_than_the_tasks_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(CandidateError, match=f"`{next(iter(settings))}` of subtask answer may be"):
        write(tmp_path, "http://127.0.0.1:9/v1", {**CHOICE, "settings": settings})


def test_a_setting_of_the_baseline_that_is_written_out_makes_no_other_candidate(tmp_path: Path) -> None:
    plain = write(tmp_path, "http://127.0.0.1:9/v1", CHOICE)
    written = {"temperature": 0.5, "knobs.passages": 3, "effort": "high"}
    candidate = write(tmp_path, "http://127.0.0.1:9/v1", {**CHOICE, "settings": written}).candidate
    assert candidate == plain.candidate.having("answer", settings={"effort": "high"})


CHECK = """
def plausible(inputs, value):
    return value != "perhaps"
"""


@pytest.mark.parametrize("stop", [None, "decided"])
@pytest.mark.parametrize("check", [None, "checks.py:plausible"])
@pytest.mark.parametrize("below", [0, 0.75, 1])
async def test_a_cascade_escalates_the_same_examples_in_evaluation_serve_and_export(
    tmp_path: Path, below: float, check: str | None, stop: Stop | None
) -> None:
    (tmp_path / "checks.py").write_text(CHECK)
    fuse = {"method": "vote", "stop": stop} if stop else "vote"
    cascade = {"models": ["plain", "thinker"], "below": [0, 0.75, 1], **({"check": check} if check else {})}
    choice = {"model": "plain", "num_samples": 3, "settings": {"cascade.below": below}}
    async with OpenAIServer(answer) as server:
        deployment = write(tmp_path, server.base_url, choice, fuse=fuse, cascade=cascade)
        results = await check_that_all_agree(server, deployment)
        asked = {prompt_text(r.body).split()[-1] for r in server.requests if r.body["model"] == "thinker"}
    uses = {result.id.removeprefix("rows"): result.subtasks["answer"] for result in results}
    assert {row for row, use in uses.items() if use.escalated} == asked
    assert deployment.models() == ("plain", "thinker")
    if below == 0 and not check:
        assert not asked
    if below == 1 and not stop:
        assert 0 < len(asked) < len(uses)


async def test_thresholds_are_replayed_from_the_journal_without_a_call(tmp_path: Path) -> None:
    async with OpenAIServer(answer) as server:
        choice = {"model": "plain", "num_samples": 5, "settings": {"cascade.below": 1}}
        deployment = write(tmp_path, server.base_url, choice, cascade=["plain", "thinker"])
        await evaluated(deployment)
        before = len(server.requests)
        for below in (0, 0.5, 0.75):
            lower = deployment.candidate.having("answer", settings={"cascade.below": below})
            await evaluated(replace(deployment, candidate=lower))
        assert len(server.requests) == before


async def test_a_check_that_fails_is_an_error_not_a_wrong_answer(tmp_path: Path) -> None:
    (tmp_path / "checks.py").write_text("def plausible(inputs, value):\n    return value.missing\n")
    cascade = {"models": ["plain", "thinker"], "below": [0], "check": "checks.py:plausible"}
    choice = {"model": "plain", "settings": {"cascade.below": 0}}
    async with OpenAIServer(answer) as server:
        results = await evaluated(write(tmp_path, server.base_url, choice, cascade=cascade))
    assert all(result.score is None and "the check `plausible`" in str(result.error) for result in results)


@pytest.mark.parametrize(
    "cascade", [["plain"], ["plain", "plain"], ["plain", "other"], {"models": ["plain", "thinker"], "below": [2]}]
)
def test_a_cascade_of_other_models_is_refused(tmp_path: Path, cascade: Any) -> None:
    with pytest.raises(TaskError, match=r"subtasks\.answer\.cascade"):
        write(tmp_path, "http://127.0.0.1:9/v1", CHOICE, cascade=cascade)


DEMOS = [{"prompt": "3 passages, brief: a", "response": "yes"}, {"prompt": "3 passages, brief: b", "response": "no"}]
"""A response of the baseline, and a target: a candidate does not distinguish them."""


@pytest.mark.parametrize("shown_as", ["messages", "prompt"])
@pytest.mark.parametrize(
    "subtask", [{}, {"cascade": ["plain", "thinker"]}, {"fuse": "fuse"}, {"system_role": "user"}], ids=str
)
@pytest.mark.parametrize("source", ["both", "targets"])
async def test_demonstrations_are_sent_in_evaluation_serve_and_export(
    tmp_path: Path, shown_as: str, subtask: dict[str, Any], source: str
) -> None:
    changes = {key: value for key, value in subtask.items() if key != "system_role"}
    below = {"cascade.below": 1} if "cascade" in changes else {}
    demos = [{**demo, "example": f"row{i}"} if source == "targets" else demo for i, demo in enumerate(DEMOS)]
    choice = {**CHOICE, "model": "plain", "num_samples": 3, "settings": {"demos": 2} | below, "demos": demos}
    async with OpenAIServer(answer) as server:
        setting = {"count": [0, 2], "as": shown_as, "from": source}
        deployment = write(tmp_path, server.base_url, choice, demos=setting, **changes)
        if "system_role" in subtask:
            plain = deployment.specs["plain"].model_copy(update={"system_role": "user"})
            deployment = replace(deployment, specs={**deployment.specs, "plain": plain})
        await check_that_all_agree(server, deployment)
        bodies = [request.body for request in server.requests]
    roles = ["user", "assistant"] * 2 if shown_as == "messages" else []
    system = [] if "system_role" in subtask else ["system"]
    assert all([m["role"] for m in body["messages"]] == [*system, *roles, "user"] for body in bodies)
    assert all("3 passages, brief: b" in str(body["messages"]) for body in bodies)


async def test_another_number_of_demonstrations_draws_other_responses(tmp_path: Path) -> None:
    async with OpenAIServer(answer) as server:
        plain = {**CHOICE, "model": "plain"}
        deployment = write(
            tmp_path, server.base_url, {**plain, "settings": {"demos": 2}, "demos": DEMOS}, demos=[0, 1, 2]
        )
        for count in (2, 1, 0):
            settings = {"demos": count} if count else {}
            before = len(server.requests)
            fewer = deployment.candidate.having(
                "answer", settings=settings, demos=deployment.candidate["answer"].demos[:count]
            )
            await evaluated(replace(deployment, candidate=fewer))
            assert len(server.requests) == before + 8


@pytest.mark.parametrize(
    ("demos", "problem"),
    [
        ([2, 4], r"subtasks\.answer\.demos: `count` must be ascending and start with 0"),
        ({"count": [0, 2], "as": "text"}, r"subtasks\.answer\.demos\.as"),
        ({"count": [0, 2], "from": "train"}, r"subtasks\.answer\.demos\.from"),
        ({"counts": [0, 2]}, r"subtasks\.answer\.demos"),
        (
            4,
            r"demos: must be a list of numbers, or a mapping with `count`, but got 4\n.*write it like \[0, 2, 4\]",
        ),
        ("few", r"demos: must be a list of numbers, or a mapping with `count`, but got 'few'"),
        ({"count": 2}, r"demos\.count: must be a list, but got 2\n  remedy: write numbers, such as \[0, 2, 4\]"),
    ],
)
def test_a_mistake_in_demos_names_the_key(tmp_path: Path, demos: Any, problem: str) -> None:
    with pytest.raises(TaskError, match=problem):
        write(tmp_path, "http://127.0.0.1:9/v1", CHOICE, demos=demos)


VOTE = {"method": "vote", "stop": ["decided", 0.8]}


@pytest.mark.parametrize("level", ["decided", 0.8, 0.9])
@pytest.mark.parametrize("scalar", [False, True])
async def test_a_vote_draws_the_same_samples_in_evaluation_serve_and_export(
    tmp_path: Path, level: Stop, scalar: bool
) -> None:
    fuse = {"method": "vote", "stop": level if scalar else ["decided", 0.8, 0.9]}
    settings = {} if scalar or level == "decided" else {"fuse.stop": level}
    choice = {"model": "plain", "num_samples": 8, "settings": settings}
    async with OpenAIServer(answer) as server:
        deployment = write(tmp_path, server.base_url, choice, fuse=fuse)
        results = await check_that_all_agree(server, deployment)
    # The rule, replayed on all eight samples of each example.
    drawn = []
    for result in results:
        number = int(result.id.removeprefix("rows"))
        request = request_for(
            deployment.task["answer"], deployment.candidate["answer"], f"3 passages, brief: rows {number}"
        )
        body = {"messages": [message.body() for message in request.messages], "seed": request.sampling_seed}
        votes = [vote_key(answer(body, index)) for index in range(8)]
        drawn.append(sum(steps(votes, level)))
        assert result.output == vote([answer(body, index) for index in range(8)]) or level != "decided"
    assert [result.subtasks["answer"].responses for result in results] == drawn
    assert sum(drawn) < 8 * len(drawn)
    assert len(set(drawn)) > 1


async def test_levels_are_replayed_from_the_journal_without_a_call(tmp_path: Path) -> None:
    async with OpenAIServer(answer) as server:
        deployment = write(tmp_path, server.base_url, {"model": "plain", "num_samples": 8}, fuse=VOTE)
        await evaluated(deployment)
        before = len(server.requests)
        lower = deployment.candidate.having("answer", settings={"fuse.stop": 0.8})
        results = await evaluated(replace(deployment, candidate=lower))
        assert len(server.requests) == before
        assert sum(result.subtasks["answer"].responses for result in results) < 8 * len(results)


async def test_each_step_of_a_vote_is_paid_for_and_its_prompt_counts_once(tmp_path: Path) -> None:
    async with OpenAIServer(answer) as server:
        deployment = write(tmp_path, server.base_url, {"model": "plain", "num_samples": 8}, fuse=VOTE)
        specs = {"plain": deployment.specs["plain"].model_copy(update={"usd_per_1m_prompt": 1e6})}
        (result, *_) = await evaluated(replace(deployment, specs=specs | {"thinker": deployment.specs["thinker"]}))
        use = result.subtasks["answer"]
        own = [request for request in server.requests if "rows 0" in prompt_text(request.body)]
    prompt = use.prompt_tokens
    assert use.usd == pytest.approx(prompt * len(own))
    assert use.responses == sum(request.n for request in own)
    assert len(own) > 1


@pytest.mark.parametrize("stop", [0.5, 1, "soon", [], ["decided", 2], ["decided", "decided"]])
def test_a_level_that_is_none_is_refused(tmp_path: Path, stop: Any) -> None:
    with pytest.raises(TaskError, match="stop"):
        write(tmp_path, "http://127.0.0.1:9/v1", CHOICE, fuse={"method": "vote", "stop": stop})


def test_only_a_vote_stops(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="is an option of vote, not of first"):
        write(tmp_path, "http://127.0.0.1:9/v1", CHOICE, fuse={"method": "first", "stop": "decided"})


def test_the_router_configuration_has_the_settings_and_an_entry_for_the_big_model(tmp_path: Path) -> None:
    settings = {"cascade.below": 0.5, "temperature": 1, "demos": 2}
    choice = {"model": "plain", "num_samples": 3, "settings": settings, "demos": DEMOS}
    fuse = {"method": "vote", "stop": "decided"}
    varied = {"cascade": ["plain", "thinker"], "fuse": fuse, "demos": [0, 2]}
    deployment = write(tmp_path, "http://127.0.0.1:9/v1", choice, **varied)
    first, second = yaml.safe_load(router_config(deployment))["model_list"]
    assert first["litellm_params"]["temperature"] == 1
    assert first["model_info"]["stop"] == "decided"
    assert first["model_info"]["demos"] == DEMOS
    assert first["model_info"]["knobs"] == {"passages": 3, "style": "brief"}
    assert (second["model_name"], second["model_info"]) == ("toy/answer/cascade", {"below": 0.5})
    assert second["litellm_params"]["model"] == "openai/thinker"


@pytest.mark.parametrize("measures", [None, ExampleCosts(0.0)])
def test_the_title_has_what_was_measured(tmp_path: Path, measures: ExampleCosts | None) -> None:
    deployment = write(tmp_path, "http://127.0.0.1:9/v1", CHOICE)
    known = replace(deployment, measures=ExampleCosts(0.002, 1.5, 3.25))
    measured = "; measured on the validation split: 2 USD per 1,000 requests, 1.50 s (p50) and 3.25 s (p95)"
    assert known.title == deployment.title + measured
    assert measured in python_module(known)
    assert replace(deployment, measures=measures).title == deployment.title
