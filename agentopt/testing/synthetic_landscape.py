"""Synthetic score landscapes with the three insights of AgentTTS planted: exact and free, to measure searches on.

Nothing here was measured on a model. `SyntheticLandscape` has two subtasks with the token lengths of the paper
(arXiv 2508.00890), six models each, 13 sample counts and a limit of 900 units. Its scores are formulas that plant what
the paper reports: retrieval gains from model size while answering prefers small models with several samples
(insight 1), the score rises with the samples, peaks and falls (insight 2), and better retrieval moves the answer's peak
to fewer samples (insight 3: quality .80 -> 10 samples, .60 -> 27, .35 -> 91). `SyntheticChain` has three subtasks whose
lengths, models and effects are drawn at random.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from agentopt.core.candidate import Candidate
from agentopt.core.cost import SubtaskCost, Unit
from agentopt.search.base import SearchSpace, SubtaskSpace

SIZES = {"llama-3b": 3e9, "qwen-7b": 7e9, "llama-8b": 8e9, "qwen-32b": 32e9, "llama-70b": 70e9, "qwen-72b": 72e9}
COUNTS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 70, 90)

# Each model's strength in each subtask at one sample, and how much its best sample count adds to it.
RETRIEVE = {
    "llama-3b": (0.30, 0.10), "qwen-7b": (0.42, 0.12), "llama-8b": (0.40, 0.12),
    "qwen-32b": (0.62, 0.12), "llama-70b": (0.70, 0.06), "qwen-72b": (0.74, 0.06),
}  # fmt: skip
ANSWER = {
    "llama-3b": (0.52, 0.36), "qwen-7b": (0.60, 0.26), "llama-8b": (0.57, 0.24),
    "qwen-32b": (0.66, 0.14), "llama-70b": (0.68, 0.12), "qwen-72b": (0.70, 0.10),
}  # fmt: skip


def synthetic_space(max_units: float = 900) -> SearchSpace:
    """Build the space: `retrieve` (2048 prompt, 128 completion tokens), then `answer` (256, 64).

    Args:
        max_units: Cost limit per example in units.
    """
    models = tuple(SIZES)
    retrieve = SubtaskSpace("retrieve", models, COUNTS, "", SubtaskCost(2048, 128, SIZES), "find the passages needed")
    answer = SubtaskSpace("answer", models, COUNTS, "", SubtaskCost(256, 64, SIZES), "answer from the passages")
    return SearchSpace((retrieve, answer), max_units)


class SyntheticLandscape:
    """Exact and noisy scores of every candidate of `synthetic_space`.

    Args:
        seed: Seed of the noise and of the jitter. A candidate's noise is drawn once, so it is the same at every call.
        noise: Standard deviation of the observed score.
        jitter: Largest shift of a model's strength, so that no search can be tuned to one table.
        max_units: Cost limit per example in units.

    Attributes:
        space: The search space.
        optimum: The best exact score.
    """

    def __init__(self, seed: int = 0, *, noise: float = 0.008, jitter: float = 0.0, max_units: float = 900) -> None:
        self.space = synthetic_space(max_units)
        self._seed, self._noise = seed, noise
        rng = random.Random(f"strengths {seed}")
        self._retrieve = _jittered(RETRIEVE, rng, jitter)
        self._answer = _jittered(ANSWER, rng, jitter)
        self.optimum = max(self.exact(candidate) for candidate in self.space.candidates())

    def exact(self, candidate: Candidate) -> float:
        """Return the score without noise, between 0 and 1."""
        retrieve, answer = candidate["retrieve"], candidate["answer"]
        base, gain = self._retrieve[retrieve.model]
        quality = base + gain * _rise_and_fall(retrieve.num_samples, peak=7)
        base, gain = self._answer[answer.model]
        accuracy = base + gain * _rise_and_fall(answer.num_samples, peak=best_answer_count(quality))
        return math.pow(quality, 0.7) * accuracy

    def observed(self, candidate: Candidate) -> float:
        """Return the score with noise, as one evaluation would measure it."""
        return self.exact(candidate) + random.Random(f"{self._seed} {candidate.key}").gauss(0, self._noise)


class SyntheticChain:
    """A landscape with three subtasks, four models and seven sample counts; everything else is drawn from `seed`.

    The score is the product of the subtasks' qualities. The effect of model size, each model's gain from samples, the
    best sample count, and the shift of that count after a better earlier subtask differ between seeds.

    Args:
        seed: Seed of all of these and of the noise.
        noise: Standard deviation of the observed score.

    Attributes:
        space: The search space.
        optimum: The best exact score.
    """

    def __init__(self, seed: int = 0, *, noise: float = 0.01) -> None:
        rng = random.Random(f"chain {seed}")
        self._seed, self._noise = seed, noise
        sizes = {name: 1e9 * 3**i * rng.uniform(0.8, 1.3) for i, name in enumerate(("1b", "3b", "9b", "27b"))}
        self._subtasks = [_drawn_subtask(rng, tuple(sizes)) for _ in range(3)]
        subtasks = []
        for i in range(3):
            cost = SubtaskCost(rng.choice([256, 1024, 2048]), rng.choice([64, 128, 512]), sizes, Unit(1e9, 64, 64))
            subtasks.append(SubtaskSpace(f"stage{i}", tuple(sizes), (1, 2, 3, 5, 8, 12, 20), "", cost))
        limit = sum(s.cost.units(s.largest_model, 1) for s in subtasks)
        self.space = SearchSpace(tuple(subtasks), limit)
        self.optimum = max(self.exact(candidate) for candidate in self.space.candidates())

    def exact(self, candidate: Candidate) -> float:
        """Return the score without noise, between 0 and 1."""
        score, quality = 1.0, 0.6
        for (strengths, peak, moved), choice in zip(self._subtasks, candidate.values(), strict=True):
            base, gain = strengths[choice.model]
            best_count = max(1.5, peak * math.exp(moved * (0.6 - quality)))
            quality = min(1.0, max(0.0, base + gain * _rise_and_fall(choice.num_samples, best_count)))
            score *= quality
        return score

    def observed(self, candidate: Candidate) -> float:
        """Return the score with noise, as one evaluation would measure it."""
        return self.exact(candidate) + random.Random(f"{self._seed} {candidate.key}").gauss(0, self._noise)


DrawnSubtask = tuple[Mapping[str, tuple[float, float]], float, float]
"""Each model's strength at one sample and its gain from samples; the best sample count; the shift of that count."""


