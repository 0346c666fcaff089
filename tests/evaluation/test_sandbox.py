"""Programs that a model wrote, in the sandbox: what they may do, what stops them, and how they are reported."""

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

from agentopt.core.errors import UserError
from agentopt.evaluation.sandbox.confinement import PROGRAM, Confinement, SandboxLimits, available
from agentopt.evaluation.sandbox.sandbox import Sandbox, SandboxResult, working_confinement
from agentopt.evaluation.sandbox.usage import ProcessUsage, usage_below

LIMITS = SandboxLimits(cpu_seconds=2, wall_seconds=30, memory_bytes=300 * 2**20, processes=8, folder_bytes=2**23)
WAYS = list(available())

confined = pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])


@dataclass
class Unconfined:
    """Runs the program as it is: for tests of what surrounds it, with programs that do no harm."""

    name: str = "unconfined"
    keepers: int = 0
    describes: str = "nothing at all"
    seen: list[str] = field(default_factory=list)

    def command(self, folder: Path, limits: SandboxLimits) -> list[str]:
        self.seen.append((folder / PROGRAM).read_text(encoding="utf-8"))
        return [sys.executable, "-I", "-u", str(folder / PROGRAM)]


def run(way: Confinement, program: str, limits: SandboxLimits = LIMITS) -> SandboxResult:
    return Sandbox(limits, confinement=way).run_sync(program)


# Allowed


@confined
def test_a_program_may_print_write_into_its_folder_and_start_threads(way: Confinement) -> None:
    program = """
import threading
open('note', 'w').write('kept')
thread = threading.Thread(target=lambda: print(open('note').read(), 'é', __name__))
thread.start()
thread.join()
"""
    assert run(way, program) == SandboxResult("finished", "kept é __main__\n")


@confined
def test_what_it_raises_is_shown_with_its_place_and_there_is_no_input(way: Confinement) -> None:
    ended = run(way, "print('before')\ninput()")
    assert (ended.ending, ended.why) == ("failed", "it ended with status 1")
    assert ended.output.startswith('before\nTraceback (most recent call last):\n  File "main.py", line 2')
    assert ended.output.endswith("EOFError: EOF when reading a line\n")


# Forbidden


def unwatched(program: str) -> str:
    """The program in an interpreter that nothing watches, so that what refuses it is the kernel."""
    return f"import os, sys\nos.execv(sys.executable, [sys.executable, '-I', '-u', '-c', {program!r}])"


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
        ended = run(way, unwatched(ATTEMPTS.format(secret=str(secret), folder=str(tmp_path), port=port)))
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
    ended = run(way, "import time\nprint('on')\ntime.sleep(600)", SandboxLimits(wall_seconds=2))
    assert (ended.ending, ended.why) == ("stopped", "it ran for more than 2 seconds")


CHILD = "import time\nfor i in range(100): print('a beat', flush=True); time.sleep(0.05)"


@confined
def test_no_process_survives_the_end_of_the_program(way: Confinement) -> None:
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


@confined
@pytest.mark.parametrize(
    ("act", "told"),
    [
        ("open('/tmp/agentopt-test-outside', 'w')", "write outside its folder (open '/tmp/agentopt-test-outside')"),
        ("os.mkdir('../agentopt-test-outside')", "write outside its folder (os.mkdir '../agentopt-test-outside')"),
        ("os.rename('main.py', '/agentopt-test-outside')", "write outside its folder (os.rename '/agentopt-test"),
        ("socket.socket()", "open a socket (socket.__new__)"),
        ("socket.create_connection(('localhost', 22), 2)", "open a socket (socket.getaddrinfo)"),
        ("socket.socket(socket.AF_UNIX).bind('here')", "open a socket (socket.bind)"),
        ("threading.Thread(target=socket.socket).start(); time.sleep(9)", "open a socket"),
        ("os.fork() or socket.socket(); time.sleep(9)", "open a socket"),
    ],
)
def test_a_forbidden_act_ends_the_program_though_it_would_catch_the_refusal(
    way: Confinement, act: str, told: str
) -> None:
    program = (
        f"import os, socket, threading, time\nprint('on')\ntry:\n    {act}\nexcept OSError:\n    pass\nprint('off')"
    )
    ended = run(way, program)
    assert (ended.ending, ended.why) == ("stopped", "it made a forbidden call, which its last line names")
    assert ended.output.startswith("on\n\nStopped by the sandbox: a program may not ")
    assert told in ended.output
    assert "off" not in ended.output


