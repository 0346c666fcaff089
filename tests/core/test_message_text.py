"""Counted nouns and lists of words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from agentopt.core.message_text import counted, in_words, plain_number, three_digits


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 responses"), (1, "1 response"), (2, "2 responses"), (2000, "2,000 responses")]
)
def test_a_noun_agrees_with_its_number(number: int, text: str) -> None:
    assert counted(number, "response") == text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), ""),
        (("a",), "a"),
        (("a", "b"), "a and b"),
        (("a", "b", "c"), "a, b and c"),
        ("abcd", "a, b, c and d"),
    ],
)
def test_words_are_listed_with_commas_and_one_and(words: Sequence[str], text: str) -> None:
    assert in_words(words) == text


@pytest.mark.parametrize(
    ("number", "separator", "text"),
    [
        (1e-7, "", "0.0000001"),
        (2 * 1e-7, "", "0.0000002"),
        (0.1 + 0.2, "", "0.3"),
        (2.0, "", "2"),
        (100, "", "100"),
        (1e10, "", "10000000000"),
        (1234567.5, ",", "1,234,567.5"),
        (0, "", "0"),
    ],
)
def test_a_number_has_no_exponent(number: float, separator: str, text: str) -> None:
    assert plain_number(number, separator) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (1e-60, "under 0.001"), (0.52449, "0.524"), (40, "40"), (52_512.0, "52,500"), (math.inf, "infinite")],
)
def test_evidence_has_three_digits_and_no_exponent(number: float, text: str) -> None:
    assert three_digits(number) == text
