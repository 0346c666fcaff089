"""Two local models in one evaluation against the same calls one model after the other; prints the ratio.

    python -m benchmarks.two_models [--examples 24] [--repeats 3]

Each repeat draws new responses (another response seed) of the same prompts, so that neither side gains from llama.cpp's
prompt cache over the other; a first round, which fills it, is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.base import Request, Response
from agentopt.models.catalog import Catalog
from agentopt.models.router import ModelRouter
from agentopt.models.session import open_session
from agentopt.taskfile.loading import load_task

TASK = Path(__file__).parent.parent / "tasks" / "quickstart"
CHOICES = {"find": ("qwen2.5-coder-0.5b", 3), "answer": ("smollm2-135m", 5)}


class Recorder:
    """A `ChatModel` over another that keeps the requests it passes on."""

    def __init__(self, inner: ModelRouter) -> None:
        self.requests: list[Request] = []
        self._inner = inner

    async def generate(self, request: Request) -> Response:
        self.requests.append(request)
        return await self._inner.generate(request)

    async def aclose(self) -> None:
        """The pool outlives the session that it was recorded in."""


async def together(pool: ModelRouter, examples: int, seed: int) -> tuple[float, list[Request]]:
    """Seconds of one evaluation on an empty journal, and its requests."""
    catalog = Catalog.load()
    task = load_task(TASK, catalog=catalog, overrides={"data.limit": {"test": examples}})
    candidate = Candidate.of({s.name: SubtaskChoice(*CHOICES[s.name], s.system_prompt) for s in task.subtasks})
    specs = {name: catalog[name] for name in task.models}
    recorder = Recorder(pool)
    with tempfile.TemporaryDirectory() as folder:
        journal = str(Path(folder) / "journal.db")
        async with open_session(specs, "benchmark", journal=journal, provider=recorder) as session:
            started = time.perf_counter()
            await Evaluator(task, session.model, specs, seed=seed).evaluate(candidate, "test")
            return time.perf_counter() - started, recorder.requests


async def apart(pool: ModelRouter, requests: list[Request]) -> float:
    """Seconds of the same requests, one model after the other, eight in flight."""
    started = time.perf_counter()
    for model, _ in CHOICES.values():
        places = asyncio.Semaphore(8)

        async def call(request: Request, places: asyncio.Semaphore = places) -> None:
            async with places:
                await pool.generate(request)

        await asyncio.gather(*(call(request) for request in requests if request.model == model))
    return time.perf_counter() - started


async def run(examples: int, repeats: int) -> None:
    catalog = Catalog.load()
    pool = ModelRouter({model: catalog[model] for model, _ in CHOICES.values()})
    try:
        await together(pool, examples, seed=0)
        for repeat in range(1, repeats + 1):
            both, requests = await together(pool, examples, seed=repeat)
            one_by_one = await apart(pool, requests)
            print(
                f"repeat {repeat}: {len(requests)} calls, in one evaluation {both:.1f} s, one model after the other "
                f"{one_by_one:.1f} s, ratio {both / one_by_one:.2f}"
            )
    finally:
        await pool.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.examples, arguments.repeats))


if __name__ == "__main__":
    main()
