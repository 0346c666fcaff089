"""A user's program as the workflow: its inputs, its exit status, and equal costs and scores."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from openai import (
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    NotFoundError,
    RateLimitError,
    UnprocessableEntityError,
)

from agentopt.api import aevaluate, aoptimize, load
from agentopt.core.axes import as_axes
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import AgentoptError, BudgetExceeded, PermanentModelError, TaskError
from agentopt.core.records import Answer, Evaluation, ExampleResult, SubtaskUse
from agentopt.core.task import Program, Subtask, Task, Unparsable
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.base import Choice, Request, Response
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import open_session
from agentopt.runs.config import BudgetConfig, Config
from agentopt.testing.toy import LARGE, SMALL, toy_model, toy_task
from agentopt.workflow.base import Draw, Prompt
from agentopt.workflow.graph import Workflow
from agentopt.workflow.program.gateway import Gateway
from agentopt.workflow.program.processes import MAX_OUTPUT_BYTES, ProgramFailedError, run_command, stderr_tail
from agentopt.workflow.program.program_run import ProgramRun
from agentopt.workflow.program.program_runner import ProgramRunner, environment_of

TOY = toy_task(validation=2, test=4)
MESSAGES: Any = [{"role": "user", "content": "find|1|"}]
CANDIDATE = Candidate.of({"find": SubtaskChoice(LARGE, 2), "answer": SubtaskChoice(SMALL, 3, "Be brief.")})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(journal=str(tmp_path / "journal.db"))


def task_of(program: Program, task: Task = TOY) -> Task:
    return replace(task, program=program)


def script(folder: Path, body: str, **more: Any) -> Task:
    """The toy task with a Python script, in which `ask(model, question)` calls a model and `inputs` are the inputs."""
    head = """
        import json, os, sys, urllib.request
        inputs = json.load(sys.stdin)
        def ask(model, question):
            body = {"model": model, "messages": [{"role": "user", "content": question}]}
            request = urllib.request.Request(
                os.environ["OPENAI_BASE_URL"] + "/chat/completions",
                json.dumps(body).encode(),
                {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
            )
            return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]
    """
    (folder / "program.py").write_text(textwrap.dedent(head) + textwrap.dedent(body))
    return task_of(Program(("python", "program.py"), folder=folder, **more))


async def evaluated(task: Task, config: Config, answer: Any = None) -> Evaluation:
    return await aevaluate(task, CANDIDATE, config, provider=answer or toy_model())


async def each(task: Task, config: Config, answer: Any = None) -> list[ExampleResult]:
    """The results of the test examples, one by one, so that subtasks without calls are no mistake."""
    _, specs = load(task, config, agent=False)
    async with open_session(specs, "run", journal=config.journal, provider=answer or toy_model()) as session:
        evaluator = Evaluator(task, session.model, specs)
        running = (evaluator.run_example(CANDIDATE, example) for example in task.splits["test"])
        return list(await asyncio.gather(*running))


async def only(task: Task, config: Config, answer: Any = None) -> ExampleResult:
    """The result of the task's first test example."""
    (result,) = await each(replace(task, splits={"test": task.splits["test"][:1]}), config, answer)
    return result


