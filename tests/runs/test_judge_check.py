"""`agentopt judge check`: a judge with planted errors beside labels."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from agentopt import Config
from agentopt.cli.commands.evaluate import run_evaluation
from agentopt.cli.commands.judge import run_judge_check
from agentopt.core.errors import AgentoptError, BudgetExceeded, ScorerError, TaskError, UserError
from agentopt.core.message_text import counted
from agentopt.core.task import Example, Subtask, Task
from agentopt.evaluation.judge import Judge
from agentopt.models.base import Request
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import open_session
from agentopt.runs.judge_check import JudgeReport, check_judge
from agentopt.taskfile.labels import Label, read_labels
from agentopt.testing.servers import Answer, OpenAIServer
from agentopt.testing.toy import LARGE, SMALL, draw

ROWS = 60


def output_of(number: int) -> str:
    return f"{'bad' if number % 3 == 0 else 'good'} answer {number}"


def label_of(number: int) -> float:
    """People disagree with the wording on every tenth row."""
    return float((number % 3 != 0) != (number % 10 == 0))


def verdict_of(text: str, *noise: object) -> str:
    score = 1.0 if "good answer" in text else 0.0
    if noise and draw(text, *noise) < 0.2:
        score = 1 - score
    return json.dumps({"score": score, "reason": "so"})


def reply(request: Request, repeat: int) -> str:
    text = request.messages[-1].content
    if request.purpose == "judge":
        return verdict_of(text, repeat) if repeat or request.n > 1 else verdict_of(text)
    return output_of(int(text))


def task(samples: int = 1, **given: Any) -> Task:
    subtask = Subtask("say", lambda inputs, _: str(inputs["n"]), models=(SMALL,))
    examples = tuple(Example(f"r{n}", {"n": n}, **given) for n in range(ROWS))
    return Task("judged", (subtask,), Judge(LARGE, "Is it good?", samples=samples), {"test": examples})


def own_labels(numbers: Sequence[int]) -> list[Label]:
    return [Label(f"r{n}", None, label_of(n), f"labels.csv:{n}") for n in numbers]


async def check(
    labels: Sequence[Label], folder: Path, model: ScriptedModel | None = None, judged: Task | None = None, **how: Any
) -> JudgeReport:
    judged, config = judged or task(), Config(**how.pop("config", {}))
    specs = {name: Catalog.load()[name] for name in (SMALL, LARGE)}
    provider = model or ScriptedModel(reply)
    journal = str(folder / "journal.db")
    caps, fresh = config.budget.caps(), how.pop("fresh", False)
    async with open_session(specs, "check", caps=caps, journal=journal, provider=provider, fresh=fresh) as session:
        return await check_judge(judged, judged.baseline, "test", labels, config, session, **how)


async def test_agreement_errors_and_the_corrected_score(tmp_path: Path) -> None:
    report = await check(own_labels(range(30)), tmp_path)
    found = report.agreement
    assert found is not None
    # Of the rows 0 to 29, the labels of 0, 10 and 20 differ from the wording that the judge goes by.
    assert found.table == ((9, 2), (1, 18))
    assert [(error.wrong, error.n) for error in found.errors] == [(2, 11), (1, 19)]
    assert found.kappa == pytest.approx(0.7805, abs=1e-3)
    assert found.interval.low < found.kappa < found.interval.high
    assert report.difference.mean == pytest.approx((2 - 1) / 30)
    assert (report.labels, report.own, report.failed) == (30, 30, {})
    corrected = report.corrected
    assert corrected is not None
    assert (corrected.labelled, corrected.unlabelled) == (30, 30)
    assert corrected.judge_mean == pytest.approx(2 / 3)
    assert corrected.interval.low < sum(map(label_of, range(ROWS))) / ROWS < corrected.interval.high
    assert report.spread is None


async def test_the_answers_of_an_evaluation_are_used_and_a_second_check_calls_nothing(tmp_path: Path) -> None:
    model = ScriptedModel(reply)
    first = await check(own_labels(range(20)), tmp_path, model)
    assert len(model.requests) == 2 * ROWS
    assert await check(own_labels(range(20)), tmp_path, ScriptedModel(script=())) == first
    more = ScriptedModel(reply)
    report = await check(own_labels(range(20)), tmp_path, more, repeats=4)
    assert [request.purpose for request in more.requests] == ["judge"] * 60
    assert {(request.first_repeat, request.temperature) for request in more.requests} == {(1, 0.0), (2, 0.0), (3, 0.0)}
    assert report.agreement == first.agreement
    assert report.spread is not None
    assert report.spread.verdicts == 4
    assert 0.1 < report.spread.deviation < 0.5
    assert 0 < (report.spread.undecided or 0) < 20


async def test_several_samples_of_a_judge_are_its_spread(tmp_path: Path) -> None:
    report = await check(own_labels(range(20)), tmp_path, judged=task(samples=3))
    assert report.spread is not None
    assert report.spread.verdicts == 3
    assert report.spread.undecided


async def test_labels_of_other_outputs_and_labels_by_output(tmp_path: Path) -> None:
    labels = [
        Label("r1", "bad answer 1", 0.0, "1"),  # another candidate's output
        Label("r1", "good answer 1", 1.0, "2"),
        Label(None, " good answer 2\n", 1.0, "3"),
        Label("r3", None, 0.0, "4"),
        Label("r4", "good answer 4", 1.0, "5"),
    ]
    report = await check(labels, tmp_path)
    assert (report.labels, report.own) == (5, 4)
    assert report.agreement is not None
    assert report.agreement.kappa == 1.0
    assert report.difference.n == 4  # two labels are of r1
    assert report.corrected is not None
    assert (report.corrected.labelled, report.corrected.unlabelled) == (4, ROWS - 4)
    assert any("1 of 5 labels are of other outputs" in note for note in report.notes)


async def test_scores_that_are_no_classes_have_a_correlation(tmp_path: Path) -> None:
    labels = [Label(f"r{n}", None, min(1.0, label_of(n) * 0.8 + n / 200), f"{n}") for n in range(20)]
    report = await check(labels, tmp_path)
    assert report.agreement is None
    assert report.correlation is not None
    assert 0.5 < report.correlation[0] < 1


async def test_when_every_row_is_labelled_their_mean_is_the_score(tmp_path: Path) -> None:
    report = await check(own_labels(range(ROWS)), tmp_path)
    assert report.corrected is None
    assert report.label_mean[0] == pytest.approx(sum(map(label_of, range(ROWS))) / ROWS)
    assert "every row is labelled, so the mean label is the score" in report.notes
    few = await check(own_labels(range(2)), tmp_path)
    assert any("needs labels of at least 3 examples, but got 2" in note for note in few.notes)


def broken_on(*numbers: int) -> ScriptedModel:
    """A model whose judge gives no verdict on these outputs."""

    def answers(request: Request, repeat: int) -> str:
        text = "".join(message.content for message in request.messages)
        is_broken = request.purpose == "judge" and any(f"answer {number}\n" in text for number in numbers)
        return "no verdict" if is_broken else reply(request, repeat)

    return ScriptedModel(answers)


OTHERS = [Label(f"r{n}", f"bad answer {n} of another one", 0.0, f"o:{n}") for n in range(7)]


@pytest.mark.parametrize(
    ("labels", "broken", "note"),
    [
        # Of 15 labels, seven are of other outputs, and the judge scores two of the candidate's eight.
        (
            [*OTHERS, *own_labels(range(5, 13))],
            [n for n in range(ROWS) if n not in (5, 6)],
            "no corrected score: it needs scores of at least 2 other examples, but got 0",
        ),
        (
            own_labels(range(ROWS - 1)),
            (),
            "no corrected score: it needs scores of at least 2 other examples, but got 1",
        ),
        (own_labels(range(ROWS)), (5,), "no corrected score: it needs scores of at least 2 other examples, but got 0"),
        (own_labels(range(10)), range(10, ROWS), "no corrected score: it needs scores of at least 2 other examples"),
        (own_labels(range(10)), (3, 20), "the corrected score holds if the labelled examples were chosen at random"),
    ],
)
async def test_the_mean_label_is_the_score_only_if_every_own_output_is_labelled(
    tmp_path: Path, labels: list[Label], broken: Sequence[int], note: str
) -> None:
    report = await check(labels, tmp_path, broken_on(*broken))
    assert report.notes[-1].startswith(note)
    unscored = [one for one in report.notes if f"{counted(len(broken), 'example')} of the split, which have no" in one]
    assert len(unscored) == bool(broken)


async def test_an_output_that_the_judge_cannot_score_is_reported_and_left_out(tmp_path: Path) -> None:
    report = await check(own_labels(range(10)), tmp_path, broken_on(4))
    assert report.labels == 9
    assert list(report.failed) == ["labels.csv:4"]
    assert "gave no usable verdict: " in report.failed["labels.csv:4"], "the label is named beside it"
    # No `UserError`: the input is right, so the command exits with 1, as the documentation promises.
    with pytest.raises(ScorerError, match=r"the judge scored no labelled output: .*gave no usable verdict") as ended:
        await check(own_labels([4]), tmp_path, broken_on(4))
    assert str(ended.value).count("\n  remedy: ") == 1
    assert f"`agentopt models check {LARGE}`" in str(ended.value)


async def test_the_error_of_a_stored_reply_says_how_a_repaired_judge_is_called_again(tmp_path: Path) -> None:
    labels = own_labels(range(5))
    for _ in range(2):
        report = await check(labels, tmp_path, broken_on(0, 4))
        assert list(report.failed) == ["labels.csv:0", "labels.csv:4"]
        assert "came from the journal" not in str(report.failed), "an unusable reply is requested again, once"
    stored = await check(labels, tmp_path)
    assert list(stored.failed) == ["labels.csv:0", "labels.csv:4"]
    for error in stored.failed.values():
        assert re.search(r"a reply came from the journal, stored 20\d\d-\d\d-\d\d \d\d:\d\d: ", error)
        assert (
            f"`agentopt evaluate --fresh`, or remove the stored ones by `agentopt journal forget --model {LARGE}"
            in error
        )
    assert (await check(labels, tmp_path, fresh=True)).failed == {}
    assert (await check(labels, tmp_path, ScriptedModel(script=()))).failed == {}


@pytest.mark.parametrize(
    ("label", "match"),
    [
        (Label("r99", None, 1.0, "l:1"), "there is no 'r99'"),
        (Label(None, "unknown", 1.0, "l:1"), "but is so on 0"),
    ],
)
async def test_a_label_about_no_example_is_refused(tmp_path: Path, label: Label, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        await check([label], tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        Label("r1", "good answer 1", 0.0, "l:2"),  # the candidate's own output
        Label("r1", " good answer 1\n", 1.0, "l:2"),
        Label(None, "good answer 1", 0.0, "l:2"),
    ],
)
async def test_a_second_label_of_the_candidates_output_is_refused(tmp_path: Path, other: Label) -> None:
    with pytest.raises(TaskError, match=r"l:2: an output must have one label, but it has another one at l:1"):
        await check([Label("r1", None, 1.0, "l:1"), other], tmp_path)


async def test_a_second_label_of_another_output_is_refused(tmp_path: Path) -> None:
    labels = [Label("r1", "bad", 1.0, "l:1"), Label("r2", "bad", 1.0, "l:2"), Label("r1", "bad ", 0.0, "l:3")]
    with pytest.raises(TaskError, match=r"l:3: an output must have one label, but it has another one at l:1"):
        await check(labels, tmp_path)


def with_validation(judged: Task) -> Task:
    return replace(
        judged, splits={**judged.splits, "validation": (Example("v1", {"n": 101}), Example("v2", {"n": 102}))}
    )


@pytest.mark.parametrize("foreign", [["v1"], ["v2", "v1"]])
async def test_labels_of_another_split_are_left_out_with_a_note(tmp_path: Path, foreign: list[str]) -> None:
    labels = [*(Label(name, None, 1.0, name) for name in foreign), *own_labels(range(10))]
    report = await check(labels, tmp_path, judged=with_validation(task()))
    plain = await check(own_labels(range(10)), tmp_path, judged=with_validation(task()))
    assert report.notes[0] == f"left out: {counted(len(foreign), 'label')} of examples of the validation split"
    assert replace(report, notes=report.notes[1:]) == plain


async def test_labels_of_another_split_alone_are_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"all are of validation[\s\S]*--split validation"):
        await check([Label("v1", None, 1.0, "l:1")], tmp_path, judged=with_validation(task()))


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (["r1", "x1", "r2"], r"there is no 'x1'\n"),
        (["x1", "v1", "x2", ""], r"there is no 'x1', 'x2', ''\n"),
        ([f"x{n}" for n in range(7)], r"there is no 'x0', 'x1', 'x2', 'x3', 'x4' and 2 more\n"),
    ],
)
async def test_unknown_ids_are_listed_up_to_five(tmp_path: Path, ids: list[str], match: str) -> None:
    labels = [Label(name, None, 1.0, "l:1") for name in ids]
    with pytest.raises(TaskError, match=match):
        await check(labels, tmp_path, judged=with_validation(task()))


async def test_a_cap_ends_the_check_and_the_next_one_makes_only_the_missing_calls(tmp_path: Path) -> None:
    first, second = ScriptedModel(reply), ScriptedModel(reply)
    capped = {"budget": {"calls": 100}}
    with pytest.raises(BudgetExceeded):
        await check(own_labels(range(20)), tmp_path, first, config=capped)
    assert len(first.requests) == 100
    await check(own_labels(range(20)), tmp_path, second)
    assert len(second.requests) == 2 * ROWS - 100


async def test_repeated_rows_count_once(tmp_path: Path) -> None:
    grouped = task(group="one document")
    report = await check(own_labels(range(10)), tmp_path, judged=grouped)
    assert report.difference.n == 1
    assert report.corrected is None


# ---- the command


def folder_with_task(folder: Path, base_url: str) -> list[str]:
    spec = {
        "name": "judged",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [{"name": "say", "prompt": "{{ inputs.n }}", "models": ["small"], "num_samples": 1}],
        "scorer": {"kind": "judge", "model": "strict", "rubric": "Is it good?"},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    for split, start in (("validation", 100), ("test", 0)):
        rows = (json.dumps({"id": f"r{n}", "n": n}) for n in range(start, start + ROWS))
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    models = {name: {"base_url": base_url, "price": "free"} for name in ("small", "strict")}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    return [f"models=[{folder / 'models.yaml'}]", f"journal={folder / 'journal.db'}"]


def answer(body: dict[str, Any], _: int) -> str:
    text = body["messages"][-1]["content"]
    return verdict_of(text) if body["messages"][0]["content"].startswith("You grade") else output_of(int(text))


async def run_command(
    folder: Path, labels: str, name: str = "labels.csv", answer: Answer = answer, **how: Any
) -> tuple[str, int | None]:
    """The command's output, and its exit code if it is not 0."""
    (folder / name).write_text(labels)
    async with OpenAIServer(answer) as server:
        settings, text = folder_with_task(folder, server.base_url), io.StringIO()
        console = Console(file=text, width=200)

        def run() -> int | None:
            try:
                run_judge_check(folder, folder / name, None, "test", how.pop("repeats", 1), settings, console, **how)
            except SystemExit as ended:
                return ended.code if isinstance(ended.code, int) else 0
            return None

        code = await asyncio.to_thread(run)
        return text.getvalue(), code