@confined
def test_what_only_looks_forbidden_is_allowed(way: Confinement) -> None:
    program = """
import asyncio, os, shutil, sqlite3, subprocess, tempfile
asyncio.run(asyncio.sleep(0))
with tempfile.TemporaryDirectory() as folder:
    open(folder + '/note', 'w').close()
    os.makedirs(folder + '/a/b')
    shutil.move(folder + '/note', 'note')
sqlite3.connect(':memory:').close()
sqlite3.connect('rows.db').close()
open(os.devnull, 'w').close()
with open(1, 'w', closefd=False) as out:
    out.write('all of it')
"""
    assert run(way, program) == SandboxResult("finished", "all of it")


@confined
def test_a_broken_program_is_reported_as_python_reports_it(way: Confinement) -> None:
    assert run(way, "def broken(:").output.startswith('  File "main.py", line 1\n    def broken(:\n')
    nested = run(way, "try:\n    1/0\nexcept ZeroDivisionError:\n    missing")
    assert "launch" not in nested.output
    assert nested.output.count('File "main.py"') == 2


@pytest.mark.faults
@confined
def test_an_endless_loop_is_stopped(way: Confinement) -> None:
    ended = run(way, "print('on')\nwhile True: pass", SandboxLimits(cpu_seconds=1, wall_seconds=60))
    assert (ended.ending, ended.output) == ("stopped", "on\n")
    assert ended.why == "it took more than 1 seconds of processor time"


@pytest.mark.faults
@confined
def test_two_gigabytes_of_memory_are_refused(way: Confinement) -> None:
    ended = run(way, "held = bytearray(2 * 2**30)\nprint('got it')")
    assert ended.ending in {"failed", "stopped"}
    assert "got it" not in ended.output


# Each child could hold the memory that it requests; together they would take 2 GB.
SPREAD = """
import os, time
for _ in range(7):
    if os.fork() == 0:
        held = bytearray(b'x') * (250 * 2**20)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""


@pytest.mark.faults
def test_memory_is_bounded_also_where_it_is_spread_over_processes() -> None:
    for way in (way for way in WAYS if way.name == "bubblewrap"):  # sandlock refuses each child immediately
        ended = run(way, SPREAD, SandboxLimits(total_memory_bytes=2**29))
        assert (ended.ending, ended.why) == ("stopped", "it took more than 512 MiB of memory")


SPIN = """
import os
for _ in range(5):
    if os.fork() == 0:
        break
while True:
    pass
"""


@pytest.mark.faults
@confined
def test_processor_time_is_bounded_also_where_it_is_spread_over_processes(way: Confinement) -> None:
    ended = run(way, SPIN, SandboxLimits(cpu_seconds=2, wall_seconds=60))
    assert (ended.ending, ended.why) == ("stopped", "it took more than 2 seconds of processor time")


FORKS = """
import os, time
for _ in range(50):
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    except OSError:
        pass
time.sleep(60)
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
    assert (counted.ending, counted.why) == ("stopped", "it had more than 8 processes and threads")
    bomb = run(way, BOMB, SandboxLimits(2, 6.0, processes=8))
    assert bomb.ending == "stopped"
    assert are_gone(f'"file": "{PROGRAM}"'.encode())


# Memory and namespaces that other limits do not see

SHARES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
calls = {
    'shmget': lambda: libc.shmget(0, 2**20, 0o1600),
    'msgget': lambda: libc.msgget(0, 0o1600),
    'memfd_create': lambda: libc.memfd_create(b'a', 0),
    'mq_open': lambda: ctypes.CDLL('librt.so.1').mq_open(b'/a', 0o102, 0o600, None),
    'unshare': lambda: libc.unshare(0x10000000),
    'unshare net': lambda: libc.unshare(0x50000000),
    'setns': lambda: libc.setns(0, 0),
    'bpf': lambda: libc.syscall({'x86_64': 321, 'aarch64': 280}[os.uname().machine], 0, 0, 0),
    'io_uring_setup': lambda: libc.syscall(425, 1, 0),
    'clone': lambda: libc.syscall({'x86_64': 56, 'aarch64': 220}[os.uname().machine], 0x10000011, 0, 0, 0, 0),
    'clone3': lambda: libc.syscall(435, (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17), 88),
}
for name, call in calls.items():
    result = call()
    if result == 0 and name.startswith('clone'):
        os._exit(0)
    print(name, 'refused' if result == -1 else 'got it', flush=True)
"""


@confined
@pytest.mark.parametrize("watched", [True, False])
def test_shared_memory_and_namespaces_are_refused(way: Confinement, watched: bool) -> None:
    ended = run(way, SHARES if watched else unwatched(SHARES))
    assert ended.ending == "finished"
    assert ended.output.count("refused") == len(ended.output.splitlines()) == 11


HIDDEN = """
import mmap, time
held = mmap.mmap(-1, 160 * 2**20)
for place in range(0, len(held), 4096):
    held[place] = 1
