"""Cut-off responses, examples left out, responses of the journal, and caps without prices."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from agentopt.api import aevaluate, aoptimize
from agentopt.cli.commands.gate import GateOptions, run_gate
from agentopt.cli.commands.optimize import show_result
from agentopt.cli.commands.runs import result_cells
from agentopt.core.errors import ConfigError
from agentopt.core.events import Event, ExampleDone, JournalUsed, ModelNotice, ResponsesIncomplete, ResponsesUnparsed
from agentopt.core.gate import MARGIN
from agentopt.core.message_text import failures_in_words
from agentopt.core.records import Evaluation, ExampleResult, Failure, SubtaskUse
from agentopt.core.task import Parser
from agentopt.models.base import Choice, Request, Response, ToolCall
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.report.gate import BASELINE
from agentopt.report.page.verdict import headline, next_steps, sentences
from agentopt.report.printed_result import print_result
from agentopt.report.progress_bar import ProgressBar
from agentopt.runs.archive import open_archive
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.response_issues import (
    IncompleteResponses,
    IncompleteWarnings,
    LeftOut,
    failure_reasons,
    left_out,
    left_out_notes,
)
from agentopt.runs.result import load_result
from agentopt.testing.toy import LARGE, SMALL, draw, toy_model, toy_task
from agentopt.workflow.parsers import choice
from agentopt.workflow.parsers import text as first_line

YELLOW = "\x1b[33m"


def config(tmp_path: Path, **changes: object) -> Config:
    settings = {"strategy": "random", "journal": str(tmp_path / "journal.db"), "runs": tmp_path / "runs"}
    return Config.model_validate({**settings, "budget": {"trials": 3}, **changes})


class CutOff:
    """The toy model, of which the responses to `find` are cut off."""

    def __init__(self, reason: str = "length") -> None:
        self._inner: ScriptedModel = toy_model()
        self._reason = reason

    async def generate(self, request: Request) -> Response:
        response = await self._inner.generate(request)
        reason = self._reason if request.messages[-1].content.startswith("find|") else "stop"
        return Response(tuple(Choice(c.text, c.completion_tokens, reason) for c in response.choices), 16)

    async def aclose(self) -> None:
        pass


async def test_cut_off_responses_are_counted_in_the_result_and_warned_of_during_the_run(tmp_path: Path) -> None:
    seen: list[Event] = []
    result = await aoptimize(toy_task(), config(tmp_path), provider=CutOff(), callbacks=[seen.append])
    (cut_off,) = result.incomplete
    assert (cut_off.subtask, cut_off.max_tokens) == ("find", 4)
    assert cut_off.cut_off == cut_off.responses > 0
    sentence = f"find: {cut_off.cut_off} of {cut_off.responses} responses were cut off at max_tokens 4"
    warnings = [event for event in seen if isinstance(event, ResponsesIncomplete)]
    assert [warning.subtask for warning in warnings] == ["find"]
    assert "responses so far were cut off at max_tokens 4" in warnings[0].message
    output = io.StringIO()
    print_result(load_result(Path(result.run)), Console(file=output, width=200))
    assert sentence in output.getvalue()
    assert sentence in repr(result)


async def test_responses_that_the_content_filter_cut_off_are_counted_and_warned_of(tmp_path: Path) -> None:
    seen: list[Event] = []
    filtered = CutOff("content_filter")
    result = await aoptimize(toy_task(), config(tmp_path), provider=filtered, callbacks=[seen.append])
    (found,) = load_result(Path(result.run)).incomplete
    assert found.cut_off == 0
    assert found.filtered == found.responses > 0
    sentence = f"find: {found.filtered} of {found.responses} responses were cut off by the provider's content filter"
    assert str(found).startswith(f"{sentence} (")
    assert found.of_best
    assert str(found).endswith(f"; of the best candidate's {found.of_best[1]}, {found.of_best[0]}")
    (warning,) = (event for event in seen if isinstance(event, ResponsesIncomplete))
    assert "responses so far were cut off by the provider's content filter" in warning.message
    output = io.StringIO()
    print_result(result, Console(file=output, width=200))
    assert sentence in output.getvalue()
    unfiltered = await aoptimize(
        toy_task(), config(tmp_path, journal=str(tmp_path / "other.db")), provider=CutOff("stop")
    )
    assert [trial.score for trial in result.trials] == [trial.score for trial in unfiltered.trials], "as it was read"


def unreadable_on(share: float) -> ScriptedModel:
    """A model whose responses to `find` are not parsable for a share of the examples."""

    def answer(request: Request, repeat: int) -> str:
        is_read = draw(request.messages[-1].content) >= share
        return ("Raven" if is_read else "key-3") if request.messages[-1].content.startswith("find|") else "Lion"

    return ScriptedModel(answer)


@pytest.mark.parametrize(
    ("share", "is_named", "is_unusable"), [(0.0, False, False), (0.2, True, False), (1.0, True, True)]
)
async def test_examples_without_a_parsable_response_are_named_with_the_next_step(
    tmp_path: Path, share: float, is_named: bool, is_unusable: bool
) -> None:
    seen: list[Event] = []
    task = toy_task(validation=40, test=40)
    task = replace(task, subtasks=(replace(task["find"], parse=choice(["Raven", "Lion"])), task["answer"]))
    model = unreadable_on(share)
    result = await aoptimize(task, config(tmp_path), provider=model, callbacks=[seen.append])
    found = load_result(Path(result.run)).incomplete
    assert bool(found) is is_named
    warnings = [event for event in seen if isinstance(event, ResponsesUnparsed)]
    assert [warning.subtask for warning in warnings] == (["find"] if is_unusable else [])
    archive = open_archive(RunFolder.open(Path(result.run)), task, Catalog.load())
    output = io.StringIO()
    show_result(result, None, Console(file=output, width=300))
    step = "hange the prompt or the parser of find, whose responses could not be parsed: agentopt inspect"
    assert (step in output.getvalue(), step in "".join(next_steps(archive))) == (is_unusable, is_unusable)
    if is_named:
        (issue,) = found
        assert issue.unparsed
        count, examples = issue.unparsed
        assert count / examples == pytest.approx(share, abs=0.15)
        assert not issue.is_harmless
        assert issue.is_unusable is is_unusable
        sentence = (
            f"find: no response could be parsed for {count} of the best candidate's {examples} examples, such as:"
        )
        assert str(issue).startswith(sentence)
        assert str(issue).removeprefix(sentence).startswith(" expected ")
        assert "key-3" in str(issue)
        assert sentence in output.getvalue()


@pytest.mark.parametrize("budget", [{"trials": 3}, {"trials": 3, "calls": 20}, {"trials": 3, "calls": 50}])
async def test_terminal_and_page_name_the_same_next_steps_if_nothing_is_parsable(
    tmp_path: Path, budget: dict[str, int]
) -> None:
    task = toy_task(num_samples=(1, 2))
    task = replace(task, subtasks=(replace(task["find"], parse=choice(["Raven", "Lion"])), task["answer"]))
    result = await aoptimize(task, config(tmp_path, budget=budget), provider=unreadable_on(1.0))
    archive = open_archive(RunFolder.open(Path(result.run)), task, Catalog.load())
    output = io.StringIO()
    show_result(result, None, Console(file=output, width=300))
    first, *others = next_steps(archive)
    assert first.startswith("Change the prompt or the parser of find")
    assert f"Next:    c{first[1:]}" in output.getvalue()
    resumed = [step.removeprefix("Resume the run: ") for step in others if step.startswith("Resume")]
    assert len(resumed) == output.getvalue().count("Resume:") == ("calls" in budget)
    assert all(f"Resume:  {step}\n" in output.getvalue() for step in resumed)
    (issue,) = result.incomplete
    assert f"{issue}." in list(sentences(archive)), "the verdict"
    why = "no response of find could be parsed"
    assert (result.verdict, result_cells(result)[-1]) == (None, why)
    assert f"Verdict: none, because {why}." in output.getvalue()
    assert f"  verdict: none, {why}" in repr(result).splitlines()
    assert headline(archive) == f"There is no verdict: {why}"
    with pytest.raises(ConfigError, match=rf"but in this run {why}\n  remedy: change the prompt or the parser"):
        run_gate(GateOptions(Path(result.run), BASELINE, None, MARGIN, None, "test", False, False, None), [], Console())


@pytest.mark.parametrize(
    ("text", "parse", "counted"),
    [
        ("Raven Tower in", choice(["Raven", "Lion"]), False),
        ("Raven", choice(["Raven", "Lion"]), True),
        ("The tower, in this context,", choice(["Raven", "Lion"]), True),
        ("Raven\nIt is", first_line(first_line=True), False),
        ("The Raven", first_line(first_line=True), True),
        ("Raven Tower in", str.strip, True),
    ],
)
@pytest.mark.parametrize(("reason", "measure"), [("length", "cut_off"), ("content_filter", "filtered")])
async def test_a_cut_after_the_value_is_not_counted(
    tmp_path: Path, text: str, parse: Parser, counted: bool, reason: str, measure: str
) -> None:
    task = toy_task()
    task = replace(task, subtasks=(replace(task["find"], parse=parse), task["answer"]))
    cut = ScriptedModel(lambda request, repeat: Choice(text, 4, reason))
    evaluation = await aevaluate(task, None, config(tmp_path), provider=cut)
    assert evaluation.total("responses", "find") == 16
    assert evaluation.total(measure, "find") == (16 if counted else 0)
    assert evaluation.total({"cut_off": "filtered", "filtered": "cut_off"}[measure]) == 0


@pytest.mark.parametrize(("reason", "measure"), [("length", "cut_off"), ("content_filter", "filtered")])
async def test_the_fuse_call_reads_whole_responses_so_that_every_cut_counts(
    tmp_path: Path, reason: str, measure: str
) -> None:
    task = toy_task(method="fuse")
    task = replace(task, subtasks=(replace(task["find"], parse=choice(["Raven", "Lion"])), task["answer"]))
    cut = ScriptedModel(lambda request, repeat: Choice("Raven Tower in", 4, reason))
    assert (await aevaluate(task, None, config(tmp_path), provider=cut)).total(measure, "find") == 16


@pytest.mark.parametrize(
    ("reason", "by"), [("length", "at max_tokens 4"), ("content_filter", "by the provider's content filter")]
)
async def test_a_cut_before_the_value_is_the_reason_that_nothing_was_parsed(
    tmp_path: Path, reason: str, by: str
) -> None:
    task = toy_task()
    task = replace(task, subtasks=(replace(task["find"], parse=choice(["Raven", "Lion"])), task["answer"]))
    cut = ScriptedModel(lambda request, repeat: Choice("The tower of the", 4, reason))
    evaluation = await aevaluate(task, None, config(tmp_path), provider=cut)
    assert {result.score for result in evaluation.results} == {0.0}
    assert all(result.unparsed["find"].endswith(f"(cut off {by})") for result in evaluation.results)


class OnlyThinking(CutOff):
    """The toy model, of which the responses to `find` hold a thought and no answer."""

    async def generate(self, request: Request) -> Response:
        response = await self._inner.generate(request)
        if not request.messages[-1].content.startswith("find|"):
            return response
        return Response(tuple(Choice("", c.completion_tokens, thought="It is ...") for c in response.choices), 16)


async def test_responses_that_hold_only_a_thought_are_counted_and_named_with_the_remedy(tmp_path: Path) -> None:
    seen: list[Event] = []
    result = await aoptimize(toy_task(), config(tmp_path), provider=OnlyThinking(), callbacks=[seen.append])
    (found,) = load_result(Path(result.run)).incomplete
    assert found.cut_off == 0
    assert found.only_thought == found.responses > 0
    assert str(found) == (
        f"find: {found.responses} of {found.responses} responses hold only a thought: raise max_tokens (now 4) or "
        f"lower reasoning_effort ({', '.join(found.models)}); of the best candidate's 32, 32"
    )
    assert set(found.models) <= {SMALL, LARGE}
    (warning,) = (event for event in seen if isinstance(event, ResponsesIncomplete))
    assert warning.message.endswith("hold only a thought; raise max_tokens 4 or lower reasoning_effort")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice("", 5, thought="It is ..."), True),
        (Choice(" \n", 5, thought="It is ..."), True),
        (Choice("", 5, "length", thought="It is ..."), True),
        (Choice("", 5, reasoning_tokens=5), True),  # the provider hides the thought
        (Choice("", 0), False),
        (Choice("7", 5, thought="It is 7."), False),
        (Choice("", 5, thought="Look it up.", tool_calls=(ToolCall("1", "look_up", "{}"),)), False),
    ],
)
def test_a_choice_without_an_answer_is_only_a_thought_if_the_model_thought(choice: Choice, expected: bool) -> None:
    assert choice.is_only_thought is expected


def test_cuts_of_both_kinds_are_named() -> None:
    found = IncompleteResponses("find", 3, 40, 64, models=("small",), of_best=(1, 8), filtered=2)
    assert str(found) == (
        "find: 3 of 40 responses were cut off at max_tokens 64; 2 of 40 responses were cut off by the provider's "
        "content filter (small); of the best candidate's 8, 1"
    )


def test_a_response_may_be_both_cut_off_and_only_a_thought() -> None:
    assert str(IncompleteResponses("find", 3, 8, None, 2)) == (
        "find: 3 of 8 responses were cut off at max_tokens; "
        "2 of 8 responses hold only a thought: raise max_tokens or lower reasoning_effort"
    )


class SmallRambles(CutOff):
    """The toy model, of which the small model's responses to `find` are cut off."""

    async def generate(self, request: Request) -> Response:
        response = await self._inner.generate(request)
        return await super().generate(request) if request.model == SMALL else response


