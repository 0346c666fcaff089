"""The time of a run by the journal's calls, and why it is not known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from agentopt import ModelSpec
from agentopt.core.budget import Usage
from agentopt.models.journal_rows import Pace
from agentopt.runs.pace import LEAST_CALLS, seconds_of, why_no_pace
from agentopt.testing.company import company_specs

SPECS = {spec.name: spec for spec in company_specs("http://127.0.0.1:9/v1")[:2]}
ONE, TWO = SPECS


class Paces:
    """The paces of a journal."""

    def __init__(self, paces: Mapping[str, Pace]) -> None:
        self._paces = {SPECS[name].identity: pace for name, pace in paces.items()}

    def pace(self, identity: str) -> Pace:
        return self._paces.get(identity, Pace(None, 0, 0))


KNOWN = Pace(2.0, LEAST_CALLS, 0)


@pytest.mark.parametrize(
    ("paces", "batched", "why"),
    [
        ({ONE: KNOWN, TWO: KNOWN}, (), None),
        ({}, (), f"the journal has no call of {ONE} and {TWO}"),
        ({ONE: KNOWN}, (), f"the journal has no call of {TWO}"),
        ({ONE: KNOWN, TWO: Pace(None, 0, 168)}, (), f"the answers of {TWO} in the journal have no duration"),
        ({ONE: KNOWN, TWO: Pace(2.0, 1, 168)}, (), f"the journal has 1 timed call of {TWO}, and a pace needs 10"),
        ({ONE: KNOWN, TWO: Pace(2.0, 9, 0)}, (), f"the journal has 9 timed calls of {TWO}"),
        ({ONE: KNOWN}, (TWO,), f"calls of {TWO} wait in batches, which may take up to a day"),
        ({ONE: Pace(None, 0, 8)}, (TWO,), f"wait in batches, which may take up to a day; the answers of {ONE} in"),
    ],
)
def test_why_the_time_is_not_known(paces: Mapping[str, Pace], batched: tuple[str, ...], why: str | None) -> None:
    found = why_no_pace(SPECS, Paces(paces), batched)  # type: ignore[arg-type]
    assert (found is None) is (why is None)
    assert (why or "") in (found or "")
    if not batched:
        assert (seconds_of(Usage(calls=100), SPECS, Paces(paces)) is None) is (why is not None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("limit", "seconds"), [(None, 100 * 3.0 / 8), (10, 100 * 6.0)])
def test_the_time_is_that_of_the_slowest_model(limit: int | None, seconds: float) -> None:
    update = {"concurrency": 8, "requests_per_minute": limit}
    specs: dict[str, ModelSpec] = {name: spec.model_copy(update=update) for name, spec in SPECS.items()}
    paces = Paces({ONE: KNOWN, TWO: Pace(3.0, LEAST_CALLS, 4)})
    assert seconds_of(Usage(calls=100), specs, paces) == pytest.approx(seconds)  # type: ignore[arg-type]


def test_without_a_journal_no_call_was_made() -> None:
    assert seconds_of(Usage(calls=1), SPECS, None) is None
    assert why_no_pace(SPECS, None, ()) == f"the journal has no call of {ONE} and {TWO}"
