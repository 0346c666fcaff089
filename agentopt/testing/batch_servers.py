"""Loopback servers with the batch interfaces of OpenAI and of Anthropic, which count what they execute.

`OpenAIBatchServer` and `AnthropicBatchServer` answer single calls like the servers they extend. The requests of a batch
are executed when it ends; from then on they are among `requests`, as if they had been sent singly.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

from agentopt.testing.faults import BREAKAGES, STATUS_OF_KIND
from agentopt.testing.servers import AnthropicServer, LoopbackServer, OpenAIServer, Received

Fate = Literal["expired", "cancelled", "missing", "not_json", "huge"] | int
"""The end of one request of a batch: an HTTP status; `expired`, `cancelled`: not executed; `missing`: no result;
`not_json`: a result that cannot be read; `huge`: a result of 17 MiB."""
ERROR_TYPES = {400: "invalid_request_error", 429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}
"""HTTP status -> type of Anthropic's error."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What happens to the batches of a server."""

    polls: int = 1
    """Polls that find a batch in progress before it ends."""
    seconds: float = 0.0
    """Least seconds until a batch ends."""
    fates: Mapping[int, Fate] = field(default_factory=dict)
    """Place of a request in its batch -> its end; the others are answered."""
    refused: Mapping[str, Any] | None = None
    """The error with which a batch is refused after it was created (OpenAI)."""
    vanishes: bool = False
    """Whether a batch is gone after `polls`."""
    seed: int = 0
    """Seed of the order of results."""
    gzip: bool = False
    """Whether results are compressed, though that was not requested."""
    cut: int = 0
    """Bytes that the first download of results lacks at its end, as of a file that is still being written."""


@dataclass(slots=True)
class ServedBatch:
    """One batch of a server."""

    id: str
    entries: list[dict[str, Any]]
    created: float
    label: str | None = None
    polls: int = 0
    ended: str = ""
    """The state in which it ended; empty before."""
    is_cancelled: bool = False
    results: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)