async def test_the_report_names_the_model_whose_responses_are_cut_off_and_the_best_candidate_s(tmp_path: Path) -> None:
    result = await aoptimize(toy_task(), config(tmp_path, budget={"trials": 6}), provider=SmallRambles())
    (found,) = load_result(Path(result.run)).incomplete
    assert (found.subtask, found.models) == ("find", (SMALL,))
    assert result.finalist("best").candidate["find"].model == LARGE
    assert found.of_best is not None
    assert (found.of_best[0], found.is_harmless) == (0, True)
    sentence = (
        f"find: {found.cut_off} of {found.responses} responses were cut off at max_tokens 4 ({SMALL}); "
        f"of the best candidate's {found.of_best[1]}, none"
    )
    assert str(found) == sentence
    output = io.StringIO()
    print_result(result, Console(file=output, width=200, force_terminal=True, color_system="standard"))
    (line,) = (line for line in output.getvalue().splitlines() if "were cut off" in line)
    assert YELLOW not in line


@pytest.mark.parametrize(
    ("of_best", "harmless"),
    [(None, False), ((0, 0), True), ((0, 40), True), ((4, 40), True), ((5, 40), False), ((40, 40), False)],
)
def test_cut_off_responses_are_harmless_if_the_best_candidate_has_few(
    of_best: tuple[int, int] | None, harmless: bool
) -> None:
    found = IncompleteResponses("find", 30, 60, 12, models=("small", "large"), of_best=of_best)
    assert found.is_harmless is harmless
    assert str(found).startswith("find: 30 of 60 responses were cut off at max_tokens 12 (small, large)")


