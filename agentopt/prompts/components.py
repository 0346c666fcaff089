"""System prompts from an authored bank of instruction fragments, combined by Optuna: needs no capable model."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from agentopt.prompts.proposers import Attempt, Brief

NONE = ""
"""No fragment of a slot."""

TRIES = 50
"""How often the sampler may repeat itself before a combination is drawn at random."""

EMPTY_SHARE = 0.6
"""Share of slots that a random combination leaves empty: few instructions are easier to follow, and to credit."""

Bank = Mapping[str, tuple[str, ...]]


@lru_cache(maxsize=1)
def authored_bank() -> Bank:
    """Slot -> fragments, from `bank.yaml` beside this module."""
    data = yaml.safe_load((files("agentopt.prompts") / "bank.yaml").read_text("utf-8"))
    return {slot: tuple(fragments) for slot, fragments in data.items()}


def compose(seed_prompt: str, chosen: Mapping[str, str], bank: Bank) -> str:
    """The seed prompt, then the chosen fragments in the order of the slots."""
    return " ".join(part for part in (seed_prompt.strip(), *(chosen.get(slot, NONE) for slot in bank)) if part)


def fragments_in(system_prompt: str, bank: Bank) -> dict[str, str]:
    """The fragment of each slot that stands in the prompt, so that prompts by other proposers teach as well."""
    return {slot: next((f for f in options if f in system_prompt), NONE) for slot, options in bank.items()}


class ComponentsProposer:
    """Tells Optuna's TPE every attempt as a choice of fragments, and composes what it samples next.

    The first prompts, when nothing was tried yet, are random combinations. The seed prompt is kept in front of all.
    """

    name = "components"

    def __init__(self, seed: int = 0, bank: Bank | None = None) -> None:
        self._seed, self._bank = seed, bank or authored_bank()

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[str]:
        """At most `k` new texts; fewer when the bank is used up. Raises nothing."""
        known = {attempt.system_prompt for attempt in history} | {brief.seed_prompt.strip()}
        rng = random.Random(f"{self._seed}:{brief.subtask}:{len(history)}")
        study = self._study(history, rng.randrange(2**31))
        found: list[str] = []
        for tried in range(TRIES * k):
            if len(found) == k:
                break
            # TPE knows nothing before it has seen as many attempts as it takes at random anyway.
            guided = len(history) >= len(self._bank) and tried < TRIES
            chosen = self._sampled(study) if guided else self._drawn(rng)
            text = compose(brief.seed_prompt, chosen, self._bank)
            if text not in known:
                known.add(text)
                found.append(text)
        return found

    def _study(self, history: Sequence[Attempt], seed: int) -> optuna.Study:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = TPESampler(seed=seed, multivariate=True, n_startup_trials=1, constant_liar=True)
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        optuna.logging.set_verbosity(before)
        space = self._distributions()
        study.add_trials(
            [
                create_trial(params=fragments_in(a.system_prompt, self._bank), distributions=space, value=a.reward)
                for a in history
            ]
        )
        return study

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {slot: CategoricalDistribution((NONE, *options)) for slot, options in self._bank.items()}

    def _sampled(self, study: optuna.Study) -> dict[str, str]:
        return dict(study.ask(self._distributions()).params)

    def _drawn(self, rng: random.Random) -> dict[str, str]:
        return {
            slot: NONE if rng.random() < EMPTY_SHARE else rng.choice(options) for slot, options in self._bank.items()
        }
