"""What the page of a run contains, as plain data for JSON: one function for each section."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from agentopt.core.message_text import in_words
from agentopt.core.records import Evaluation, ExampleResult, Split, outcome
from agentopt.report.figures import Figure, best_so_far, models_of, pareto, race, scaling, spend
from agentopt.report.page.verdict import headline, next_steps, sentences
from agentopt.report.tables import Column, cost_columns, earned_columns, finalist_columns
from agentopt.runs.archive import RunArchive
from agentopt.runs.earnings import earned
from agentopt.runs.result import TrialLine
from agentopt.runs.run_record import PromptsEntry

MOST_EXAMPLE_TEXT = 300
"""Characters of an input that the table of examples shows; the trace has all of it."""


def page_content(archive: RunArchive) -> dict[str, Any]:
    """Return the page's data; a section without data is empty.

    Args:
        archive: The run.
    """
    costs = [c for c in cost_columns(archive.cost_in, lambda line: line, archive.lines) if c.header != "s p95"]
    return {
        "task": archive.task.name,
        "state": archive.state,
        "headline": headline(archive),
        "sentences": list(sentences(archive)),
        "next": list(next_steps(archive)),
        "ended": str(archive.result.ended) if archive.result else "",
        "finalists": _finalists(archive),
        "figures": [_plain(figure) for figure in _figures(archive)],
        "proposers": _proposers(archive),
        "flow": _flow(archive),
        "guidelines": [{"after": after, "text": text} for text, after in _guidelines(archive)],
        "races": [_race(i, entry) for i, entry in enumerate(_entries(archive))],
        "diffs": list(_diffs(archive)),
        "costs": [column.header for column in costs],
        "trials": [_trial(archive, line, costs) for line in archive.lines],
        "examples": _examples(archive),
        "failures": _failures(archive),
    }


def _finalists(archive: RunArchive) -> dict[str, Any]:
    columns = finalist_columns(archive.cost_in, archive.finalists)
    rows = [[column.cell(finalist) for column in columns] for finalist in archive.finalists]
    return {"columns": [column.header or "role" for column in columns], "rows": rows}


def _figures(archive: RunArchive) -> Iterator[Figure]:
    lines = archive.lines
    found = [best_so_far(lines), pareto(lines, archive.front, archive.cost_in, archive.beyond_limits)]
    found += [scaling(lines, subtask.name) for subtask in archive.task.subtasks]
    found.append(spend(archive.spent, models_of(lines)))
    found += [race(f"race-{i}", entry) for i, entry in enumerate(_entries(archive))]
    yield from filter(None, found)


def _proposers(archive: RunArchive) -> dict[str, Any]:
    """What each proposer earned, and why others than the agent proposed in its place, the most frequent first."""
    rows = earned(archive.lines, archive.spend.by_purpose)
    if not rows:
        return {}
    columns = earned_columns(rows)
    reasons = Counter(trial.fallback for trial in archive.trials if trial.fallback)
    return {
        "columns": [column.header for column in columns],
        "rows": [[column.cell(row) for column in columns] for row in rows],
        "fallbacks": [[str(count), reason] for reason, count in reasons.most_common()],
    }


def _plain(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "title": figure.title,
        "note": figure.note,
        "spec": figure.spec,
        "columns": figure.columns,
        "rows": figure.rows,
    }


def _flow(archive: RunArchive) -> list[dict[str, Any]]:
    """The subtasks in levels: one waits for subtasks of lower levels only."""
    level: dict[str, int] = {}
    for subtask in archive.task.subtasks:
        level[subtask.name] = 1 + max((level[name] for name in subtask.reads), default=-1)
    return [
        {
            "name": subtask.name,
            "about": subtask.description,
            "level": level[subtask.name],
            "reads": list(subtask.reads),
            "choices": [[" = ".join(f.roles), str(f.candidate[subtask.name])] for f in archive.finalists],
        }
        for subtask in archive.task.subtasks
    ]


def _entries(archive: RunArchive) -> tuple[PromptsEntry, ...]:
    """The prompt optimisations; those of a result of an earlier version have no rewards."""
    if archive.prompts or archive.result is None:
        return archive.prompts
    return tuple(PromptsEntry(report) for report in archive.result.prompts)


def _race(number: int, entry: PromptsEntry) -> dict[str, Any]:
    report, rewards = entry.report, entry.rewards
    parts = {
        "signal (variance between system prompts)": rewards.signal if rewards else None,
        "noise (variance of a mean reward by sampling)": rewards.noise if rewards else None,
        "variance of one response": rewards.within if rewards else None,
    }
    return {
        "figure": f"race-{number}",
        "subtask": report.subtask,
        "phase": report.phase,
        "outcome": report.outcome,
        "parts": [[name, f"{value:.5f}"] for name, value in parts.items() if value is not None],
        "tried": [[f"{t.reward:.3f}", t.system_prompt, t.proposer, str(t.responses)] for t in report.tried],
        "prompts": list(rewards.system_prompts) if rewards else [],
    }


def _diffs(archive: RunArchive) -> Iterator[dict[str, Any]]:
    """The system prompts of the finalists that differ from the seed prompt, word by word."""
    seeds = archive.task.baseline
    for finalist in archive.finalists:
        for name, choice in finalist.candidate.items():
            if choice.system_prompt != seeds[name].system_prompt:
                parts = list(word_diff(seeds[name].system_prompt, choice.system_prompt))
                yield {"subtask": name, "roles": " = ".join(finalist.roles), "parts": parts}


def word_diff(before: str, after: str) -> Iterator[tuple[str, str]]:
    """Yield (`same`, `removed` or `added`, text) for runs of words, whose texts give both prompts.

    Args:
        before: The seed prompt.
        after: The prompt that replaced it.
    """
    a, b = (re.findall(r"\s+|\S+", text) for text in (before, after))
    # White space is junk: it belongs to the words around it, and is no reason to call two texts alike.
    for kind, i, j, k, m in difflib.SequenceMatcher(str.isspace, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            yield "same", "".join(a[i:j])
            continue
        if j > i:
            yield "removed", "".join(a[i:j])
        if m > k:
            yield "added", "".join(b[k:m])


def _guidelines(archive: RunArchive) -> Iterator[tuple[str, str]]:
    """Each text, and after which trials the agent wrote it; one entry for equal ones in a row."""
    for text, entries in groupby(archive.guidelines, lambda entry: entry.text):
        trials = [entry.trials for entry in entries]
        yield text, f"{in_words(map(str, trials))} trial{'s' * (trials[-1] != 1)}"


def _trial(archive: RunArchive, line: TrialLine, costs: Sequence[Column[TrialLine]]) -> dict[str, Any]:
    roles = [role for finalist in archive.finalists if finalist.trial == line.number for role in finalist.roles]
    return {
        "number": line.number,
        "proposer": line.proposer,
        "roles": roles,
        "front": line.number in archive.front,
        "beyond": line.number in archive.beyond_limits,
        "outcome": outcome(line.state, line.scored, line.planned, line.stopped),
        "score": "" if line.score is None else f"{line.score:.3f}",
        "shrunk": "" if line.shrunk is None else f"{line.shrunk:.3f}",
        "costs": [column.cell(line) for column in costs],
        "note": line.note,
        "choices": [[name, str(choice), choice.system_prompt] for name, choice in line.candidate.items()],
    }


def _examples(archive: RunArchive) -> dict[str, Any]:
    """Split -> the examples and the scores of every trial that has some, in the order of the examples."""
    found: dict[str, Any] = {}
    by_split: dict[Split, dict[int, Evaluation]] = {
        "validation": {trial.number: trial.evaluation for trial in archive.trials},
        "test": dict(archive.tests),
    }
    for split, evaluations in by_split.items():
        examples = archive.task.splits.get(split, ())
        if not evaluations or not examples:
            continue
        ids = [example.id for example in examples]
        found[split] = {
            "ids": ids,
            "targets": ["" if e.target is None else str(e.target)[:MOST_EXAMPLE_TEXT] for e in examples],
            "scores": {number: _in_order(evaluation, ids) for number, evaluation in evaluations.items()},
        }
    return found


def _in_order(evaluation: Evaluation, ids: Sequence[str]) -> list[float | None]:
    scores = evaluation.row_scores
    return [None if (score := scores.get(name)) is None else round(score, 6) for name in ids]


def _failures(archive: RunArchive) -> list[dict[str, Any]]:
    """The rows without a usable answer, by kind and reason, the most frequent first."""
    places: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for candidate, evaluation in archive.evaluations():
        for result in evaluation.results:
            for kind, reason in _problems(result, {name: choice.model for name, choice in candidate.items()}):
                places[kind, reason][f"{evaluation.split} {result.id}"] += 1
    attempts = [(f"attempt: {kind}", "", count, "") for kind, count in archive.spend.failures.items()]
    rows = [
        (kind, reason, of.total(), ", ".join(f"{place} ({n})" for place, n in of.most_common(3)))
        for (kind, reason), of in places.items()
    ]
    ordered = sorted([*rows, *attempts], key=lambda row: -row[2])
    return [{"kind": k, "reason": r, "count": n, "examples": e} for k, r, n, e in ordered]


def _problems(result: ExampleResult, models: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if result.failure:
        yield f"failed call: {result.failure.kind}", result.failure.reason
    elif result.error is not None:
        yield "no score", result.error
    for name, reason in result.unparsed.items():
        yield f"{name}: not parsable", reason
    for name, use in result.subtasks.items():
        if use.cut_off:
            yield f"{name}: cut off", f"responses of {models[name]} ended at max_tokens"
        if use.filtered:
            yield f"{name}: cut off", f"responses of {models[name]} were ended by the provider's content filter"
        if use.only_thought:
            yield f"{name}: only a thought", f"responses of {models[name]} hold no answer"
