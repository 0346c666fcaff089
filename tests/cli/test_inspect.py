"""`agentopt inspect`: the examples of a trial and the trace of one, from records alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from agentopt.cli.output import print_json
from agentopt.core.errors import UserError
from agentopt.core.plain_text import visible
from agentopt.report.trace import print_trace, trial_examples_table
from agentopt.runs.inspection import inspect_example, inspect_trial
from agentopt.runs.traces import CallTrace, SubtaskTrace
from agentopt.testing.toy import toy_task
from tests.cli.recorded import SETTINGS, record_run, write_task
from tests.report.pages import finished, hostile, killed

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    return record_run(folder, write_task(folder))


@pytest.fixture
def agentopt(console_script: Command, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(recorded.parents[1])
    return lambda *arguments: console_script("inspect", recorded.name, *arguments, *SETTINGS)


def test_the_examples_of_the_best_trial_begin_with_those_that_it_lost(agentopt: Command) -> None:
    code, out, err = agentopt()
    assert (code, err) == (0, "")
    assert "Trial 1 on the validation split, complete" in out
    assert "\x1b" not in out
    assert r"\x1b[31mwrong" in agentopt("--trial", "0")[1]
    found = json.loads(agentopt("--json")[1])
    gains = [row["score"] - row["baseline_score"] for row in found["examples"]]
    assert gains == sorted(gains)
    assert len({row["id"] for row in found["examples"]}) == 24
    assert found["candidate"]["answer"]["model"] == "large"
    assert found["score"] > found["baseline_score"]
    tested = json.loads(agentopt("--json", "--split", "test")[1])
    assert {row["id"].partition("-")[0] for row in tested["examples"]} == {"test"}


def test_a_trace_has_what_was_sent_answered_thought_parsed_and_scored(agentopt: Command) -> None:
    rows = json.loads(agentopt("--json", "--trial", "0")[1])["examples"]
    by_output = {row["output"]: row["id"] for row in rows}
    right = next(row["id"] for row in rows if row["score"] == 1)
    code, out, err = agentopt("--trial", "0", "--example", right)
    assert (code, err) == (0, "")
    word = right.replace("-", " ")
    for line in (
        f"Trial 0 on {right} (validation): answer: small x1",
        "score 1, baseline 1; ",
        f"target: {word}",
        f"answer: {word}",
        "  small, 1 sample",
        "    system: Repeat the word.",
        f"    user: {word}",
        "      thought: easy",
        f'      answer: "{word}"',
        f"      parsed: {word}",
    ):
        assert f"\n{line}" in f"\n{out}", line
    assert r"parsed: \x1b[31mwrong" in agentopt("--trial", "0", "--example", by_output["\x1b[31mwrong"])[1]
    unparsed = agentopt("--trial", "0", "--example", by_output[""])[1]
    assert "answer: no value: " in unparsed
    assert "no value: answer:" not in unparsed
    assert "      not parsed: " in unparsed
    assert "feedback: " in unparsed


def test_an_example_of_the_test_split_needs_no_option(agentopt: Command) -> None:
    found = json.loads(agentopt("--example", "test-3", "--json")[1])
    assert (found["split"], found["inputs"], found["target"]) == ("test", {"word": "test 3"}, "test 3")
    (subtask,) = found["subtasks"]
    assert subtask["calls"][0]["messages"] == [["system", "Repeat the word."], ["user", "test 3"]]
    assert found["untraced"] is None


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (["--trial", "7"], "the run has no trial 7", "they are 0 to 1"),
        (["--trial", "-1"], "the run has no trial -1", "they are 0 to 1"),
        (
            ["--example", "test-33"],
            "splits have no example 'test-33'",
            "did you mean 'test-3'?",
        ),
        (["--example", "test-3", "--split", "validation"], "the validation split has no example 'test-3'", "remedy"),
        (["-c", "task.data.limit.test=3"], "the task has changed", "remedy"),
    ],
)
def test_wrong_input_is_one_message(agentopt: Command, arguments: list[str], message: str, remedy: str) -> None:
    code, out, err = agentopt(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert remedy in err


def test_a_run_that_is_not_there_is_one_message(agentopt: Command, console_script: Command) -> None:
    code, out, err = console_script("inspect", "nowhere", *SETTINGS)
    assert (code, out) == (2, "")
    assert "nowhere: there is no such file or folder, and no run of this name in runs" in err
    assert err.endswith("remedy: see `agentopt runs list`, or give the path of a run's folder\n")


def test_a_trace_whose_responses_are_gone_has_the_reason(tmp_path: Path) -> None:
    archive = finished(tmp_path)
    assert inspect_example(archive, "validation-2").subtasks
    (tmp_path / "journal.db").unlink()
    found = inspect_example(archive, "validation-2")
    assert (found.subtasks, found.untraced) == ((), "the journal does not have all of its responses")
    assert found.result.output


@pytest.mark.parametrize(
    ("recorded_seconds", "of_calls", "shown"),
    [
        (1.5, {"find": [1.0], "answer": [0.0]}, "1.50 s"),
        (None, {"find": [1.0, 0.25], "answer": [0.5]}, "1.75 s"),
        (None, {"find": [1.0], "answer": [0.0]}, "unknown latency of answer, 1.00 s in the other calls"),
        (None, {"find": [0.0], "answer": [0.5, 0.0]}, "unknown latency of find, answer, 0.50 s in the other calls"),
        (None, {"find": [0.0], "answer": [0.0]}, "unknown latency"),
        (None, {}, "unknown latency"),
    ],
)
def test_the_latency_of_an_example_is_shown_as_far_as_it_is_known(
    tmp_path: Path, recorded_seconds: float | None, of_calls: dict[str, list[float]], shown: str
) -> None:
    found = inspect_example(finished(tmp_path), "validation-2")
    subtasks = tuple(
        SubtaskTrace(name, tuple(CallTrace("small", "samples", (), (), s) for s in seconds), "x", "")
        for name, seconds in of_calls.items()
    )
    output = StringIO()
    result = replace(found.result, seconds=recorded_seconds)
    print_trace(replace(found, result=result, subtasks=subtasks), Console(file=output, width=200))
    assert output.getvalue().splitlines()[1].endswith(f" USD, {shown}")


def test_a_killed_run_shows_its_trials_and_refuses_a_test_that_it_does_not_have(tmp_path: Path) -> None:
    archive = killed(tmp_path)
    shown = {row.id for row in inspect_trial(archive, 2).examples}
    stopped_before = {example.id for example in toy_task().splits["validation"]} - shown
    assert stopped_before
    with pytest.raises(UserError, match=r"trial 2 has no result for the example .*: it is pruned after 15 of 16 rows"):
        inspect_example(archive, stopped_before.pop(), 2)
    with pytest.raises(UserError, match="no record of trial 2 on the test split\n  remedy: use --split validation"):
        inspect_trial(archive, 2, "test")


def test_the_list_shows_what_a_parser_got(tmp_path: Path) -> None:
    found = inspect_trial(killed(tmp_path), 0)
    expected = ", ".join(f"'option {number}'" for number in range(9))
    row = replace(found.examples[0], failure="", feedback=f"answer: expected one of {expected}, got 'answer-0'")
    output = StringIO()
    Console(file=output, width=300).print(trial_examples_table(replace(found, examples=(row,))))
    assert "got 'answer-0'" in " ".join(output.getvalue().split())


def test_hostile_text_is_printed_without_a_control_character(tmp_path: Path) -> None:
    archive = hostile(tmp_path)
    rows = inspect_trial(archive, 0)
    output = StringIO()
    console = Console(file=output, width=200)
    console.print(trial_examples_table(rows))
    for row in rows.examples:
        found = inspect_example(archive, row.id, 0)
        print_trace(found, console)
        print_json(found)
    text = output.getvalue()
    assert not set(text) & {"\u2028", "\u202e", "\u200f", "\ud83d", "\x1b", "\r"}
    assert "<b>bold</b>" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("a\r\nb\rc", "a\nb\\rc"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m\u202e\ud83d", "\\x9b31m\\u202e\\ud83d"),
        ("dreißig € 👩‍🚀\xa0…", "dreißig € 👩‍🚀\xa0…"),
    ],
)
def test_control_characters_become_escapes(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_a_run_without_a_trial_is_resumed_whatever_trial_is_named(tmp_path: Path) -> None:
    archive = replace(killed(tmp_path), trials=(), choice=None)
    for number in (None, 0, 3):
        with pytest.raises(UserError) as failure:
            inspect_trial(archive, number)
        assert str(failure.value).endswith(f"remedy: {archive.run.resuming}")