CSV = "id,label\n" + "".join(f"r{n},{'yes' if label_of(n) else 'no'}\n" for n in range(30))


async def test_the_command_prints_the_report(tmp_path: Path) -> None:
    shown, code = await run_command(tmp_path, CSV, as_json=False)
    assert code is None
    for part in (
        "judge strict on 30 labelled outputs of the test split, 30 of them the candidate's",
        "agreement: Cohen's kappa 0.78 (",
        "27 of 30 in the same class",
        "mean error of the judge (score - label): +0.033 (",
        "corrected score: 0.",
        "from 30 labelled and 30 other examples",
        "the corrected score holds if the labelled examples were chosen at random",
    ):
        assert part in shown


async def test_the_command_prints_first_how_many_outputs_are_left_out(tmp_path: Path) -> None:
    def broken(body: dict[str, Any], number: int) -> str:
        is_broken = any("answer 4\n" in message["content"] for message in body["messages"])
        return "out of order" if is_broken else answer(body, number)

    shown, code = await run_command(tmp_path, CSV, answer=broken, as_json=False, fresh=True)
    assert code == 1
    assert shown.splitlines()[0].startswith("judge strict on 29 labelled outputs")
    assert shown.splitlines()[1] == "1 of 30 labelled outputs have no score by the judge, and are left out below"