held.madvise(mmap.MADV_DONTNEED)
time.sleep(60)
"""

HANDED_OVER = """
import mmap, os, time
for _ in range(4):
    held = mmap.mmap(-1, 50 * 2**20)
    for place in range(0, len(held), 4096):
        held[place] = 1
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    held.close()
time.sleep(60)
"""


@confined
@pytest.mark.parametrize("program", [HIDDEN, HANDED_OVER])
def test_shared_memory_counts_though_it_is_resident_in_no_process(way: Confinement, program: str) -> None:
    limits = SandboxLimits(cpu_seconds=10, wall_seconds=30, memory_bytes=300 * 2**20, total_memory_bytes=150 * 2**20)
    ended = run(way, program, limits)
    assert (ended.ending, ended.why) == ("stopped", "it took more than 150 MiB of memory")


@confined
def test_the_number_of_processes_is_bounded(way: Confinement) -> None:
    ended = run(way, FORKS)
    assert (ended.ending, ended.why) == ("stopped", "it had more than 8 processes and threads")


@confined
def test_a_program_may_still_fork_start_threads_and_share_memory(way: Confinement) -> None:
    program = """
import mmap, os, subprocess, sys, threading
shared = mmap.mmap(-1, 2**20)
if os.fork() == 0:
    shared[0] = 7
    os._exit(0)
os.wait()
threading.Thread(target=lambda: print('thread', flush=True)).start()
print(subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True, text=True).stdout.strip(), shared[0])
"""
    ended = run(way, program)
    assert (ended.ending, set(ended.output.split())) == ("finished", {"thread", "1", "7"})


def test_usage_is_that_of_all_descendants_but_the_keepers() -> None:
    program = "import os, threading, time\nif os.fork():\n    os.wait()\nelse:\n    threading.Timer(60, print).start()"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while usage_below(process.pid, 0).processes < 3:
            assert process.poll() is None
            time.sleep(0.01)
        everything, program_alone = usage_below(process.pid, 0), usage_below(process.pid, 1)
        os.kill(next(pid for pid in descendants(process.pid)), 9)
    assert (everything.processes, program_alone.processes) == (3, 2)
    assert everything.memory_bytes > program_alone.memory_bytes > 2**20
    assert usage_below(process.pid, 0) == ProcessUsage()


@pytest.mark.parametrize(("doing", "busy"), [("pass", True), ("time.sleep(60)", False)])
def test_a_busy_program_is_distinguished_from_one_that_waits(doing: str, busy: bool) -> None:
    program = f"import time\nprint('on', flush=True)\nwhile True: {doing}"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        while usage_below(process.pid, 0).busy is not busy:
            time.sleep(0.01)
        process.kill()


@pytest.mark.parametrize("name", [b"\\rRssAnon: 0", b"\\vRssAnon: 0", b"\\nRssAnon: 0", b"\\xff\\xfe", b"a) R 1 2 3"])
def test_a_program_cannot_hide_its_memory_behind_a_name(name: bytes) -> None:
    program = f"""
import mmap, os
name = b"{name.decode()}"
with open("/proc/self/comm", "wb") as file:
    file.write(name)
own = bytearray(30 << 20)
file = os.memfd_create(name.decode(errors="surrogateescape") + "\\x85\\u2028shared")
os.truncate(file, 50 << 20)
shared = mmap.mmap(file, 50 << 20)
print("on", flush=True)
input()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"on\n"
        usage = usage_below(process.pid, 0)
        process.communicate(b"\n")
    assert usage.memory_bytes > 80 * 2**20


def descendants(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# Which sandbox


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="programs are confined on Linux only")
def test_this_machine_has_a_working_confinement_and_names_it() -> None:
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
    module = "agentopt.evaluation.sandbox.sandbox"
    code = f"from {module} import Sandbox; print(Sandbox().run_sync('print(6 * 7)').output, end='')"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [linked, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert (done.stdout, done.stderr) == ("42\n", "")


# What surrounds it


def test_a_long_output_loses_its_middle() -> None:
    sandbox = Sandbox(confinement=Unconfined(), shown=20)
    assert sandbox.run_sync("print('a' * 500 + 'b' * 500)").output == "a" * 10 + "\n[...]\n" + "b" * 9 + "\n"
    assert sandbox.run_sync("print('short')").output == "short\n"


def test_addresses_and_folders_are_replaced_since_they_differ_from_run_to_run() -> None:
    sandbox = Sandbox(confinement=Unconfined())
    program = "import os, sys\nprint(object())\nprint(__file__, os.path.realpath(sys.base_prefix))"
    assert sandbox.run_sync(program).output == "<object object at 0x...>\nmain.py <python>\n"


async def test_a_program_is_run_once_however_often_it_is_requested() -> None:
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
def test_how_a_program_ended_is_reported(program: str, ending: str, why: str) -> None:
    ended = Sandbox(confinement=Unconfined()).run_sync(program)
    assert (ended.ending, ended.why) == (ending, why)
