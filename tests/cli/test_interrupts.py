"""A second Ctrl-C ends a command, whatever its threads, or its main thread, wait for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import indent

import pytest

from agentopt.cli.interrupts import second_interrupt_ends

WAITS_ON = """
while True:
    time.sleep(3600)
"""
IN_A_THREAD = """
threading.Thread(target=threading.Event().wait).start()  # the process waits for it in vain
os.write(1, b"in a thread\\n")
until_interrupted()
raise KeyboardInterrupt
"""
IN_SQLITE = """
locked, waiting = (sqlite3.connect("locked.db", timeout=3600, isolation_level=None) for _ in range(2))
locked.execute("BEGIN IMMEDIATE")
os.write(1, b"in C\\n")
waiting.execute("BEGIN IMMEDIATE")  # no handler of Python's runs meanwhile
"""
WITH_A_CHILD = """
quiet = subprocess.DEVNULL
child = subprocess.Popen(["sleep", "3600"], stdout=quiet, stderr=quiet, start_new_session=True)
os.write(1, f"{child.pid}\\n".encode())
while True:
    time.sleep(3600)
"""
ENDS = """
until_interrupted()
"""
PROGRAM = """
import os, signal, sqlite3, subprocess, threading, time
from agentopt.cli.interrupts import second_interrupt_ends
seen = []
def interrupt(*_):
    seen.append(os.write(1, b"interrupted\\n"))
def until_interrupted():
    while not seen:
        time.sleep(0.01)
signal.signal(signal.SIGINT, interrupt)
try:
    with second_interrupt_ends(lambda: "the last words", seconds={seconds}):
        if True:
            os.write(1, b"ready\\n")
            {block}
except KeyboardInterrupt:
    os.write(1, b"ended\\n")
"""

TERMINABLE = """
import os, signal, sys, time
from agentopt.cli.interrupts import second_interrupt_ends, terminable
signal.signal(signal.SIGINT, signal.default_int_handler)
with terminable():
    try:
        with second_interrupt_ends(lambda: "the last words", seconds={seconds}):
            os.write(1, b"ready\\n")
            {block}
    except KeyboardInterrupt:
        sys.exit(130)
"""
SLOW_TO_END = """
try:
    os.write(1, b"in it\\n")
    time.sleep(3600)
except KeyboardInterrupt:
    try:
        os.write(1, b"interrupted\\n")
        time.sleep(3600)
    except KeyboardInterrupt:
        time.sleep(3600)
"""
FAILS = """
try:
    os.write(1, b"in it\\n")
    time.sleep(3600)
except KeyboardInterrupt:
    sys.exit(1)
"""


class Command:
    """A process that runs a block, and receives Ctrl-C when it has written a word."""

    def __init__(self, folder: Path, block: str, seconds: float, program: str) -> None:
        program = program.format(block=indent(block, " " * 12).strip(), seconds=seconds)
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().rstrip()

    def wait_for(self, word: str) -> None:
        assert self.line() == word

    def interrupt_after(self, word: str, number: signal.Signals = signal.SIGINT) -> None:
        self.wait_for(word)
        self._process.send_signal(number)

    def interrupt_until_it_ends(self) -> None:
        """Two signals of which none was handled meanwhile are one."""
        deadline = time.monotonic() + 120
        while self._process.poll() is None and time.monotonic() < deadline:
            self._process.send_signal(signal.SIGINT)
            time.sleep(0.1)

    def outcome(self) -> tuple[int, str]:
        _, err = self._process.communicate(timeout=120)
        return self._process.returncode, err

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(block: str, seconds: float = 0.01, program: str = PROGRAM) -> Command:
        started.append(Command(tmp_path, block, seconds, program))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def test_a_block_that_does_not_end_is_ended_by_the_second_ctrl_c(command: Callable[..., Command]) -> None:
    one = command(WAITS_ON)
    one.interrupt_after("ready")
    one.interrupt_after("interrupted")
    assert one.outcome() == (130, "the last words\n")


def test_it_does_not_wait_after_the_third(command: Callable[..., Command]) -> None:
    one = command(WAITS_ON, seconds=1e6)
    one.interrupt_after("ready")
    one.interrupt_after("interrupted")
    one.interrupt_after("interrupted")
    assert one.outcome() == (130, "the last words\n")


def test_a_thread_that_outlives_the_block_is_ended_without_a_second_message(command: Callable[..., Command]) -> None:
    one = command(IN_A_THREAD)
    one.wait_for("ready")
    one.interrupt_after("in a thread")
    one.wait_for("interrupted")
    one.interrupt_after("ended")
    code, err = one.outcome()
    assert code == 130
    assert "the last words" not in err, "the command has printed its own"


def test_a_main_thread_that_waits_in_a_library_is_ended(command: Callable[..., Command]) -> None:
    one = command(IN_SQLITE)
    one.wait_for("ready")
    one.wait_for("in C")
    one.interrupt_until_it_ends()
    assert one.outcome() == (130, "the last words\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the children of a process")
def test_what_the_process_started_is_ended_with_it(command: Callable[..., Command]) -> None:
    one = command(WITH_A_CHILD)
    one.wait_for("ready")
    child = int(one.line())
    one.interrupt_until_it_ends()
    assert one.outcome()[0] == 130
    deadline = time.monotonic() + 30
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    is_left = is_running(child)
    if is_left:
        os.kill(child, signal.SIGKILL)
    assert not is_left


def test_one_ctrl_c_lets_the_block_end_by_itself(command: Callable[..., Command]) -> None:
    one = command(ENDS, seconds=0)
    one.interrupt_after("ready")
    assert one.outcome() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_names_the_signal(command: Callable[..., Command], number: signal.Signals) -> None:
    one = command(WAITS_ON, program=TERMINABLE)
    one.interrupt_after("ready", number)
    assert one.outcome() == (128 + number, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_failure_after_a_signal_keeps_its_code(command: Callable[..., Command], number: signal.Signals) -> None:
    one = command(FAILS, program=TERMINABLE)
    one.wait_for("ready")
    one.interrupt_after("in it", number)
    assert one.outcome() == (1, "")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_after_sigterm_ends_at_once_with_its_code(
    command: Callable[..., Command], second: signal.Signals
) -> None:
    one = command(SLOW_TO_END, program=TERMINABLE)
    one.wait_for("ready")
    one.interrupt_after("in it", signal.SIGTERM)
    one.interrupt_after("interrupted", second)
    assert one.outcome() == (143, "the last words\n")


def test_a_block_that_has_ended_is_not_watched() -> None:
    for failure in (None, ValueError("of the block")):
        try:
            with second_interrupt_ends(str):
                assert watching()
                if failure:
                    raise failure
        except ValueError as error:
            assert error is failure  # noqa: PT017 - the other pass of the loop has none
        assert not watching()
        assert signal.set_wakeup_fd(-1) == -1


def test_only_the_main_thread_can_watch() -> None:
    seen: list[bool] = []

    def run() -> None:
        with second_interrupt_ends(str):
            seen.append(watching())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"  # nobody may have reaped it yet


def watching() -> bool:
    return any(thread.name == "interrupts" for thread in threading.enumerate())
