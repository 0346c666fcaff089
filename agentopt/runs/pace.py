"""The time of a run's calls, at the pace of earlier ones in the journal. Makes no model call."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

from agentopt.core.budget import Usage
from agentopt.core.message_text import counted, in_words
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal import Journal

LEAST_CALLS = 10
"""Calls of a model whose mean duration is its pace; fewer are no estimate."""


def seconds_of(usage: Usage, specs: Mapping[str, ModelSpec], journal: Journal | None) -> float | None:
    """Time of `usage.calls` at the pace of the slowest model; None if the pace of a model is not known.

    Args:
        usage: The usage.
        specs: Catalogue name -> entry.
        journal: Its mean seconds per call of each model, of `LEAST_CALLS` calls or more, give the pace. None: no time.
    """
    if journal is None:
        return None
    slowest = 0.0
    for spec in specs.values():
        pace = journal.pace(spec.identity)
        if pace.seconds is None or pace.timed < LEAST_CALLS:
            return None
        slowest = max(slowest, pace.seconds / spec.concurrency, 60 / (spec.requests_per_minute or math.inf))
    return usage.calls * slowest


def why_no_pace(specs: Mapping[str, ModelSpec], journal: Journal | None, batched: Collection[str]) -> str | None:
    """Why the time of a run is not known, for messages; None if it is.

    Args:
        specs: Catalogue name -> entry.
        journal: The calls so far. None: there are none.
        batched: Models whose calls wait in batches.
    """
    return "; ".join(_reasons(specs, journal, batched)) or None


def _reasons(specs: Mapping[str, ModelSpec], journal: Journal | None, batched: Collection[str]) -> Iterator[str]:
    if batched:
        yield f"calls of {in_words(batched)} wait in batches, which may take up to a day"
    paces = {
        name: journal.pace(spec.identity) if journal else None for name, spec in specs.items() if name not in batched
    }
    if never := [name for name, pace in paces.items() if pace is None or not pace.timed + pace.untimed]:
        yield f"the journal has no call of {in_words(never)}"
    found = {name: pace for name, pace in paces.items() if pace and name not in never}
    if untimed := [name for name, pace in found.items() if not pace.timed]:
        yield f"the answers of {in_words(untimed)} in the journal have no duration, as those of batches"
    for name, pace in found.items():
        if 0 < pace.timed < LEAST_CALLS:
            yield f"the journal has {counted(pace.timed, 'timed call')} of {name}, and a pace needs {LEAST_CALLS}"
