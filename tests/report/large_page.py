"""The page of 200 trials of 100 examples, from synthesised records: `python -m tests.report.large_page FOLDER`.

It prints what the records and the page took, without the imports: the seconds, those of the processor, and the peak
memory in MB.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from random import Random

from agentopt.api import load
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.files import write_output
from agentopt.core.records import Evaluation, ExampleResult, Split, SubtaskUse, Trial
from agentopt.core.task import Task
from agentopt.report.page.build import MOST_EMBEDDED, pack_within, page_of
from agentopt.runs.archive import RunArchive
from agentopt.runs.folder import RunFolder
from agentopt.runs.traces import CallTrace, SampleTrace, SubtaskTrace, Trace
from agentopt.search.from_task import search_space
from agentopt.search.posterior import choose
from agentopt.testing.toy import LARGE, SMALL, draw, toy_task
from tests.report.pages import settings

TRIALS, EXAMPLES = 200, 100


def candidates() -> list[Candidate]:
    choices = [SubtaskChoice(model, samples) for model in (SMALL, LARGE) for samples in range(1, 9)]
    pairs = ({"find": find, "answer": answer} for find, answer in product(choices, choices))
    return [Candidate.of(pair) for pair in islice(pairs, TRIALS)]


def evaluation(task: Task, candidate: Candidate, split: Split) -> Evaluation:
    """Scores that rise with the samples and the model; every answer has a remark of its own."""
    samples = {name: choice.num_samples for name, choice in candidate.items()}
    chance = 0.3 + 0.02 * sum(samples.values()) + 0.15 * (candidate["find"].model == LARGE)
    uses = {name: SubtaskUse(90, 40 * n, usd=n * 1e-5, responses=n, seconds=0.2 * n) for name, n in samples.items()}
    results = tuple(
        ExampleResult(
            example.id,
            float(draw(candidate.key, example.id) < chance),
            f"the answer to {example.id} by {candidate.key[:8]}",
            f"a remark on {example.id}, which is as long as those of scorers are",
            subtasks=uses,
            seconds=1.0,
        )
        for example in task.splits[split]
    )
    return Evaluation(split, len(results), results, "complete")


def large(folder: Path) -> RunArchive:
    """The archive of a stopped run; nothing is called."""
    task, specs = load(toy_task(validation=EXAMPLES, test=EXAMPLES, num_samples=range(1, 9)), settings(folder))
    task = replace(task, max_units=None)
    found = [(candidate, evaluation(task, candidate, "validation")) for candidate in candidates()]
    space = search_space(task, specs, found[0][1])
    trials = tuple(
        Trial(number, candidate, measured, "baseline" if number == 0 else "random", space.units(candidate))
        for number, (candidate, measured) in enumerate(found)
    )
    choice = choose(space, trials)
    assert choice is not None
    tests = {t.number: evaluation(task, t.candidate, "test") for t in (trials[0], choice.best, choice.recommended)}
    return RunArchive(
        RunFolder.create(task, settings(folder)), task, specs, "stopped", trials, space, choice, tests=tests
    )


def trace(candidate: Candidate, example: str, rng: Random) -> Trace:
    """A trace whose texts are hardly compressed."""

    def sample() -> SampleTrace:
        return SampleTrace(rng.randbytes(150).hex(" ", 4), "", example, "", "stop", 90)

    def subtask(name: str) -> SubtaskTrace:
        choice = candidate[name]
        samples = tuple(sample() for _ in range(choice.num_samples))
        call = CallTrace(choice.model, "samples", (("user", f"{name} {example} {rng.random()}"),), samples, 1.0)
        return SubtaskTrace(name, (call,), example, "")

    return (subtask("find"), subtask("answer"))


def write_large(folder: Path) -> Path:
    """Write the page with as many synthesised traces as are embedded."""
    archive, rng = large(folder), Random(0)
    numbers = list(dict.fromkeys([*(finalist.trial for finalist in archive.finalists), *archive.front]))
    found: dict[tuple[int, Split], dict[str, Trace]] = {}
    for number in numbers:
        candidate, splits = archive.trials[number].candidate, archive.task.splits
        for split in ("validation", "test") if number in archive.tests else ("validation",):
            found[number, split] = {e.id: trace(candidate, e.id, rng) for e in splits[split]}
    embedded, beside = pack_within(archive, numbers, found, MOST_EMBEDDED)
    assert beside, "more traces than the page embeds"
    page = folder / "large.html"
    write_output(page, page_of(archive, embedded, "large"))
    return page


def peak_memory() -> float:
    """Peak memory of this program in MB. `getrusage` would count that of the process that started it, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    started, started_cpu = time.perf_counter(), time.process_time()
    write_large(Path(sys.argv[1]))
    cpu = time.process_time() - started_cpu
    print(time.perf_counter() - started, cpu, peak_memory())
