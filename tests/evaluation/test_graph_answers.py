"""RoG's F1 and accuracy, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from agentopt.core.task import Example
from agentopt.evaluation.checkers.graph_answers import accuracy, f1


@pytest.mark.parametrize(
    ("output", "answers", "wanted_f1", "wanted_accuracy"),
    [
        ("Ösk", ["Ösk"], 1, 1),
        ("the ösk!", ["Ösk"], 1, 1),
        ("Ösk", ["Ösk", "Vard"], 2 / 3, 0.5),
        ("Ösk\nVard", ["Ösk", "Vard"], 1, 1),
        ("Ösk\nKell", ["Ösk"], 2 / 3, 1),
        ("Öskar", ["Ösk"], 1, 1),
        ("Kell", ["Ösk"], 0, 0),
        (["Ösk", "Ösk", "Vard"], ["Ösk", "Vard"], 1, 1),
        ("Ösk and Vard", ["Ösk", "Vard"], 4 / 3, 1),
        ("", ["Ösk"], 0, 0),
        ([], ["Ösk"], 0, 0),
        (None, ["Ösk"], 0, 0),
        (7, ["7"], 1, 1),
    ],
)
def test_answers_in_the_prediction_count(
    output: Any, answers: list[str], wanted_f1: float, wanted_accuracy: float
) -> None:
    example = Example("e", {}, answers)
    assert f1(example, output) == pytest.approx(wanted_f1)
    assert accuracy(example, output) == pytest.approx(wanted_accuracy)
