"""Task folders with recorded runs, made with a scripted model in this process, for commands that read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from agentopt.api import optimize
from agentopt.models.base import Choice, Request
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import load_config
from agentopt.testing.toy import draw

QUALITY = {"small": 0.3, "large": 0.9}
"""Model -> share of the words that it repeats correctly."""

SETTINGS = ["-c", "journal=journal.db", "-c", "runs=runs", "-c", "models=models.yaml"]


def words(split: str, count: int = 24) -> list[dict[str, str]]:
    return [{"id": f"{split}-{i}", "word": f"{split} {i}", "target": f"{split} {i}"} for i in range(count)]


def write_task(
    folder: Path,
    *,
    name: str = "planted",
    rows: Sequence[dict[str, str]] | None = None,
    prompt: str = "",
    **more: object,
) -> Path:
    """A task folder beside its catalogue. The test split is `rows`; the validation split is the same in every task."""
    task = folder / name
    task.mkdir()
    spec = {
        "name": name,
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [
            {
                "name": "answer",
                "system_prompt": "Repeat the word.",
                "prompt": f"{prompt}{{{{ inputs.word }}}}",
                "models": ["small", "large"],
                "parse": {"kind": "json", "schema": {"type": "string"}},
            }
        ],
        "scorer": "exact_match",
        **more,
    }
    (task / "task.yaml").write_text(yaml.safe_dump(spec))
    for split, of in (("validation", words("validation")), ("test", rows or words("test"))):
        (task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, of)))
    entries = {
        model: {"base_url": "http://127.0.0.1:9/v1", "usd_per_1m_prompt": price}
        for model, price in (("small", 1.0), ("large", 2.0))
    }
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
    return task


def answer(request: Request, repeat: int) -> str | Choice:
    """The word in quotation marks, a wrong word, or a text that is not parsed."""
    word = request.messages[-1].content.rpartition(": ")[2]
    chance = draw(request.model, word, repeat)
    if chance < QUALITY[request.model]:
        return Choice(json.dumps(word), 3, thought="easy")
    return json.dumps("\x1b[31mwrong") if chance < 0.7 else "no idea"


def record_run(folder: Path, task: Path, *settings: str, trials: int = 2) -> Path:
    """A finished run on the task; the large model is the best candidate of a grid of two."""
    given = [f"journal={folder / 'journal.db'}", f"runs={folder / 'runs'}", f"models=[{folder / 'models.yaml'}]"]
    search = ["strategy=grid", f"budget.trials={trials}", "prompts.when=never"]
    result = optimize(task, load_config([*given, *search, *settings]), provider=ScriptedModel(answer))
    return Path(result.run)
