"""Whole runs against hosted providers with every kind of fault, and caps with many calls in flight."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopt.api import aoptimize
from agentopt.core.budget import Caps, Usage
from agentopt.core.errors import BudgetExceeded, ModelError
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.models.base import Message, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.router import ModelRouter
from agentopt.models.session import open_session
from agentopt.runs.config import Config
from agentopt.runs.result import Result
from agentopt.testing.faults import Fault, Faults
from agentopt.testing.servers import AnthropicServer, LoopbackServer, OpenAIServer, planted_answer

KIND: Mapping[str, str] = {
    "rate_limit": "HTTP 429",
    "server_error": "HTTP 500",
    "hang": "timeout",
    "drop": "connection dropped",
    "drop_mid_body": "connection dropped",
    "not_json": "malformed body",
    "no_choices": "malformed body",
}
"""Server fault -> the kind of failure the run counts."""

RATES: Mapping[Fault, float] = {
    "rate_limit": 0.06,
    "server_error": 0.06,
    "drop": 0.04,
    "drop_mid_body": 0.04,
    "not_json": 0.04,
    "no_choices": 0.04,
}
EXAMPLES = 8
PRICES = {"usd_per_1m_prompt": 1.0, "usd_per_1m_completion": 5.0}


def faults(seed: int) -> Faults:
    """Every kind at its rate, and two concurrent hangs near the start."""
    hangs: dict[int, Fault | None] = {3: "hang", 7: "hang"}
    by_rate = Faults(RATES, seed)
    return Faults(RATES, seed, script=[hangs.get(i, by_rate.of_request(i)) for i in range(8)])


def write_task(folder: Path) -> Path:
    """Two subtasks, one sampled from both providers, one fused by a third model."""
    task = folder / "task"
    task.mkdir()
    shared = {"models": ["gpt", "claude"], "max_tokens": 8, "tokens": {"prompt": 16, "completion": 4}}
    prompts = ("the key of {{ inputs.word }}: [[{{ inputs.word }}]]", "the word behind it: [[{{ find.output }}]]")
    spec = {
        "name": "planted",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [
            {"name": "find", "prompt": prompts[0], "num_samples": [1, 3], **shared},
            {
                "name": "answer",
                "prompt": prompts[1],
                "num_samples": [1, 2],
                "fuse": {"method": "fuse", "model": "fuser"},
                **shared,
            },
        ],
        "scorer": {"kind": "exact_match"},
        "cost": {"unit": {"parameters": 1e9, "prompt_tokens": 16, "completion_tokens": 4}, "max_units": 100},
    }
    (task / "task.yaml").write_text(yaml.safe_dump(spec))
    for split in ("validation", "test"):
        rows = [{"id": f"{split}{i}", "word": f"{split}-{i}", "target": f"{split}-{i}"} for i in range(EXAMPLES)]
        (task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return task


def write_catalog(folder: Path, openai: LoopbackServer, anthropic: AnthropicServer, **options: Any) -> Path:
    """`gpt`, `fuser` and `agent` at the OpenAI server, `claude` at the Anthropic one, all through litellm."""
    at_openai = {"base_url": f"{openai.url}/v1", "supports": {"seed": True}, "max_choices": 4}
    entries: dict[str, dict[str, Any]] = {
        name: {"litellm": f"openai/{name}", **at_openai} for name in ("gpt", "fuser", "agent")
    }
    entries["claude"] = {"litellm": "anthropic/claude-haiku-4-5", "base_url": anthropic.url}
    shared = {"parameters": 1e9, "api_key_env": "LOOPBACK_KEY", "backoff_seconds": 0.02, **PRICES, **options}
    file = folder / "models.yaml"
    file.write_text(yaml.safe_dump({"models": {name: {**entry, **shared} for name, entry in entries.items()}}))
    return file


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "LOOPBACK_KEY", "sk-loopback")


def config(folder: Path, catalog: Path, **changes: Any) -> Config:
    search = {"early_stopping": None, "batch_size": 3}
    fixed = {"journal": str(folder / "journal.db"), "runs": str(folder / "runs"), "models": [str(catalog)]}
    return Config.model_validate({**fixed, "search": search, **changes})


async def call_once_without_faults(model: str, base_url: str) -> None:
    """Make the first call of a provider: litellm imports for seconds, which must not count as a hang."""
    spec = ModelSpec(name=model, litellm=model, base_url=base_url, api_key_env="LOOPBACK_KEY", timeout_seconds=120)
    pool = ModelRouter({model: spec})
    await pool.generate(Request(model, (Message("user", "[[warm]]"),), 4))
    await pool.aclose()


async def warm_up() -> None:
    async with OpenAIServer() as openai, AnthropicServer() as anthropic:
        await call_once_without_faults("openai/gpt", openai.base_url)
        await call_once_without_faults("anthropic/claude-haiku-4-5", anthropic.base_url)


def of_outcome(folder: Path, *, ok: bool) -> dict[str, Usage]:
    """Usage by purpose in the ledger, of successful or of failed calls."""
    sums = "sum(calls), sum(prompt_tokens), sum(completion_tokens), sum(usd)"
    query = f"select purpose, {sums} from ledger where (outcome = 'ok') = ? group by purpose"
    with sqlite3.connect(folder / "journal.db") as journal:
        return {row[0]: Usage(*row[1:]) for row in journal.execute(query, (ok,))}


PURPOSE = {"gpt": "samples", "claude-haiku-4-5": "samples", "fuser": "fusion", "agent": "agent"}


def failures_of(*servers: LoopbackServer) -> Counter[str]:
    """The failures caused by the servers, by the run's kinds."""
    caused: Counter[str] = Counter()
    for server in servers:
        caused.update({outcome: n for outcome, n in server.outcomes.items() if outcome != "ok"})
    named: Counter[str] = Counter()
    for fault, count in caused.items():
        named[KIND[fault]] += count
    return named


