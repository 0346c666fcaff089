"""Answers to mathematical problems: math-verify on the whole response, as it is used elsewhere, beside our reader.

Whether a response is right is known, because it is made from its answer: each difference is judged by that.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from agentopt.core.task import Unparsable
from agentopt.evaluation.checkers.math import answer, shared
from benchmarks.official.agreement import Agreement

FORMS = [
    "The answer is @.",
    "The answer is: @",
    "#### @",
    "@",
    "\\boxed{@}",
    "So $\\boxed{@}$.",
    "**@**",
    "Answer: @",
    "\\(@\\)",
    "First 5.\nThe answer is @",
    "The answer is @ apples.",
    "\\boxed{5} at first, but \\boxed{@}",
    "@ (12 less 3)",
    "The answer is @, because 5 + 4 = 9.",
    "x = @",
    "The answer is $@$.",
    "\\boxed{@\\text{ cm}}",
    "The final answer is **@**",
    "It is 7.\n#### @",
]
WRONG = """{0}-{1}|{0}, {1}|{0} or {1}|{0}x|{1}|-{0}|{0}{1}|between {0} and {1}"""


def written(chance: Random, value: int) -> str:
    """Return a way to write the value."""
    ways = [str(value), f"{value:,}", f"{value}.0", f"{value:,}".replace(",", "{,}"), f"{value:,}".replace(",", "\\,")]
    return chance.choice([*ways, f"\\frac{{{2 * value}}}{{2}}", f"{2 * value}/2", str(value), str(value), f"0{value}"])


def cases(count: int = 480) -> Iterator[tuple[str, str, bool]]:
    """Yield responses, the target, and whether the response is right."""
    wrong = WRONG.split("|")
    for number in range(count):
        chance = Random(f"math:{number}")
        value, other = chance.randint(2, 99_999), chance.randint(100_000, 200_000)
        if chance.random() < 0.1:
            yield FORMS[number % len(FORMS)].replace("@", chance.choice(["1\u00bd", "1 1/2", "1.5"])), "1.5", True
        elif chance.random() < 0.3:
            text = chance.choice(wrong).format(value, other)
            yield FORMS[number % len(FORMS)].replace("@", text), str(value), False
        else:
            yield FORMS[number % len(FORMS)].replace("@", written(chance, value)), str(value), True


def official(response: str, target: str) -> bool:
    """Return whether math-verify alone finds the target in the response."""
    from math_verify import parse, verify

    return bool(
        verify(parse(target, parsing_timeout=None), parse(response, parsing_timeout=None), timeout_seconds=None)
    )


def ours(response: str, target: str) -> bool:
    """Return whether we find the target in the response."""
    try:
        return shared().agree(target, answer(response))
    except Unparsable:
        return False


def compare(count: int = 480) -> list[Agreement]:
    """Compare both on `count` cases, and each with the truth."""
    differences: list[str] = []
    mistakes: dict[str, list[str]] = {"ours": [], "math-verify alone": []}
    for response, target, right in cases(count):
        found = {"ours": ours(response, target), "math-verify alone": official(response, target)}
        for who, judged in found.items():
            if judged != right:
                mistakes[who].append(f"{response!r} for {target}: judged {judged}")
        if found["ours"] != found["math-verify alone"]:
            better = "ours is right" if found["ours"] == right else "math-verify alone is right"
            differences.append(f"{better}: {response!r} for {target}, which is {right}")
    truths = [Agreement(f"mathematics: {who} and the truth", count, lines) for who, lines in mistakes.items()]
    return [Agreement("mathematics: ours and math-verify alone", count, differences), *truths]
