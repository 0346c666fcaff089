"""Two local models in one evaluation, compared with the same calls one model after the other; prints the ratio.

    python -m benchmarks.two_models [--examples 24] [--repeats 3]

Each repeat samples new responses (with another seed) to the same prompts, so that neither side has an advantage from
llama.cpp's prompt cache; a first round, which fills the cache, is not counted.
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
    """A `ChatModel` that records the requests which it forwards."""

    def __init__(self, inner: ModelRouter) -> None:
        self.requests: list[Request] = []
        self._inner = inner

    async def generate(self, request: Request) -> Response:
        self.requests.append(request)
        return await self._inner.generate(request)

    async def aclose(self) -> None:
        """Nothing to close: the router is used by several sessions."""


async def together(router: ModelRouter, examples: int, seed: int) -> tuple[float, list[Request]]:
    """Seconds of one evaluation with an empty journal, and its requests."""
    catalog = Catalog.load()
    task = load_task(TASK, catalog=catalog, overrides={"data.limit": {"test": examples}})
    candidate = Candidate.of({s.name: SubtaskChoice(*CHOICES[s.name], s.system_prompt) for s in task.subtasks})
    specs = {name: catalog[name] for name in task.models}
    recorder = Recorder(router)
    with tempfile.TemporaryDirectory() as folder:
        journal = str(Path(folder) / "journal.db")
        async with open_session(specs, "benchmark", journal=journal, provider=recorder) as session:
            started = time.perf_counter()
            await Evaluator(task, session.model, specs, seed=seed).evaluate(candidate, "test")
            return time.perf_counter() - started, recorder.requests


async def apart(router: ModelRouter, requests: list[Request]) -> float:
    """Seconds of the same requests, one model after the other, eight in flight."""
    started = time.perf_counter()
    for model, _ in CHOICES.values():
        slots = asyncio.Semaphore(8)

        async def call(request: Request, slots: asyncio.Semaphore = slots) -> None:
            async with slots:
                await router.generate(request)

        await asyncio.gather(*(call(request) for request in requests if request.model == model))
    return time.perf_counter() - started


async def run(examples: int, repeats: int) -> None:
    catalog = Catalog.load()
    router = ModelRouter({model: catalog[model] for model, _ in CHOICES.values()})
    try:
        await together(router, examples, seed=0)
        for repeat in range(1, repeats + 1):
            both, requests = await together(router, examples, seed=repeat)
            one_by_one = await apart(router, requests)
            print(
                f"repeat {repeat}: {len(requests)} calls, in one evaluation {both:.1f} s, one model after the other "
                f"{one_by_one:.1f} s, ratio {both / one_by_one:.2f}"
            )
    finally:
        await router.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.examples, arguments.repeats))


if __name__ == "__main__":
    main()