def calls_by_purpose(*servers: LoopbackServer) -> Counter[str]:
    return Counter(PURPOSE[request.body["model"]] for server in servers for request in server.requests)


def assert_no_example_is_lost(result: Result) -> None:
    assert {trial.state for trial in result.trials} == {"complete"}
    assert {trial.scored for trial in result.trials} == {EXAMPLES}
    assert [f.test.n for f in result.finalists if f.test] == [EXAMPLES] * len(result.finalists)


async def test_a_run_completes_despite_every_kind_of_fault_and_counts_each_failure(
    tmp_path: Path,
) -> None:
    await warm_up()
    quality = {"gpt": 0.5, "claude-haiku-4-5": 0.9, "fuser": 1.0}
    async with (
        OpenAIServer(planted_answer(quality), faults=faults(1)) as openai,
        AnthropicServer(planted_answer(quality), faults=faults(2)) as anthropic,
    ):
        catalog = write_catalog(tmp_path, openai, anthropic, timeout_seconds=4, max_attempts=15)
        settings = config(tmp_path, catalog, agent={"model": "agent", "attempts": 1}, budget={"trials": 4})
        result = await aoptimize(write_task(tmp_path), settings)

    assert result.ended == StopReason(StopKind.TRIALS_SPENT)
    assert result.finalist("best").against_baseline is not None
    assert_no_example_is_lost(result)

    assert set(openai.outcomes) | set(anthropic.outcomes) == {"ok", *KIND}
    assert result.failures == failures_of(openai, anthropic)

    assert {purpose: usage.calls for purpose, usage in result.spent.items()} == calls_by_purpose(openai, anthropic)
    answered, failed = of_outcome(tmp_path, ok=True), of_outcome(tmp_path, ok=False)
    total = sum(answered.values(), Usage())
    assert total.prompt_tokens == openai.prompt_tokens + anthropic.prompt_tokens
    assert total.completion_tokens == openai.completion_tokens + anthropic.completion_tokens
    for purpose, spent in result.spent.items():
        # A failure with unknown outcome may have been billed, so it is charged at its worst case.
        both = answered[purpose] + failed.get(purpose, Usage())
        assert (spent.calls, spent.tokens) == (both.calls, both.tokens)
        assert spent.usd == pytest.approx(both.usd)
        assert spent.usd == pytest.approx((spent.prompt_tokens + 5 * spent.completion_tokens) / 1e6)


