"""The proposer `components`: Optuna combines instruction fragments from an authored bank, without a language model."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from agentopt.core.errors import ConfigError
from agentopt.core.yaml_text import load_yaml
from agentopt.prompts.prompt_proposers import Attempt, Brief

NONE = ""
"""The choice of no fragment for a slot."""

TRIES = 50
"""Samples of TPE that may be repeats before combinations are sampled at random."""

EMPTY_SHARE = 0.6
"""Share of slots that a random combination leaves empty: few instructions are easier to follow and to assess."""

Bank = Mapping[str, tuple[str, ...]]
"""Slot -> its fragments, of which a prompt has at most one."""


@lru_cache(maxsize=1)
def authored_bank() -> Bank:
    """The bank of fragments in `bank.yaml` beside this module."""
    data = load_yaml(Path(__file__).with_name("bank.yaml"), ConfigError)
    return {slot: tuple(fragments) for slot, fragments in data.items()}


def compose(seed_prompt: str, chosen: Mapping[str, str], bank: Bank) -> str:
    """Join the seed prompt and the chosen fragments.

    Args:
        seed_prompt: The text to begin with; may be empty.
        chosen: Slot -> fragment; slots that are missing have none.
        bank: Gives the order of the slots.
    """
    return " ".join(part for part in (seed_prompt.strip(), *(chosen.get(slot, NONE) for slot in bank)) if part)


def fragments_in(system_prompt: str, bank: Bank) -> dict[str, str]:
    """Find the fragment of each slot in a prompt, so that attempts by other proposers inform the sampler too."""
    return {slot: next((f for f in options if f in system_prompt), NONE) for slot, options in bank.items()}


class ComponentsProposer:
    """Appends fragments to the seed prompt, as Optuna's TPE samples them given every earlier attempt.

    Combinations are random while there are fewer attempts than slots.

    Args:
        seed: Seed of the combinations.
        bank: The fragments; the authored bank by default.
    """

    name = "components"

    def __init__(self, seed: int = 0, bank: Bank | None = None) -> None:
        self._seed, self._bank = seed, bank or authored_bank()

    async def propose(self, brief: Brief, history: Sequence[Attempt], k: int) -> list[str]:
        """Return at most `k` new prompts, fewer if the bank is exhausted; see `PromptProposer.propose`."""
        known = {attempt.system_prompt for attempt in history} | {brief.seed_prompt.strip()}
        rng = random.Random(f"{self._seed}:{brief.subtask}:{len(history)}")
        study = self._study(history, rng.randrange(2**31))
        found: list[str] = []
        for tried in range(TRIES * k):
            if len(found) == k:
                break
            # With fewer attempts than slots, TPE has too little data.
            guided = len(history) >= len(self._bank) and tried < TRIES
            chosen = self._sampled(study) if guided else self._random(rng)
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

    def _random(self, rng: random.Random) -> dict[str, str]:
        return {
            slot: NONE if rng.random() < EMPTY_SHARE else rng.choice(options) for slot, options in self._bank.items()
        }
