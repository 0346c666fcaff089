"""Odd bodies never raise anything but a `ModelError` out of a call, and each is charged as the server counts it."""

from __future__ import annotations

from pathlib import Path

from agentopt.testing.odd_bodies import CONTENTS, ENCODINGS, ENVELOPES, KINDS, USAGES, odd_bodies, outcomes

BODIES = odd_bodies(200)


async def test_no_odd_body_raises_out_of_a_call_or_is_charged_wrongly(tmp_path: Path) -> None:
    found = await outcomes(BODIES, tmp_path / "journal.db")
    assert [outcome.body for outcome in found] == BODIES
    assert [outcome for outcome in found if not outcome.is_right] == []
    assert {outcome.received for outcome in found} == {1}


def test_every_option_occurs_and_the_bodies_are_reproducible() -> None:
    assert odd_bodies(200) == BODIES
    assert odd_bodies(200, seed=1) != BODIES
    assert {body.kind for body in BODIES} == set(KINDS)
    names = "\n".join(body.name for body in BODIES)
    for part, options in {"content": CONTENTS, "usage": USAGES, "envelope": ENVELOPES, "encoding": ENCODINGS}.items():
        assert [option for option in options if f"{part} {option}" not in names] == []
