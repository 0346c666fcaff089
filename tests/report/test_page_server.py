"""The server of the live page: who may read it, what it serves, and its events."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from agentopt.core.errors import UserError
from agentopt.report.page.server import PageServer
from agentopt.runs.archive import RunArchive
from tests.report.pages import finished

Check = Callable[[PageServer, aiohttp.ClientSession, str], Awaitable[None]]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> RunArchive:
    return finished(tmp_path_factory.mktemp("finished"))


def serve(read: Callable[[], RunArchive | None], check: Check, state: Callable[[], Any] = int) -> None:
    async def main() -> None:
        server = PageServer(read, state)
        async with server.serving() as address, aiohttp.ClientSession() as client:
            await check(server, client, address)

    asyncio.run(asyncio.wait_for(main(), 60))


@asynccontextmanager
async def events(client: aiohttp.ClientSession, address: str) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    async with client.get(f"{address}events") as response:
        assert response.content_type == "text/event-stream"

        async def each() -> AsyncIterator[tuple[str, Any]]:
            name = ""
            async for line in response.content:
                kind, _, value = line.decode().strip().partition(": ")
                name = value if kind == "event" else name
                if kind == "data":
                    yield name, json.loads(value)

        yield each()


def test_the_page_its_data_and_its_traces_are_served(archive: RunArchive) -> None:
    async def check(server: PageServer, client: aiohttp.ClientSession, address: str) -> None:
        async with events(client, address) as stream:
            assert await anext(stream) == ("failure", "")
            assert await anext(stream) == ("page", 1)
        async with client.get(address) as page:
            assert page.status == 200
            assert "connect-src 'self'" in page.headers["Content-Security-Policy"]
            assert server.token not in await page.text()
        async with client.get(f"{address}data") as data:
            assert data.headers["Cache-Control"] == "no-store"
            assert len((await data.json())["trials"]) == len(archive.trials)
        async with client.get(f"{address}report/trial-1.js") as script:
            assert script.content_type == "text/javascript"
            assert (await script.text()).startswith("agentoptTraces(1, ")
        async with client.get(address.replace("127.0.0.1", "localhost")) as page:
            assert page.status == 200

    serve(lambda: archive, check)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 403),
        ("GET", "/{token}x/", {}, 403),
        ("GET", "/wrong/data", {}, 403),
        ("GET", "//{token}/data", {}, 403),
        ("GET", "/%C3%A9%FF/events", {}, 403),
        ("POST", "/wrong/data", {}, 403),
        ("GET", "/{token}/data", {"Host": "example.org"}, 403),
        ("GET", "/{token}/data", {"Host": "127.0.0.1"}, 403),
        ("GET", "/{token}/data", {"Host": "127.0.0.1.example.org:80"}, 403),
        ("GET", "/{token}/data", {"Host": ""}, 403),
        ("POST", "/{token}/data", {}, 405),
        ("PUT", "/{token}/events", {}, 405),
        ("HEAD", "/{token}/", {}, 405),
        ("OPTIONS", "/{token}/data", {"Origin": "http://example.org"}, 405),
        ("GET", "/{token}/nothing", {}, 404),
        ("GET", "/{token}/report/trial-99.js", {}, 404),
        ("GET", "/{token}/report/trial--1.js", {}, 404),
        ("GET", "/{token}/report/trial-" + "9" * 5000 + ".js", {}, 404),
        ("GET", "/{token}/report/../../run.json", {}, 404),
        ("GET", "/{token}/report/%2e%2e/run.json", {}, 404),
        ("GET", "/{token}/report/trial-%2e%2e%2f0.js", {}, 404),
        ("GET", "/{token}/report/trial-0.js%00", {}, 404),
        ("GET", "/{token}/report/trial-0.js/../../../etc/passwd", {}, 404),
    ],
)
def test_other_requests_are_refused(
    archive: RunArchive, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    async def check(server: PageServer, client: aiohttp.ClientSession, address: str) -> None:
        origin = address.removesuffix(f"/{server.token}/")
        url = URL(origin + path.format(token=server.token), encoded=True)
        async with client.request(method, url, headers=headers) as response:
            assert response.status == status
            assert server.token not in await response.text()

    serve(lambda: archive, check)


def test_progress_and_the_end_are_events(archive: RunArchive) -> None:
    async def check(server: PageServer, client: aiohttp.ClientSession, address: str) -> None:
        async with events(client, address) as stream:
            assert [(await anext(stream))[0] for _ in range(2)] == ["failure", "page"]
            server.show({"activity": "trial 3"})
            assert await anext(stream) == ("progress", {"activity": "trial 3"})
            await server.end()
            assert [found async for found in stream] == [("page", 2), ("ended", 0)]

    serve(lambda: archive, check)


def test_before_the_run_there_are_no_data_and_no_traces(archive: RunArchive) -> None:
    found: list[RunArchive] = []

    async def check(server: PageServer, client: aiohttp.ClientSession, address: str) -> None:
        async with client.get(f"{address}data") as data:
            assert await data.json() is None
        async with client.get(f"{address}report/trial-0.js") as script:
            assert script.status == 404
        async with events(client, address) as stream:
            found.append(archive)
            assert [await anext(stream) for _ in range(2)] == [("failure", ""), ("page", 1)]

    serve(lambda: found[0] if found else None, check, lambda: len(found))


def test_a_page_that_cannot_be_built_is_shown_with_the_reason_until_it_can(archive: RunArchive) -> None:
    reads: list[int] = []

    def read() -> RunArchive:
        reads.append(1)
        if len(reads) == 1:
            raise OSError("no space")
        return archive

    async def check(_: PageServer, client: aiohttp.ClientSession, address: str) -> None:
        async with events(client, address) as stream:
            assert await anext(stream) == ("failure", "OSError: no space")
            assert [await anext(stream) for _ in range(2)] == [("failure", ""), ("page", 1)]

    serve(read, check)


def test_a_port_in_use_is_one_message(archive: RunArchive) -> None:
    async def listen(port: int) -> None:
        async with PageServer(lambda: archive, int).serving(port):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot serve the page at 127\.0\.0\.1, port {port}: .*in use") as error:
            asyncio.run(listen(port))
    assert "--port" in str(error.value)


def test_a_read_only_server_writes_nothing(archive: RunArchive) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = content(archive.run.path)

    async def check(server: PageServer, client: aiohttp.ClientSession, address: str) -> None:
        await server.end()
        async with client.get(f"{address}report/trial-0.js") as script:
            assert script.status == 200

    serve(lambda: archive, check)
    assert content(archive.run.path) == before