async def two_steps(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> str | None:
    async with AsyncOpenAI(**openai, max_retries=0) as client:

        async def ask(subtask: str, question: str) -> str | None:
            done = await client.chat.completions.create(
                model=f"agentopt/{subtask}", messages=[{"role": "user", "content": question}]
            )
            return done.choices[0].message.content

        key = await ask("find", f"find|{inputs['number']}|")
        return await ask("answer", f"answer|{inputs['number']}|{key}")


TWO_STEPS = """
    key = ask("agentopt/find", f"find|{inputs['number']}|")
    print(ask("agentopt/answer", f"answer|{inputs['number']}|{key}"))
"""


def measured(evaluation: Evaluation) -> dict[str, tuple[object, ...]]:
    return {r.id: (r.score, r.output, r.error, r.subtasks) for r in evaluation.results}


class Thinking(ScriptedModel):
    """The toy model, which thinks before each answer; with `only`, it does nothing else."""

    def __init__(self, *, only: bool = False) -> None:
        self._inner, self._only = toy_model(), only

    async def generate(self, request: Request) -> Response:
        response = await self._inner.generate(request)
        texts = ["" if self._only else choice.text for choice in response.choices]
        return replace(response, choices=tuple(Choice(text, 4, thought="key-0, or key-9") for text in texts))

    async def aclose(self) -> None:
        pass


async def test_a_program_never_reads_a_thought(tmp_path: Path, config: Config) -> None:
    task = script(tmp_path, TWO_STEPS)
    plain = [result.output for result in await each(task, config)]
    elsewhere = config.model_copy(update={"journal": str(tmp_path / "thinking.db")})
    assert [result.output for result in await each(task, elsewhere, Thinking())] == plain
    only_thoughts = config.model_copy(update={"journal": str(tmp_path / "only.db")})
    result = await only(task, only_thoughts, Thinking(only=True))
    assert "key-" not in result.output
    assert "got only thoughts" in result.feedback + str(result.error)
    assert result.subtasks["find"].only_thought == 2


async def test_a_program_scores_and_costs_what_the_declared_subtasks_do(tmp_path: Path, config: Config) -> None:
    declared = measured(await evaluated(TOY, config))
    provider = toy_model()
    of_function = await aevaluate(task_of(Program(function=two_steps)), CANDIDATE, config, provider=provider)
    assert measured(of_function) == declared
    assert provider.requests == []  # the journal had every answer
    assert measured(await evaluated(script(tmp_path, TWO_STEPS), config)) == declared
    assert len({result[0] for result in declared.values()}) == 2


async def test_a_repeated_call_draws_new_responses_and_the_next_run_draws_the_same(
    config: Config,
) -> None:
    async def thrice(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> str:
        async with AsyncOpenAI(**openai, max_retries=0) as client:
            asked = [client.chat.completions.create(model="agentopt/find", messages=MESSAGES) for _ in range(3)]
            return " ".join([str((await done).choices[0].message.content) for done in asked])

    task = task_of(Program(function=thrice))
    first = await only(task, config, ScriptedModel(lambda request, repeat: str(repeat // request.n)))
    assert first.output == "0 1000 2000"
    assert await only(task, config, ScriptedModel(script=())) == first


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ("print('  some words ')", "some words"),
        ("print(inputs['number'])", "test-1"),
        ("pass", ""),
        ("print(' ')", ""),
    ],
)
async def test_what_a_command_prints_is_the_answer(body: str, output: str, tmp_path: Path, config: Config) -> None:
    task = script(tmp_path, body)
    task = replace(task, splits={"test": tuple(e for e in task.splits["test"] if e.id == "test-1")})
    result = await only(task, config)
    assert (result.output, result.score, result.error) == (output, 0.0, None)
    assert result.feedback.startswith("the program called none of its subtasks")


async def test_a_command_may_take_the_inputs_as_an_argument(config: Config) -> None:
    code = "import json, sys; print(json.loads(sys.argv[1])['number'])"
    result = await only(task_of(Program(("python", "-c", code, "{input}"))), config)
    assert result.output == result.id


async def test_what_a_command_prints_is_parsed_and_what_does_not_parse_is_no_answer(config: Config) -> None:
    def number(text: str) -> str:
        raise Unparsable(f"expected a number, got {text.strip()}")

    result = await only(task_of(Program(("echo", "words"), parse=number)), config)
    assert result.score == 0.0
    assert result.feedback.endswith("; the program's answer: expected a number, got words")


async def test_a_programs_parser_that_raises_is_an_error_not_a_wrong_answer(config: Config) -> None:
    result = await only(task_of(Program(("echo", "words"), parse=json.loads)), config)
    assert result.score is None
    assert "an answer that cannot be read: the parser `loads` failed on 'words" in str(result.error)
    assert f"on example {result.id}" in str(result.error)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("sys.exit('out of luck')", "the program ended with exit status 1: out of luck, on example test-"),
        ("print('an answer'); sys.exit(3)", "the program ended with exit status 3, on example test-"),
        ("os.kill(os.getpid(), 9)", "the program ended with exit status -9, on example test-"),
        ("raise KeyError('town')", "KeyError: 'town'"),
    ],
)
async def test_a_program_that_fails_is_an_error_not_a_wrong_answer(
    body: str, error: str, tmp_path: Path, config: Config
) -> None:
    result = await only(script(tmp_path, body), config)
    assert result.score is None
    assert error in str(result.error)


async def test_a_missing_program_is_reported(config: Config) -> None:
    result = await only(task_of(Program(("./missing",))), config)
    assert "the program cannot be started: " in str(result.error)


async def test_a_program_that_fails_after_an_unusable_answer_is_a_wrong_answer(tmp_path: Path, config: Config) -> None:
    def never(text: str) -> str:
        raise Unparsable("expected a key")

    task = script(tmp_path, TWO_STEPS)
    task = replace(task, subtasks=(replace(task["find"], parse=never), task["answer"]))
    result = await only(task, config)
    assert (result.score, result.error) == (0.0, None)
    assert result.feedback.startswith("find: expected a key; the program then ended with exit status 1")


def alive(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


async def is_gone(pid: int) -> bool:
    """Whether a process that was killed ends, as it does when the machine has time for it."""
    for _ in range(500):
        if not alive(pid):
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_program_is_stopped_when_its_time_is_up(tmp_path: Path, config: Config) -> None:
    result = await only(script(tmp_path, "import time; time.sleep(60)", timeout=0.1), config)
    assert (result.score, "took longer than its timeout allows" in str(result.error)) == (None, True)


async def test_a_program_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = f"""
        import os, subprocess, time
        child = subprocess.Popen(["sleep", "60"])
        open({str(tmp_path / "draft")!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
        os.rename({str(tmp_path / "draft")!r}, {str(pids)!r})
        time.sleep(60)
    """

    def seconds_left() -> float:
        return 0.0 if pids.exists() else 60.0

    with pytest.raises(ProgramFailedError, match="took longer than its timeout allows"):
        await run_command(
            ["python", "-c", textwrap.dedent(body)],
            "",
            folder=tmp_path,
            environment=os.environ,
            seconds_left=seconds_left,
        )
    assert all([await is_gone(int(pid)) for pid in pids.read_text().split()])


async def test_what_a_program_leaves_running_is_ended_and_not_waited_for(tmp_path: Path, config: Config) -> None:
    body = f"""
        import subprocess
        child = subprocess.Popen(["sleep", "60"])
        open({str(tmp_path / "pids")!r}, "w").write(str(child.pid))
        print("done")
    """
    result = await only(script(tmp_path, body), config)
    assert result.output == "done"
    assert await is_gone(int((tmp_path / "pids").read_text()))


async def test_a_program_that_prints_without_end_is_stopped(config: Config) -> None:
    result = await only(task_of(Program(("yes",))), config)
    assert "printed more than" in str(result.error)


async def test_a_program_that_printed_too_much_and_ended_is_an_error_not_half_an_answer(config: Config) -> None:
    code = f"import os; os.write(1, b'x' * {MAX_OUTPUT_BYTES + 1})"
    result = await only(task_of(Program(("python", "-c", code))), config)
    assert (result.score, "printed more than" in str(result.error)) == (None, True)


def test_the_end_of_a_long_stderr_is_reported(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w+b") as stderr:
        stderr.write(b"a line\n" * (MAX_OUTPUT_BYTES // 7) + b"the reason\n")
        stderr.flush()
        assert stderr_tail(stderr).endswith("a line | a line | the reason")


async def test_a_call_that_failed_permanently_is_the_examples_error_whatever_the_program_prints(
    tmp_path: Path, config: Config
) -> None:
    body = """
        try:
            ask("agentopt/find", "find|1|")
        except Exception as error:
            print(error.code)
    """
    model = ScriptedModel(script=[PermanentModelError("the model refused")])
    result = await only(script(tmp_path, body), config, model)
    assert (result.score, result.error) == (None, "the model refused")


async def test_a_call_of_an_unknown_subtask_is_the_examples_error_whatever_the_program_prints(
    tmp_path: Path, config: Config
) -> None:
    body = """
        try:
            ask("agentopt/fnd", "find|1|")
        except Exception:
            print("an answer")
    """
    result = await only(script(tmp_path, body), config)
    assert result.score is None
    told = "a subtask that does not exist: the model `agentopt/fnd` does not exist; there are: "
    assert f"{told}agentopt/find, agentopt/answer" in str(result.error)


PAST_US = """
    try:
        ask("agentopt/find", 3)
    except Exception:
        print("an answer")
"""


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("print('an answer')", ""),
        (PAST_US, r": a call was refused, because content must be a string or a list of parts, but got int"),
    ],
)
async def test_a_program_that_never_calls_a_subtask_is_refused_before_a_search(
    body: str, why: str, tmp_path: Path, config: Config
) -> None:
    told = (
        rf"(?s)called none of its subtasks{why}; no subtask was called on any .*4.*OPENAI_BASE_URL"
        r".*agentopt/find, agentopt/answer"
    )
    with pytest.raises(TaskError, match=told):
        await evaluated(script(tmp_path, body), config)
    config = config.model_copy(update={"runs": tmp_path / "runs"})
    with pytest.raises(TaskError, match="called none of its subtasks"):
        await aoptimize(script(tmp_path, body), config, provider=toy_model())


async def test_a_program_may_call_subtasks_on_some_examples_only(tmp_path: Path, config: Config) -> None:
    body = "print(ask('agentopt/find', 'find|1|') if inputs['number'] == 'test-1' else 'known')"
    done = await evaluated(script(tmp_path, body), config)
    assert (done.state, [len(result.subtasks) for result in done.results].count(1)) == ("complete", 1)
    assert sum("called none of its subtasks" in result.feedback for result in done.results) == 3


CATALOG_KEY, OTHER_KEY = "catalogue-password-0123456789", "sk-of-another-provider"

LEAKS = """
    import os, sys

    def raised(inputs):
        raise ValueError(os.environ["TOY_PASSWORD"] + os.environ["OPENAI_API_KEY"] + os.environ["OTHER_API_KEY"])

    def exited(inputs):
        # The reported tail of stderr would begin inside the key.
        print(os.environ["TOY_PASSWORD"] + "x" * 385, file=sys.stderr)
        os._exit(3)

    def printed(inputs):
        print(os.environ["TOY_PASSWORD"], os.environ["OPENAI_API_KEY"], os.environ["OTHER_API_KEY"], file=sys.stderr)
        sys.exit(3)

    if __name__ == "__main__":
        printed({})
"""


def content_of(run: Path) -> bytes:
    """All that the files of a run hold."""
    return b"".join(file.read_bytes() for file in run.rglob("*") if file.is_file())


@pytest.mark.parametrize("form", ["raised", "exited", "printed", "command", "two parameters"])
async def test_no_key_is_in_a_programs_error_message(
    form: str, tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_PASSWORD", CATALOG_KEY)
    monkeypatch.setenv("OTHER_API_KEY", OTHER_KEY)
    (tmp_path / "leaks.py").write_text(textwrap.dedent(LEAKS))
    gateway_keys: list[str] = []

    def leaking(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> None:
        gateway_keys.append(openai["api_key"])
        raise ValueError(CATALOG_KEY + OTHER_KEY + openai["api_key"])

    forms: dict[str, Any] = {
        "command": Program(("python", "leaks.py"), folder=tmp_path),
        "two parameters": Program(function=leaking),
    }
    task = task_of(forms.get(form) or Program(function=f"leaks.py:{form}", folder=tmp_path))
    entry = {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "TOY_PASSWORD"}
    entries = {name: {**entry, "parameters": spec.parameters} for name, spec in load(task, config)[1].items()}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
    update = {"runs": tmp_path / "runs", "models": (tmp_path / "models.yaml",), "budget": BudgetConfig(trials=1)}
    config = config.model_copy(update=update)
    with pytest.raises(AgentoptError, match="no candidate could be evaluated") as failed:
        await aoptimize(task, config, provider=toy_model())
    told = content_of(tmp_path / "runs") + str(failed.value).encode()
    assert b"[key]" in told
    for key in (CATALOG_KEY, OTHER_KEY, CATALOG_KEY[-15:], *gateway_keys):
        assert key.encode() not in told


async def test_a_cap_that_is_reached_in_a_call_ends_the_run(tmp_path: Path) -> None:
    told: list[Any] = []

    async def program(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> str | None:
        try:
            return await two_steps(inputs, openai)
        except RateLimitError as error:
            told.append(error)
            raise

    config = Config(journal=str(tmp_path / "journal.db"), budget=BudgetConfig(calls=2))
    with pytest.raises(BudgetExceeded, match="calls cap of 2"):
        await evaluated(task_of(Program(function=program)), config)
    assert told
    assert told[0].code == "insufficient_quota"
    assert "raise budget.calls" in told[0].message


async def test_a_sync_function_of_two_parameters_runs_in_a_thread(config: Config) -> None:
    def run(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> str | None:
        return asyncio.run(two_steps(inputs, openai))

    assert measured(await evaluated(task_of(Program(function=run)), config)) == measured(await evaluated(TOY, config))


async def test_a_function_that_returns_something_to_await_is_awaited(config: Config) -> None:
    class AsyncCall:
        async def __call__(self, inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> str | None:
            return await two_steps(inputs, openai)

    declared = measured(await evaluated(TOY, config))
    for function in (AsyncCall(), lambda inputs, openai: two_steps(inputs, openai)):
        assert measured(await evaluated(task_of(Program(function=function)), config)) == declared


async def test_a_function_that_does_not_end_is_abandoned_and_one_that_raises_is_reported(config: Config) -> None:
    over = threading.Event()

    def stuck(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> None:
        over.wait(60)

    def broken(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> None:
        raise StopIteration("no more")

    late = await only(task_of(Program(function=stuck, timeout=0.1)), config)
    over.set()
    assert "took longer" in str(late.error)
    assert "no more" in str((await only(task_of(Program(function=broken)), config)).error)


async def test_a_function_that_exits_fails_on_its_example_and_the_evaluation_continues(config: Config) -> None:
    def exits(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> None:
        sys.exit("no town")

    async def exits_late(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)
        sys.exit("no town")

    for function in (exits, exits_late):
        assert "raised SystemExit: no town" in str((await only(task_of(Program(function=function)), config)).error)


async def test_at_most_so_many_run_concurrently(config: Config) -> None:
    running: list[int] = [0, 0]

    async def run(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> str:
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(0.01)
        running[0] -= 1
        return "done"

    await each(task_of(Program(function=run, concurrency=2)), config)
    assert running == [0, 2]


WORKER = """
    import os
    from openai import AsyncOpenAI

    print("this is not the answer")
    client = AsyncOpenAI(max_retries=0)

    async def ask(subtask, question):
        done = await client.chat.completions.create(
            model=f"agentopt/{subtask}", messages=[{"role": "user", "content": question}]
        )
        return done.choices[0].message.content

    async def run(inputs):
        os.system("echo nor is this")
        key = await ask("find", f"find|{inputs['number']}|")
        return await ask("answer", f"answer|{inputs['number']}|{key}")
"""

OTHERS = """
    import os, subprocess, sys

    def pid(inputs):
        return [os.getpid(), "\\u00e9"]

    def broken(inputs):
        raise KeyError("town")

    def gone(inputs):
        os._exit(7)

    def reader(inputs):
        return sys.stdin.read() + subprocess.check_output(["cat"], text=True) + "nothing more"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(textwrap.dedent(WORKER))
    (tmp_path / "others.py").write_text(textwrap.dedent(OTHERS))
    return tmp_path


async def test_a_function_of_the_inputs_alone_is_called_in_a_worker_whose_clients_stay_right(
    folder: Path, config: Config
) -> None:
    declared = measured(await evaluated(TOY, config))
    task = task_of(Program(function="program.py:run", folder=folder, concurrency=1))
    assert measured(await evaluated(task, config)) == declared


async def test_a_worker_is_kept_for_the_next_example_and_ends_with_the_event_loop(folder: Path) -> None:
    def results() -> list[ExampleResult]:
        task = task_of(Program(function="others.py:pid", folder=folder, concurrency=1))
        return asyncio.run(each(task, Config(journal=str(folder / "journal.db"))))

    (output,) = {result.output for result in await asyncio.to_thread(results)}
    assert output.endswith("'é']")
    assert not alive(int(output.strip("[").partition(",")[0]))


async def test_what_a_function_starts_has_nothing_to_read_on_stdin(folder: Path, config: Config) -> None:
    task = task_of(Program(function="others.py:reader", folder=folder, concurrency=1, timeout=30))
    assert {(result.output, result.error) for result in await each(task, config)} == {("nothing more", None)}


@pytest.mark.parametrize(("name", "error"), [("broken", "raised KeyError: 'town'"), ("gone", "exit status 7")])
async def test_a_failure_in_a_function_process_is_reported(name: str, error: str, folder: Path, config: Config) -> None:
    done = await evaluated(task_of(Program(function=f"others.py:{name}", folder=folder)), config)
    assert len(done.errors) == 4
    assert all(error in told for told in done.errors.values())


async def called_until_gone(client: httpx.AsyncClient, url: str) -> None:
    """Repeat a call until the endpoint no longer answers, which raises."""
    for _ in range(200):
        await asyncio.sleep(0.02)
        await client.get(url)


async def test_the_gateway_is_gone_a_while_after_its_last_use_and_there_again_for_the_next() -> None:
    def where(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> str:
        assert httpx.get(f"{openai['base_url']}/models", trust_env=False).status_code == 401
        return str(openai["base_url"])

    runner = ProgramRunner(TOY, Program(function=where), linger=0.05)
    example = TOY.splits["test"][0]
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(2):
            url = str((await runner.run(example, always)).output)
            with pytest.raises(httpx.TransportError):
                await called_until_gone(client, f"{url}/models")


def test_a_programs_environment_is_ours_only_where_it_leads_to_a_model() -> None:
    endpoint = {"base_url": "http://127.0.0.1:1/x/v1", "api_key": "key"}
    before = {"OPENAI_API_KEY": "secret", "OPENAI_ORG_ID": "org", "PATH": "/bin", "no_proxy": "intranet"}
    environment = environment_of(endpoint, before)
    assert "secret" not in environment.values()
    assert "OPENAI_ORG_ID" not in environment
    assert environment["OPENAI_BASE_URL"] == environment["OPENAI_API_BASE"] == endpoint["base_url"]
    assert (environment["OPENAI_API_KEY"], environment["PATH"]) == ("key", "/bin")
    assert environment["NO_PROXY"] == environment["no_proxy"] == "intranet,127.0.0.1"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"command": ("a",), "function": two_steps},
        {"command": "python program.py"},
        {"command": ("a",), "timeout": 0},
        {"command": ("a",), "concurrency": 0},
    ],
)
def test_a_program_that_cannot_be_run_is_refused_when_it_is_built(fields: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match="program"):
        Program(**fields)


# The gateway, as clients see it


async def always(subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
    return Answer("key-1" if subtask.name == "find" else None, SubtaskUse(10, 3), "not a word")


@pytest.fixture
async def gateway() -> Any:
    serving = Gateway()
    await serving.start()
    yield serving
    await serving.stop()


@pytest.fixture
def base_url(gateway: Gateway) -> Iterator[str]:
    url = gateway.address()
    gateway.admit(ProgramRun(TOY, TOY.splits["test"][0], always), url)
    yield url
    gateway.dismiss(url)


@pytest.fixture
async def client(gateway: Gateway, base_url: str) -> Any:
    async with AsyncOpenAI(base_url=base_url, api_key=gateway.key) as connected:
        yield connected


async def test_the_official_client_is_answered(client: AsyncOpenAI) -> None:
    done = await client.chat.completions.create(model="agentopt/find", messages=MESSAGES)
    assert (done.choices[0].message.content, done.model) == ("key-1", "agentopt/find")
    assert done.usage
    assert done.usage.total_tokens == 13


async def test_the_official_client_is_answered_in_a_stream(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="agentopt/find", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "key-1"
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 13


async def test_the_official_client_finds_the_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["agentopt/find", "agentopt/answer"]
    assert (await client.models.retrieve("agentopt/find")).id == "agentopt/find"
    with pytest.raises(NotFoundError, match="does not exist"):
        await client.models.retrieve("agentopt/fnd")


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"model": "gpt-4o"}, NotFoundError),
        ({"model": "agentopt/answer"}, UnprocessableEntityError),
        ({"temperature": 3}, APIStatusError),
        ({"tools": [{"type": "web_search"}]}, APIStatusError),
    ],
)
async def test_the_official_client_receives_the_error(client: AsyncOpenAI, more: Any, error: Any) -> None:
    with pytest.raises(error) as raised:
        await client.chat.completions.create(**{"model": "agentopt/find", "messages": MESSAGES, **more})
    assert raised.value.body["message"]


async def test_a_call_without_the_key_is_refused(base_url: str) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key="guess") as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.chat.completions.create(model="agentopt/find", messages=MESSAGES)
    async with httpx.AsyncClient(trust_env=False) as bare:
        assert (await bare.get(f"{base_url}/models")).status_code == 401


@pytest.mark.parametrize("key", [b"\xff\xfe", b"cl\xc3\xa9", b"\xed\xb0\x80", b"x" * 5000])
async def test_a_key_of_any_bytes_is_refused(base_url: str, key: bytes) -> None:
    async with httpx.AsyncClient(trust_env=False) as bare:
        headers = {b"Authorization": b"Bearer " + key}
        got = await bare.get(f"{base_url}/models", headers=headers)
    assert (got.status_code, got.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_an_abandoned_call_is_cancelled(gateway: Gateway) -> None:
    began, ended = asyncio.Event(), asyncio.Event()
    endings = []

    async def slow(subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            endings.append("cancelled")
            raise
        finally:
            ended.set()
        endings.append("answered")
        raise AssertionError

    url = gateway.address()
    gateway.admit(ProgramRun(TOY, TOY.splits["test"][0], slow), url)
    async with httpx.AsyncClient(trust_env=False) as bare:
        body = {"model": "agentopt/find", "messages": MESSAGES}
        headers = {"Authorization": f"Bearer {gateway.key}"}
        call = asyncio.create_task(bare.post(f"{url}/chat/completions", json=body, headers=headers))
        await began.wait()
        call.cancel()
        await ended.wait()
    assert endings == ["cancelled"]


async def test_a_body_that_is_too_large_is_refused_in_the_openai_form() -> None:
    gateway = Gateway(max_bytes=1000)
    await gateway.start()
    try:
        url = gateway.address()
        gateway.admit(ProgramRun(TOY, TOY.splits["test"][0], always), url)
        async with AsyncOpenAI(base_url=url, api_key=gateway.key) as client:
            large: Any = [{"role": "user", "content": "x" * 1000}]
            with pytest.raises(APIStatusError, match="at most 1000 bytes") as refused:
                await client.chat.completions.create(model="agentopt/find", messages=large)
        assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")
    finally:
        await gateway.stop()


async def test_other_paths_and_runs_that_are_over_are_not_found(
    client: AsyncOpenAI, gateway: Gateway, base_url: str
) -> None:
    with pytest.raises(NotFoundError, match="there is nothing at"):
        await client.embeddings.create(model="agentopt/find", input="x")
    gateway.dismiss(base_url)
    with pytest.raises(NotFoundError, match="is over"):
        await client.chat.completions.create(model="agentopt/find", messages=MESSAGES)


READS_KNOBS = """
def run(inputs):
    import json, os
    return json.loads(os.environ["AGENTOPT_KNOBS"])["find"]["passages"]
"""


def by_header(inputs: Mapping[str, Any], openai: Mapping[str, Any]) -> int:
    return int(json.loads(openai["default_headers"]["agentopt-knobs"])["find"]["passages"])


@pytest.mark.parametrize("form", ["command", "worker", "function"])
async def test_a_program_reads_the_knobs_of_the_candidate(form: str, tmp_path: Path) -> None:
    (tmp_path / "knobs.py").write_text(READS_KNOBS)
    reads = 'import json, os; print(json.loads(os.environ["AGENTOPT_KNOBS"])["find"]["passages"])'
    programs = {
        "command": Program(("python", "-c", reads), folder=tmp_path),
        "worker": Program(function="knobs.py:run", folder=tmp_path),
        "function": Program(function=by_header),
    }
    find = replace(TOY["find"], settings=as_axes({"knobs.passages": (3, 5)}))
    task = replace(TOY, subtasks=(find, TOY["answer"]), program=programs[form])
    workflow = Workflow(task, toy_model(), load(TOY, Config(), agent=False)[1])
    example = task.splits["test"][0]
    for settings, passages in (({}, 3), ({"knobs.passages": 5}, 5), ({}, 3)):
        candidate = task.baseline.having("find", settings=settings)
        assert int((await workflow.run(candidate, example, Draw())).output or 0) == passages
