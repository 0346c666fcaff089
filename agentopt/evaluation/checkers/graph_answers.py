"""RoG's measures of answers over a knowledge graph (arXiv 2310.01061): F1 and accuracy.

An answer counts if it occurs in the prediction after SQuAD's normalisation, also as a part of a word. Lines of a text
are separate predictions, as in RoG's evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentopt.core.task import Example, Value
from agentopt.evaluation.outputs import as_text
from agentopt.evaluation.scorers import squad_normal


def f1(example: Example, output: Value) -> float:
    """Return the harmonic mean of answers found per prediction and per answer; above 1 if one line has several.

    Args:
        example: The example, whose target lists the answers.
        output: A text, whose lines are the predictions, or a list of them; None scores 0.
    """
    predictions, answers = _predictions(output), list(example.target)
    found = _found(predictions, answers)
    if not found:
        return 0.0
    precision, recall = found / len(predictions), found / len(answers)
    return 2 * precision * recall / (precision + recall)


def accuracy(example: Example, output: Value) -> float:
    """Return the share of the answers that occur in the predictions; `output` as in `f1`."""
    answers = list(example.target)
    return _found(_predictions(output), answers) / len(answers)


def _predictions(output: Value) -> list[str]:
    if output is None:
        return []
    if isinstance(output, list | tuple):
        return list(dict.fromkeys(map(as_text, output)))
    return as_text(output).split("\n")


def _found(predictions: Sequence[str], answers: Sequence[str]) -> int:
    text = squad_normal(" ".join(predictions))
    return sum(squad_normal(as_text(answer)) in text for answer in answers) if predictions else 0
