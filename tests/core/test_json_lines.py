"""A child process answers one line of JSON with one; a missing reply names its reason, and nothing is left behind."""

from __future__ import annotations

import os
import sys
import time

import pytest

from agentopt.core.json_lines import JsonLinesProcess, NoReply

ECHO = """
import sys, time
from agentopt.core.json_lines import serve
def answer(request):
    if request == "end":
        sys.exit(3)
    if request == "sleep":
        time.sleep(60)
    return {"got": request}
serve(answer, sys.stdin, sys.stdout)
"""


def child(code: str = ECHO, max_bytes: int = 1000) -> JsonLinesProcess:
    return JsonLinesProcess([sys.executable, "-c", code], max_bytes=max_bytes)


def test_every_request_gets_its_reply() -> None:
    process = child()
    try:
        for request in (1, "a\nb", {"é": [None, 2.5]}):
            assert process.call(request, 60) == {"got": request}
    finally:
        process.close()


@pytest.mark.parametrize(("request_", "reason"), [("end", "ended"), ("sleep", "late"), ("x" * 2000, "long")])
def test_a_missing_reply_names_its_reason(request_: str, reason: str) -> None:
    process = child()
    try:
        assert process.call(1, 60) == {"got": 1}
        with pytest.raises(NoReply) as failure:
            process.call(request_, 0.2 if reason == "late" else 60)
        assert failure.value.reason == reason
        if reason == "ended":
            assert process.wait() == 3
            with pytest.raises(NoReply, match="ended"):
                process.call(1)
    finally:
        process.close()


def test_half_a_line_is_no_reply() -> None:
    process = child("input(); print('{', end='')")
    with pytest.raises(NoReply, match="ended"):
        process.call(1, 60)
    process.close()


def test_a_child_that_stops_within_a_line_is_late() -> None:
    process = child("import time; input(); print('{', end='', flush=True); time.sleep(60)")
    with pytest.raises(NoReply, match="late"):  # not `ended`, a minute later
        process.call(1, 0.5)
    process.close()


def test_a_long_reply_arrives_in_parts() -> None:
    process = child(max_bytes=2**22)
    try:
        assert process.call("x" * 2**20, 60) == {"got": "x" * 2**20}
    finally:
        process.close()


def test_closing_kills_the_group() -> None:
    process = child("import subprocess; print(subprocess.Popen(['sleep', '60']).pid); input(); input()")
    grandchild = process.call(1, 60)
    process.close()
    until = time.monotonic() + 10
    while time.monotonic() < until and os.path.exists(f"/proc/{grandchild}") and not _is_zombie(grandchild):
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{grandchild}") or _is_zombie(grandchild)


def _is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "Z"
