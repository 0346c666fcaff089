"""Simulates the claims of the package with known truth.

    python -m benchmarks.claims [--short] [--only NAME ...] [--runs N]

Every line is a figure with its Monte-Carlo error and, if a limit was set, whether it holds: reached, within error
(at most 2.5 errors beyond the limit) or BROKEN. Exit code 1 if a limit is broken. `--short` takes fewer runs, for
CI. The runs of most sections use all cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks.claims import choosing, jobs, judges, prompts, rows
from benchmarks.claims.lines import Line

Section = Callable[[int], Iterator[Line]]

SECTIONS: dict[str, tuple[Section, int, int]] = {
    "choosing": (choosing.choosing, 300, 20),
    "stopping": (choosing.stopping, 400, 20),
    "equals stopped": (choosing.equals_stopped, 2000, 300),
    "intervals": (rows.intervals, 2000, 60),
    "differences": (rows.differences, 2000, 200),
    "skewed differences": (rows.skewed_differences, 2000, 60),
    "duplicates": (rows.duplicates, 1500, 200),
    "power": (rows.power, 2000, 200),
    "gate": (rows.gates, 4000, 400),
    "repeats": (rows.repeats, 1000, 60),
    "judges": (judges.judges, 4000, 300),
    "adoptions": (prompts.adoptions, 400, 30),
    "promotions": (jobs.promotions, 400, 24),
    "promotion power": (jobs.power, 100, 3),
    "walk": (jobs.walk, 24, 6),
    "drift": (jobs.drift, 300, 10),
}
"""Name -> the simulation, and its number of runs in the long and the short form."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer runs, a few minutes")
    parser.add_argument("--only", nargs="*", default=list(SECTIONS), choices=list(SECTIONS), help="sections by name")
    parser.add_argument("--runs", type=int, help="runs of each section, in place of its own number")
    wanted = parser.parse_args()
    broken = []
    for name in wanted.only:
        section, *runs = SECTIONS[name]
        started = time.monotonic()
        print(f"\n**{name}**\n\n| claim | measured | limit | |\n|---|---|---|---|")
        for line in section(wanted.runs or runs[wanted.short]):
            print(line, flush=True)
            broken += [line.what] if line.state == "BROKEN" else []
        print(f"\n{time.monotonic() - started:.0f} s")
    print(f"\nbroken: {'; '.join(broken)}" if broken else "\nno limit is broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
