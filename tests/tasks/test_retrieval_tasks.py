"""The retrieve-then-answer tasks on rows of our own in the datasets' public formats: loading, measures, whole runs."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentopt import aevaluate, load_config, load_task
from agentopt.core.errors import TaskError
from agentopt.core.records import Evaluation
from agentopt.core.task import Example, Task
from agentopt.models.base import Request
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel

TASKS = Path(__file__).parents[2] / "tasks"
Row = dict[str, Any]
COUNT = 9
SENTENCES = (
    "Mira{n} lives in Vard{n}.",
    "She paints.",
    "Vard{n} lies on the Ösk{n}.",
    *(f"Kell {k} is far." for k in range(20)),
)
TRIPLES = [("Mira{n}", "lives_in", "Vard{n}"), ("Vard{n}", "lies_on", "Ösk{n}")]
OTHERS = [("Mira{n}", "paints", f"picture {k}") for k in range(20)]


def of(n: int, parts: Any) -> Any:
    """`parts` with the row's number in them, as JSON reads it."""
    return json.loads(json.dumps(parts).replace("{n}", str(n)))


def hotpot_pairs(n: int) -> Row:
    mira, she, vard, *far = of(n, SENTENCES)
    context = [[f"Mira{n}", [mira, she]], [f"Vard{n}", [vard]], ["Kell", far]]
    facts = [[f"Mira{n}", 0], [f"Vard{n}", 0], ["Kell", 99]]
    row = {"_id": f"5a{n}", "type": "bridge", "level": "easy", "question": f"Which river flows by Mira{n}'s home?"}
    return row | {"answer": f"Ösk{n}", "context": context, "supporting_facts": facts}


def hotpot_hub(n: int) -> Row:
    row = hotpot_pairs(n)
    (titles, paragraphs), (fact_titles, numbers) = (
        zip(*row["context"], strict=True),
        zip(*row["supporting_facts"], strict=True),
    )
    return row | {
        "context": {"title": titles, "sentences": paragraphs},
        "supporting_facts": {"title": fact_titles, "sent_id": numbers},
    }


def wiki_candidates(n: int) -> Row:
    sentences = of(n, SENTENCES)
    gold = [sentences[0], sentences[2]]
    question = f"Which river flows by Mira{n}'s home?"
    return {
        "question": question,
        "answers": [f"Ösk{n}", f"Ösk{n}", f"River Ösk{n}"],
        "ctxs_candidate": sentences,
        "ctxs_gt": gold,
    }


def with_triples(n: int) -> Row:
    back = [[tail, f"{relation}_of", head] for head, relation, tail in of(n, TRIPLES)]
    row = {
        "ID": f"WebQTrn-{n}",
        "question": f"Which river flows by Mira{n}'s home?",
        "answer": [f"Ösk{n}", f"River Ösk{n}"],
    }
    return row | {"gt_triples": [*of(n, TRIPLES), *back], "crucial_triples": back, "2hop_triples": of(n, OTHERS)}


def rog(n: int) -> Row:
    row = {"id": f"WebQTest-{n}", "question": f"Which river flows by Mira{n}'s home?", "answer": [f"Ösk{n}"]}
    graph = [*of(n, OTHERS), *of(n, TRIPLES)]
    return row | {"q_entity": [f"Mira{n}"], "a_entity": [f"Ösk{n}"], "graph": graph, "choices": []}


FORMS: list[tuple[str, Callable[[int], Row]]] = [
    ("hotpotqa", hotpot_pairs),
    ("hotpotqa", hotpot_hub),
    ("2wikimultihopqa", hotpot_pairs),
    ("2wikimultihopqa", hotpot_hub),
    ("2wikimultihopqa", wiki_candidates),
    ("cwq", with_triples),
    ("cwq", rog),
    ("webqsp", with_triples),
    ("webqsp", rog),
]
each_form = pytest.mark.parametrize(("name", "row"), FORMS, ids=[f"{name}-{row.__name__}" for name, row in FORMS])
KNOB = {"hotpotqa": "passages", "2wikimultihopqa": "passages", "cwq": "triples", "webqsp": "triples"}


def settings(folder: Path, row: Callable[[int], Row], *more: str) -> list[str]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row(n), ensure_ascii=False) + "\n" for n in range(COUNT)), encoding="utf-8")
    return [f"data={file}", f"journal={folder / 'journal.db'}", *more]


def loaded(name: str, folder: Path, row: Callable[[int], Row], *more: str) -> Task:
    config = load_config(settings(folder, row, *more))
    return load_task(TASKS / name, catalog=Catalog.load(), overrides=config.task)


