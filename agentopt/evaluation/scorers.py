"""Scorers: score the workflow's output on an example, with feedback for the prompt optimiser.

The output None (no parsable response) always scores 0. A scorer that cannot score an example raises `ScorerError`; that
example has no score.
"""

from __future__ import annotations

import inspect
import math
import re
import string
from collections import Counter
from collections.abc import Awaitable, Callable, Set
from dataclasses import replace
from typing import Any

from agentopt.core.errors import ScorerError
from agentopt.core.records import Score
from agentopt.core.registry import scorer
from agentopt.core.task import Example, Scorer, Unparsable, Value
from agentopt.core.user_functions import name_of, reporting
from agentopt.core.yaml_models import NotNegative
from agentopt.evaluation import judge as judge  # registers the scorer `judge`
from agentopt.evaluation.outputs import NOTHING_PARSABLE, as_text
from agentopt.workflow import parsers
from agentopt.workflow.parsers import shown

_ARTICLES = re.compile(r"\b(a|an|the)\b")
LARGEST_SCORE = 1_000_000
"""Largest absolute value of a score; the squares of much larger ones overflow in the statistics."""
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> str:
    """Lower-case a text and remove punctuation, articles and extra white space, as `squad_normal`.

    If nothing is left (the answers A or +), the lower-cased text is returned, so that such answers stay distinct.
    """
    return squad_normal(answer) or answer.lower().strip()


