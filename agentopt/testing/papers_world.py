"""A loopback copy of the world of AgentTTS: its six models with planted abilities on four datasets, and its agent.

The rows are in the public forms of the datasets, so that the tasks and configurations of the experiments run on them
unchanged. A row is `row DATASET-N`; the passages or triples that are needed begin with its name, and its answer is
`answer DATASET-N`. A model retrieves and answers right with its planted probability, independently for each sample. An
answer without the needed passages is wrong. The call that merges answers finds the commonest one, less often the more
answers there are beyond a peak.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentopt.testing.servers import Answer, prompt_text
from agentopt.testing.toy import draw

RETRIEVES: Mapping[str, float] = {
    "qwen2.5-7b": 0.35,
    "qwen2.5-32b": 0.55,
    "qwen2.5-72b": 0.85,
    "llama-3.1-8b": 0.40,
    "llama-3.1-70b": 0.80,
    "llama-3.2-3b": 0.20,
}
"""Model -> probability of retrieving what is needed in one sample: it grows with the size."""

ANSWERS: Mapping[str, float] = {
    "qwen2.5-7b": 0.50,
    "qwen2.5-32b": 0.60,
    "qwen2.5-72b": 0.65,
    "llama-3.1-8b": 0.60,
    "llama-3.1-70b": 0.66,
    "llama-3.2-3b": 0.55,
}
"""Model -> probability of a right answer from what is needed: almost the same, so that a small model votes better."""

EASIER: Mapping[str, float] = {"2wiki": 0.0, "hotpot": 0.05, "cwq": 0.1, "webqsp": 0.2}
"""Dataset -> what is added to every probability."""

PEAK = 10
"""Answers up to which the merging call finds the commonest one for certain."""

AGENT = "o3-mini"
DATASETS = tuple(EASIER)
FILES: Mapping[str, str] = {
    "2wiki": "2wikimultihopqa.jsonl",
    "hotpot": "hotpotqa.jsonl",
    "cwq": "cwq.jsonl",
    "webqsp": "webqsp.jsonl",
}
"""Dataset -> its file in the data folder of the experiments."""


def write_data(folder: Path, rows: int, distractors: int = 100) -> None:
    """Write the datasets in their public forms.

    Args:
        folder: The data folder, which is made.
        rows: Rows of each dataset.
        distractors: Passages or triples of each row that are not needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for dataset, file in FILES.items():
        build = _triples if dataset in ("cwq", "webqsp") else _passages
        lines = (json.dumps(build(f"{dataset}-{n}", distractors)) for n in range(rows))
        (folder / file).write_text("".join(f"{line}\n" for line in lines))


def _passages(name: str, distractors: int) -> dict[str, Any]:
    needed = [f"row {name} part {part} leads to the answer." for part in (1, 2)]
    far = [f"passage {n} of {name} leads nowhere." for n in range(distractors)]
    context = [[f"Title {name}", needed], [f"Other {name}", far]]
    facts = [[f"Title {name}", 0], [f"Title {name}", 1]]
    question = f"What is the answer of row {name} ?"
    return {
        "_id": name,
        "question": question,
        "answer": f"answer {name}",
        "context": context,
        "supporting_facts": facts,
    }


def _triples(name: str, distractors: int) -> dict[str, Any]:
    needed = [[f"row {name}", "leads_to", f"middle {name}"], [f"row {name}", "ends_at", f"answer {name}"]]
    far = [[f"entity {n} of {name}", "leads_to", "nowhere"] for n in range(distractors)]
    row = {"ID": name, "question": f"What is the answer of row {name} ?", "answer": [f"answer {name}"]}
    return row | {"gt_triples": needed, "crucial_triples": needed, "2hop_triples": far}


def papers_answer(seed: int = 0) -> Answer:
    """The answer function of a loopback server.

    Args:
        seed: Seed of the abilities' draws.
    """

    def answer(body: dict[str, Any], index: int) -> str:
        text, sample = prompt_text(body), int(body.get("seed") or 0) + index
        if body["model"] == AGENT:
            return _agent(text, draw(seed, text, sample))
        name = re.findall(r"answer of row (\S+) \?", text)[-1]
        chance = draw(seed, body["model"], name, sample, "proposed answers" in text, "numbers only" in text)
        easier = EASIER[name.rpartition("-")[0]]
        if "numbers only" in text and "proposed answers" not in text:
            return _retrieved(text, name, chance < RETRIEVES[body["model"]] + easier)
        if "proposed answers" in text:
            return _merged(re.findall(r"^Answer \d+: (.*)$", text, re.MULTILINE), chance)
        known = f"row {name} part" in text or f"row {name} ->" in text or f"row {name} leads" in text
        right = known and chance < ANSWERS[body["model"]] + easier
        return f"answer {name}" if right else f"wrong {int(chance * 1000) % 4}"

    return answer


def _retrieved(text: str, name: str, right: bool) -> str:
    shown = re.findall(r"^\[(\d+)\] (.*)$", text, re.MULTILINE)
    needed = [number for number, content in shown if f"row {name} " in content]
    others = [number for number, _ in shown if number not in needed]
    return ", ".join(needed if right else others[: len(needed)])


def _merged(answers: Sequence[str], chance: float) -> str:
    (commonest, _), *_ = Counter(answers).most_common(1)
    found = chance < 1 - 0.02 * max(0, len(answers) - PEAK)
    return commonest if found else answers[int(chance * 1000) % len(answers)]


def _agent(text: str, chance: float) -> str:
    """Guidelines, or candidates that change the best one of the history in one subtask."""
    wanted = re.search(r"Generate exactly (\d+) different candidates", text)
    if wanted is None:
        return "- prefer a large model for retrieval\n- try about ten samples of a small model for the answer"
    rng = random.Random(chance)
    models = dict(re.findall(r"^Subtask (\w+).*:\n  models: (.*)$", text, re.MULTILINE))
    labels = {name: re.findall(r"(\S+) = ", of) for name, of in models.items()}
    tried = re.findall(r"^\d+\. (.*) \| main score ([\d.]+)", text, re.MULTILINE)
    best = max(tried, key=lambda row: float(row[1]), default=("", "0"))[0]
    chosen = dict(re.findall(r"(\w+): (\S+ x\d+)", best))
    candidates = []
    for _ in range(int(wanted[1])):
        changed = rng.choice(list(labels))
        new = {name: chosen.get(name, f"{labels[name][-1]} x1") for name in labels}
        new[changed] = f"{rng.choice(labels[changed])} x{rng.choice((1, 2, 3, 5, 8, 10, 13, 20, 35))}"
        candidates.append(new)
    return json.dumps({"candidates": candidates})


def models_file(base_url: str) -> str:
    """The content of a catalogue whose models are the experiment's, at a loopback server.

    Args:
        base_url: Of the server with the OpenAI protocol.
    """
    sizes = {name: float(name.rpartition("-")[2].removesuffix("b")) * 1e9 for name in RETRIEVES}
    entries = {
        name: {
            "base_url": base_url,
            "parameters": size,
            "usd_per_1m_prompt": size / 1e11,
            "usd_per_1m_completion": size / 1e11,
            "max_choices": 100,
            "context_length": 131072,
            "supports": {"seed": True},
        }
        for name, size in sizes.items()
    }
    entries[AGENT] = {
        "base_url": base_url,
        "usd_per_1m_prompt": 1.1,
        "usd_per_1m_completion": 4.4,
        "supports": {"seed": True},
    }
    return json.dumps({"models": entries})
