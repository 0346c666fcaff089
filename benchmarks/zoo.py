"""The quickstart task on every family of hosted endpoints; prints what was sent and what was answered.

    python -m benchmarks.zoo [--families NAME ...] [--examples 4] [--entries added | examples]

For each family of `agentopt.testing.zoo`, from what one `agentopt models add` writes (or from the example entry in
configs/models.yaml): evaluate, optimise with a budget of two trials, export in each form that the endpoint allows, run
the exported module, and serve one request. Nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import aiohttp
import yaml

from agentopt.api import evaluate, optimize
from agentopt.core.errors import UserError
from agentopt.deploy.deployment import Deployment, find_deployment
from agentopt.deploy.export import module, router
from agentopt.deploy.serve.server import ServeSettings, serve
from agentopt.models.add_entry import add_entry
from agentopt.models.providers import PROVIDERS
from agentopt.runs.config import load_config
from agentopt.testing.zoo import Zoo, example_entries, running_zoo
from agentopt.testing.zoo_families import FAMILIES, Family, family
from agentopt.testing.zoo_rules import KEY

Entries = Literal["added", "examples"]
ROOT = Path(__file__).parents[1]
TASK = ROOT / "tasks" / "quickstart"
EXAMPLES = ROOT / "configs" / "models.yaml"
INPUTS = {
    "facts": ["Fay lives in Oakby.", "The hill Lion rises above Oakby."],
    "question": "Which hill rises above the town where Fay lives?",
    "link_question": "In which town does Fay live?",
    "kind": "hill",
}


@dataclass(frozen=True)
class Row:
    """What became of one family."""

    family: str
    entry: str
    calls: int
    refused: Counter[str]
    sent: tuple[str, ...]
    """Parameters of the accepted requests."""
    score: float
    best: float
    exports: tuple[str, ...]
    exported: str
    """The answer of the exported module, or why there is none."""
    served: str


def write_entry(one: Family, zoo: Zoo, file: Path, entries: Entries) -> None:
    """Write the family's entry, with the zoo's address, to a catalogue file, and set the variable of its key."""
    if entries == "examples":
        entry = example_entries(EXAMPLES.read_text(encoding="utf-8"), zoo)[one.name]
        entry.pop("requests_per_minute", None)  # a limit of the provider's account, which makes a run wait
    else:
        provider = PROVIDERS[one.added_by.partition("/")[0]]
        key = provider.api_key_env or ("VLLM_API_KEY" if one.key_header else None)
        address = f"{zoo.url}/azure" if one.name == "azure" else zoo.base_url(one)
        entry = add_entry(one.added_by, name=one.example, base_url=address, api_key_env=key, file=file).entry
    if "api_key_env" in entry:
        os.environ[entry["api_key_env"]] = KEY
    file.write_text(yaml.safe_dump({"models": {one.example: entry}}), encoding="utf-8")


def settings_of(one: Family, file: Path, folder: Path, examples: int) -> list[str]:
    """The settings of a small run on the family's entry in a catalogue file."""
    per_subtask = [
        f"task.subtasks.{subtask}.{setting}"
        for subtask in ("find", "answer")
        for setting in (f"models=[{one.example}]", "max_tokens=1000", "num_samples=[1, 2, 3]")
    ]
    limits = [f"task.data.limit.{split}={examples}" for split in ("train", "validation", "test")]
    places = [f"models=[{file}]", f"journal={folder / 'journal.db'}", f"runs={folder / 'runs'}"]
    # The units of models with parameters are those of the task's small model.
    limits.append("task.cost.max_units=100000")
    return [*places, *per_subtask, *limits, "strategy=random", "budget.trials=2", "prompts.when=never"]


def run_family(one: Family, zoo: Zoo, folder: Path, examples: int = 4, entries: Entries = "examples") -> Row:
    """Evaluate, optimise, export and serve the quickstart task on one family.

    Args:
        one: The family.
        zoo: The running server.
        folder: For the catalogue, the journal and the runs.
        examples: Examples of each split.
        entries: Whether the entry is that of configs/models.yaml or of `agentopt models add`.
    """
    file = folder / "models.yaml"
    write_entry(one, zoo, file, entries)
    settings = settings_of(one, file, folder, examples)
    config = load_config(settings)
    before = len(zoo.exchanges)
    evaluation = evaluate(TASK, None, config)
    result = optimize(TASK, config)
    (run,) = (folder / "runs").iterdir()
    deployment = find_deployment(run, TASK, settings)
    served, exported = asyncio.run(_served_answer(deployment)), _exported_answer(deployment)
    exchanges = zoo.exchanges[before:]
    refused = Counter(exchange.refused.message for exchange in exchanges if exchange.refused)
    sent = {name for exchange in exchanges if not exchange.refused for name in exchange.body}
    score = sum(evaluation.scores.values()) / max(len(evaluation.scores), 1)
    best = max((trial.score for trial in result.trials if trial.score is not None), default=0.0)
    exports = ("yaml", "litellm") if router.router_config(deployment) else ("yaml",)
    return Row(
        one.name, one.example, len(exchanges), refused, tuple(sorted(sent)), score, best, exports, exported, served
    )


def _exported_answer(deployment: Deployment) -> str:
    """Run the exported module; the rule if the candidate cannot be exported as one."""
    try:
        source = module.python_module(deployment)
    except UserError as error:
        return error.message
    exported = sys.modules["exported"] = ModuleType("exported")  # dataclasses look their module up there
    exec(source, exported.__dict__)  # noqa: S102 - written by agentopt
    try:
        return str(exported.run(INPUTS))
    finally:
        for subtask in exported.SUBTASKS:
            exported.client(subtask.endpoint).close()


async def _served_answer(deployment: Deployment) -> str:
    """Serve the deployment, and return the answer to one request."""
    started: asyncio.Queue[str] = asyncio.Queue()
    stop = asyncio.Event()
    server = asyncio.create_task(serve(deployment, ServeSettings(port=0), on_start=started.put_nowait, stop=stop))
    url = asyncio.create_task(started.get())
    await asyncio.wait((server, url), return_when=asyncio.FIRST_COMPLETED)
    if server.done():
        server.result()
    body = {"model": deployment.task.name, "messages": [{"role": "user", "content": json.dumps(INPUTS)}]}
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.post(f"{url.result()}/chat/completions", json=body) as response,
    ):
        answer = await response.json()
    stop.set()
    await server
    return str(answer["choices"][0]["message"]["content"])


def print_rows(rows: Sequence[Row]) -> None:
    """Print one paragraph per family."""
    for row in rows:
        lines = [
            f"{row.family} (entry {row.entry}): {row.calls} requests, {sum(row.refused.values())} refused",
            f"  sent:     {', '.join(row.sent)}",
            *(f"  refused:  {count} x {message}" for message, count in row.refused.items()),
            f"  answered: evaluate {row.score:.2f}, optimise {row.best:.2f}, served {row.served!r}",
            f"  exported: {', '.join(row.exports)}; the Python module: {row.exported}",
        ]
        sys.stdout.write("\n".join(lines) + "\n")


def main() -> None:
    """Run the families that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--families", nargs="+", default=[known.name for known in FAMILIES])
    parser.add_argument("--examples", type=int, default=4)
    parser.add_argument("--entries", choices=("added", "examples"), default="added")
    arguments = parser.parse_args()
    with running_zoo() as zoo, tempfile.TemporaryDirectory() as folder:
        for name in arguments.families:
            place = Path(folder) / name
            place.mkdir()
            print_rows([run_family(family(name), zoo, place, arguments.examples, arguments.entries)])


if __name__ == "__main__":
    main()
