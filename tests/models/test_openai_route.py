"""How requests of an OpenAI-compatible endpoint travel: directly by aiohttp, or through a proxy of the environment."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentopt.core.errors import ModelError, PermanentModelError, TransientModelError
from agentopt.models.base import Message, Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.hosted import HostedModel

BODY = json.dumps({"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})
REQUEST = Request("m", (Message("user", "Is it?"),), max_tokens=4)


class Raw:
    """A server that answers every request with the same bytes, and keeps what it received."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.received: list[bytes] = []
        self._answer = head + b"\r\n\r\n" + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        size = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        self.received.append(head + await reader.readexactly(size))
        writer.write(self._answer)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def raw(
    status: bytes = b"200 OK", body: bytes = BODY.encode(), *headers: bytes, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[Raw, int]]:
    lines = [b"HTTP/1.1 " + status, b"Content-Type: application/json", b"Content-Length: %d" % len(body), *headers]
    server = Raw(b"\r\n".join(lines), body)
    listening = await asyncio.start_server(server.serve, host, 0)
    async with listening:
        yield server, listening.sockets[0].getsockname()[1]


async def text_from(base_url: str, **options: Any) -> str:
    model = HostedModel(ModelSpec(name="m", base_url=base_url, **options), api_key="k")
    try:
        return (await model.generate(REQUEST)).choices[0].text
    finally:
        await model.aclose()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    return monkeypatch


async def test_a_proxy_of_the_environment_is_used(environment: pytest.MonkeyPatch) -> None:
    async with raw() as (proxy, port):
        environment.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        assert await text_from("http://model.example/v1") == "yes"
    (received,) = proxy.received
    assert received.startswith(b"POST http://model.example/v1/chat/completions HTTP/1.1\r\n")
    assert b"bearer k" in received.lower()


@pytest.mark.parametrize(("host", "excepted"), [("127.0.0.1", ""), ("127.0.0.2", "127.0.0.2")])
async def test_a_proxy_is_not_used_for_this_machine_nor_for_excepted_hosts(
    environment: pytest.MonkeyPatch, host: str, excepted: str
) -> None:
    environment.setenv("ALL_PROXY", "http://127.0.0.1:9")
    environment.setenv("NO_PROXY", excepted)
    async with raw(host=host) as (server, port):
        assert await text_from(f"http://{host}:{port}/v1") == "yes"
    assert len(server.received) == 1


async def test_the_query_the_key_and_the_headers_of_an_entry_are_sent(environment: pytest.MonkeyPatch) -> None:
    headers = {"x-team": "red", "accept-encoding": "identity"}
    async with raw() as (server, port):
        url = f"http://127.0.0.1:{port}/v1?a=1%202"
        options: dict[str, Any] = {"query": {"api-version": "2"}, "api_key_header": "api-key", "extra_headers": headers}
        assert await text_from(url, **options) == "yes"
    head, _, body = server.received[0].partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /v1/chat/completions?a=1+2&api-version=2 http/1.1"
    sent = dict(line.split(b": ", 1) for line in lines[1:])
    assert sent[b"api-key"] == b"k"
    assert sent[b"x-team"] == b"red"
    assert sent[b"accept-encoding"] == b"identity"
    assert sent[b"user-agent"] == b"agentopt"
    assert b"authorization" not in sent
    assert json.loads(body)["messages"] == [{"role": "user", "content": "Is it?"}]


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
async def test_a_compressed_body_is_read(compress: object) -> None:
    assert callable(compress)
    encoding = b"Content-Encoding: " + (b"gzip" if compress is gzip.compress else b"deflate")
    async with raw(b"200 OK", compress(BODY.encode()), encoding) as (_, port):
        assert await text_from(f"http://127.0.0.1:{port}/v1") == "yes"


async def test_a_body_that_is_not_compressed_as_its_header_says_is_transient() -> None:
    async with raw(b"200 OK", BODY.encode(), b"Content-Encoding: gzip") as (_, port):
        with pytest.raises(TransientModelError, match="connection broke"):
            await text_from(f"http://127.0.0.1:{port}/v1")


@pytest.mark.parametrize(
    ("status", "header", "error", "wait"),
    [
        (b"429 Too Many Requests", b"Retry-After: 7", TransientModelError, 7.0),
        (b"429 Too Many Requests", "Retry-After: 7\r\nX-Name: café".encode(), TransientModelError, 7.0),
        (b"429 Too Many Requests", b"Retry-After: 7\r\nX-Name: caf\xe9", TransientModelError, 7.0),
        (b"307 Temporary Redirect", b"Location: http://127.0.0.1:9/v1", PermanentModelError, None),
        (b"401 Unauthorized", b"WWW-Authenticate: Bearer", PermanentModelError, None),
    ],
)
async def test_a_refusal_is_classified_whatever_its_headers_are(
    status: bytes, header: bytes, error: type[ModelError], wait: float | None
) -> None:
    async with raw(status, b'{"error": {"message": "no"}}', header) as (server, port):
        with pytest.raises(error, match=f"HTTP {status[:3].decode()}: no") as caught:
            await text_from(f"http://127.0.0.1:{port}/v1")
    assert len(server.received) == 1
    if isinstance(caught.value, TransientModelError):
        assert caught.value.retry_after == wait


async def test_a_key_that_no_header_can_hold_is_permanent() -> None:
    model = HostedModel(ModelSpec(name="m", base_url="http://127.0.0.1:9/v1"), api_key="schlüssel")
    with pytest.raises(PermanentModelError, match="the request cannot be sent"):
        await model.generate(REQUEST)
    await model.aclose()