@each_form
def test_rows_in_a_public_format_become_examples(name: str, row: Callable[[int], Row], tmp_path: Path) -> None:
    task = loaded(name, tmp_path, row, f"data.options.max_{KNOB[name]}=6")
    examples = [example for split in task.splits.values() for example in split]
    assert len(examples) == COUNT
    for example in examples:
        candidates = example.inputs[KNOB[name]]
        assert len(candidates) == 6
        needed = [candidates[int(number) - 1] for number in example.metadata["gold"]]
        assert len(needed) == 2
        assert all(re.search(r"lives.in|lies.on", text) for text in needed)
        assert all(str(answer).split()[-1].startswith("Ösk") for answer in example.target)
        assert set(example.inputs) == {"question", KNOB[name]}


def test_a_row_that_has_an_id_keeps_it(tmp_path: Path) -> None:
    ids = {e.id for split in loaded("cwq", tmp_path, rog).splits.values() for e in split}
    assert ids == {f"WebQTest-{n}" for n in range(COUNT)}


def answering(numbers: Callable[[list[tuple[str, str]]], str]) -> ScriptedModel:
    """Replies with `numbers` to the numbered candidates, then with the river above the question."""

    def answer(request: Request, repeat: int) -> str:
        text = request.messages[-1].content
        above, _, below = text.partition("Question: ")
        if "numbers only" in below:
            return numbers(re.findall(r"^\[(\d+)\] (.*)$", above, re.M))
        river = re.search(r"Ösk\d+", above)
        return f"  The {river[0]}." if river else "unknown"

    return ScriptedModel(answer)


def needed(candidates: list[tuple[str, str]]) -> list[str]:
    return [number for number, text in candidates if re.search(r"lives.in|lies.on", text)]


async def run(name: str, folder: Path, row: Callable[[int], Row], model: ScriptedModel, *more: str) -> Evaluation:
    return await aevaluate(TASKS / name, None, load_config(settings(folder, row, *more)), provider=model)


def mean(evaluation: Evaluation, metric: str) -> float:
    values = evaluation.metrics[metric].values()
    return sum(values) / len(values)


@each_form
async def test_the_right_passages_and_the_right_answer_score_1(
    name: str, row: Callable[[int], Row], tmp_path: Path
) -> None:
    evaluation = await run(name, tmp_path, row, answering(lambda shown: ", ".join(needed(shown))))
    assert (evaluation.state, evaluation.score, evaluation.planned) == ("complete", 1.0, len(evaluation.results))
    means = {metric: mean(evaluation, metric) for metric in evaluation.metrics}
    if row is with_triples:  # RoG's measures want each of the two answers, and the reply names one
        assert [means.pop("rog_accuracy"), means.pop("rog_f1")] == [0.5, pytest.approx(2 / 3)]
    assert means == dict.fromkeys(means, 1.0)
    assert set(evaluation.metrics) - {"retrieval_f1"} in ({"token_f1"}, {"hit", "rog_f1", "rog_accuracy"})


@pytest.mark.parametrize(
    ("reply", "f1"),
    [
        (lambda shown: needed(shown)[0], 2 / 3),
        (lambda shown: ", ".join(number for number, _ in shown), 2 * 2 / (8 + 2)),
        (lambda shown: "0, 99, 123456789012345678901234567890", 0.0),
        (lambda shown: "[]", 0.0),
        (lambda shown: "none of them", 0.0),
        (lambda shown: "I cannot say", 0.0),
        (lambda shown: "", 0.0),
        (lambda shown: '{"ids": [' + ", ".join(needed(shown)), 1.0),
        (lambda shown: f"[{needed(shown)[0]}], [{needed(shown)[1]}] and [{needed(shown)[0]}]", 1.0),
    ],
    ids=["one of two", "all", "no such number", "empty list", "none", "prose", "nothing", "broken JSON", "repeated"],
)
async def test_retrieval_is_judged_by_f1_whatever_the_reply_looks_like(
    tmp_path: Path, reply: Callable[[list[tuple[str, str]]], str], f1: float
) -> None:
    evaluation = await run("hotpotqa", tmp_path, hotpot_hub, answering(reply))
    assert evaluation.state == "complete"
    assert mean(evaluation, "retrieval_f1") == pytest.approx(f1)


async def test_the_knob_decides_how_much_is_read(tmp_path: Path) -> None:
    model = answering(lambda shown: str(len(shown)))
    await run("hotpotqa", tmp_path, hotpot_hub, model, "data.options.max_passages=3", "data.limit.test=1")
    assert re.findall(r"^\[\d+\]", model.requests[0].messages[-1].content, re.M) == ["[1]", "[2]", "[3]"]


