"""TaskBench's measures, for one example: ROUGE-L of the steps; F1 of tools, links and arguments; edits.

As in TaskBench's evaluate.py: the steps are joined by line ends and compared without stemming; tools and arguments are
sets, so that the order does not count; an argument is right when tool, name and value all are, letter by letter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from agentopt.core.records import Score
from agentopt.core.task import Example
from agentopt.evaluation.checkers.needs import needs
from agentopt.evaluation.scorers import NOTHING_PARSABLE, f1_of_sets

needs("rouge_score")


def rouge_l(example: Example, output: str) -> float:
    """The F-measure of the longest common subsequence of words, of Latin letters and digits alone."""
    score: float = _rouge().score("\n".join(example.metadata["steps"]), output)["rougeL"].fmeasure
    return score


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # it brings NLTK, which takes a second to load

    return RougeScorer(["rougeL"], use_stemmer=False)


def node_f1(example: Example, output: list[str]) -> float:
    """The F1 of the tools; one that does not exist counts as wrong."""
    return f1_of_sets(set(output), set(example.metadata["tools"]))


def link_f1(example: Example, output: list[str]) -> float:
    """The F1 of the links; `select` names the tools in the order of their use, so each is linked to the next one."""
    got = {*pairwise(output)}
    return f1_of_sets(got, {(source, target) for source, target in example.metadata["links"]})


def edit_similarity(example: Example, output: list[str]) -> float:
    """1 less TaskBench's edit distance of both sequences of tools, whose edits are insertions and deletions."""
    wanted = example.metadata["sequence"]
    size = len(output) + len(wanted)
    return 2 * _longest_common(output, wanted) / size if size else 1.0


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for item in first:
        previous = 0
        for place, other in enumerate(second, 1):
            previous, row[place] = row[place], previous + 1 if item == other else max(row[place], row[place - 1])
    return row[-1]


def argument_name_f1(example: Example, output: list[dict[str, Any]] | None) -> float:
    """The F1 of (tool, argument), whatever the value."""
    got = {(call["task"], a["name"]) for call in output or () for a in call["arguments"]}
    return f1_of_sets(got, {(tool, name) for tool, name, _ in example.target}) if output is not None else 0.0


def parameter_f1(example: Example, output: list[dict[str, Any]] | None) -> Score:
    """The F1 of (tool, argument, value); 1 if no argument is needed and none is given."""
    if output is None:
        return Score(0.0, NOTHING_PARSABLE)
    got = {(call["task"], a["name"], a["value"]) for call in output for a in call["arguments"]}
    wanted = {(tool, name, value) for tool, name, value in example.target}
    parts = [("missing", wanted - got), ("not expected", got - wanted)]
    said = [f"{what}: {json.dumps(sorted(which), ensure_ascii=False)}" for what, which in parts if which]
    return Score(f1_of_sets(got, wanted), "; ".join(said))
