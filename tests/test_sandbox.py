"""Programs that a model wrote, in the sandbox: what they may do, what stops them, and what is told of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentopt.errors import UserError
from agentopt.sandbox.confinement import PROGRAM, Confinement, Limits, available
from agentopt.sandbox.runner import ProgramRun, Sandbox, working_confinement

LIMITS = Limits(cpu_seconds=2, wall_seconds=30, memory_bytes=300 * 2**20, processes=8, folder_bytes=2**23)
WAYS = list(available())

confined = pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])


@dataclass
class Unconfined:
    """Runs the program as it is: for tests of what surrounds it, with programs that do no harm."""

    name: str = "unconfined"
    describes: str = "nothing at all"
    seen: list[str] = field(default_factory=list)

    def command(self, folder: Path, limits: Limits) -> list[str]:
        self.seen.append((folder / PROGRAM).read_text(encoding="utf-8"))
        return [sys.executable, "-I", "-u", str(folder / PROGRAM)]


def run(way: Confinement, program: str, limits: Limits = LIMITS) -> ProgramRun:
    return Sandbox(limits, confinement=way).run_sync(program)


# What a program may do


@confined
def test_a_program_may_print_write_into_its_folder_and_start_threads(way: Confinement) -> None:
    program = """
import threading
open('note', 'w').write('kept')
thread = threading.Thread(target=lambda: print(open('note').read(), 'é', __name__))
thread.start()
thread.join()
"""
    assert run(way, program) == ProgramRun("finished", "kept é __main__\n")


@confined
def test_what_it_raises_is_shown_with_its_place_and_there_is_no_input(way: Confinement) -> None:
    ended = run(way, "print('before')\ninput()")
    assert (ended.ending, ended.why) == ("failed", "it ended with status 1")
    assert ended.output.startswith('before\nTraceback (most recent call last):\n  File "main.py", line 2')
    assert ended.output.endswith("EOFError: EOF when reading a line\n")


# What it may not


ATTEMPTS = """
import os, socket

def attempt(name, act):
    try:
        print(name, 'got', act())
    except OSError:
        print(name, 'refused')

print('variables', sorted(os.environ))
attempt('reading', lambda: open({secret!r}).read())
attempt('writing', lambda: open({secret!r}, 'a').write('x'))
attempt('a new file', lambda: open({folder!r} + '/new', 'w'))
attempt('the root', lambda: open('/agentopt-test-outside', 'w'))
attempt('shared memory', lambda: open('/dev/shm/agentopt-test', 'w'))
attempt('a connection', lambda: socket.create_connection(('127.0.0.1', {port}), 2))
attempt('a datagram', lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9)))
"""


@confined
def test_a_program_reaches_nothing_of_ours(way: Confinement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_KEY", "do-not-tell")
    secret = tmp_path / "secret"
    secret.write_text("do-not-tell")
    secret.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = run(way, ATTEMPTS.format(secret=str(secret), folder=str(tmp_path), port=port))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert ended.output.count("refused") == 7
    assert "got" not in ended.output
    assert "HOME" in ended.output
    assert "A_SECRET_KEY" not in ended.output
    assert secret.read_text() == "do-not-tell"
    assert list(tmp_path.iterdir()) == [secret]


@confined
def test_a_program_that_does_not_end_is_stopped(way: Confinement) -> None:
    ended = run(way, "import time\nprint('on')\ntime.sleep(600)", Limits(wall_seconds=2))
    assert (ended.ending, ended.why) == ("stopped", "it ran for more than 2 seconds")


CHILD = "import time\nfor i in range(100): print('a beat', flush=True); time.sleep(0.05)"


@confined
def test_nothing_of_it_goes_on_when_it_has_ended(way: Confinement) -> None:
    start = f"subprocess.Popen([sys.executable, '-c', {CHILD!r}], start_new_session=True)"
    ended = run(way, f"import subprocess, sys, time\n{start}\ntime.sleep(0.5)")
    assert ended.ok
    assert ended.output.count("a beat") < 100
    assert are_gone(b"'a beat'")


def are_gone(mark: bytes) -> bool:
    """Whether no process on this machine has `mark` in its command line. The kernel may take a moment to end many."""
    for _ in range(200):
        if not any(mark in line for line in command_lines()):
            return True
        time.sleep(0.1)
    return False


def command_lines() -> Iterator[bytes]:
    """Of every other process on this machine."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):  # it may have just ended
                yield (folder / "cmdline").read_bytes()


@pytest.mark.faults
@confined
@pytest.mark.parametrize(
    ("program", "sign"),
    [
        ("import pathlib\npathlib.Path('/tmp/agentopt-test-outside').write_text('x')", "Error"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 22), 2)", "Error"),
        ("for i in range(100): open(f'f{i}', 'wb').write(b'x' * 1_000_000)", "No space left"),
        ("open('f', 'wb').write(b'x' * 9_000_000)", "File too large"),
        ("while True: print('words ' * 1000)", "words"),
    ],
)
def test_each_of_these_is_the_failure_of_the_program(way: Confinement, program: str, sign: str) -> None:
    ended = run(way, program)
    assert ended.ending == "failed"
    assert sign in ended.output
    assert len(ended.output) < 3000
    assert not Path("/tmp/agentopt-test-outside").exists()


