"""What a call costs on top of the network: calls per second of the metered client, beside those of bare clients.

    python -m benchmarks.overhead [--rounds 5] [--seconds 3] [--in-flight 128 512] [--peers]

The endpoint answers after 20 ms, on loopback, from a process of its own. The arms (`overhead_arms.py`), each a process
too, take turns in every round, so that what else the machine does meets all of them; the ratios are those of one round.
The processor's time per call is that of the arm's process. gepa and dspy, with `--peers`, are installed into the
environment of `benchmarks.peers` on first use.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overhead_arms import ARMS, MODEL
from benchmarks.peers.environment import ROOT, arm_environment, peers_python

DELAY = 0.02
BARE, OPENAI = "aiohttp", "openai-aiohttp"
PEERS = ("dspy", "gepa")
GRACE = 120.0
"""Seconds for an arm to start and to end, beside those that are measured."""

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "The first."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24},
}


@dataclass(frozen=True)
class Measured:
    """One arm in one round."""

    calls: int
    seconds: float
    processor: float

    @property
    def rate(self) -> float:
        return self.calls / self.seconds

    @property
    def microseconds(self) -> float:
        """Of the processor, per call."""
        return self.processor / max(1, self.calls) * 1e6


class Endpoint(asyncio.Protocol):
    """Answers every request alike. Not a web framework: it must never be what limits an arm."""

    def __init__(self) -> None:
        self._received = b""
        body = json.dumps(COMPLETION).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._answer = head.encode() + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (size := self._size()) is not None and len(self._received) >= size:
            self._received = self._received[size:]
            asyncio.get_running_loop().call_later(DELAY, self._transport.write, self._answer)

    def _size(self) -> int | None:
        """Bytes of the request that is being received; None before the end of its head."""
        head, end, _ = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return len(head) + len(end) + int(lengths[0])


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Endpoint, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def run_arm(python: str, arm: str, port: int, in_flight: int, seconds: float) -> Measured:
    """Run an arm in a process of its own."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(  # noqa: S603 - our own module
            [
                *(python, "-m", f"{__package__}.overhead_arms"),
                *(arm, f"http://127.0.0.1:{port}/v1", str(in_flight), str(seconds)),
            ],
            stdout=subprocess.PIPE,
            env=arm_environment(Path(home)),
            cwd=ROOT,
            timeout=seconds + GRACE,
            check=True,
        )
    measured = Measured(**json.loads(done.stdout.splitlines()[-1]))
    if not measured.calls:
        raise SystemExit(f"no call of {arm} ended within {seconds:g} s, {in_flight} in flight; remedy: raise --seconds")
    return measured


def show(in_flight: int, rounds: Sequence[Mapping[str, Measured]]) -> None:
    """Print a row for each arm: medians over the rounds, and the lowest and highest."""
    for arm in rounds[0]:
        runs = [by_arm[arm] for by_arm in rounds]
        ratios = [[by_arm[arm].rate / by_arm[other].rate for by_arm in rounds] for other in (BARE, OPENAI)]
        cells = [
            spread([run.rate for run in runs], ",.0f"),
            spread([run.microseconds for run in runs], ",.0f"),
            *(spread(of_rounds, ".2f") for of_rounds in ratios),
            spread([by_arm[BARE].microseconds / by_arm[arm].microseconds for by_arm in rounds], ".2f"),
        ]
        print(f"| {in_flight} | {arm} | {' | '.join(cells)} |", flush=True)


def spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[arm for arm in ARMS if arm not in PEERS])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
        return
    arms = list(dict.fromkeys((BARE, OPENAI, *arguments.arms, *(PEERS if arguments.peers else ()))))
    interpreters = dict.fromkeys(arms, sys.executable)
    if not interpreters.keys().isdisjoint(PEERS):
        peers = str(asyncio.run(peers_python(Path("~/.cache/agentopt/benchmarks").expanduser())))
        interpreters |= {arm: peers for arm in arms if arm in PEERS}
    print(
        "| in flight | arm | calls/s | processor, µs per call | calls/s to bare aiohttp | to openai on aiohttp "
        "| bare aiohttp's processor time to its |\n|---|---|---|---|---|---|---|"
    )
    with subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", f"{__package__}.overhead", "--serve"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        try:
            for in_flight in arguments.in_flight:
                rounds = [
                    {arm: run_arm(interpreters[arm], arm, port, in_flight, arguments.seconds) for arm in arms}
                    for _ in range(arguments.rounds)
                ]
                show(in_flight, rounds)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
