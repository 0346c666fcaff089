"""Calls through the gateway against the same calls straight to the backend; prints the ratios.

    python -m benchmarks.gateway [--calls 400] [--repeats 3]

Backend, gateway and client are separate processes on loopback. The client is plain aiohttp, so that its cost hides
little. The gateway reserves every call in the ledger, sends it with the openai client, journals and settles it.
`declared` is that part alone, as for a declared subtask, without the gateway; `again` repeats the calls through the
gateway, which answers them from the journal.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from agentopt.core.candidate import SubtaskChoice
from agentopt.core.records import Answer
from agentopt.core.task import Example, Subtask, Task, program_prompt
from agentopt.models.base import Message
from agentopt.models.catalog import ModelSpec
from agentopt.models.openai_format import ChatCall
from agentopt.models.session import Session, open_session
from agentopt.testing.server_process import ServerProcess
from agentopt.workflow.base import Prompt
from agentopt.workflow.program.gateway import Gateway
from agentopt.workflow.program.program_run import ProgramRun
from agentopt.workflow.sampling import SubtaskSampler

MODEL, IN_FLIGHT, DELAYS = "backend", (1, 16), (0.0, 0.02, 0.2)


async def send_all(base_url: str, key: str, model: str, calls: int, in_flight: int, name: str) -> float:
    """Send `calls` different prompts, `in_flight` at a time; returns the seconds."""
    slots = asyncio.Semaphore(in_flight)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:

        async def call(number: int) -> None:
            question = [{"role": "user", "content": f"question {name} {number}"}]
            async with (
                slots,
                session.post(
                    f"{base_url}/chat/completions", json={"model": model, "messages": question, "max_tokens": 8}
                ) as response,
            ):
                response.raise_for_status()
                await response.json()

        await call(-1)
        started = time.perf_counter()
        await asyncio.gather(*(call(number) for number in range(calls)))
        return time.perf_counter() - started


async def client(*arguments: object) -> float:
    """Seconds of `send_all` in a separate process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.gateway", "--client", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    return float(printed)


def run_of(session: Session) -> ProgramRun:
    """A program run whose subtask uses one sample of the backend."""
    find = Subtask("find", program_prompt, (MODEL,), num_samples=(1,), max_tokens=8)
    task = Task("benchmark", (find,), lambda *_: NotImplemented, {})
    sampler = SubtaskSampler(session.model, session.specs)

    async def ask(subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
        # A repeated call is found in the journal, as with the next candidate.
        return await sampler.answer(subtask, SubtaskChoice(MODEL), prompt, {})

    return ProgramRun(task, Example("one", {}), ask)


async def declared(run: ProgramRun, calls: int, in_flight: int, name: str) -> float:
    """Seconds of the same calls by a declared subtask: without a program, its client and the gateway."""
    slots = asyncio.Semaphore(in_flight)

    async def call(number: int) -> None:
        async with slots:
            await run.answer(ChatCall("agentopt/find", (Message("user", f"declared {name} {number}"),)))

    await call(-1)
    started = time.perf_counter()
    await asyncio.gather(*(call(number) for number in range(calls)))
    return time.perf_counter() - started


async def measure(base_url: str, delay: float, calls: int, repeats: int) -> None:
    spec = ModelSpec(name=MODEL, base_url=base_url, parameters=1e9, concurrency=64)
    with tempfile.TemporaryDirectory() as folder:
        async with open_session({MODEL: spec}, "benchmark", journal=f"{folder}/journal.db") as session:
            gateway = Gateway()
            await gateway.start()
            url = gateway.address()
            run = run_of(session)
            gateway.admit(run, url)
            for in_flight in IN_FLIGHT:
                rows = []
                for repeat in range(repeats):
                    load = (calls if in_flight > 1 or delay < 0.1 else calls // 8, in_flight, f"{in_flight}/{repeat}")
                    direct = await client(base_url, "none", MODEL, *load)
                    alone = await declared(run, *load)
                    through = await client(url, gateway.key, "agentopt/find", *load)
                    again = await client(url, gateway.key, "agentopt/find", *load)
                    rows.append([seconds / load[0] * 1000 for seconds in (direct, alone, through, again)])
                show(delay, in_flight, rows)
            await gateway.stop()


def show(delay: float, in_flight: int, rows: list[list[float]]) -> None:
    """Print one row: medians in ms per call, and the median and range of the ratios over repeats."""
    direct, alone, through, again = (statistics.median(column) for column in zip(*rows, strict=True))
    ratios = sorted(row[2] / row[0] for row in rows)
    print(
        f"| {delay * 1000:.0f} | {in_flight} | {direct:.2f} | {alone:.2f} | {through:.2f} | {again:.2f} "
        f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--client", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        base_url, key, model, calls, in_flight, name = arguments.client
        print(asyncio.run(send_all(base_url, key, model, int(calls), int(in_flight), name)))
        return
    print(
        "| backend ms | in flight | direct ms | declared ms | gateway ms | again ms | gateway / direct |\n"
        "|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for delay in DELAYS:
            with ServerProcess(counter=Path(folder) / f"{delay}.jsonl", delay=delay) as server:
                asyncio.run(measure(server.base_url, delay, arguments.calls, arguments.repeats))


if __name__ == "__main__":
    main()
