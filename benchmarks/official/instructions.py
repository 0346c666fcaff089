"""IFEval and IFBench: the benchmarks' own checkers beside ours, strict and loose."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from agentopt.evaluation.checkers.instructions import Benchmark, Instructions
from benchmarks.official.agreement import Agreement, stored
from benchmarks.official.instruction_rows import row

PACKAGES = {"ifeval": "instruction_following_eval", "ifbench": "ifbench"}


def official(benchmark: Benchmark, count: int, folder: Path) -> str:
    """Check the first `count` outputs by the official code.

    Args:
        benchmark: The benchmark.
        count: Number of outputs.
        folder: The folder of the package `instruction_following_eval` or `ifbench`.

    Returns:
        A digit for each output: 3 if it is followed, 2 if it is loosely, 0 if not, `!` if the code fails.
    """
    import langdetect

    langdetect.DetectorFactory.seed = 0
    sys.path.insert(0, str(folder))
    registry = importlib.import_module(f"{PACKAGES[benchmark]}.instructions_registry").INSTRUCTION_DICT
    sys.path.remove(str(folder))
    return "".join(_checked(registry, *row(benchmark, number)) for number in range(count))


def _checked(registry: Any, name: str, arguments: dict[str, Any], prompt: str, output: str) -> str:
    checker = registry[name](name)
    checker.build_description(**arguments)
    if "prompt" in (checker.get_instruction_args() or ()):
        checker.build_description(prompt=prompt)
    lines = output.split("\n")
    parts = [output, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    try:
        if output.strip() and checker.check_following(output):
            return "3"
        forms = [*parts, *(part.replace("*", "") for part in parts)]
        return "2" if any(form.strip() and checker.check_following(form) for form in forms) else "0"
    except Exception:  # noqa: BLE001 - whatever the official code fails with
        return "!"


def compare(benchmark: Benchmark, count: int) -> list[Agreement]:
    """Compare the first `count` outputs with the stored official values."""
    values, checks = stored(benchmark)["values"][:count], Instructions(benchmark)
    strict: list[str] = []
    loose: list[str] = []
    for number, digit in enumerate(values):
        name, arguments, prompt, output = row(benchmark, number)
        (found,) = checks.check(prompt, [{"id": name, "kwargs": arguments}], output)
        case = f"{name} {arguments}: {output[:60]!r}"
        if found.strict != (digit == "3"):
            strict.append(f"{case}: official {digit}, ours {found.strict}")
        if found.loose != (digit in "23"):
            loose.append(f"{case}: official {digit}, ours {found.loose}")
    return [Agreement(f"{benchmark} strict", len(values), strict), Agreement(f"{benchmark} loose", len(values), loose)]
