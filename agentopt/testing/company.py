"""A company of five hosted models with planted prices, latencies and abilities, and a task whose truth is known.

The task has two subtasks: `find` returns a key, and `answer` the word behind it. A model answers right with its planted
probability, independently for each sample; a wrong answer is one of four, so that a vote helps. An answer to a wrong
key is wrong. No model has a parameter count. `thinker` has the lowest price, but its completions are 20 times longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import factorial, prod
from typing import Any

from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import Price
from agentopt.core.records import Split
from agentopt.core.task import Example, Subtask, Task, TokenLengths, Value
from agentopt.evaluation.scorers import exact_match
from agentopt.models.base import ChatModel, Request, Response
from agentopt.models.catalog import ModelSpec, Supports
from agentopt.testing.servers import Answer, prompt_text
from agentopt.testing.toy import draw

WRONG = 4
"""Number of wrong answers, which are equally likely."""

WORDS = 10
"""Words of a completion without thoughts; the last one is the answer."""

PROMPT_WORDS = 120
"""Words of a prompt."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """One model of the company.

    Attributes:
        usd_prompt: USD per 1M prompt tokens.
        usd_completion: USD per 1M completion tokens.
        seconds: Latency of a request.
        find: Probability of a right answer to `find`.
        answer: Probability of a right answer to `answer`, given the right key.
        words: Words of a completion, thoughts included.
    """

    usd_prompt: float
    usd_completion: float
    seconds: float
    find: float
    answer: float
    words: int = WORDS

    def price(self) -> Price:
        """The catalogue's price."""
        return Price(self.usd_prompt, self.usd_completion)


STAFF: Mapping[str, Hosted] = {
    "ultra": Hosted(5.0, 20.0, 0.9, 0.97, 0.97),
    "nano": Hosted(0.1, 0.4, 0.2, 0.45, 0.93),
    "flash": Hosted(0.3, 1.2, 0.1, 0.60, 0.95),
    "mini": Hosted(0.6, 2.4, 0.4, 0.90, 0.95),
    "thinker": Hosted(0.08, 0.3, 6.0, 0.80, 0.80, 20 * WORDS),
}
"""Name -> model. The first, the dearest for the same tokens, is the baseline's."""

SUBTASKS = ("find", "answer")
COUNTS = (1, 2, 5)
"""Allowed sample counts of both subtasks. Two votes are as good as one, so that their price buys nothing."""


def company_specs(base_url: str) -> list[ModelSpec]:
    """The catalogue's entries: prices, and no parameter counts.

    Args:
        base_url: Of the server with the OpenAI protocol.
    """
    return [
        ModelSpec(
            name=name,
            base_url=base_url,
            usd_per_1m_prompt=model.usd_prompt,
            usd_per_1m_completion=model.usd_completion,
            max_choices=8,
            supports=Supports(seed=True),  # without it, each request would draw the same samples
        )
        for name, model in STAFF.items()
    ]


def company_task(*, validation: int = 200, test: int = 100, **limits: Any) -> Task:
    """The task.

    Args:
        validation: Number of validation examples.
        test: Number of test examples.
        limits: Fields of `Task`, such as `max_seconds`.
    """
    sizes: dict[Split, int] = {"validation": validation, "test": test}
    splits = {
        split: tuple(Example(f"{split}-{i}", {"row": f"{split}-{i}"}, f"word-{split}-{i}") for i in range(size))
        for split, size in sizes.items()
    }
    subtasks = (_subtask("find", _find, ()), _subtask("answer", _answer, ("find",)))
    return Task("company", subtasks, exact_match(), splits, **limits)


def _subtask(name: str, render: Any, reads: tuple[str, ...]) -> Subtask:
    lengths = TokenLengths(PROMPT_WORDS, WORDS)
    return Subtask(
        name, render, tuple(STAFF), parse=_last_word, num_samples=COUNTS, max_tokens=400, reads=reads, tokens=lengths
    )


def _find(inputs: Mapping[str, Any], outputs: Mapping[str, Value]) -> str:
    return _padded(f"find|{inputs['row']}|")


