"""Serves the page of a run on this machine while it changes: data, traces on demand, and server-sent events.

It reads the run's folder and the journal like `agentopt report`, in a thread of its own, and never writes to them.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from agentopt.core.errors import UserError
from agentopt.core.records import Split
from agentopt.core.usd_text import format_usd
from agentopt.report.page.build import json_for_html, live_page, page_data, policy
from agentopt.report.page.packing import TracePack
from agentopt.runs.archive import RunArchive
from agentopt.runs.traces import traces

HOST = "127.0.0.1"
POLL_SECONDS = 1.0
"""How often the run's folder is looked at."""

REST = 4
"""After a build, the next one waits this many times as long as it took."""

PING_SECONDS = 15.0
LOG_TAIL = 20_000
"""Bytes at the end of the log in which its last line is looked for."""
SPLITS: tuple[Split, ...] = ("validation", "test")


class PageServer:
    """The page of one run, at an address with a random token.

    Args:
        read: Reads the run; None before it exists. Called in a thread.
        changed: A value that differs whenever the run has changed. Called in a thread.
        token: The secret of the address.
    """

    def __init__(
        self, read: Callable[[], RunArchive | None], changed: Callable[[], Any], token: str | None = None
    ) -> None:
        self._read, self._state = read, changed
        self.token = token or secrets.token_urlsafe(24)
        self._worker = ThreadPoolExecutor(1, "agentopt-page")
        self._archive: RunArchive | None = None
        self._data = "null"
        self._version = 0
        self._latest: dict[str, str] = {}  # name of an event -> its last data, as JSON
        self._has_ended = False
        self._changed = asyncio.Event()
        self._hosts: frozenset[str] = frozenset()
        self._packs: dict[int, str] = {}
        self._seen: Any = None

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        """Serve inside the block, which receives the address.

        Args:
            port: TCP port; 0 for a free one.

        Raises:
            UserError: The port is in use.
        """
        app = web.Application(middlewares=[self._guarded])
        for path, handler in (("", self._page), ("data", self._json), ("events", self._events)):
            app.router.add_get(f"/{{token}}/{path}", handler, allow_head=False)
        app.router.add_get("/{token}/report/trial-{number}.js", self._traces, allow_head=False)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            await self._listen(runner, port)
            bound = runner.addresses[0][1]
            self._hosts = frozenset({f"{HOST}:{bound}", f"localhost:{bound}"})
            watching = asyncio.create_task(self._watch())
            try:
                yield f"http://{HOST}:{bound}/{self.token}/"
            finally:
                watching.cancel()
        finally:
            await runner.cleanup()
            self._worker.shutdown(wait=False, cancel_futures=True)

    async def _listen(self, runner: web.AppRunner, port: int) -> None:
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno else str(error)
            rule = f"cannot serve the page at {HOST}, port {port}: {reason}"
            raise UserError(rule, remedy="choose another --port, or omit it for a free one") from error

    def show(self, progress: dict[str, Any]) -> None:
        """Show the progress on the open pages."""
        self._latest["progress"] = json.dumps(progress)
        self._notify()

    async def end(self) -> None:
        """Build the page a last time, and send its end to the open pages."""
        await self._build()
        self._has_ended = True
        self._notify()

    def _notify(self) -> None:
        before, self._changed = self._changed, asyncio.Event()
        before.set()

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)

    async def _watch(self) -> None:
        while True:
            state = await self._in_thread(self._state)
            if state != self._seen:
                self._seen = state
                started = time.monotonic()
                await self._build()
                await asyncio.sleep(REST * (time.monotonic() - started))
            await asyncio.sleep(POLL_SECONDS)

    async def _build(self) -> None:
        try:
            built = await self._in_thread(self._built)
        except Exception as error:  # noqa: BLE001 - it is shown, the next change is tried, and the run goes on
            self._seen = None
            self._latest["failure"] = json.dumps(f"{type(error).__name__}: {error}")
        else:
            if built is None:
                return
            self._archive, self._data = built
            self._packs, self._version = {}, self._version + 1
            self._latest |= {"failure": '""', "page": str(self._version)}
        self._notify()

    def _built(self) -> tuple[RunArchive, str] | None:
        archive = self._read()
        if archive is None:
            return None
        data = {**page_data(archive, "report"), "progress": progress_of(archive)}
        if archive.state == "running":
            data["next"] = ["Nothing: this page follows the run, and has the verdict on the test split at its end."]
        return archive, json_for_html(data)

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse requests without the token, and those of web pages whose name leads to this machine."""
        given = request.path.removeprefix("/").partition("/")[0].encode(errors="replace")
        is_known = hmac.compare_digest(given, self.token.encode())
        if request.headers.getall("Host", []) not in [[host] for host in self._hosts] or not is_known:
            return web.Response(status=403, text="forbidden\n")
        if request.method != "GET":
            return web.Response(status=405, text="only GET is allowed\n", headers={"Allow": "GET"})
        return await handler(request)

    async def _page(self, _: web.Request) -> web.Response:
        page, scripts = live_page()
        headers = {**HEADERS, "Content-Security-Policy": f"{policy(scripts, live=True)}; frame-ancestors 'none'"}
        return web.Response(text=page, content_type="text/html", headers=headers)

    async def _json(self, _: web.Request) -> web.Response:
        response = web.Response(text=self._data, content_type="application/json", headers=HEADERS)
        response.enable_compression()
        return response

    async def _traces(self, request: web.Request) -> web.Response:
        archive = self._archive
        trials = archive.trials if archive else ()
        number = next((t.number for t in trials if str(t.number) == request.match_info["number"]), None)
        if archive is None or number is None:
            raise web.HTTPNotFound
        if number not in self._packs:
            self._packs[number] = await self._in_thread(_packed, archive, number)
        script = f"agentoptTraces({number}, {json.dumps(self._packs[number])});\n"
        return web.Response(text=script, content_type="text/javascript", headers=HEADERS)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        sent: dict[str, str] = {}
        while not self._has_ended or sent != self._latest:
            changed = self._changed
            for name, text in list(self._latest.items()):
                if sent.get(name) != text:
                    sent[name] = text
                    await response.write(f"event: {name}\ndata: {text}\n\n".encode())
            if self._has_ended:
                continue
            try:
                await asyncio.wait_for(changed.wait(), PING_SECONDS)
            except TimeoutError:
                await response.write(b": ping\n\n")
        await response.write(b"event: ended\ndata: 0\n\n")
        return response


HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _packed(archive: RunArchive, number: int) -> str:
    found = traces(archive, [(number, split) for split in SPLITS])
    return TracePack.of(archive, [number], found).packed()


def progress_of(archive: RunArchive) -> dict[str, Any]:
    """The progress by what is recorded, in the form of `RunProgress.snapshot`."""
    caps, count = archive.run.config.budget.caps(), len(archive.trials)
    calls = sum(usage.calls for usage in archive.spent.values())
    tokens = sum(usage.tokens for usage in archive.spent.values())
    usd = sum(usage.usd for usage in archive.spent.values())
    amounts = (
        ("trials", count, caps.trials, f"{count:,}"),
        ("calls", calls, caps.calls, f"{calls:,}"),
        ("tokens", tokens, caps.tokens, f"{tokens:,}"),
        ("USD", usd, caps.usd, format_usd(usd)),
        ("s", archive.spend.seconds, caps.seconds, f"{archive.spend.seconds:.0f}"),
    )
    spend = [[unit, used, cap, text if cap is None else f"{text} of {cap:,}"] for unit, used, cap, text in amounts]
    return {"activity": _last_message(archive), "spend": spend}


def _last_message(archive: RunArchive) -> str:
    """The message of the last line of the log, of which only the end is read."""
    try:
        with archive.run.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL))
            return str(json.loads(log.read().splitlines()[-1])["message"])
    except (OSError, ValueError, LookupError):
        return ""