@pytest.mark.faults
@confined
def test_an_endless_loop_is_stopped(way: Confinement) -> None:
    ended = run(way, "print('on')\nwhile True: pass", Limits(cpu_seconds=1, wall_seconds=60))
    assert (ended.ending, ended.output) == ("stopped", "on\n")
    assert ended.why == "it took more than 1 seconds of processor time"


@pytest.mark.faults
@confined
def test_two_gigabytes_of_memory_are_refused(way: Confinement) -> None:
    ended = run(way, "held = bytearray(2 * 2**30)\nprint('got it')")
    assert ended.ending in {"failed", "stopped"}
    assert "got it" not in ended.output


FORKS = """
import os, time
n = 0
try:
    while n < 50:
        if os.fork() == 0:
            time.sleep(9)
            os._exit(0)
        n += 1
finally:
    print('forked', n)
"""
BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


@pytest.mark.faults
@confined
def test_a_fork_bomb_stays_small_and_ends(way: Confinement) -> None:
    counted = run(way, FORKS)
    assert counted.ending == "failed"
    assert "BlockingIOError" in counted.output
    assert int(counted.output.partition("forked ")[2].split()[0]) < LIMITS.processes
    bomb = run(way, BOMB, Limits(2, 6.0, processes=8))
    assert bomb.ending == "stopped"
    assert are_gone(f"-u\0{PROGRAM}\0".encode())


# Which sandbox


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="programs are confined on Linux only")
def test_this_machine_has_a_way_that_works_and_it_says_which() -> None:
    assert Sandbox().kind in {"bubblewrap", "sandlock"}
    assert working_confinement().describes.startswith(Sandbox().kind)


def test_a_machine_that_cannot_confine_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match="none is installed") as refused:
        working_confinement([])
    assert "bubblewrap" in str(refused.value.remedy)


def test_a_way_that_does_not_confine_is_found_out() -> None:
    with pytest.raises(UserError, match=r"unconfined .*it could write outside its folder"):
        working_confinement([Unconfined()])


def test_the_first_way_that_works_is_taken() -> None:
    for way in WAYS[:1]:
        assert working_confinement([Unconfined(), way]) is way


@pytest.mark.skipif(not WAYS, reason="no way to confine is installed")
def test_a_python_that_is_reached_through_a_link_runs_programs_too(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(os.path.realpath(sys.base_prefix))
    linked = tmp_path / "python" / Path(os.path.realpath(sys.executable)).relative_to(os.path.realpath(sys.base_prefix))
    code = "from agentopt.sandbox.runner import Sandbox; print(Sandbox().run_sync('print(6 * 7)').output, end='')"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [linked, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[1],
    )
    assert (done.stdout, done.stderr) == ("42\n", "")


# What surrounds it


def test_a_long_output_loses_its_middle() -> None:
    sandbox = Sandbox(confinement=Unconfined(), shown=20)
    assert sandbox.run_sync("print('a' * 500 + 'b' * 500)").output == "a" * 10 + "\n[...]\n" + "b" * 9 + "\n"
    assert sandbox.run_sync("print('short')").output == "short\n"


def test_addresses_and_folders_are_not_told_since_they_differ_from_run_to_run() -> None:
    sandbox = Sandbox(confinement=Unconfined())
    program = "import os, sys\nprint(object())\nprint(__file__, os.path.realpath(sys.base_prefix))"
    assert sandbox.run_sync(program).output == "<object object at 0x...>\nmain.py <python>\n"


async def test_a_program_is_run_once_however_often_it_is_asked_for() -> None:
    way = Unconfined()
    sandbox = Sandbox(confinement=way)
    runs = [await sandbox.run("import random\nprint(random.random())") for _ in range(3)]
    assert len(set(runs)) == len(way.seen) == 1


async def test_programs_run_beside_the_event_loop() -> None:
    sandbox = Sandbox(confinement=Unconfined(), parallel=2)
    waiting = asyncio.create_task(sandbox.run("import time\ntime.sleep(0.3)"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert (await waiting).ok


@pytest.mark.parametrize(
    ("program", "ending", "why"),
    [
        ("", "finished", ""),
        ("raise SystemExit(3)", "failed", "it ended with status 3"),
        ("def broken(:", "failed", "it ended with status 1"),
        ("print('\ud800')", "finished", ""),
        ("import os\nos.kill(os.getpid(), 9)", "stopped", "it was ended by signal 9"),
    ],
)
def test_how_a_program_ended_is_told(program: str, ending: str, why: str) -> None:
    ended = Sandbox(confinement=Unconfined()).run_sync(program)
    assert (ended.ending, ended.why) == (ending, why)