# HotpotQA's hotpot_evaluate_v1.py by hand: lower case, punctuation off, articles off, white space closed up.
OFFICIAL: list[tuple[str, str, float, float]] = [
    ("The Ösk!", "ösk", 1, 1),
    ("276170 Inhabitants", "276,170 inhabitants", 1, 1),
    ("276 170 inhabitants", "276,170 inhabitants", 0, 0.4),
    ("Yes.", "yes", 1, 1),
    ("yes, it does", "yes", 0, 0),
    ("yes", "yes, it does", 0, 0),
    ("no", "yes", 0, 0),
    ("noanswer", "no answer", 0, 0),
    ("Barack Obama", "President Barack Obama", 0, 0.8),
    ("a Hat, the Hat", "hat", 0, 2 / 3),
    ("  an   Anchor ", "anchor", 1, 1),
    ("München", "Munchen", 0, 0),
    ("東京", "東京", 1, 1),
    ("", "anchor", 0, 0),
    ("...", "anchor", 0, 0),
]


@pytest.mark.parametrize(("output", "target", "exact", "f1"), OFFICIAL)
async def test_answers_are_judged_as_by_hotpotqas_own_script(
    tmp_path: Path, output: str, target: str, exact: float, f1: float
) -> None:
    task = loaded("hotpotqa", tmp_path, hotpot_hub)
    judged = [scorer(Example("e", {}, [target]), output) for scorer in (task.scorer, task.metrics["token_f1"].scorer)]
    assert [s.value for s in judged if not inspect.isawaitable(s)] == [exact, pytest.approx(f1)]


@pytest.mark.parametrize(
    ("output", "exact", "hit"),
    [
        ("The River Ösk", 1, 1),
        ("ösk", 1, 1),
        ("the Ösk, I think", 0, 1),
        ("Öskar", 0, 0),
        ("Vard", 0, 0),
        ("", 0, 0),
    ],
)
async def test_any_of_the_answers_over_a_graph_counts(tmp_path: Path, output: str, exact: float, hit: float) -> None:
    task = loaded("webqsp", tmp_path, rog)
    example = Example("e", {}, ["Ösk", "River Ösk"])
    judged = [scorer(example, output) for scorer in (task.scorer, task.metrics["hit"].scorer)]
    assert [s.value for s in judged if not inspect.isawaitable(s)] == [exact, hit]


@pytest.mark.parametrize("name", KNOB)
def test_a_row_in_another_format_is_reported_with_its_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"rows\.jsonl:1: the row must have the column '\w+'[\s\S]*reader reads"):
        loaded(name, tmp_path, lambda n: {"id": n, "question": "?"})


def test_the_aliases_of_2wiki_are_right_too(tmp_path: Path) -> None:
    def row(n: int) -> dict[str, Any]:
        return {**hotpot_hub(n), "answer_id": f"Q{n}"}

    file = tmp_path / "id_aliases.json"
    entries = [{"Q_id": f"Q{n}", "aliases": [f"Alias {n}"], "demonyms": ["Demonym"]} for n in range(0, 99, 2)]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    given = {"data.options.aliases_file": str(file)}
    without = loaded("2wikimultihopqa", tmp_path, row)
    task = load_task(TASKS / "2wikimultihopqa", overrides={"data.source": str(tmp_path / "rows.jsonl"), **given})
    plain = {e.id: e.target for split in without.splits.values() for e in split}
    for example in (e for split in task.splits.values() for e in split):
        more = [target for target in example.target if target not in plain[example.id]]
        assert len(more) in (0, 2)
        assert not more or more[0].startswith("Alias ")
    assert any(len(e.target) == 3 for split in task.splits.values() for e in split)


@pytest.mark.parametrize("name", KNOB)
def test_without_data_the_error_names_what_to_add(name: str) -> None:
    with pytest.raises(TaskError, match=r"data\.source: [\s\S]*remedy: add -c data=FILE"):
        load_task(TASKS / name)


def test_the_command_reads_data_relative_to_where_one_is_and_exits_with_2_without(tmp_path: Path) -> None:
    settings(tmp_path, hotpot_hub)
    command = [
        sys.executable,
        "-m",
        "agentopt",
        "optimize",
        "--dry-run",
        str(TASKS / "hotpotqa"),
        "-c",
        "data=rows.jsonl",
    ]
    command += ["-c", "data.options.max_passages=6", "-c", "journal=none.db"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "Worst case for 20 trials" in done.stdout, done.stderr
    wrong = subprocess.run(
        [*command[:-2], "-c", "data=null"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert wrong.returncode == 2
    assert "remedy: add -c data=FILE" in wrong.stderr