class Gauge:
    """A `ChatModel` that counts the calls in flight, over another one; the first `crowd` wait for each other."""

    def __init__(self, inner: ModelRouter, crowd: int) -> None:
        self._inner, self.in_flight, self.most = inner, 0, 0
        self._crowd, self._is_crowded = crowd, asyncio.Event()

    async def generate(self, request: Request) -> Response:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        if self.in_flight == self._crowd:
            self._is_crowded.set()
        try:
            await asyncio.wait_for(self._is_crowded.wait(), 60)
            return await self._inner.generate(request)
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        await self._inner.aclose()


STORMY: Mapping[Fault, float] = {"rate_limit": 0.1, "server_error": 0.1, "drop": 0.05, "not_json": 0.05}


def usd(server: LoopbackServer) -> float:
    return (server.prompt_tokens + 5 * server.completion_tokens) / 1e6


@pytest.mark.parametrize("rates", [{}, STORMY], ids=["calm", "stormy"])
@pytest.mark.parametrize(
    ("caps", "name"), [(Caps(calls=100), "calls"), (Caps(tokens=5500), "tokens"), (Caps(usd=0.0096), "usd")]
)
async def test_a_cap_is_never_exceeded_with_64_calls_in_flight(
    tmp_path: Path, caps: Caps, name: str, rates: Mapping[Fault, float]
) -> None:
    async with OpenAIServer(faults=Faults(rates, retry_after=None), delay=0.02) as server:
        spec = ModelSpec(name="gpt", base_url=server.base_url, concurrency=64, backoff_seconds=0.02, **PRICES)
        gauge = Gauge(ModelRouter({"gpt": spec}), crowd=64)
        async with open_session(
            {"gpt": spec}, "run", caps=caps, journal=str(tmp_path / "journal.db"), provider=gauge
        ) as session:
            questions = [Request("gpt", (Message("user", f"[[a b c d e f {i}]]"),), 8) for i in range(400)]
            ended = await asyncio.gather(*map(session.model.generate, questions), return_exceptions=True)
            spent = session.budget.spent

    assert gauge.most == 64
    refused = [outcome for outcome in ended if isinstance(outcome, BudgetExceeded)]
    assert refused
    assert {error.name for error in refused} == {name}
    assert all(isinstance(outcome, Response | BudgetExceeded | ModelError) for outcome in ended)
    assert caps.exceeded_by(spent) is None
    assert caps.exceeded_by(Usage(server.calls, server.prompt_tokens, server.completion_tokens, usd(server))) is None
    assert server.calls == spent.calls
    if name == "calls":
        assert server.calls == 100, "the cap is used up before any call is refused"


@pytest.mark.parametrize("caps", [Caps(calls=80), Caps(tokens=5000), Caps(usd=0.006)], ids=["calls", "tokens", "usd"])
async def test_a_whole_run_stays_within_its_cap_and_tests_its_candidates(tmp_path: Path, caps: Caps) -> None:
    async with OpenAIServer(planted_answer({"gpt": 0.5}), faults=Faults(STORMY, retry_after=None)) as server:
        # Without litellm, which is slower: this test is about the budget.
        entry = {
            "base_url": server.base_url,
            "supports": {"seed": True},
            "parameters": 1e9,
            "backoff_seconds": 0.02,
            "max_attempts": 15,
            **PRICES,
        }
        catalog = tmp_path / "models.yaml"
        catalog.write_text(yaml.safe_dump({"models": dict.fromkeys(("gpt", "claude", "fuser"), entry)}))
        budget = {"usd": caps.usd, "tokens": caps.tokens, "calls": caps.calls}
        result = await aoptimize(write_task(tmp_path), config(tmp_path, catalog, strategy="random", budget=budget))

    name = next(name for name, cap in budget.items() if cap)
    assert result.ended.cap == name
    assert caps.exceeded_by(result.total) is None
    assert caps.exceeded_by(Usage(server.calls, server.prompt_tokens, server.completion_tokens, usd(server))) is None
    assert server.calls == result.total.calls
    baseline = result.finalist("baseline")
    assert baseline.test is not None
    assert baseline.test.n == EXAMPLES
