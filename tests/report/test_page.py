"""The page of a run: its numbers are the result's, nothing in it can run, and it is built without a call."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentopt.cli.commands.optimize import show_result
from agentopt.core.budget import Usage
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import UserError
from agentopt.core.records import Evaluation, ExampleResult, SubtaskUse, Trial
from agentopt.core.stats import Difference, Interval
from agentopt.prompts.outcome import RaceRewards
from agentopt.report.figures import best_so_far, heat_map, pareto, scaling, spend
from agentopt.report.formatting import format_difference, format_interval
from agentopt.report.page import build
from agentopt.report.page.build import json_for_html, write_page
from agentopt.report.page.content import page_content, word_diff
from agentopt.report.page.server import progress_of
from agentopt.report.page.verdict import difference_of, next_steps, usd_of
from agentopt.report.printed_result import print_result
from agentopt.runs.archive import RunArchive
from agentopt.runs.result import Comparison, TrialLine
from agentopt.runs.run_record import GuidelinesEntry
from agentopt.runs.traces import traces
from agentopt.testing.toy import LARGE, SMALL
from tests.report.pages import HOSTILE, finished, hostile, killed, page_in, with_agent


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> RunArchive:
    return finished(tmp_path_factory.mktemp("finished"))


def block(page: str, name: str) -> str:
    found = re.search(rf'<script type="[^"]*" id="{name}">(.*?)</script>', page, re.S)
    assert found
    return found[1]


def content_of(page: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(block(page.read_text(), "data"))
    return content


def packed_in(page: Path) -> dict[str, Any]:
    packed: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(block(page.read_text(), "traces"))))
    return packed


def test_the_numbers_of_the_page_are_those_of_the_result(archive: RunArchive, tmp_path: Path) -> None:
    content, result = content_of(page_in(tmp_path, archive)), archive.result
    assert result is not None
    assert content["costs"] == ["units"]
    assert [(t["number"], t["score"], t["shrunk"], t["costs"]) for t in content["trials"]] == [
        (t.number, f"{t.score:.3f}", f"{t.shrunk:.3f}", [f"{t.units:.1f}"]) for t in result.trials
    ]
    assert [t["number"] for t in content["trials"] if t["front"]] == sorted(result.pareto)
    best = result.finalist("best")
    assert best.test is not None
    assert any(f"{best.test.score:.3f}" in sentence for sentence in content["sentences"])
    of_best, of_baseline = (result.finalist(role).units for role in ("best", "baseline"))
    costs = (
        f"An example costs {of_best:.1f} units with the best candidate and {of_baseline:.1f} units with the baseline."
    )
    assert costs in content["sentences"]
    rows = [dict(zip(content["finalists"]["columns"], row, strict=True)) for row in content["finalists"]["rows"]]
    assert [row["units"] for row in rows] == [f"{finalist.units:.1f}" for finalist in result.finalists]
    scores = content["examples"]["test"]["scores"][str(best.trial)]
    assert sum(scores) / len(scores) == pytest.approx(best.test.score)
    spent = next(figure for figure in content["figures"] if figure["name"] == "spend")
    assert sum(int(row[2].replace(",", "")) for row in spent["rows"]) == result.total.calls


def test_the_page_shows_who_earned_what_and_what_the_agent_cost(tmp_path: Path) -> None:
    archive = with_agent(tmp_path)
    found, result = page_content(archive)["proposers"], archive.result
    assert result is not None
    rows = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
    by_name = {row["proposed by"]: row for row in rows}
    assert {name: int(row["trials"]) for name, row in by_name.items()} == Counter(t.proposer for t in result.trials)
    assert by_name["agent"]["agent's calls"] == str(result.spent["agent"].calls) != "0"
    assert by_name["agent"]["agent's USD"] not in ("0", "-")
    assert by_name["surrogate"]["agent's calls"] == "-"
    assert int(by_name["agent"]["rises"]) == 1
    highest = max(trial.score or 0.0 for trial in result.trials if trial.state == "complete")
    first = result.trials[0].score or 0.0
    gains = sum(float(row["gain"]) for row in rows if row["gain"] != "-")
    assert gains == pytest.approx(highest - first, abs=0.002)
    assert sum(int(count) for count, _ in found["fallbacks"]) == int(by_name["fallback"]["trials"])
    assert any("could not be read" in reason for _, reason in found["fallbacks"])
    text = io.StringIO()
    print_result(result, Console(file=text, width=200))
    cells = [row.split() for row in text.getvalue().replace("\u2502", " ").splitlines()]
    assert all([cell for name in found["columns"] for cell in row[name].split()] in cells for row in rows)


def test_without_an_agent_no_calls_are_shown(archive: RunArchive) -> None:
    found = page_content(archive)["proposers"]
    assert found["columns"] == ["proposed by", "trials", "rises", "gain", "best score"]
    assert [row[0] for row in found["rows"]] == ["baseline", "random"]
    assert found["fallbacks"] == []


def test_equal_guidelines_in_a_row_are_one_entry(archive: RunArchive) -> None:
    entries = (("use more", 1), ("", 3), ("", 5), ("", 6), ("use more", 8))
    changed = replace(archive, guidelines=tuple(GuidelinesEntry(text, trials) for text, trials in entries))
    assert page_content(changed)["guidelines"] == [
        {"after": "1 trial", "text": "use more"},
        {"after": "3, 5 and 6 trials", "text": ""},
        {"after": "8 trials", "text": "use more"},
    ]


def test_a_trace_has_what_was_sent_and_answered(archive: RunArchive) -> None:
    best = next(finalist for finalist in archive.finalists if "best" in finalist.roles)
    found = traces(archive, [(best.trial, "validation"), (best.trial, "test"), (99, "test")])
    assert found.keys() == {(best.trial, "validation"), (best.trial, "test")}
    results = {result.id: result for result in archive.tests[best.trial].results}
    assert found[best.trial, "test"].keys() == results.keys()
    for name, trace in found[best.trial, "test"].items():
        find, answer = trace
        assert (find.subtask, answer.subtask) == ("find", "answer")
        assert answer.value == results[name].output
        assert len(find.calls[0].samples) == best.candidate["find"].num_samples
        assert find.calls[0].messages == (("user", f"find|{name}|"),)
        assert find.value in [sample.parsed for sample in find.calls[0].samples]


def test_the_page_has_the_traces_of_the_finalists_and_of_the_front(archive: RunArchive, tmp_path: Path) -> None:
    packed = packed_in(page_in(tmp_path, archive))
    expected = {finalist.trial for finalist in archive.finalists} | set(archive.front)
    assert {int(number) for number in packed["trials"]} == expected
    result = packed["trials"]["0"]["validation"]["validation-0"]
    assert packed["texts"][result["subtasks"][1]["value"]] == packed["texts"][result["output"]]
    assert not (tmp_path / "page").exists()


def test_traces_that_do_not_fit_are_in_files_beside_the_page(archive: RunArchive, tmp_path: Path) -> None:
    page = write_page(archive, tmp_path / "page.html", every_trial=True)
    assert {int(number) for number in packed_in(page)["trials"]} == {trial.number for trial in archive.trials}
    few = build.pack_within(archive, [trial.number for trial in archive.trials], {}, 1000)
    inside, beside = few
    assert len(inside) <= 1000
    assert beside.keys() | {} == {trial.number for trial in archive.trials} - _numbers(inside)


def _numbers(packed: str) -> set[int]:
    return {int(number) for number in json.loads(gzip.decompress(base64.b64decode(packed)))["trials"]}


@pytest.mark.parametrize("is_same", [True, False])
def test_the_page_and_the_terminal_name_the_same_files_to_use(archive: RunArchive, is_same: bool) -> None:
    result, output = archive.result, io.StringIO()
    assert result is not None
    compared = Comparison(Difference(0.5, Interval(0.4, 0.6, 0.95), 100, 0.001), "superior")
    best = replace(result.finalist("best"), against_baseline=compared, roles=("best",))
    cheaper = replace(best, roles=("recommended",))
    both = replace(best, roles=("best", "recommended"))
    baseline = replace(result.finalist("baseline"), roles=("baseline",))
    result = replace(result, finalists=(baseline, both) if is_same else (baseline, cheaper, best))
    show_result(result, Path("task"), Console(file=output, width=300))
    on_page = re.findall(r"agentopt (\w+) \S+/(\w+\.yaml)", "\n".join(next_steps(replace(archive, result=result))))
    assert on_page == re.findall(r"agentopt (serve|export) \S+/(\w+\.yaml)", output.getvalue())
    assert [file for command, file in on_page if command == "export"] == ["best.yaml"]
    assert len(on_page) == (2 if is_same else 3)


def test_a_killed_run_has_a_page(tmp_path: Path) -> None:
    archive = killed(tmp_path)
    content = content_of(page_in(tmp_path, archive))
    assert content["headline"] == "The run was stopped: 3 trials so far"
    assert content["next"] == [f"Resume the run: {archive.run.resuming}"]
    assert len(content["trials"]) == 3
    assert "test" not in content["examples"]


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    archive = hostile(tmp_path)
    page = page_in(tmp_path, archive)
    written = page.read_text()
    assert "globalThis.broken = 1</script>" not in written
    assert "\u2028" not in block(written, "data")
    assert page.stat().st_size < 6_000_000
    outputs = {result.output for trial in archive.trials for result in trial.evaluation.results}
    assert len(outputs & {*HOSTILE}) >= 2, "the answers reached the page"
    assert max(map(len, outputs)) == 1_000_000


@pytest.mark.parametrize("text", [*HOSTILE, "<!--", "]]>", "\u0000"])
def test_json_in_html_is_read_back_as_it_was(text: str) -> None:
    written = json_for_html({"text": text, "far": float("inf"), "none": float("nan")})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"text": text.encode(errors="replace").decode(), "far": None, "none": None}


def test_a_page_that_cannot_be_written_is_an_error_with_a_remedy(archive: RunArchive, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_page(archive, tmp_path / "missing" / "page.html")


def test_sections_without_data_are_left_out(archive: RunArchive, tmp_path: Path) -> None:
    written = page_in(tmp_path, archive).read_text()
    assert 'id="guidelines-h"' not in written
    assert 'id="trials-h"' in written


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "Think first."),
        ("Answer in one word.", "Answer in one short word.\n\nBe sure."),
        ("a  b\n", "a b"),
        ("x", ""),
    ],
)
def test_a_diff_has_both_prompts(before: str, after: str) -> None:
    parts = list(word_diff(before, after))
    assert "".join(text for kind, text in parts if kind != "added") == before
    assert "".join(text for kind, text in parts if kind != "removed") == after


def test_a_sentence_after_the_seed_prompt_or_before_it_is_the_whole_difference() -> None:
    seed = "Answer the question."
    assert list(word_diff(seed, f"{seed} Be short.")) == [("same", seed), ("added", " Be short.")]
    assert list(word_diff(seed, f"Be short. {seed}")) == [("added", "Be short. "), ("same", seed)]


@pytest.mark.parametrize(("trials", "dtick"), [(3, 1), (200, None)])
def test_axes_count_trials_in_whole_numbers_and_end_where_scores_end(trials: int, dtick: int | None) -> None:
    candidate = Candidate.of({"a": SubtaskChoice("m")})
    lines = [TrialLine(i, "me", "complete", 1.0, 4, 2.0, candidate, shrunk=1.0) for i in range(trials)]
    figure = best_so_far(lines)
    assert figure is not None
    assert figure.spec["layout"]["xaxis"].get("dtick") == dtick
    assert figure.spec["layout"]["yaxis"]["autorangeoptions"] == {"clipmin": -0.05, "clipmax": 1.05}


def test_figures_of_no_data_are_none_and_others_have_a_table() -> None:
    line = TrialLine(0, "<b>me</b>", "complete", 0.5, 4, 2.0, Candidate.of({"a": SubtaskChoice("m")}), shrunk=0.4)
    pruned = replace(line, number=1, state="pruned", score=0.9)
    assert best_so_far([]) is pareto([], (), "usd") is spend({}) is None
    assert scaling([line], "a") is None
    progress = best_so_far([line, pruned])
    assert progress is not None
    assert [row[-1] for row in progress.rows] == ["0.500", "0.500"], "a pruned trial is not the best so far"
    assert progress.spec["data"][1]["name"] == "&lt;b&gt;me&lt;/b&gt;"
    front = pareto([line], (0,), "usd")
    assert front is not None
    assert front.spec["data"][0]["x"] == [2000.0]
    dear = replace(line, number=2, units=9.0)
    limited = pareto([line, dear], (0,), "usd", {2})
    assert limited is not None
    assert [(trace["name"], trace["customdata"]) for trace in limited.spec["data"]] == [
        ("on the front", [0]),
        ("beyond a cost limit", [2]),
    ]
    assert "Those beyond a cost limit are not chosen." in limited.note
    assert "limit" not in front.note
    assert [row[-1] for row in limited.rows] == ["yes", "beyond a cost limit"]
    paid = spend({("samples", "m"): Usage(2, 10, 5, 0.25), ("agent", "m"): Usage(1, 1, 1, 0.0)})
    assert paid is not None
    assert paid.spec["data"][0]["y"] == [0.25, 0.0]
    heat = heat_map(
        "race-0", "Rewards", RaceRewards(("", "p"), ("seed", "llm"), ("e1", "e2"), ((1.0, None), (0.5, 0.0)))
    )
    assert heat.rows == (("P0 seed", "1.00", ""), ("P1 llm", "0.50", "0.00"))


def test_a_model_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    figures = page_content(with_agent(tmp_path))["figures"]
    colours: dict[str, set[str]] = {}
    for figure in figures:
        for trace in figure["spec"]["data"] if figure["name"].startswith(("spend", "scaling")) else ():
            colours.setdefault(trace["name"], set()).add(trace["marker"]["color"])
    assert {name: len(found) for name, found in colours.items()} == {LARGE: 1, SMALL: 1, "planner": 1}
    assert len(set().union(*colours.values())) == 3


def test_cost_and_latency_are_compared_with_an_interval_of_their_own_size() -> None:
    def trial(number: int, usd: list[float]) -> Trial:
        results = tuple(
            ExampleResult(str(i), 1.0, subtasks={"a": SubtaskUse(usd=value, seconds=2.0)}, seconds=2.0)
            for i, value in enumerate(usd)
        )
        candidate = Candidate.of({"a": SubtaskChoice("m")})
        return Trial(number, candidate, Evaluation("validation", len(usd), results, "complete"), "random", 1.0)

    baseline, equal, varied = trial(0, [1e-5] * 12), trial(1, [3e-5] * 12), trial(2, [2e-5, 3e-5] * 6)
    alike = difference_of(equal, baseline, usd_of)
    assert alike is not None
    assert alike[0] == pytest.approx(2e-5)
    assert alike[1] is None
    assert difference_of(trial(3, [1e-5]), baseline, usd_of) is None
    found = difference_of(varied, baseline, usd_of)
    assert found is not None
    mean, interval = found
    assert interval is not None
    assert mean == pytest.approx(1.5e-5)
    assert 1e-5 < interval.low < mean < interval.high < 2e-5


def test_a_number_that_rounds_to_zero_has_no_minus() -> None:
    tiny = Interval(-0.001, -0.0001, 0.95)
    assert format_interval(tiny) == "(0.00 to 0.00)"
    assert format_interval(tiny, signed=True) == "(+0.00 to +0.00)"
    assert format_difference(Difference(-0.0001, tiny, 100, 0.5)) == "+0.000 (+0.00 to +0.00) p=0.5"


def test_trials_beyond_a_cost_limit_are_marked(archive: RunArchive) -> None:
    assert archive.space is not None
    assert archive.beyond_limits == frozenset(), "the task's own limit"
    cheapest = min(trial.units for trial in archive.trials)
    limited = replace(archive, space=replace(archive.space, max_units=cheapest))
    dear = {trial.number for trial in archive.trials if trial.units > cheapest and trial.state == "complete"}
    assert limited.beyond_limits == dear != set()
    content = page_content(limited)
    assert {trial["number"] for trial in content["trials"] if trial["beyond"]} == dear
    front = next(figure for figure in content["figures"] if figure["name"] == "front")
    drawn = {number for trace in front["spec"]["data"] for number in trace["customdata"]}
    assert drawn == {trial.number for trial in archive.trials if trial.state == "complete"}


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (b'{"message": "one"}\n{"message": "two"}\n', "two"),
        (b'{"message": "' + b"x" * 100_000 + b'"}\n{"message": "two"}\n', "two"),
        (b'{"message": "one"}\n{"message": "tw', ""),
        (b"", ""),
        (None, ""),
    ],
)
def test_the_last_line_of_the_log_is_the_activity(
    archive: RunArchive, tmp_path: Path, log: bytes | None, message: str
) -> None:
    copied = replace(archive, run=replace(archive.run, path=tmp_path))
    if log is not None:
        copied.run.log.write_bytes(log)
    assert progress_of(copied)["activity"] == message


def test_page_content_is_plain_data(archive: RunArchive) -> None:
    assert json.loads(json_for_html(page_content(archive)))["state"] == "finished"


def test_the_recommended_candidate_is_shown_with_its_test_score(archive: RunArchive) -> None:
    result = archive.result
    assert result is not None
    best = replace(result.finalist("best"), roles=("best",))
    assert best.test is not None
    tested = replace(best, roles=("recommended",), trial=0, test=replace(best.test, score=0.4321))
    for recommended, ending in (
        (tested, "; its test score is 0.432 ("),
        (replace(tested, test=None), f"of that of the best, trial {best.trial}."),
    ):
        found = replace(archive, result=replace(result, finalists=(best, recommended)))
        assert ending in page_content(found)["sentences"][-1]
