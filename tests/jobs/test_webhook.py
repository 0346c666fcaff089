"""Webhooks: signed so that the standard's own library accepts them, tried again, and without any secret."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from agentopt.core.errors import ConfigError, WebhookError
from agentopt.jobs.jobfile import WebhookTarget
from agentopt.jobs.webhook import deliver

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
ENVIRON = {"HOOK": SECRET}
GARBLED = 299
"""A response whose body contradicts its headers."""


class Receiver:
    """A loopback address that answers with the scripted statuses, then 204, and records its requests."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[dict[str, str], bytes]] = []

    async def _handle(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 204
        if status == GARBLED:
            return web.Response(body=b"no gzip", headers={"Content-Encoding": "gzip"})
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[WebhookTarget]:
        app = web.Application()
        app.router.add_post("/{any:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        yield WebhookTarget(url=f"http://127.0.0.1:{port}/hook?token=t0ken", secret_env="HOOK")
        await runner.cleanup()


class Sleeps(list[float]):
    """A sleep that returns immediately and records the requested seconds."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


async def test_a_receiver_with_the_standards_library_accepts_the_signature() -> None:
    receiver = Receiver()
    async with receiver.listening() as target:
        await deliver(target, "promoted", "msg_1", {"job": "nightly"}, environ=ENVIRON)
    ((headers, body),) = receiver.got
    told = Webhook(SECRET).verify(body, headers)
    assert told["type"] == "agentopt.job.promoted"
    assert told["data"] == {"job": "nightly"}
    assert headers["webhook-id"] == "msg_1"
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b"nightly", b"another"), headers)


async def test_no_secret_is_in_a_delivery() -> None:
    receiver = Receiver()
    async with receiver.listening() as target:
        await deliver(target, "alarm", "msg_1", {"job": "nightly"}, environ=ENVIRON)
    ((headers, body),) = receiver.got
    bare = SECRET.removeprefix("whsec_")
    assert bare not in json.dumps(headers)
    assert bare.encode() not in body


async def test_a_busy_receiver_is_retried_with_the_same_id_and_increasing_waits() -> None:
    receiver, sleeps = Receiver(503, GARBLED, 500), Sleeps()
    async with receiver.listening() as target:
        await deliver(target, "failed", "msg_7", {}, environ=ENVIRON, sleep=sleeps)
    assert len(receiver.got) == 4
    assert {headers["webhook-id"] for headers, _ in receiver.got} == {"msg_7"}
    assert len({body for _, body in receiver.got}) == 1
    assert [round(s) for s in sorted(sleeps)] == [round(s) for s in sleeps]


async def test_the_attempts_end() -> None:
    receiver = Receiver(*[503] * 9)
    async with receiver.listening() as target:
        with pytest.raises(WebhookError, match="HTTP 503") as error:
            await deliver(target, "failed", "msg_1", {}, environ=ENVIRON, sleep=Sleeps())
    assert len(receiver.got) == 5
    assert "t0ken" not in str(error.value), "the address may hold a token"


@pytest.mark.parametrize("status", [302, 400, 401, 410])
async def test_a_refusal_is_final_and_a_redirect_is_not_followed(status: int) -> None:
    receiver = Receiver(status)
    async with receiver.listening() as target:
        with pytest.raises(WebhookError, match=f"HTTP {status}"):
            await deliver(target, "failed", "msg_1", {}, environ=ENVIRON, sleep=Sleeps())
    assert len(receiver.got) == 1


async def test_an_unreachable_address_is_retried_then_reported_without_the_address() -> None:
    sleeps = Sleeps()
    target = WebhookTarget(url="http://127.0.0.1:9/t0ken", secret_env="HOOK")
    with pytest.raises(WebhookError, match="cannot be reached") as error:
        await deliver(target, "failed", "msg_1", {}, environ=ENVIRON, sleep=sleeps)
    assert len(sleeps) == 4
    assert "t0ken" not in str(error.value)


async def test_an_invalid_address_is_reported_without_a_retry() -> None:
    sleeps, target = Sleeps(), WebhookTarget(url="http://127.0.0.1:t0ken/", secret_env="HOOK")
    with pytest.raises(WebhookError, match="no valid address") as error:
        await deliver(target, "failed", "msg_1", {}, environ=ENVIRON, sleep=sleeps)
    assert sleeps == []
    assert "t0ken" not in str(error.value)


@pytest.mark.parametrize("environ", [{}, {"HOOK": ""}, {"HOOK": "whsec_a"}])
async def test_a_missing_or_invalid_secret_is_reported_by_its_variable(environ: dict[str, str]) -> None:
    target = WebhookTarget(url="http://127.0.0.1:9/", secret_env="HOOK")
    with pytest.raises(ConfigError, match="environment variable HOOK"):
        await deliver(target, "failed", "msg_1", {}, environ=environ)
