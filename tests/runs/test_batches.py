"""A run in batches: killed and resumed, it pays for each call once, at half the price, and its caps hold."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from agentopt.core.budget import Usage
from agentopt.models.batch_calls import BatchBook
from agentopt.models.journal import Journal
from agentopt.runs.result import load_result
from agentopt.testing.batch_servers import AnthropicBatchServer, BatchPlan, OpenAIBatchServer
from agentopt.testing.faults import Faults

Server = OpenAIBatchServer | AnthropicBatchServer
SERVERS: dict[str, type[Server]] = {"openai": OpenAIBatchServer, "anthropic": AnthropicBatchServer}
KEY = "sk-a-key-that-is-secret"
ROWS = 100


def write_task(folder: Path, server: Server) -> Path:
    """A task of one subtask, whose right answers are between marks in its prompts, and the catalogue for it."""
    task = folder / "task"
    task.mkdir(parents=True)
    subtask = {"name": "find", "models": ["small"], "max_tokens": 8, "prompt": "say [[{{ inputs.word }}]]"}
    spec = {
        "name": "planted",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [subtask],
        "scorer": {"kind": "exact_match"},
    }
    (task / "task.yaml").write_text(yaml.safe_dump(spec))
    for split in ("validation", "test"):
        rows = [{"id": f"{split}{i}", "word": f"{split}-{i}", "target": f"{split}-{i}"} for i in range(ROWS)]
        (task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    is_anthropic = isinstance(server, AnthropicBatchServer)
    entry = {
        **({"litellm": "anthropic/claude-haiku-4-5"} if is_anthropic else {"model": "small"}),
        "base_url": server.base_url,
        "api_key_env": "KEY_OF_SMALL",
        "usd_per_1m_prompt": 1,
        "usd_per_1m_completion": 1,
        "batch": {"price": 0.5},
    }
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": {"small": entry}}))
    return task


async def start(folder: Path, *settings: str) -> asyncio.subprocess.Process:
    """Start the run in `folder`, or resume it."""
    made = [path.parent for path in (folder / "runs").glob("*/config.yaml")]
    where = ["--resume", str(made[0])] if made else [str(folder / "task")]
    fixed = (f"journal={folder}/journal.db", f"runs={folder}/runs", f"models=[{folder}/models.yaml]", "budget.trials=1")
    options = [part for setting in (*fixed, "strategy=random", *settings) for part in ("-c", setting)]
    environ = {**os.environ, "KEY_OF_SMALL": KEY, "AGENTOPT_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "agentopt", "optimize", *where, *options]
    return await asyncio.create_subprocess_exec(*command, env=environ, stdout=-1, stderr=-2)


async def ended(process: asyncio.subprocess.Process) -> str:
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def killed(
    folder: Path, has_come: Callable[[], bool], *settings: str, by: signal.Signals = signal.SIGKILL
) -> None:
    """Start or resume the run, and kill it at a moment that the server sees."""
    process = await start(folder, *settings)
    while not has_come():
        assert process.returncode is None, (await process.communicate())[0].decode()
        await asyncio.sleep(0.002)
    process.send_signal(by)
    await process.communicate()


@pytest.mark.faults
@pytest.mark.parametrize("provider", SERVERS)
async def test_200_batched_calls_of_a_run_killed_three_times_are_paid_for_once_at_half_the_price(
    provider: str, tmp_path: Path
) -> None:
    async with SERVERS[provider](api_key=KEY, plan=BatchPlan(polls=2)) as server:
        direct = tmp_path / "direct"
        write_task(direct, server)
        await ended(await start(direct))
        in_direct = load_result(next((direct / "runs").iterdir()))
        assert len(server.requests) == 2 * ROWS
        tokens = server.prompt_tokens + server.completion_tokens
        server.requests.clear()

        folder, cap = tmp_path / "batched", 0.01
        settings = ("batch=true", f"budget.usd={cap}")
        write_task(folder, server)
        polls: Callable[[], int] = lambda: server.operations["poll"] + server.operations["list"]  # noqa: E731
        await killed(folder, lambda: len(server.batches) == 1, *settings)
        before = polls()
        await killed(folder, lambda: polls() > before, *settings)
        await killed(folder, lambda: len(server.batches) == 2, *settings)
        output = await ended(await start(folder, *settings))
        result = load_result(next((folder / "runs").iterdir()))

    again = server.prompt_tokens + server.completion_tokens - tokens
    counts = dict(server.operations)
    print(f"{provider}: 3 kills, {len(server.requests)} calls executed, {len(server.executed)} different, {counts}")
    print(f"{in_direct.total.usd:.6f} USD directly, {result.total.usd:.6f} USD in batches; tokens {tokens}, {again}")
    # A request to create one may be lost with the process that sent it: then there is no batch.
    assert len(server.batches) == 2, "validation, test"
    assert len(server.requests) == 2 * ROWS
    assert set(server.executed.values()) == {1}
    assert again == tokens == result.total.tokens
    assert result.total.calls == 2 * ROWS
    assert result.total.usd == pytest.approx(in_direct.total.usd / 2)
    assert result.total.usd <= cap
    assert result.trials[0].score == in_direct.trials[0].score == 1
    assert "batch" in output


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda by: by.name)
async def test_a_run_resumed_while_a_batch_waits_reports_what_the_server_charged(
    tmp_path: Path, by: signal.Signals
) -> None:
    """The batch of the first session counts, although the test makes further calls under the same cap."""
    settings = ("batch=true", "budget.usd=0.01")
    async with OpenAIBatchServer(api_key=KEY, plan=BatchPlan(polls=10**9)) as server:
        write_task(tmp_path, server)
        await killed(tmp_path, lambda: server.operations["poll"] > 0, *settings, by=by)
        server.plan = BatchPlan()
        await ended(await start(tmp_path, *settings))
        total = load_result(next((tmp_path / "runs").iterdir())).total
    assert total.calls == len(server.requests) == 2 * ROWS
    assert total.tokens == server.prompt_tokens + server.completion_tokens


async def test_a_run_whose_first_batch_is_refused_has_spent_nothing(tmp_path: Path) -> None:
    async with OpenAIBatchServer(api_key=KEY, faults=Faults(script=[404])) as server:
        write_task(tmp_path, server)
        process = await start(tmp_path, "batch=true")
        output = (await process.communicate())[0].decode()
    assert process.returncode == 1
    assert "a batch could not be submitted (HTTP 404" in output
    with closing(Journal(tmp_path / "journal.db")) as journal:
        assert set(journal.spend(None).by_purpose.values()) == {Usage()}
        assert BatchBook(journal).submissions() == []
