"""`agentopt compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agentopt.cli.output import print_json, print_plain
from agentopt.cli.run_names import archive_of
from agentopt.core.files import check_writable, write_output
from agentopt.report.comparison import comparison_page, comparison_tables
from agentopt.runs.inspection import InspectedSplit
from agentopt.runs.result import Role
from agentopt.runs.run_comparison import compare_runs


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """The options of `agentopt compare`; see its help."""

    runs: Sequence[Path]
    role: Role
    split: InspectedSplit
    as_json: bool
    out: Path | None


def run_comparison(options: CompareOptions, settings: Sequence[str], console: Console) -> None:
    """`agentopt compare`: prints the comparison, and writes the page if a file is given."""
    if options.out is not None:
        check_writable(options.out)
    remedy = "call agentopt.runs.run_comparison.compare_runs with archives of the runs"
    archives = [archive_of(run, settings, in_python=remedy) for run in options.runs]
    found = compare_runs(archives, role=options.role, split=options.split)
    if options.out is not None:
        write_output(options.out, comparison_page(found))
    if options.as_json:
        print_json(found)
        return
    for table in comparison_tables(found):
        console.print(table)
    for note in found.notes:
        print_plain(console, note)