def squad_normal(answer: str) -> str:
    """Return `normalize_answer` of SQuAD and HotpotQA, which may be empty."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


@scorer("exact_match", compares=True)
def exact_match() -> Scorer:
    """Score 1 if the output equals an acceptable answer after `normalise`, else 0."""
    return _against_answers(lambda output, answer: float(normalise(output) == normalise(answer)))


@scorer("token_f1", compares=True)
def token_f1() -> Scorer:
    """Score the F1 of the words that output and answer share after `normalise`; the best acceptable answer counts.

    As in HotpotQA's evaluation script, yes, no and noanswer score only on an exact match.
    """
    return _against_answers(_token_f1)


@scorer("contains", compares=True)
def contains() -> Scorer:
    """Score 1 if the output contains an acceptable answer as whole words after `normalise`, else 0."""
    return _against_answers(_contains)


@scorer("numeric", compares=True)
def numeric(tolerance: NotNegative = 1e-6, relative_tolerance: NotNegative = 0.0) -> Scorer:
    """Score 1 if the output is near enough to a target, else 0. Both may be numbers, or texts with a number.

    Args:
        tolerance: Largest absolute difference.
        relative_tolerance: Largest difference as a share of the target's size; the wider of the two counts.
    """

    def score(example: Example, output: Value) -> Score:
        targets = [_target_number(example, answer) for answer in _acceptable(example)]
        if output is None:
            return Score(0.0, NOTHING_PARSABLE)
        got = _as_number(output)
        right = got is not None and any(
            abs(got - target) <= max(tolerance, relative_tolerance * abs(target)) for target in targets
        )
        return _graded(float(right), output, targets)

    return score


@scorer("set_f1", compares=True)
def set_f1() -> Scorer:
    """Score the F1 of the output's items against the target's, both as sets; 1 if both are empty.

    Items are compared as texts, ignoring case, so 3 and "3" are equal. A value that is not a list is a set of one.
    """

    def score(example: Example, output: Value) -> Score:
        if example.target is None:
            raise _no_target(example)
        if output is None:
            return Score(0.0, NOTHING_PARSABLE)
        got, wanted = _items(output), _items(example.target)
        value = f1_of_sets(got, wanted)
        parts = [("missing", wanted - got), ("not expected", got - wanted)]
        return Score(value, "; ".join(f"{what}: {', '.join(sorted(items))}" for what, items in parts if items))

    return score


def f1_of_sets(got: Set[Any], wanted: Set[Any]) -> float:
    """Return the harmonic mean of precision and recall; 1 if both sets are empty."""
    return 2 * len(got & wanted) / (len(got) + len(wanted)) if got or wanted else 1.0


def against(column: str, scorer: Scorer) -> Scorer:
    """Return a scorer that compares with a metadata column of the example instead of its target."""

    def score(example: Example, output: Value) -> Score | Awaitable[Score]:
        return scorer(replace(example, target=example.metadata.get(column)), output)

    return score


@scorer("python")
def python(function: Callable[[Example, Value], Any]) -> Scorer:
    """Check the results of a user's function, or of any scorer.

    Args:
        function: Sync or async; returns a `Score`, a number or a boolean.

    Raises:
        ScorerError: If the function raises, or returns anything else or a value that is not finite or beyond
            `LARGEST_SCORE`; names the function and the example.
    """
    who = f"the scorer `{name_of(function)}`"

    async def score(example: Example, output: Value) -> Score:
        with reporting(f"{who} failed on example {example.id}"):
            judged = function(example, output)
            if inspect.isawaitable(judged):
                judged = await judged
        return _checked(judged, who, example)

    return score


def _against_answers(compare: Callable[[str, str], float]) -> Scorer:
    """A scorer that takes the maximum of `compare(output, answer)` over the acceptable answers."""

    def score(example: Example, output: Value) -> Score:
        answers = [as_text(answer) for answer in _acceptable(example)]
        if output is None:
            return Score(0.0, NOTHING_PARSABLE)
        return _graded(max(compare(as_text(output), answer) for answer in answers), output, answers)

    return score


def _graded(value: float, output: Value, answers: list[Any]) -> Score:
    """The score, with feedback about a wrong or partly right output."""
    if value >= 1:
        return Score(value, "")
    expected = " or ".join(shown(answer) for answer in answers)
    partly = f" ({value:.2f} of it right)" if value > 0 else ""
    return Score(value, f"expected {expected}, got {shown(output)}{partly}")


def _acceptable(example: Example) -> list[Any]:
    """The acceptable answers: the target, or its items if it is a list."""
    answers = example.target if isinstance(example.target, list | tuple) else [example.target]
    if not answers or any(answer is None for answer in answers):
        raise _no_target(example)
    return list(answers)


def _no_target(example: Example) -> ScorerError:
    return ScorerError(f"example {example.id} needs a target, but got {example.target!r}")


def _token_f1(output: str, answer: str) -> float:
    got, wanted = normalise(output), normalise(answer)
    if got != wanted and {got, wanted} & {"yes", "no", "noanswer"}:
        return 0.0
    if not got or not wanted:
        return float(got == wanted)
    ours, theirs = got.split(), wanted.split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


# Only Latin letters and digits continue a word: Chinese has no spaces between words.
_WORD = "[0-9a-z\u00df-\u024f]"


def _contains(output: str, answer: str) -> float:
    wanted = re.escape(normalise(answer))
    return float(re.search(f"(?<!{_WORD}){wanted}(?!{_WORD})", normalise(output)) is not None)


_read_number = parsers.number()


def _as_number(value: Value) -> float | None:
    """A finite number, or None."""
    if isinstance(value, str):
        try:
            return float(_read_number(value))
        except Unparsable:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _target_number(example: Example, answer: Any) -> float:
    number = _as_number(answer)
    if number is None:
        raise ScorerError(f"the target of example {example.id} must be a number, but got {answer!r}")
    return number


def _items(value: Any) -> set[str]:
    items = value if isinstance(value, list | tuple | set | frozenset) else [value]
    return {as_text(item).strip().casefold() for item in items}


def _checked(judged: Any, who: str, example: Example) -> Score:
    score = judged if isinstance(judged, Score) else Score(judged)
    try:
        value = float(score.value) if isinstance(score.value, int | float) else math.nan
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        got = shown(judged)
        raise ScorerError(f"{who} must return a Score or a finite number, but got {got} on example {example.id}")
    if abs(value) > LARGEST_SCORE:
        rule = f"{who} must return scores from -{LARGEST_SCORE:,} to {LARGEST_SCORE:,}"
        raise ScorerError(
            f"{rule}, but got {value:g} on example {example.id}\n  remedy: scale the scores, such as to 0..1"
        )
    return replace(score, value=value)