def _drawn_subtask(rng: random.Random, models: tuple[str, ...]) -> DrawnSubtask:
    weakest = rng.uniform(0.2, 0.7)
    by_size = rng.uniform(0, 0.9 - weakest)
    strengths = {}
    for place, model in enumerate(models):
        base = min(0.95, max(0.02, weakest + by_size * place / (len(models) - 1) + rng.gauss(0, 0.05)))
        strengths[model] = (base, rng.uniform(0.1, 0.7) * (1 - base))
    return strengths, math.exp(rng.uniform(math.log(2.5), math.log(25))), rng.uniform(0, 3)


def best_answer_count(quality: float) -> float:
    """Return the best sample count of the answer: 10 at a retrieval quality of .80, about 27 at .60, 91 at .35."""
    return math.exp(math.log(10) + 4.9 * (0.8 - quality))


def _rise_and_fall(num_samples: int, peak: float) -> float:
    """Return 0 at one sample and 1 at `peak`, then fall slowly; smooth in the logarithm of the sample count."""
    place = math.log(num_samples) / math.log(peak)
    return place * (2 - place) if place <= 1 else 1 - 0.6 * (place - 1) ** 2


def _jittered(
    table: Mapping[str, tuple[float, float]], rng: random.Random, jitter: float
) -> dict[str, tuple[float, float]]:
    return {
        model: (base + rng.uniform(-jitter, jitter), max(0.0, gain + rng.uniform(-jitter, jitter)))
        for model, (base, gain) in table.items()
    }
