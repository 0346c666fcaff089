"""Prints how often our measures agree with the official ones, and names each difference.

    python -m benchmarks.official [--outputs 10000]
    python -m benchmarks.official --code FOLDER     # check the stored values of IFEval and IFBench again

The inputs are ours; the values of the official code are stored in `values/`, without the code. FOLDER has a copy of the
packages `instruction_following_eval` (google-research) and `ifbench` (allenai/IFBench). Exits with code 1 if IFEval or
IFBench agree in less than 99.9%.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from agentopt.evaluation.checkers.instructions import Benchmark, Instructions
from benchmarks.official import answers, instructions, mathematics
from benchmarks.official.agreement import stored

LEAST = 0.999
BENCHMARKS: tuple[Benchmark, ...] = ("ifeval", "ifbench")


def main() -> int:
    """Run the comparisons; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--outputs", type=int, default=10_000, help="outputs of each instruction benchmark")
    parser.add_argument("--code", type=Path, help="folder of the official packages")
    options = parser.parse_args()
    logging.disable(logging.ERROR)  # the checkers log each text whose language they cannot detect
    agreements = [agreement for kind in answers.MEASURES for agreement in answers.compare(kind)]
    agreements += mathematics.compare()
    checked = [agreement for name in BENCHMARKS for agreement in instructions.compare(name, options.outputs)]
    for agreement in (*agreements, *checked):
        agreement.report()
    for name in BENCHMARKS if options.code else ():
        Instructions(name).check("", [], "")  # NLTK's data
        again = instructions.official(name, options.outputs, options.code)
        same = sum(one == other for one, other in zip(again, stored(name)["values"], strict=False))
        print(f"{name}: {same} of {len(again)} stored values are those of the code in {options.code.name}")
    return int(any(len(one.differences) > (1 - LEAST) * one.compared for one in checked))


if __name__ == "__main__":
    sys.exit(main())