def _answer(inputs: Mapping[str, Any], outputs: Mapping[str, Value]) -> str:
    return _padded(f"answer|{inputs['row']}|{outputs['find']}")


def _padded(line: str) -> str:
    return " ".join(["context"] * (PROMPT_WORDS - 1) + [line])


def _last_word(text: str) -> str:
    return text.split()[-1]


def company_answer(seed: int = 0) -> Answer:
    """The answer function of a loopback server.

    Args:
        seed: Seed of the abilities' draws.
    """

    def answer(body: dict[str, Any], index: int) -> str:
        subtask, row, key = prompt_text(body).split()[-1].split("|")
        model = STAFF[body["model"]]
        sample = int(body.get("seed") or 0) + index
        chance = draw(seed, body["model"], subtask, row, key, sample)
        known = subtask == "find" or key == f"key-{row}"
        right = {"find": f"key-{row}", "answer": f"word-{row}"}[subtask]
        wrong = f"wrong-{int(draw(seed, 'which', body['model'], subtask, row, sample) * WRONG)}"
        said = right if known and chance < getattr(model, subtask) else wrong
        return " ".join(["thought"] * (model.words - 1) + [said])

    return answer


@dataclass(frozen=True)
class OnPlantedClock:
    """A `ChatModel` whose responses took the planted seconds of their model, whatever the machine took.

    Attributes:
        inner: Makes the calls.
    """

    inner: ChatModel

    async def generate(self, request: Request) -> Response:
        response = await self.inner.generate(request)
        return replace(response, seconds=STAFF[request.model].seconds)

    async def aclose(self) -> None:
        """Close the inner model."""
        await self.inner.aclose()


def every_candidate() -> list[Candidate]:
    """Every configuration."""
    choices = [SubtaskChoice(model, count) for model in STAFF for count in COUNTS]
    every = product(choices, repeat=len(SUBTASKS))
    return [Candidate.of(dict(zip(SUBTASKS, pair, strict=True))) for pair in every]


def true_score(candidate: Candidate) -> float:
    """The exact expected score of a configuration."""
    rates = (vote_rate(getattr(STAFF[c.model], name), c.num_samples) for name, c in candidate.items())
    return prod(rates)


@cache
def vote_rate(right: float, samples: int) -> float:
    """Probability that a vote of independent samples is right; of equals the earliest sample wins.

    Args:
        right: Probability that one sample is right; the others are spread evenly over `WRONG` answers.
        samples: Number of samples.
    """
    each = (1 - right) / WRONG
    total = 0.0
    for counts in product(range(samples + 1), repeat=WRONG):
        votes = samples - sum(counts)
        if votes < max(counts, default=0) or votes <= 0:
            continue
        level = 1 + sum(count == votes for count in counts)  # any of the equals is as likely to be the earliest
        ways = factorial(samples) // prod(factorial(n) for n in (votes, *counts))
        total += ways * right**votes * each ** sum(counts) / level
    return total


def true_usd(candidate: Candidate) -> float:
    """The exact USD of one example."""
    return sum(
        STAFF[c.model].price().usd(PROMPT_WORDS, c.num_samples * STAFF[c.model].words) for c in candidate.values()
    )


def true_seconds(candidate: Candidate) -> float:
    """The exact latency of one example: `answer` waits for `find`, and samples are drawn in one request."""
    return sum(STAFF[c.model].seconds for c in candidate.values())


def cheapest_as_good(tolerance: float, allowed: Sequence[Candidate] | None = None) -> Candidate:
    """The cheapest configuration in USD whose score is within the tolerance of that of the dearest one.

    Args:
        tolerance: Score that it may lose against the dearest one.
        allowed: The configurations; all by default.
    """
    every = every_candidate() if allowed is None else allowed
    dearest = max(every, key=lambda c: (round(true_usd(c), 12), true_score(c)))
    needed = true_score(dearest) - tolerance
    return min((c for c in every if true_score(c) >= needed), key=true_usd)