def test_the_best_candidate_s_cut_off_responses_are_counted() -> None:
    found = IncompleteResponses("find", 30, 60, 12, models=("small",), of_best=(5, 40))
    assert str(found).endswith(" 12 (small); of the best candidate's 40, 5")


@pytest.mark.parametrize(
    ("cut_off", "responses", "warned"),
    [
        (1, 1, False),
        (2, 18, False),
        (3, 10, False),
        (82, 511, False),
        (10, 10, True),
        (45, 120, True),
        (200, 511, True),
    ],
)
@pytest.mark.parametrize("measure", ["cut_off", "filtered", "only_thought"])
def test_a_run_warns_once_if_certainly_more_than_a_quarter_is_incomplete(
    cut_off: int, responses: int, warned: bool, measure: str
) -> None:
    seen: list[Event] = []
    warnings = IncompleteWarnings(toy_task(), seen.append)
    use = SubtaskUse(responses=responses, **{measure: cut_off})
    for _ in range(2):
        warnings(ExampleDone(ExampleResult("a", 0.0, subtasks={"find": use})))
    assert sum(isinstance(event, ResponsesIncomplete) for event in seen) == warned


async def test_few_cut_off_responses_are_counted_without_a_warning(tmp_path: Path) -> None:
    seen: list[Event] = []
    result = await aoptimize(toy_task(), config(tmp_path), provider=toy_model(), callbacks=[seen.append])
    assert not result.incomplete
    assert not any(isinstance(event, ResponsesIncomplete) for event in seen)


