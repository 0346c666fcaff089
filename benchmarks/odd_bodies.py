"""Calls to an endpoint whose responses are odd: what is raised, and what is charged against what the server counted.

    python -m benchmarks.odd_bodies [--count 240] [--seed 0]

The bodies are those of `agentopt.testing.odd_bodies`, one call for each. A call may end in a `ModelError`, which an
evaluation counts as a failed example; any other exception would end a run. Exits with code 1 if there is one, or if a
call is charged other than the server counted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentopt.core.errors import ModelError
from agentopt.testing.odd_bodies import KINDS, Outcome, odd_bodies, outcomes

HEAD = """\
| odd | requests at the server | calls charged | `ModelError` | other exceptions | tokens that the server counted \
| tokens charged | no usage: calls at the worst case | charged wrongly |
|---|---|---|---|---|---|---|---|---|"""


def row(kind: str, found: Sequence[Outcome]) -> str:
    """One row of the table."""
    failed = [outcome for outcome in found if isinstance(outcome.raised, ModelError)]
    other = [outcome for outcome in found if outcome.raised and not isinstance(outcome.raised, ModelError)]
    priced = [outcome for outcome in found if outcome.body.bill != "worst"]
    wrong = [outcome for outcome in found if (outcome.calls, outcome.charged) != (outcome.received, outcome.counted)]
    cells = [
        sum(outcome.received for outcome in found),
        sum(outcome.calls for outcome in found),
        len(failed),
        len(other),
        sum(sum(outcome.counted) for outcome in priced),
        sum(sum(outcome.charged) for outcome in priced),
        len(found) - len(priced),
        len(wrong),
    ]
    return f"| {kind} | {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bodies = odd_bodies(arguments.count, seed=arguments.seed)
        found = asyncio.run(outcomes(bodies, Path(folder) / "journal.db"))
    print(HEAD)
    for kind in KINDS:
        print(row(kind, [outcome for outcome in found if outcome.body.kind == kind]))
    print(row("all", found))
    wrong = [outcome for outcome in found if not outcome.is_right]
    for outcome in wrong:
        print(f"{outcome.body.name}: {outcome.raised!r}, {outcome.charged} against {outcome.counted}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