class BatchServer(LoopbackServer):
    """Base class of the servers with batches.

    Args:
        answer: Answer function, as of `LoopbackServer`.
        plan: What happens to the batches.
        clock: Monotonic time in seconds.
        options: Further arguments of `LoopbackServer`; faults apply to the calls of the batch interface too.

    Attributes:
        batches: All batches by id.
        operations: Calls of the batch interface by operation, those that failed included.
        headers: Headers of the last call that created a batch.
    """

    cursor = "after"
    """Parameter of a list that holds the id of the last batch of the page before."""
    page = 2
    """Batches on a page of a list."""

    def __init__(
        self,
        *arguments: Any,
        plan: BatchPlan | None = None,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.plan = plan or BatchPlan()
        self.batches: dict[str, ServedBatch] = {}
        self.operations: Counter[str] = Counter()
        self.headers: Mapping[str, str] = {}
        self._clock = clock
        self._operations = 0

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=256 * 2**20)
        app.add_routes([web.post(route, self._handle) for route in self.routes])
        for method, path, name, handler in self._interface():
            app.router.add_route(method, path, self._operation(name, handler))
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        return self

    @property
    def executed(self) -> Counter[str]:
        """How often each request was executed, by `Received.key` and seed."""
        return Counter(f"{one.key}:{one.seed}" for one in self.requests)

    @abstractmethod
    def _interface(self) -> Iterator[tuple[str, str, str, Callable[..., Any]]]:
        """Method, path, name and handler of each operation."""

    @abstractmethod
    def _result(self, entry: dict[str, Any], fate: Fate | None) -> dict[str, Any]:
        """The line of one request of a batch that ended; `expired` and HTTP statuses are errors."""

    @abstractmethod
    def _shown(self, batch: ServedBatch) -> dict[str, Any]:
        """A batch as the interface returns it."""

    async def _list(self, request: web.Request) -> web.StreamResponse:
        newest_first = [*self.batches.values()][::-1]
        after = request.query.get(self.cursor)
        start = 1 + [batch.id for batch in newest_first].index(after) if after else 0
        page = newest_first[start : start + self.page]
        for batch in page:
            self._poll(batch)
        is_more = start + self.page < len(newest_first)
        return web.json_response({"data": [*map(self._shown, page)], "has_more": is_more})

    def _operation(self, name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.operations[name] += 1
            fault = self._faults.of_request(self._operations)
            self._operations += 1
            if not self._authorised(request):
                return self._error(401, f"Incorrect API key provided: {self._key_sent(request)}")
            status = fault if isinstance(fault, int) else STATUS_OF_KIND.get(fault) if fault else None
            if status is not None:
                return self._error(status, f"{self._faults.message} {fault}")
            if fault == "drop" and name == "create":
                await handler(request)  # the batch exists, and the client does not know
            if fault is not None:
                return await BREAKAGES[str(fault)](request)
            answer: web.StreamResponse = await handler(request)
            return answer

        return handle

    def _create(self, entries: list[dict[str, Any]], request: web.Request, label: str | None = None) -> ServedBatch:
        batch = ServedBatch(f"batch_{len(self.batches)}", entries, self._clock(), label)
        self.batches[batch.id] = batch
        self.headers = dict(request.headers)
        return batch

    def _find(self, request: web.Request) -> ServedBatch | None:
        batch = self.batches.get(request.match_info["id"])
        return None if batch and self.plan.vanishes and batch.polls >= self.plan.polls else batch

    def _poll(self, batch: ServedBatch) -> None:
        batch.polls += 1
        is_time = batch.polls > self.plan.polls and self._clock() - batch.created >= self.plan.seconds
        if not batch.ended and (is_time or batch.is_cancelled):
            self._end(batch)

    def _end(self, batch: ServedBatch) -> None:
        if self.plan.refused is not None:
            batch.ended = "refused"
            return
        batch.ended = "cancelled" if batch.is_cancelled else "ended"
        for place, entry in enumerate(batch.entries):
            fate = self.plan.fates.get(place)
            if batch.is_cancelled:
                fate = fate if place == 0 else "cancelled"  # one was in progress
            batch.ended = "expired" if fate == "expired" else batch.ended
            line = _line(self._result(entry, fate), fate)
            if fate != "missing":
                is_error = fate in ("expired", "cancelled") or isinstance(fate, int)
                (batch.errors if is_error else batch.results).append(line)
        for lines in (batch.results, batch.errors):
            random.Random(self.plan.seed).shuffle(lines)

    def _execute(self, path: str, body: dict[str, Any], fate: Fate | None) -> dict[str, Any]:
        """Execute one request; the body of its response."""
        arrived = asyncio.get_running_loop().time()
        self._record(Received(body, self.headers, arrived, "ok" if fate is None else str(fate)))
        if isinstance(fate, int):
            return {"type": "error", "error": {"type": ERROR_TYPES[fate], "message": f"planted {fate}"}}
        return self._completion(path, body, self._choices(body))

    def _sent_lines(self, lines: list[bytes]) -> web.Response:
        body = b"".join(line + b"\n" for line in lines)
        if self.operations["results"] == 1:
            body = body[: max(len(body) - self.plan.cut, 0)]
        response = web.Response(body=body, content_type="application/jsonl")
        if self.plan.gzip:
            response.enable_compression(web.ContentCoding.gzip)
        return response


def _line(result: dict[str, Any], fate: Fate | None) -> bytes:
    if fate == "not_json":
        return b"{not json"
    return json.dumps({**result, "padding": "x" * (17 << 20)} if fate == "huge" else result).encode()


class OpenAIBatchServer(BatchServer, OpenAIServer):
    """An OpenAI server with files and batches.

    Args:
        arguments: Arguments of `BatchServer`.
        options: Further arguments of `BatchServer` and of `OpenAIServer`.

    Attributes:
        files: Contents of the uploaded files by id.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.files: dict[str, bytes] = {}

    def _interface(self) -> Iterator[tuple[str, str, str, Callable[..., Any]]]:
        yield "POST", "/v1/files", "upload", self._upload
        yield "GET", "/v1/files/{id}/content", "results", self._content
        yield "POST", "/v1/batches", "create", self._create_batch
        yield "GET", "/v1/batches", "list", self._list
        yield "GET", "/v1/batches/{id}", "poll", self._get
        yield "POST", "/v1/batches/{id}/cancel", "cancel", self._cancel

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        file = form["file"]
        if form["purpose"] != "batch" or not isinstance(file, web.FileField):
            return self._error(400, "expected a file with the purpose batch")
        name = f"file-{len(self.files)}"
        self.files[name] = file.file.read()
        return web.json_response({"id": name, "object": "file", "bytes": len(self.files[name]), "purpose": "batch"})

    async def _create_batch(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        entries = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        if body["completion_window"] != "24h" or any(entry["url"] != body["endpoint"] for entry in entries):
            return self._error(400, "expected a window of 24h, and the endpoint of the batch in every line")
        if len({entry["body"]["model"] for entry in entries}) > 1:
            return self._error(400, "expected one model in a batch")
        return web.json_response(
            self._shown(self._create(entries, request, (body.get("metadata") or {}).get("agentopt")))
        )

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if (batch := self._find(request)) is None:
            return self._error(404, f"No batch found with id '{request.match_info['id']}'.")
        self._poll(batch)
        return web.json_response(self._shown(batch))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        if (batch := self._find(request)) is None:
            return self._error(404, f"No batch found with id '{request.match_info['id']}'.")
        batch.is_cancelled = True
        return web.json_response(self._shown(batch))

    async def _content(self, request: web.Request) -> web.StreamResponse:
        kind, _, batch_id = request.match_info["id"].partition("-of-")
        if batch_id not in self.batches:
            return self._error(404, f"No such File object: {request.match_info['id']}")
        batch = self.batches[batch_id]
        return self._sent_lines(batch.results if kind == "output" else batch.errors)

    def _shown(self, batch: ServedBatch) -> dict[str, Any]:
        waiting = "cancelling" if batch.is_cancelled else "validating" if not batch.polls else "in_progress"
        status = {"": waiting, "ended": "completed", "refused": "failed"}.get(batch.ended, batch.ended)
        done, failed = len(batch.entries) if batch.ended else 0, len(batch.errors)
        counts = {"total": len(batch.entries), "completed": done - failed, "failed": failed}  # lost lines count, too
        return {
            "id": batch.id,
            "object": "batch",
            "status": status,
            "errors": {"object": "list", "data": [self.plan.refused]} if batch.ended == "refused" else None,
            "output_file_id": f"output-of-{batch.id}" if batch.results else None,
            "error_file_id": f"error-of-{batch.id}" if batch.errors else None,
            "request_counts": counts,
            "metadata": {"agentopt": batch.label} if batch.label else None,
        }

    def _result(self, entry: dict[str, Any], fate: Fate | None) -> dict[str, Any]:
        head = {"id": f"batch_req_{entry['custom_id']}", "custom_id": entry["custom_id"]}
        if fate in ("expired", "cancelled"):
            return {**head, "response": None, "error": {"code": f"batch_{fate}", "message": f"The batch is {fate}."}}
        status = fate if isinstance(fate, int) else 200
        body = self._execute(entry["url"], entry["body"], fate)
        return {**head, "response": {"status_code": status, "request_id": "loopback", "body": body}, "error": None}


class AnthropicBatchServer(BatchServer, AnthropicServer):
    """An Anthropic server with message batches.

    Args:
        arguments: Arguments of `BatchServer`.
        options: Further arguments of `BatchServer`.
    """

    cursor = "after_id"

    def _interface(self) -> Iterator[tuple[str, str, str, Callable[..., Any]]]:
        yield "POST", "/v1/messages/batches", "create", self._create_batch
        yield "GET", "/v1/messages/batches", "list", self._list
        yield "GET", "/v1/messages/batches/{id}", "poll", self._get
        yield "GET", "/v1/messages/batches/{id}/results", "results", self._content
        yield "POST", "/v1/messages/batches/{id}/cancel", "cancel", self._cancel

    async def _create_batch(self, request: web.Request) -> web.StreamResponse:
        if "anthropic-version" not in request.headers:
            return self._error(400, "anthropic-version: header is required")
        entries = (await request.json())["requests"]
        if len({entry["custom_id"] for entry in entries}) < len(entries):
            return self._error(400, "custom_id must be unique")
        return web.json_response(self._shown(self._create(entries, request)))

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if (batch := self._find(request)) is None:
            return self._error(404, "batch not found")
        self._poll(batch)
        return web.json_response(self._shown(batch))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        if (batch := self._find(request)) is None:
            return self._error(404, "batch not found")
        batch.is_cancelled = True
        return web.json_response(self._shown(batch))

    async def _content(self, request: web.Request) -> web.StreamResponse:
        if (batch := self._find(request)) is None or not batch.ended:
            return self._error(404, "no results")
        return self._sent_lines([*batch.errors, *batch.results])

    def _shown(self, batch: ServedBatch) -> dict[str, Any]:
        status = "ended" if batch.ended else "canceling" if batch.is_cancelled else "in_progress"
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        counts["succeeded" if batch.ended else "processing"] = len(batch.entries)
        # As the interface has it, to a host that must not receive the key.
        url = "http://results.invalid/batch" if batch.ended else None
        head = {"id": batch.id, "type": "message_batch", "processing_status": status, "archived_at": None}
        return {**head, "request_counts": counts, "results_url": url}

    def _result(self, entry: dict[str, Any], fate: Fate | None) -> dict[str, Any]:
        if fate in ("expired", "cancelled"):
            kind = "canceled" if fate == "cancelled" else "expired"
            return {"custom_id": entry["custom_id"], "result": {"type": kind}}
        answer = self._execute("/v1/messages", entry["params"], fate)
        result = {"type": "succeeded", "message": answer}
        return {
            "custom_id": entry["custom_id"],
            "result": {"type": "errored", "error": answer} if isinstance(fate, int) else result,
        }