@pytest.mark.parametrize("reply", ["no verdict", None])
async def test_the_command_prints_what_its_calls_cost_with_and_without_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reply: str | None
) -> None:
    def given(body: dict[str, Any], number: int) -> str:
        is_judge = body["messages"][0]["content"].startswith("You grade")
        return reply if reply and is_judge else answer(body, number)

    with suppress(ScorerError):
        await run_command(tmp_path, CSV, answer=given, as_json=False)
    calls = (3 if reply else 2) * ROWS
    assert f"spent: {calls} calls, " in capsys.readouterr().err


async def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps({"id": f"r{n}", "score": label_of(n)}) for n in range(30)]
    await run_command(tmp_path, "\n".join(rows), "labels.jsonl", as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["agreement"]["table"] == [[9, 2], [1, 18]]
    assert report["corrected"]["labelled"] == 30
    assert report["corrected"]["interval"]["low"] < report["corrected"]["mean"]


async def test_a_task_without_a_judge_is_refused_before_any_call(tmp_path: Path) -> None:
    async with OpenAIServer(answer) as server:
        settings = folder_with_task(tmp_path, server.base_url)
        (tmp_path / "labels.csv").write_text("id,label\nr1,1\n")
        spec = yaml.safe_load((tmp_path / "task.yaml").read_text())
        spec["scorer"] = {"kind": "python", "function": "own.py:length"}
        (tmp_path / "own.py").write_text("def length(example, output): return 1.0\n")
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(spec))
        file, console = tmp_path / "labels.csv", Console()
        with pytest.raises(UserError, match="must be scored by a judge"):
            await asyncio.to_thread(run_judge_check, tmp_path, file, None, "test", 1, settings, console, as_json=False)
        assert server.calls == 0


