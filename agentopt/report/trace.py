"""Prints the examples of a trial, and the trace of one example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType

from agentopt.core.message_text import counted
from agentopt.core.plain_text import visible
from agentopt.core.usd_text import format_usd
from agentopt.report.tables import Column, table_of
from agentopt.runs.inspection import ExampleInspection, ExampleRow, TrialInspection
from agentopt.runs.traces import CallTrace, SampleTrace, SubtaskTrace

MOST_TEXT = 60
"""Characters of an output in the table of examples."""
MOST_OF_A_REASON = 240
"""Characters of a failure or of feedback there: what a parser expected comes before what it got."""

EXAMPLE_COLUMNS: tuple[Column[ExampleRow], ...] = (
    Column("example", lambda row: visible(row.id)),
    Column("score", lambda row: _score(row.score), "right"),
    Column("baseline", lambda row: _score(row.baseline_score), "right"),
    Column("output", lambda row: _short(row.output)),
    Column("failure or feedback", lambda row: _short(row.failure or row.feedback, MOST_OF_A_REASON)),
    Column("tokens", lambda row: f"{row.prompt_tokens} + {row.completion_tokens}", "right"),
    Column("USD", lambda row: format_usd(row.usd), "right"),
    Column("s", lambda row: "-" if row.seconds is None else f"{row.seconds:.2f}", "right"),
)


def trial_examples_table(found: TrialInspection) -> RenderableType:
    """The examples of a trial, those that it lost against the baseline first.

    Args:
        found: The trial.
    """
    scores = f"score {_score(found.score)}, baseline {_score(found.baseline_score)}"
    title = (
        f"Trial {found.trial} on the {found.split} split, {found.outcome}: {scores}\n{visible(str(found.candidate))}"
    )
    return table_of(title, EXAMPLE_COLUMNS, found.examples)


def print_trace(found: ExampleInspection, console: Console) -> None:
    """Print what every subtask was sent and answered on an example.

    Args:
        found: The example under a trial.
        console: Where to print.
    """
    for line in _lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _lines(found: ExampleInspection) -> Iterator[str]:
    row = found.result
    yield visible(f"Trial {found.trial} on {row.id} ({found.split}): {found.candidate}")
    yield f"score {_score(row.score)}, baseline {_score(row.baseline_score)}; {_cost(found)}"
    texts = {"target": "" if found.target is None else str(found.target), "output": row.output}
    texts |= {"feedback": row.feedback, "failure": row.failure}
    for name, text in texts.items():
        if text:
            yield from _block(name, text, "")
    if found.untraced:
        yield f"no trace: {found.untraced}"
    for subtask in found.subtasks:
        yield ""
        yield from _subtask(subtask)


def _cost(found: ExampleInspection) -> str:
    row = found.result
    seconds = _latency(found.subtasks) if row.seconds is None else f"{row.seconds:.2f} s"
    tokens = f"{row.prompt_tokens} prompt and {counted(row.completion_tokens, 'completion token')}"
    return f"{tokens}, {format_usd(row.usd)} USD, {seconds}"


def _latency(subtasks: Sequence[SubtaskTrace]) -> str:
    """The latency of an example for which none is recorded, as far as that of its calls is known."""
    known = sum(call.seconds for subtask in subtasks for call in subtask.calls)
    unknown = [subtask.subtask for subtask in subtasks if not all(call.seconds for call in subtask.calls)]
    if not known:
        return "unknown latency"
    return f"unknown latency of {', '.join(unknown)}, {known:.2f} s in the other calls" if unknown else f"{known:.2f} s"


def _subtask(subtask: SubtaskTrace) -> Iterator[str]:
    if subtask.value is None:
        yield visible(f"{subtask.subtask}: no value: {(subtask.note or '').removeprefix(f'{subtask.subtask}: ')}")
    else:
        yield from _block(subtask.subtask, subtask.value, "")
    for call in subtask.calls:
        yield from _call(call)


def _call(call: CallTrace) -> Iterator[str]:
    drawn = counted(len(call.samples), "sample") if call.purpose == "samples" else call.purpose
    seconds = f", {call.seconds:.2f} s" if call.seconds else ""
    yield f"  {call.model}, {drawn}{seconds}"
    for role, text in call.messages:
        yield from _block(role, text, "    ")
    for number, sample in enumerate(call.samples, 1):
        yield from _sample(number, sample)


def _sample(number: int, sample: SampleTrace) -> Iterator[str]:
    yield f"    sample {number} ({sample.finish_reason}, {counted(sample.tokens, 'token')})"
    if sample.thought:
        yield from _block("thought", sample.thought, "      ")
    yield from _block("answer", sample.text, "      ")
    if sample.parsed is None:
        yield visible(f"      not parsed: {sample.problem}")
    elif sample.parsed != sample.text:
        yield from _block("parsed", sample.parsed, "      ")


def _block(name: str, text: str, indent: str) -> Iterator[str]:
    """A named text; one of several lines is below its name, with a bar before each line."""
    first, *more = visible(text).split("\n")
    if not more:
        yield f"{indent}{name}: {first}"
        return
    yield f"{indent}{name}:"
    yield from (f"{indent}  | {line}" for line in (first, *more))


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.3g}"


def _short(text: str, most: int = MOST_TEXT) -> str:
    line = " ".join(visible(text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
