"""EM and F1 of HotpotQA, RoG's F1 and accuracy, TaskBench's ROUGE, F1 and edits: on cases of our own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from agentopt.core.task import Example
from agentopt.core.user_functions import Functions
from agentopt.evaluation.checkers import graph_answers
from agentopt.evaluation.scorers import exact_match, squad_normal, token_f1
from benchmarks.official.agreement import Agreement, stored
from benchmarks.official.texts import NAMES, WORDS

TASKBENCH = Path(__file__).parents[2] / "tasks" / "taskbench"
GOLDS = [
    "Vård",
    "The Old Tower",
    "276,170",
    "yes",
    "no",
    "Dr. Emma O'Neil",
    "12 March 1950",
    "U.S.",
    "A",
    "+",
    "noanswer",
]
TOOLS = ["ring_bell", "send_boat", "book_hotel", "play_movie", "set_alarm"]


def qa_cases(count: int = 600) -> Iterator[tuple[str, str]]:
    """Yield predictions with their gold answers: equal, reworded, longer, shorter, in other cases and marks."""
    for number in range(count):
        chance = Random(f"qa:{number}")
        gold = chance.choice([*GOLDS, f"{chance.choice(NAMES)} {chance.choice(WORDS)} {chance.choice(WORDS)}"])
        words = gold.split()
        yield (
            chance.choice(
                [
                    gold,
                    gold.upper(),
                    f"The {gold}.",
                    f"{gold}, I think",
                    " ".join(words[: max(1, len(words) - 1)]),
                    " ".join(reversed(words)),
                    f"\u201c{gold}\u201d",
                    gold.replace(",", ""),
                    f"{gold} {gold}",
                    chance.choice(GOLDS),
                    "",
                    "a the an",
                ]
            ),
            gold,
        )


def graph_cases(count: int = 300) -> Iterator[tuple[str, list[str]]]:
    """Yield predictions, one a line, with the answers."""
    for number in range(count):
        chance = Random(f"graph:{number}")
        answers = chance.sample([*WORDS, *NAMES], chance.randint(1, 4))
        lines = [*chance.sample(answers, chance.randint(0, len(answers))), *chance.sample(WORDS, chance.randint(0, 2))]
        yield chance.choice(["\n", " and ", "\n- "]).join(lines), answers


Plan = dict[str, Any]


def plan_cases(count: int = 400) -> Iterator[tuple[Plan, Plan]]:
    """Yield predicted and right plans: tools in order, arguments as [tool, name, value], links of a chain, steps."""
    for number in range(count):
        chance = Random(f"plan:{number}")
        right = _plan(chance, chance.sample(TOOLS, chance.randint(1, 4)))
        kept = [tool for tool in right["tools"] if chance.random() < 0.8] + chance.sample(TOOLS, chance.randint(0, 1))
        if chance.random() < 0.3:
            chance.shuffle(kept)
        guess = _plan(chance, list(dict.fromkeys(kept)))
        guess["arguments"] = [a for a in right["arguments"] if chance.random() < 0.7] + guess["arguments"][:1]
        yield guess, right


def _plan(chance: Random, tools: list[str]) -> Plan:
    return {
        "tools": tools,
        "links": [list(pair) for pair in pairwise(tools)],
        "arguments": [[tool, chance.choice(["to", "time"]), chance.choice(WORDS)] for tool in tools],
        "steps": [f"Step {n}: call {tool} for the {chance.choice(WORDS)}" for n, tool in enumerate(tools, 1)],
    }


@cache
def _taskbench(name: str) -> Any:
    return Functions(TASKBENCH)(f"scorers.py:{name}", "here")


def our_qa(prediction: str, gold: str) -> list[float]:
    """Return our EM and F1."""
    example = Example("e", {}, gold)
    return [scorer(example, prediction).value for scorer in (exact_match(), token_f1())]  # type: ignore[union-attr]


def our_graph(prediction: str, answers: list[str]) -> list[float]:
    """Return our F1 and accuracy over a graph."""
    example = Example("e", {}, answers)
    return [graph_answers.f1(example, prediction), graph_answers.accuracy(example, prediction)]


def our_plan(guess: Plan, right: Plan) -> list[float]:
    """Return our node, link, argument-name and argument F1, edit distance and ROUGE-L."""
    metadata = {"tools": right["tools"], "sequence": right["tools"], "links": right["links"], "steps": right["steps"]}
    example = Example("e", {}, right["arguments"], metadata)
    calls = [{"task": tool, "arguments": [{"name": name, "value": value}]} for tool, name, value in guess["arguments"]]
    return [
        _taskbench("node_f1")(example, guess["tools"]),
        _taskbench("link_f1")(example, guess["tools"]),
        _taskbench("argument_name_f1")(example, calls),
        _taskbench("parameter_f1")(example, calls).value,
        1 - _taskbench("edit_similarity")(example, guess["tools"]),
        _taskbench("rouge_l")(example, "\n".join(guess["steps"])),
    ]


MEASURES = {
    "qa": (qa_cases, our_qa, ("EM", "F1")),
    "graph": (graph_cases, our_graph, ("RoG F1", "RoG accuracy")),
    "plans": (
        plan_cases,
        our_plan,
        ("node F1", "link F1", "argument-name F1", "argument F1", "edit distance", "ROUGE-L"),
    ),
}


def _reason(kind: str, case: Any) -> str:
    """Why a value differs, if it does by a choice of ours."""
    if kind == "qa" and not squad_normal(case[1]):
        return "the normalised gold answer is empty, so we compare it as it is"
    if kind == "plans" and not case[0]["links"] and not case[1]["links"]:
        return "no link is needed and none is given, which is 1; the script pools the links of all requests"
    return "not explained"


def compare(kind: str) -> list[Agreement]:
    """Compare our values of a kind of case with the stored official ones."""
    cases, ours, names = MEASURES[kind]
    values = stored(kind)["values"]
    differences: dict[str, list[str]] = {name: [] for name in names}
    for case, official in zip(cases(), values, strict=True):
        for name, value, other in zip(names, ours(*case), official, strict=True):  # type: ignore[operator]
            if not math.isclose(value, other, abs_tol=1e-9):
                shown = json.dumps(case, ensure_ascii=False)[:150]
                why = _reason(kind, case)
                differences[name].append(f"{why}: {shown}: official {other:.3f}, ours {value:.3f}")
    return [Agreement(name, len(values), found) for name, found in differences.items()]