async def test_an_evaluation_reports_what_came_from_the_journal_unless_it_is_fresh(tmp_path: Path) -> None:
    seen: list[Event] = []
    model = toy_model()
    for fresh in (False, False, True, False):
        await aevaluate(toy_task(), None, config(tmp_path), provider=model, callbacks=[seen.append], fresh=fresh)
        seen.append(ModelNotice("-", "usage", "end"))
    kinds = [event.kind for event in seen if isinstance(event, JournalUsed | ModelNotice)]
    assert kinds == ["model_notice", "journal_used", "model_notice", "model_notice", "journal_used", "model_notice"]
    first, last = (event for event in seen if isinstance(event, JournalUsed))
    assert first.responses == last.responses == 32
    assert first.newest < last.oldest
    assert "32 responses came from the journal, stored " in first.message


@pytest.mark.parametrize("caps", [{"budget": {"usd": 1.0}}, {"agent": {"model": SMALL, "max_usd": 1.0}}])
@pytest.mark.parametrize("allowed", [{}, {"price": "free"}, {"unpriced": "ok"}, {"usd_per_1m_prompt": 0.1}])
async def test_a_cap_in_usd_needs_prices(tmp_path: Path, caps: dict[str, object], allowed: dict[str, object]) -> None:
    entries = [
        ModelSpec.model_validate({"name": n, "base_url": "http://127.0.0.1:9", **allowed}) for n in (SMALL, LARGE)
    ]
    chosen, task = config(tmp_path, models=entries, **caps), replace(toy_task(), max_units=None)
    if allowed:
        assert (await aoptimize(task, chosen, provider=toy_model())).trials
        return
    model = toy_model()
    with pytest.raises(ConfigError, match=f"none for {LARGE}, {SMALL}\n  remedy: .*price: free.*unpriced: ok"):
        await aoptimize(task, chosen, provider=model)
    assert not list((tmp_path / "runs").glob("*"))


