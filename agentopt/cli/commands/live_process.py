"""The live page of a run: its server in this process, or beside `agentopt optimize` in a process of its own.

In its own process, building a page takes no time from the run, and its failure is none of the run. Requests are
lines of JSON on stdin: first the port and the settings, then the run's folder, its progress and its end. The
end of stdin ends it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from agentopt.cli.run_names import archive_of
from agentopt.core.errors import UserError
from agentopt.report.page.server import PageServer
from agentopt.runs.archive import RunArchive, open_archive

SEND_SECONDS = 0.5
END_SECONDS = 20.0
"""Most seconds that the command waits for the last page."""

IN_PYTHON = "call agentopt.report.page.build.write_page with an archive of the run and the task"


class Watched:
    """A run that changes.

    Args:
        run: Name or path; None until it is known.
        settings: `-c` options.
    """

    def __init__(self, run: Path | None, settings: Sequence[str]) -> None:
        self.run, self._settings = run, settings
        self._archive: RunArchive | None = None

    def read(self) -> RunArchive | None:
        """Read the run; its task is loaded once. None before it has started."""
        if self.run is None:
            return None
        if self._archive is None:
            self._archive = archive_of(self.run, self._settings, in_python=IN_PYTHON)
        else:
            self._archive = open_archive(self._archive.run, self._archive.task, self._archive.specs)
        return self._archive

    def state(self) -> tuple[Any, ...]:
        """Sizes of what the run writes, and whether its process has ended."""
        if self._archive is None:
            return (self.run,)
        run = self._archive.run
        sizes = [_size(path) for path in (run.log, run.record, run.path / "result.json")]
        # The lock is taken for a moment to see this, so only while the run's process should hold it.
        ended = self._archive.state == "running" and not run.is_locked
        return (*sizes, ended)


def _size(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def serve_report(
    run: Path, settings: Sequence[str], port: int, *, open_page: bool, on_start: Callable[[str], None]
) -> None:
    """`agentopt report RUN --live`: serve until Ctrl-C."""
    watched = Watched(run, settings)
    watched.read()  # a mistake is reported before anything is served

    async def main() -> None:
        server = PageServer(watched.read, watched.state)
        async with server.serving(port) as address:
            on_start(address)
            if open_page:
                webbrowser.open(address)
            await asyncio.Event().wait()

    with suppress(KeyboardInterrupt):
        asyncio.run(main())


class LiveProcess:
    """The other side: the process of the page, beside the run.

    Attributes:
        address: Where the page is.
        run: The run's folder, once it is known.
    """

    def __init__(self, child: subprocess.Popen[str], snapshot: Callable[[], dict[str, Any]]) -> None:
        self.run: Path | None = None
        self.address = ""
        self._child, self._snapshot = child, snapshot
        self._ended = threading.Event()

    def send(self, message: dict[str, Any]) -> None:
        """Send one line. Raises `OSError` if the process has ended."""
        assert self._child.stdin
        self._child.stdin.write(json.dumps(message) + "\n")
        self._child.stdin.flush()

    def follow(self) -> None:
        """Send the progress now and then, until `end`. Runs in a thread: a full pipe does not hold the run back."""
        sent = None
        with suppress(OSError, ValueError):
            while not self._ended.wait(SEND_SECONDS):
                message = {"run": str(self.run) if self.run else None, "progress": self._snapshot()}
                if message != sent:
                    self.send(message)
                    sent = message
            self.send({"run": str(self.run) if self.run else None, "progress": self._snapshot(), "done": True})

    def end(self, thread: threading.Thread) -> None:
        """Send the end, and wait for the last page."""
        try:
            self._ended.set()
            thread.join(END_SECONDS)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(END_SECONDS)
        finally:
            self.close()

    def close(self) -> None:
        """End the process, if it has not ended."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe
            with suppress(OSError):
                pipe.close()


@contextmanager
def live_process(port: int, settings: Sequence[str], snapshot: Callable[[], dict[str, Any]]) -> Iterator[LiveProcess]:
    """Serve the page inside the block.

    Raises:
        UserError: The port is in use.
    """
    command = [sys.executable, "-m", "agentopt.cli.commands.live_process"]
    pipe = subprocess.PIPE
    # Its own session: Ctrl-C is for the run, which ends this process.
    child = subprocess.Popen(  # noqa: S603 - our own module
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    live = LiveProcess(child, snapshot)
    thread = threading.Thread(target=live.follow, name="agentopt-live", daemon=True)
    try:
        assert child.stdout
        live.send({"port": port, "settings": list(settings)})
        reply = json.loads(child.stdout.readline() or "{}")
        if "address" not in reply:
            raise UserError(
                reply.get("rule", "the live page cannot be served"), remedy=reply.get("remedy", "omit --live")
            )
    except BaseException:
        live.close()
        raise
    live.address = reply["address"]
    thread.start()
    try:
        yield live
    finally:
        live.end(thread)


async def _main(requests: IO[str], replies: IO[str]) -> None:
    first = json.loads(requests.readline())
    watched = Watched(None, first["settings"])
    server, loop, ended = PageServer(watched.read, watched.state), asyncio.get_running_loop(), asyncio.Event()
    done = asyncio.Event()

    def take(message: dict[str, Any]) -> None:
        watched.run = Path(message["run"]) if message["run"] else None
        server.show(message["progress"])
        if message.get("done"):
            done.set()

    def receive() -> None:
        for line in requests:
            loop.call_soon_threadsafe(take, json.loads(line))
            if '"done": true' in line[-20:]:
                return
        loop.call_soon_threadsafe(ended.set)

    try:
        async with server.serving(first["port"]) as address:
            print(json.dumps({"address": address}), file=replies, flush=True)
            threading.Thread(target=receive, daemon=True).start()
            waits = [asyncio.create_task(event.wait()) for event in (done, ended)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if done.is_set():
                await server.end()
                await asyncio.sleep(1.0)  # the open pages read the last data
    except UserError as error:
        print(json.dumps({"rule": error.message, "remedy": error.remedy}), file=replies, flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.stdin, sys.stdout))
