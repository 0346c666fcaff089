"""What a user's provider raises or returns against the contract becomes one of our errors; paid answers are kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentopt.api import aevaluate
from agentopt.core.errors import CallsFailError, PermanentModelError, TransientModelError
from agentopt.core.task import Example, Subtask, Task
from agentopt.evaluation.scorers import exact_match
from agentopt.models.base import Choice, Message, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.custom_provider import CustomProvider
from agentopt.runs.config import Config
from agentopt.workflow.templates import template

REQUEST = Request("small", (Message("user", "hi"),), max_tokens=4)
SPEC = ModelSpec(name="small", base_url="http://127.0.0.1:9/v1", parameters=1e9, price="free")


class VendorError(Exception):
    """An exception of a library that agentopt does not know."""


class Vendor:
    """Raises or returns one thing."""

    def __init__(self, outcome: Any) -> None:
        self._outcome = outcome

    async def generate(self, request: Request) -> Response:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (VendorError("over capacity"), "raised VendorError('over capacity')"),
        (KeyError("choices"), "raised KeyError('choices')"),
        (ValueError(), "raised ValueError()"),
        (None, "must return a Response of 1 choice, but got None"),
        ("yes", "must return a Response of 1 choice, but got 'yes'"),
        (Response((), 1), "must return a Response of 1 choice"),
        (Response((Choice("a", 1), Choice("b", 1)), 1), "must return a Response of 1 choice"),
    ],
)
async def test_a_defect_of_a_provider_names_its_class_and_the_remedy(outcome: Any, words: str) -> None:
    with pytest.raises(PermanentModelError) as raised:
        await CustomProvider(Vendor(outcome)).generate(REQUEST)
    assert str(raised.value).startswith(f"small by the provider Vendor: {words}")
    assert "raise TransientModelError or PermanentModelError of agentopt.errors" in str(raised.value)
    assert (raised.value.scope, raised.value.billed) == ("model", True)


async def test_an_exception_of_an_http_client_is_classified() -> None:
    with pytest.raises(TransientModelError, match="small by the provider Vendor: no connection"):
        await CustomProvider(Vendor(httpx.ConnectError("refused"))).generate(REQUEST)


async def test_our_own_errors_and_assertions_pass_unchanged() -> None:
    for outcome in (TransientModelError("later"), AssertionError("a script ran out")):
        with pytest.raises(type(outcome)) as raised:
            await CustomProvider(Vendor(outcome)).generate(REQUEST)
        assert raised.value is outcome


class FailsOnce(Vendor):
    """Raises at the second request, while the first one is being answered."""

    def __init__(self) -> None:
        super().__init__(None)
        self.requests: list[str] = []
        self.answered: list[str] = []

    async def generate(self, request: Request) -> Response:
        text = request.messages[-1].content
        self.requests.append(text)
        if len(self.requests) == 2:
            raise VendorError("over capacity")
        await asyncio.sleep(0.05)
        self.answered.append(text)
        return Response((Choice("yes", 1),), 1)


async def test_answers_in_flight_are_kept_when_a_provider_raises(tmp_path: Path) -> None:
    answer = Subtask("answer", template("{{ inputs.text }}"), models=("small",))
    rows = tuple(Example(str(n), {"text": f"q{n}"}, target="yes") for n in range(8))
    task = Task("words", (answer,), exact_match(), {"validation": rows})
    config, provider = Config(journal=str(tmp_path / "journal.db"), models=(SPEC,)), FailsOnce()
    with pytest.raises(CallsFailError, match=r"small by the provider FailsOnce: raised VendorError\('over capacity'\)"):
        await aevaluate(task, config=config, split="validation", provider=provider)
    sent, kept = len(provider.requests), list(provider.answered)
    assert kept
    evaluation = await aevaluate(task, config=config, split="validation", provider=provider)
    assert evaluation.score == 1
    assert not set(provider.requests[sent:]) & set(kept)
