"""Simulates what the package claims, with known truth: `python -m benchmarks.claims [--short] [--only NAME ...]`.

Every line is a figure with its Monte-Carlo error and, where a limit was set, whether it holds: reached, within error
(at most 2.5 errors beyond the limit) or BROKEN. Exit code 1 if a limit is broken. `--short` takes a tenth of the runs,
for CI.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks.claims import choosing, rows
from benchmarks.claims.lines import Line

Section = Callable[[int], Iterator[Line]]

SECTIONS: dict[str, tuple[Section, int]] = {
    "choosing": (choosing.choosing, 300),
    "stopping": (choosing.stopping, 400),
    "equals stopped": (choosing.equals_stopped, 2000),
    "intervals": (rows.intervals, 2000),
    "differences": (rows.differences, 2000),
    "skewed differences": (rows.skewed_differences, 2000),
    "duplicates": (rows.duplicates, 1500),
    "power": (rows.power, 2000),
    "gate": (rows.gates, 4000),
    "repeats": (rows.repeats, 1000),
}
"""Name -> the simulation, and its number of runs."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a tenth of the runs")
    parser.add_argument("--only", nargs="*", default=list(SECTIONS), choices=list(SECTIONS), help="sections by name")
    wanted = parser.parse_args()
    broken = []
    for name in wanted.only:
        section, runs = SECTIONS[name]
        started = time.monotonic()
        print(f"\n**{name}**\n\n| claim | measured | limit | |\n|---|---|---|---|")
        for line in section(max(20, runs // 10) if wanted.short else runs):
            print(line, flush=True)
            broken += [line.what] if line.state == "BROKEN" else []
        print(f"\n{time.monotonic() - started:.0f} s")
    print(f"\nbroken: {'; '.join(broken)}" if broken else "\nno limit is broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