# ---- the file of labels


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("l.txt", "id,label\na,1\n", r"must be a .csv or .jsonl file"),
        ("l.csv", "", "the file is empty"),
        ("l.csv", "id,label\n", "the file is empty"),
        ("l.csv", "id,label\na,2\n", r"l.csv:2: a label must be a number from 0 to 1.*got '2'"),
        ("l.csv", "id,label\na,nan\n", "got 'nan'"),
        ("l.csv", "id,label\na,\n", r"either `label` or `score`"),
        ("l.csv", "id,label,score\na,1,1\n", r"either `label` or `score`"),
        ("l.csv", "id,label\na,\n", r"l.csv:2: .*`score`, but has no value there[\s\S]*write one number"),
        ("l.csv", "id,label,score\na,1,1\n", r"l.csv:2: .*`score`, but has both[\s\S]*write one number"),
        ("l.csv", "label\n1\n", r"l.csv:1: .*must have `id` or `output`[\s\S]*add the id of the example"),
        ("l.csv", "id,output,label\n,,1\n", r"l.csv:2: .*must have `id` or `output`, but has no value there"),
        ("l.csv", "id,output,lable\na,,1\n", r"l.csv:1: .*got the columns id, output, lable\n.*did you mean 'label'\?"),
        ("l.csv", "\nID,Scores \na,1\n", r"l.csv:2: .*got the columns ID, Scores\n.*did you mean 'score'\?"),
        ("l.csv", "id,verdict\na,1\n", r"l.csv:1: .*got the columns id, verdict\n.*add the column `label`"),
        ("l.csv", "ouput,label\na,1\n", r"l.csv:1: .*got the columns ouput, label\n.*did you mean 'output'\?"),
        ("l.jsonl", '{"id": "a", "lable": 1}\n', r"l.jsonl:1: .*got the columns id, lable\n.*did you mean 'label'\?"),
        ("l.csv", "id,label\na,1\nb,1\na,0\n", r"l.csv:4: an output must have one label.*l.csv:2"),
        ("l.csv", "id,label\n\xff,1\n", "is not UTF-8"),
        ("l.jsonl", '{"id": "a", "label": [1]}\n', r"got \[1\]"),
        (
            "l.jsonl",
            '{"id": "a", "label": 1, "label": 0}',
            r"l.jsonl:1: .*'label' is given twice[\s\S]*remove",
        ),
        ("l.jsonl", "[1]\n", "must be a JSON object"),
        ("gone.csv", None, r"gone.csv cannot be read[\s\S]*relative to the working folder"),
        ("gone.jsonl", None, r"gone.jsonl cannot be read[\s\S]*relative to the working folder"),
        ("l.csv", "id,label\na,0,5\n", r"l.csv:2: a row must have at most 2 cells.*got 3[\s\S]*quote the text"),
        ("l.csv", "id,label,output\na,1,x\nb,1,The train, leaves at 5\n", r"l.csv:3: .*got 4[\s\S]*quote the text"),
        ("l.csv", "id,label\na,1,\n", r"l.csv:2: a row must have at most 2 cells"),
        ("l.csv", "id,label,label\na,1,0\n", r"l.csv:1: a header must have each column once, but 'label' is there 2 "),
        ("l.csv", "id,id,label\n", r"'id' is there 2 times"),
        ("l.csv", "ID,id ,label\n", r"'id' is there 2 times"),
        ("l.csv", 'id,output,label\na,"never closed,1\nb,x,0\n', r"l.csv:2: is not CSV[\s\S]*quote the text"),
        ("l.csv", 'id,output,label\na,x,1\nb,"said" so,0\n', r"l.csv:3: is not CSV[\s\S]*double each quote"),
        ("l.csv", "id,label\na,-0.1\n", r"got '-0.1'[\s\S]*correct the label"),
        ("l.csv", "id,label\na,nan\n", r"got 'nan'[\s\S]*correct the label"),
        ("l.csv", "id,label\na,inf\n", r"got 'inf'[\s\S]*correct the label"),
        ("l.csv", "id,label\na,perhaps\n", r"got 'perhaps'[\s\S]*correct the label"),
        ("l.csv", "id,label\na,4\n", r"got '4'[\s\S]*divide by the highest score"),
    ],
)
def test_a_file_of_labels_that_cannot_be_used_is_refused(
    tmp_path: Path, name: str, text: str | None, match: str
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(TaskError, match=match) as refused:
        read_labels(tmp_path / name)
    assert isinstance(refused.value, AgentoptError)
    assert "remedy" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", 'id,output,label\n7,"two\nlines",YES\n8,,0.25\n'),
        ("l.csv", 'ID, Output ,Label\n7,"two\nlines",YES\n8,,0.25\n'),
        ("l.jsonl", '{"Id": 7, "OUTPUT": "two\\nlines", "Score": 1}\n{"ID": "8", "LABEL": 0.25}\n'),
        (
            "l.jsonl",
            '{"id": 7, "ID": 9, "output": "two\\nlines", "label": 1}\n{"id": "8", "label": 0.25, "Label": 1}\n',
        ),
        ("l.jsonl", '{"id": 7, "output": "two\\nlines", "label": true}\n{"id": "8", "score": 0.25, "by": "Kim"}\n'),
    ],
)
def test_labels_are_read_from_csv_and_jsonl(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    first, second = read_labels(tmp_path / name)
    assert (first.example, first.output, first.score) == ("7", "two\nlines", 1.0)
    assert (second.example, second.output, second.score) == ("8", None, 0.25)


@pytest.mark.parametrize("broken", [False, True])
async def test_an_evaluation_reports_what_its_calls_cost_with_and_without_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: bool
) -> None:
    def given(body: dict[str, Any], number: int) -> str:
        is_judge = body["messages"][0]["content"].startswith("You grade")
        return "no verdict" if broken and is_judge else answer(body, number)

    async with OpenAIServer(given) as server:
        settings, text = folder_with_task(tmp_path, server.base_url), io.StringIO()
        console = Console(file=text, width=200)
        for as_json in (False, True):

            def run(as_json: bool = as_json) -> None:
                with suppress(SystemExit):
                    run_evaluation(tmp_path, None, "test", settings, console, as_json=as_json, fresh=True)

            await asyncio.to_thread(run)
        calls = server.calls // 2
    assert f"spent: {calls} calls, " in text.getvalue()
    assert f"; of these the judge {calls - ROWS} calls, " in text.getvalue()
    report = json.loads(capsys.readouterr().out)
    spent = report["spent"]
    assert (spent["total"]["calls"], spent["judge"]["calls"], spent["samples"]["calls"]) == (calls, calls - ROWS, ROWS)
    assert calls == (3 if broken else 2) * ROWS
    assert (report["per_example"] is None) == broken
