"""`agentopt serve` among strangers: silent, slow and leaving clients, keys that are revoked, TLS and draining."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import resource
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_serve import answer, client_of, deployment_in, folder, plain_client, served, user_message

from agentopt.core.errors import UserError
from agentopt.deploy.serve.access import Access
from agentopt.deploy.serve.limits import ServerLimits, check_limits
from agentopt.deploy.serve.log_limit import LogLimit
from agentopt.deploy.serve.open_connections import OpenConnections
from agentopt.deploy.serve.server import ServeSettings, serve
from agentopt.testing.faults import Faults
from agentopt.testing.servers import OpenAIServer

__all__ = ["folder"]

BODY = {"model": "toy", "messages": user_message("pear")}


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = httpx.URL(url)
    return await asyncio.open_connection(address.host, address.port)


async def sent(url: str, text: str) -> bytes:
    """All that the server answers to a connection that sends `text` and then waits."""
    reader, writer = await connect(url)
    writer.write(text.encode())
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)


def head(length: int, *headers: str) -> str:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "", ""])


# Silent and slow clients


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", b""),
        ("GET /healthz HT", b"408"),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"408"),
        ("\r\n", b""),
        (head(100), b"408"),
        (head(100) + '{"model":', b"408"),
    ],
)
async def test_a_client_that_takes_too_long_is_closed(folder: Path, text: str, status: bytes) -> None:
    limits = ServerLimits(first_byte_seconds=0.2, head_seconds=0.2, body_seconds=0.2)
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend), limits=limits) as url:
        async with asyncio.timeout(30):
            got = await sent(url, text)
    assert got.partition(b" ")[2].startswith(status)
    assert backend.calls == 0


async def test_slow_bodies_take_no_place_of_a_call(folder: Path) -> None:
    limits = ServerLimits(in_flight=4, body_seconds=30)
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend), limits=limits) as url:
        slow = [await connect(url) for _ in range(40)]
        for _, writer in slow:
            writer.write(head(1000).encode() + b'{"model"')
        async with plain_client() as plain:
            answers = [await plain.post(f"{url}/chat/completions", json=BODY) for _ in range(3)]
        for _, writer in slow:
            writer.close()
    assert [got.status_code for got in answers] == [200] * 3


class Client:
    def __init__(self) -> None:
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True


def test_the_connection_that_has_waited_longest_makes_room() -> None:
    connections, clients = OpenConnections(3), [Client() for _ in range(7)]
    assert all(connections.enter(client) for client in clients[:3])
    connections.works(clients[0])
    connections.waits(clients[1])  # a next request
    assert connections.enter(clients[3])
    assert [client.dropped for client in clients[:4]] == [False, False, True, False]
    for client in (clients[1], clients[3]):
        connections.works(client)
    assert not connections.enter(clients[4])
    assert not clients[4].dropped
    connections.leave(clients[0])
    assert connections.enter(clients[5])
    assert len(connections) == 3


def test_calls_in_flight_leave_connections_to_a_health_check() -> None:
    check_limits(ServerLimits(in_flight=10, connections=11))
    with pytest.raises(UserError, match=r"(?s)more connections than calls in flight, but got 10 .*--max-connections"):
        check_limits(ServerLimits(in_flight=10, connections=10))


def with_descriptors(most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@asynccontextmanager
async def command(folder: Path, *arguments: str, descriptors: int = 1024) -> AsyncIterator[tuple[Any, str]]:
    """`agentopt serve` as a process with few descriptors, and its base URL."""
    settings = [f"models={folder / 'models.yaml'}", f"journal={folder / 'journal.db'}"]
    given = [*(arguments or ["--no-api-key"]), *(part for setting in settings for part in ("-c", setting))]
    with (folder / "stderr").open("wb") as errors:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentopt", "serve", str(folder / "best.yaml"), "--task", str(folder)),
            *("--port", "0", *given),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "AGENTOPT_CACHE": str(folder / "cache")},
            preexec_fn=with_descriptors(descriptors),
        )
    try:
        yield server, (await server.stdout.readline()).decode().split()[-1]  # type: ignore[union-attr]
    finally:
        if server.returncode is None:
            server.terminate()
        await server.communicate()


@pytest.mark.parametrize(("connections", "descriptors"), [(600, 256), pytest.param(5000, 1024, marks=pytest.mark.slow)])
async def test_idle_connections_keep_no_health_check_out(folder: Path, connections: int, descriptors: int) -> None:
    """Run with `-m slow -s` for 5,000 connections at 1,024 descriptors, and the longest time of an answer."""
    loop = asyncio.get_running_loop()
    took: list[float] = []
    async with OpenAIServer(answer) as backend:
        deployment_in(folder, backend)
        async with (
            command(folder, "--no-api-key", "--max-in-flight", "64", descriptors=descriptors) as (_, url),
            AsyncExitStack() as held,
        ):
            for number in range(connections):
                _, writer = await connect(url)
                held.callback(writer.close)
                if number % (connections // 20) == 0 or number == connections - 1:
                    async with httpx.AsyncClient(timeout=10) as plain:
                        started = loop.time()
                        health = await plain.get(url.replace("/v1", "/healthz"))
                        took.append(loop.time() - started)
                        assert health.status_code == 200
            async with plain_client() as plain:
                assert (await plain.post(f"{url}/chat/completions", json=BODY)).status_code == 200
    print(f"{connections} idle connections, {descriptors} descriptors: slowest /healthz {max(took):.3f} s")
    assert (folder / "stderr").read_text() == ""


def test_the_log_of_strangers_is_bounded() -> None:
    now = 0.0
    limit = LogLimit(most=3, seconds=60, clock=lambda: now)

    def line(number: int, where: int = 1) -> str | None:
        record = logging.LogRecord("name", logging.WARNING, "file.py", where, f"line {number}", None, None)
        return record.getMessage() if limit.filter(record) else None

    assert [line(i) for i in range(5)] == ["line 0", "line 1", "line 2", None, None]
    assert line(5, where=2) == "line 5"
    now = 61
    assert line(6) == "line 6 (2 earlier lines like this were left out)"
    assert line(7) == "line 7"


async def test_garbage_does_not_flood_the_log(folder: Path) -> None:
    async with OpenAIServer(answer) as backend:
        deployment_in(folder, backend)
        async with command(folder) as (_, url):
            answers = [await sent(url, "garbage\r\n\r\n") for _ in range(150)]
    assert all(got.startswith(b"HTTP/1.1 400") for got in answers)
    assert 0 < len((folder / "stderr").read_text().splitlines()) <= 100


# Clients that leave


@pytest.mark.parametrize("stream", [False, True])
async def test_for_a_client_that_left_nothing_more_is_paid(folder: Path, stream: bool) -> None:
    """Each of 40 calls needs three requests for its samples, at most 8 of all at once, and then a second subtask."""
    backend = OpenAIServer(answer, delay=0.3)
    async with backend:
        deployment = deployment_in(folder, backend, max_choices=1, concurrency=8)
        async with served(deployment) as url:
            body = json.dumps({**BODY, "stream": stream})
            writers = []
            for _ in range(40):
                _, writer = await connect(url)
                writer.write((head(len(body)) + body).encode())
                writers.append(writer)
            await until(lambda: backend.calls >= 8)
            for writer in writers:
                writer.close()
            async with plain_client() as plain:
                while "agentopt_requests_in_flight 0.0" not in (await plain.get(url.replace("/v1", "/metrics"))).text:
                    continue
            left_at = backend.calls
            # The server's end waits for all that it would still send.
    assert left_at <= 16
    assert backend.calls == left_at


async def test_after_a_failed_answer_the_others_of_the_call_are_not_paid(folder: Path) -> None:
    backend = OpenAIServer(answer, delay=0.1, faults=Faults(script=[400]))
    async with backend, served(deployment_in(folder, backend, concurrency=1)) as url, plain_client() as plain:
        body = {"model": "toy/tell", "messages": user_message("pear"), "n": 8}
        got = await plain.post(f"{url}/chat/completions", json=body)
    assert got.status_code == 502
    assert backend.calls <= 2


# Keys


@pytest.mark.parametrize("content", ["", "# revoked\n", None, "\udcff"])
async def test_a_key_file_without_a_key_fails_closed(folder: Path, content: str | None) -> None:
    keys = folder / "keys"
    keys.write_text("old\n")
    async with OpenAIServer(answer) as backend, AsyncExitStack() as running:
        url = await running.enter_async_context(served(deployment_in(folder, backend), key_file=keys))
        plain = await running.enter_async_context(plain_client())

        async def statuses() -> list[int]:
            urls = [f"{url}/models", *(url.replace("/v1", path) for path in ("/readyz", "/healthz"))]
            key = {"Authorization": "Bearer old"}
            return [(await plain.get(one, headers=key)).status_code for one in urls]

        before = await statuses()
        if content is None:
            keys.unlink()
        else:
            keys.write_bytes(content.encode(errors="surrogateescape"))
        revoked = await statuses()
        keys.write_text("another\nold\n")
        again = await statuses()
    assert (before, revoked, again) == ([200, 200, 200], [401, 503, 200], [200, 200, 200])


def test_keys_of_any_length_and_any_text_are_compared(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("clé\n" + "x" * 300 + "\n", encoding="utf-8")
    access = Access.by_file(tmp_path / "keys")
    # Headers are read as Latin-1.
    first = access.check("Bearer " + "clé".encode().decode("latin-1"), "h", "")
    assert first != access.check("bearer " + "x" * 300, "h", "")
    for wrong in ("", "Bearer", "Bearer cle", "Bearer \udcff", "Bearer \u2028", "Basic x", "Bearer " + "x" * 299):
        with pytest.raises(Exception, match="API key is missing or wrong"):
            access.check(wrong, "h", "")


async def test_the_command_needs_a_new_key_by_default(folder: Path) -> None:
    async with OpenAIServer(answer) as backend:
        deployment_in(folder, backend)
        async with command(folder, "--max-in-flight", "5") as (server, url), plain_client() as plain:
            key = (await server.stdout.readline()).decode().partition("ends: ")[2].split()[0]
            page = {"Origin": "http://localhost:3000"}
            for headers in ({}, page, {"Authorization": "Bearer any"}):
                got = await plain.post(f"{url}/chat/completions", json=BODY, headers=headers)
                assert got.status_code == 401
            assert backend.calls == 0
            got = await plain.post(f"{url}/chat/completions", json=BODY, headers={"Authorization": f"Bearer {key}"})
    assert got.status_code == 200


async def test_one_key_cannot_take_all_places(folder: Path) -> None:
    (folder / "keys").write_text("one\ntwo\n")
    limits = ServerLimits(per_key=2)
    async with OpenAIServer(answer, delay=0.3) as backend:
        deployment = deployment_in(folder, backend)
        async with served(deployment, limits=limits, key_file=folder / "keys") as url, plain_client() as plain:

            async def ask(key: str) -> httpx.Response:
                headers = {"Authorization": f"Bearer {key}"}
                return await plain.post(f"{url}/chat/completions", json=BODY, headers=headers)

            answers = await asyncio.gather(*(ask(key) for key in ("one", "one", "one", "two")))
            later = await ask("one")
    assert sorted(got.status_code for got in answers) == [200, 200, 200, 429]
    assert answers[3].status_code == later.status_code == 200
    refused = next(got for got in answers if got.status_code == 429)
    assert (refused.headers["retry-after"], refused.json()["error"]["code"]) == ("1", "rate_limit_exceeded")


# TLS


def write_certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    day, now = datetime.timedelta(days=1), datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
    signed = built.add_extension(names, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    text = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(text)
    return folder / "cert.pem", folder / "key.pem"


async def test_calls_are_answered_over_tls_also_beside_silent_handshakes(folder: Path) -> None:
    tls = write_certificate(folder)
    trusted = ssl.create_default_context(cafile=str(tls[0]))
    limits = ServerLimits(in_flight=4, connections=20)
    async with OpenAIServer(answer) as backend:
        deployment = deployment_in(folder, backend)
        async with served(deployment, host="localhost", tls=tls, limits=limits) as url, AsyncExitStack() as held:
            for _ in range(60):
                _, writer = await connect(url)
                held.callback(writer.close)
            async with httpx.AsyncClient(verify=trusted, timeout=30) as client:
                got = await client.post(f"{url}/chat/completions", json=BODY)
    assert url.startswith("https://localhost:")
    assert got.status_code == 200


@pytest.mark.parametrize("wrong", ["missing", "no key", "another key"])
async def test_a_certificate_that_cannot_be_used_is_refused(folder: Path, wrong: str) -> None:
    certificate, key = write_certificate(folder)
    if wrong == "missing":
        certificate = folder / "nothing.pem"
    elif wrong == "no key":
        key.write_text("no key")
    else:
        (folder / "other").mkdir()
        _, key = write_certificate(folder / "other")
    async with OpenAIServer(answer) as backend:
        with pytest.raises(UserError, match=r"(?s)certificate .* cannot be used: .*PEM"):
            await serve(deployment_in(folder, backend), ServeSettings(port=0, tls=(certificate, key)))


# Readiness and the end


async def test_readiness_is_lost_with_the_cap_and_liveness_is_not(folder: Path) -> None:
    prices = {"usd_per_1m_prompt": 1000.0, "usd_per_1m_completion": 1000.0}
    async with OpenAIServer(answer) as backend:
        deployment = deployment_in(folder, backend, "budget.usd=0.1", **prices)
        async with served(deployment) as url, plain_client() as plain:

            async def status(path: str) -> tuple[int, dict[str, Any]]:
                got = await plain.get(url.replace("/v1", path))
                return got.status_code, got.json()

            before = await status("/readyz")
            while (await plain.post(f"{url}/chat/completions", json=BODY)).status_code == 200:
                pass
            after = await status("/readyz")
            alive = await status("/healthz")
    assert before == (200, {"status": "ready"})
    assert after == (503, {"status": "unavailable", "reason": "cap_reached"})
    assert alive[0] == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_at_the_deadline_calls_in_flight_end_with_an_error(folder: Path, stream: bool) -> None:
    async with OpenAIServer(answer, delay=1.0) as backend:
        deployment = deployment_in(folder, backend)
        async with AsyncExitStack() as running:
            plain = await running.enter_async_context(plain_client())
            ending = AsyncExitStack()
            url = await ending.enter_async_context(served(deployment, limits=ServerLimits(drain_seconds=0.2)))
            call = asyncio.create_task(plain.post(f"{url}/chat/completions", json={**BODY, "stream": stream}))
            await until(lambda: backend.calls > 0)
            await ending.aclose()
            got = await call
    assert (got.status_code, got.json()["error"]["code"]) == (503, "shutting_down")
    assert backend.calls == 1


# OpenAPI


async def test_the_document_describes_every_route_and_what_is_answered(folder: Path) -> None:
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url, plain_client() as plain:
        root = url.removesuffix("/v1")
        document = (await plain.get(f"{root}/openapi.json")).json()
        found = {
            path: (await plain.get(root + path.replace("{model}", "toy"))).status_code for path in document["paths"]
        }
        wrong = await plain.post(f"{url}/chat/completions", json={"model": "toi"})
    assert document["openapi"] == "3.1.0"
    assert found == dict.fromkeys(document["paths"], 200) | {"/v1/chat/completions": 405, "/v1/responses": 405}
    assert str(wrong.status_code) in document["paths"]["/v1/chat/completions"]["post"]["responses"]
    schemas = document["components"]["schemas"]
    assert schemas["ChatCall"]["properties"]["model"]["examples"][:2] == ["toy", "toy/find"]
    for reference in json.dumps(document).split('"#/components/schemas/')[1:]:
        assert reference.partition('"')[0] in schemas


async def test_the_official_client_works_beside_the_limits(folder: Path) -> None:
    limits = replace(ServerLimits(), first_byte_seconds=1, head_seconds=1, body_seconds=1)
    async with OpenAIServer(answer) as backend, AsyncExitStack() as running:
        url = await running.enter_async_context(served(deployment_in(folder, backend), limits=limits))
        client = await running.enter_async_context(client_of(url))
        answers = [await client.chat.completions.create(model="toy", messages=user_message(w)) for w in "abc"]
        await asyncio.sleep(1.2)  # the connection is kept alive for longer than a first byte may take
        answers.append(await client.chat.completions.create(model="toy", messages=user_message("d")))
    assert len(answers) == 4