def test_examples_that_are_left_out_and_failures_are_named_with_the_providers_words() -> None:
    blocked = Failure("content filter", "example", "filtered by the content policy")
    results = (
        ExampleResult("a", 1.0, subtasks={"find": SubtaskUse(responses=1)}),
        ExampleResult("b", None, error="m: blocked", failure=blocked, left_out=True),
        ExampleResult("c", None, error="m: HTTP 500", failure=Failure("HTTP 500", "transient", "overloaded")),
    )
    evaluation = Evaluation("validation", 3, results, "incomplete")
    assert left_out_notes(left_out([evaluation, evaluation])) == [
        "validation example b was left out of every comparison: content filter: filtered by the content policy"
    ]
    assert failure_reasons([evaluation, evaluation]) == {
        "content filter: filtered by the content policy": 2,
        "HTTP 500: overloaded": 2,
    }


def test_a_wait_that_the_provider_requests_is_shown_once() -> None:
    output = io.StringIO()
    notice = ModelNotice("m", "waiting", "the provider requests to wait 60 s (HTTP 429)")
    with ProgressBar(Console(file=output, width=300)) as view:
        for _ in range(3):
            view(notice)
    assert output.getvalue().splitlines() == [notice.message]


def test_failures_with_the_same_words_are_listed_once() -> None:
    found = {"a": "unknown model", "b": "no answer", "c": "unknown model"}
    assert failures_in_words(found, 8, "row") == ["2 of 8 rows: unknown model (a, c)", "b: no answer"]
    assert failures_in_words({}, 8, "row") == []


JUDGED = "the judge gave no usable verdict on example {}: no verdict in it, got {!r}"


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (
            {name: JUDGED.format(name, "support") for name in ("6", "63", "a b", "e-1")},
            ["4 of 9 rows: the judge gave no usable verdict: no verdict in it, got 'support' (6, 63, a b, ...)"],
        ),
        (
            {"6": JUDGED.format("6", "I"), "63": JUDGED.format("63", "no")},
            ["2 of 9 rows: the judge gave no usable verdict: no verdict in it, got 'I' (6, 63; the text is that of 6)"],
        ),
        (
            {name: f"the program ended with exit status 3, on example {name}" for name in ("a", "b")},
            ["2 of 9 rows: the program ended with exit status 3 (a, b)"],
        ),
        (
            {name: f"`f` must return a finite number, but got nan on example {name}" for name in ("a", "b")},
            ["2 of 9 rows: `f` must return a finite number, but got nan (a, b)"],
        ),
        (
            {"a": "the scorer `f` failed on example a: KeyError: 'x'", "b": "the scorer `f` failed on example b: 3"},
            ["a: the scorer `f` failed: KeyError: 'x'", "b: the scorer `f` failed: 3"],
        ),
    ],
)
def test_failures_that_differ_by_their_row_or_by_what_they_quote_are_listed_once(
    found: dict[str, str], lines: list[str]
) -> None:
    assert failures_in_words(found, 9, "row") == lines


def test_left_out_examples_share_a_line() -> None:
    left = [LeftOut("test", name, "content filter", "filtered") for name in ("a", "b", "c")]
    assert left_out_notes(left) == [
        "test examples a, b and c were left out of every comparison: content filter: filtered"
    ]
