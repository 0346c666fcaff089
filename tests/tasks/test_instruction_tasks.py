"""ifeval and ifbench: rows in their public form, and which instructions a response follows."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nltk
import pytest

from agentopt import Config, Task, aevaluate, load_task
from agentopt.core.errors import ScorerError, TaskError, WeightsError
from agentopt.evaluation.checkers.instructions import (
    RESOURCES,
    WITHOUT_SOURCE,
    Followed,
    Instructions,
    read,
    share_followed,
    shared,
)
from agentopt.evaluation.scorers import python
from agentopt.models.base import Request
from agentopt.models.catalog import Catalog, Weights
from agentopt.models.scripted import ScriptedModel

TASKS = Path(__file__).parents[2] / "tasks"
NO_COMMAS, LOWER, WORDS = "punctuation:no_comma", "change_case:english_lowercase", "length_constraints:number_words"
SENTENCES = "length_constraints:number_sentences"

# Invented rows, in the public form of both benchmarks.
ROWS: dict[str, list[dict[str, Any]]] = {
    "ifeval": [
        {
            "key": 1000 + n,
            "prompt": f"Name {n} rivers. Use no commas and at least 3 words.",
            "instruction_id_list": [NO_COMMAS, WORDS],
            "kwargs": [{}, {"relation": "at least", "num_words": 3}],
        }
        for n in range(1, 5)
    ],
    "ifbench": [
        {
            "key": str(n),
            "prompt": f"Describe river {n} in 4 to 6 words.",
            "instruction_id_list": ["count:word_count_range"],
            "kwargs": [{"N": None, "min_words": 4.0, "max_words": 6.0, "keyword": None}],
        }
        for n in range(1, 5)
    ],
}


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """NLTK's data in miniature, so that nothing is fetched: a tokeniser that knows no abbreviation."""
    folder = tmp_path_factory.mktemp("nltk_data")
    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    for name in ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"):
        (english / name).write_text("")
    (folder / "corpora" / "stopwords").mkdir(parents=True)
    (folder / "corpora" / "stopwords" / "english").write_text("the\na\nof\n")
    for name in WITHOUT_SOURCE:
        (folder / name).mkdir(parents=True, exist_ok=True)
    before = list(nltk.data.path)
    nltk.data.path[:] = [str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTOPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield folder
    nltk.data.path[:] = before
    nltk.corpus.stopwords._unload()  # it has read the data of these tests
    shared.cache_clear()


async def nothing_to_fetch(weights: Weights) -> Path:
    raise WeightsError(f"{weights.file} was asked for")


@pytest.fixture
def ifeval(data: Path) -> Instructions:
    return Instructions("ifeval", data_folder=data, get=nothing_to_fetch)


def load(name: str, folder: Path, rows: list[dict[str, Any]] | None = None) -> Task:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or ROWS[name]), encoding="utf-8")
    return load_task(TASKS / name, catalog=Catalog.load(), overrides={"data.source": str(path)})


@pytest.mark.parametrize("name", ROWS)
def test_rows_in_the_public_form_become_examples(name: str, tmp_path: Path) -> None:
    task = load(name, tmp_path)
    examples = [e for split in task.splits.values() for e in split]
    assert {e.id for e in examples} == {str(row["key"]) for row in ROWS[name]}
    assert all(set(e.inputs) == {"prompt"} for e in examples)
    assert task.subtasks[0].render(examples[0].inputs, {}) == examples[0].inputs["prompt"]


def test_only_the_arguments_that_are_meant_are_kept_and_whole_numbers_are_whole() -> None:
    example = read(ROWS["ifbench"][0])
    assert example.target == [{"id": "count:word_count_range", "kwargs": {"min_words": 4, "max_words": 6}}]
    row = {"prompt": "?", "instruction_id_list": ["x"], "kwargs": [None]}
    assert read(row).target == [{"id": "x", "kwargs": {}}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "?", "instruction_id_list": [], "kwargs": []},
        {"prompt": "?", "instruction_id_list": ["a", "b"], "kwargs": [{}]},
        {"prompt": "?"},
    ],
)
def test_a_row_in_another_format_is_reported_with_its_line(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"rows\.jsonl:1: (the reader failed|the row must have)"):
        load("ifeval", tmp_path, [row])


@pytest.mark.parametrize(
    ("instruction", "arguments", "response", "strict"),
    [
        (NO_COMMAS, {}, "The Kell and the Orm", True),
        (NO_COMMAS, {}, "The Kell, the Orm", False),
        (LOWER, {}, "the kell flows south through the old town", True),
        (LOWER, {}, "The Kell flows south through the old town", False),
        (WORDS, {"relation": "at least", "num_words": 3}, "Kell Orm Vard", True),
        (WORDS, {"relation": "at least", "num_words": 3}, "Kell Orm", False),
        ("keywords:existence", {"keywords": ["Küste"]}, "Die Küste ist nah.", True),
        ("detectable_format:json_format", {}, '```json\n{"river": "Kell"}\n```', True),
        ("detectable_format:json_format", {}, "{river: Kell", False),
        (SENTENCES, {"relation": "at least", "num_sentences": 2}, "It rains. We stay.", True),
        (SENTENCES, {"relation": "at least", "num_sentences": 2}, "It rains.", False),
        (NO_COMMAS, {}, "", False),
        (NO_COMMAS, {}, " \n", False),
        (NO_COMMAS, {}, "<think>It has no commas", False),
        (NO_COMMAS, {}, "<think>Kell, Orm</think>The Kell and the Orm", True),
    ],
)
def test_an_instruction_is_followed_or_not(
    ifeval: Instructions, instruction: str, arguments: dict[str, Any], response: str, strict: bool
) -> None:
    (checked,) = ifeval.check("A prompt.", [{"id": instruction, "kwargs": arguments}], response)
    assert (checked.instruction, checked.strict) == (instruction, strict)
    assert checked.loose >= checked.strict


@pytest.fixture
def ifbench(data: Path) -> Instructions:
    return Instructions("ifbench", data_folder=data, get=nothing_to_fetch)


DOTS = [
    "...",
    ".",
    " . . . ",
    "\u2026",
    "......\n...",
    "?!",
    '"',
    "```",
    "\n\n",
    "<think>no</think>...",
    "\U0001f600",
    "0",
]
EVERY = [
    ("custom:sentence_alphabet", {}),
    ("format:quote_unquote", {}),
    ("format:title_case", {}),
    ("words:words_position", {"keyword": "river"}),
    ("words:keywords_specific_position", {"keyword": "river", "n": 1, "m": 1}),
    ("sentence:keyword", {"word": "river", "N": 1}),
    ("ratio:stop_words", {"percentage": 10}),
    ("ratio:sentence_balance", {}),
    ("sentence:increment", {"small_n": 1}),
    ("words:last_first", {}),
    ("words:paragraph_last_first", {}),
    ("count:unique_word_count", {"N": 3}),
    ("words:palindrome", {}),
    ("words:prime_lengths", {}),
]


@pytest.mark.parametrize(("instruction", "arguments"), EVERY)
def test_an_output_without_words_is_checked_like_any_other(
    ifbench: Instructions, instruction: str, arguments: dict[str, Any]
) -> None:
    for output in DOTS:
        (checked,) = ifbench.check("?", [{"id": instruction, "kwargs": arguments}], output)
        assert isinstance(checked.strict, bool)
        assert checked.loose >= checked.strict


@pytest.mark.parametrize("letter", ["#", "!", "*", "1", "\u00e9"])
@pytest.mark.parametrize("relation", ["at least", "less than"])
def test_any_character_may_be_counted(ifeval: Instructions, letter: str, relation: str) -> None:
    arguments = {"letter": letter, "let_frequency": 3, "let_relation": relation}
    instruction = {"id": "keywords:letter_frequency", "kwargs": arguments}
    few, many = f"One{letter} two{letter}", f"One{letter} two{letter} three{letter.upper()}"
    for _ in range(3):  # the library draws a letter at random
        assert [ifeval.check("?", [instruction], text)[0].strict for text in (few, many)] == [
            relation == "less than",
            relation == "at least",
        ]


SPAN = {"prompt_to_repeat": "Name a wide river now", "n_start": 5, "n_end": 10}


@pytest.mark.parametrize(
    ("instruction", "arguments", "response", "strict"),
    [
        ("count:person_names", {"N": 1}, "Emma sails.", True),
        ("count:person_names", {"N": 1}, "Avalon, Leopold and Miami", False),
        ("count:person_names", {"N": 2}, "Ava, Avalon, Leo", True),
        ("count:person_names", {"N": 1}, "emma", False),
        ("sentence:keyword", {"word": "art", "N": 2}, "It rains. He departs.", False),
        ("sentence:keyword", {"word": "art", "N": 2}, "It rains. Art is long.", True),
        ("sentence:keyword", {"word": "art", "N": 3}, "It rains. Art is long.", False),
        ("words:keywords_specific_position", {"keyword": "Kell", "n": 1, "m": 2}, "The kell flows.", True),
        ("words:keywords_specific_position", {"keyword": "kell", "n": 1, "m": 2}, '"The" , kell flows.', True),
        ("words:keywords_specific_position", {"keyword": "kell", "n": 2, "m": 2}, "The kell flows.", False),
        ("words:words_position", {"keyword": "kell"}, "The Kell is the kell flows.", True),
        ("words:words_position", {"keyword": "kell"}, "The Kell is the kell flows", True),
        ("words:words_position", {"keyword": "kell"}, "The Kell flows south.", False),
        ("words:words_position", {"keyword": "kell"}, "Kell", False),
        ("repeat:repeat_span", SPAN, "a wide", True),
        ("repeat:repeat_span", SPAN, "A WIDE\n", True),
        ("repeat:repeat_span", SPAN, "a wide river", False),
        ("repeat:repeat_span", {**SPAN, "n_start": 0, "n_end": 3}, "Name", True),
        ("format:title_case", {}, "The Old Tower", True),
        ("format:title_case", {}, "A Tower, 3 Floors - And I", True),
        ("format:title_case", {}, "The old Tower", False),
        ("format:title_case", {}, "The a Tower", False),
        ("count:pronouns", {"N": 2}, "You and I", True),
        ("count:pronouns", {"N": 2}, "he/she", True),
        ("count:pronouns", {"N": 1}, "The river", False),
        ("custom:sentence_alphabet", {}, " ".join(f"{chr(65 + n)} is it." for n in range(26)), True),
        ("custom:sentence_alphabet", {}, " ".join(f"{chr(65 + n)} is it." for n in range(25)), False),
        ("format:quote_unquote", {}, 'He said "no" and left', True),
        ("format:quote_unquote", {}, 'He said "no"', False),
        ("format:quote_unquote", {}, 'He said "no""yes" too', False),
    ],
)
def test_names_keywords_and_positions_count_as_in_the_benchmark(
    ifbench: Instructions, instruction: str, arguments: dict[str, Any], response: str, strict: bool
) -> None:
    for thought in ("", "<think>Emma, art, Kell</think>"):
        (checked,) = ifbench.check("?", [{"id": instruction, "kwargs": arguments}], thought + response)
        assert checked.strict == strict


def test_text_around_the_response_is_forgiven_loosely(ifeval: Instructions) -> None:
    (checked,) = ifeval.check("?", [{"id": NO_COMMAS, "kwargs": {}}], "Sure, here it is:\nThe Kell and the Orm")
    assert checked == Followed(NO_COMMAS, strict=False, loose=True)


def test_an_unknown_instruction_is_no_wrong_answer(ifeval: Instructions) -> None:
    for response in ("x", ""):
        with pytest.raises(ScorerError, match="ifeval has no instruction 'sing:loudly'"):
            ifeval.check("?", [{"id": "sing:loudly", "kwargs": {}}], response)


def test_the_score_is_the_share_of_the_instructions_and_names_the_others() -> None:
    checked = [
        Followed("a", True, True),
        Followed("b", False, True),
        Followed("c", False, False),
        Followed("d", True, True),
    ]
    assert share_followed(checked).value == 0.5
    assert share_followed(checked).feedback == "not followed: b, c"
    assert share_followed(checked[:1]).feedback == ""


def test_missing_data_is_reported_with_the_remedy_and_the_other_instructions_are_scored(tmp_path: Path) -> None:
    kept = list(nltk.data.path)
    nltk.data.path[:] = []
    try:
        checker = Instructions("ifbench", data_folder=tmp_path, get=nothing_to_fetch)
        (checked,) = checker.check(
            "?", [{"id": "count:word_count_range", "kwargs": {"min_words": 1, "max_words": 2}}], "x"
        )
        assert checked.strict
        with pytest.raises(ScorerError, match=r"words:start_verb needs NLTK data") as raised:
            checker.check("?", [{"id": "words:start_verb", "kwargs": {}}], "Run home now.")
        assert "tokenizers/punkt_tab: punkt_tab.zip was asked for" in str(raised.value)
        assert "remedy: python -m nltk.downloader punkt_tab stopwords averaged_perceptron_tagger_eng" in str(
            raised.value
        )
    finally:
        nltk.data.path[:] = kept


def test_missing_data_is_fetched_once_and_unpacked_where_nltk_finds_it(tmp_path: Path, data: Path) -> None:
    fetched: list[str] = []

    async def get(weights: Weights) -> Path:
        fetched.append(weights.file)
        archive = tmp_path / weights.file
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(f"{archive.stem}/english", "the")
        return archive

    kept = list(nltk.data.path)
    nltk.data.path[:] = []
    try:
        for _ in range(2):
            checker = Instructions("ifeval", data_folder=tmp_path / "kept", get=get)
            checker.check("?", [{"id": NO_COMMAS, "kwargs": {}}], "x")
        assert fetched == [weights.file for weights in RESOURCES.values()]
        assert nltk.data.find("corpora/stopwords/english")
    finally:
        nltk.data.path[:] = kept


def test_data_that_is_broken_off_while_it_is_unpacked_is_not_taken_for_whole(tmp_path: Path) -> None:
    async def broken(weights: Weights) -> Path:
        archive = tmp_path / weights.file
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(f"{archive.stem}/english", "the")
            file.writestr(f"{archive.stem}/{'x' * 300}", "a name that no disk takes")
        return archive

    kept = list(nltk.data.path)
    nltk.data.path[:] = []
    try:
        Instructions("ifeval", data_folder=tmp_path / "kept", get=broken).check(
            "?", [{"id": NO_COMMAS, "kwargs": {}}], "x"
        )
        assert not (tmp_path / "kept" / "corpora" / "stopwords").exists()
    finally:
        nltk.data.path[:] = kept


@pytest.mark.parametrize("name", ROWS)
async def test_both_tasks_have_the_same_three_scorers(name: str, tmp_path: Path) -> None:
    task = load(name, tmp_path)
    judges: list[Any] = [python(task.scorer), *(python(metric.scorer) for metric in task.metrics.values())]
    (example, *_) = task.splits["test"]
    response = {"ifeval": "Sure:\nThe Kell, the Orm", "ifbench": "Sure:\nThe Kell is quite long"}[name]
    values = [(await judge(example, response)).value for judge in judges]
    assert values == {"ifeval": [0.5, 0, 1], "ifbench": [1, 1, 1]}[name]
    assert [(await judge(example, None)).value for judge in judges] == [0, 0, 0]


async def test_a_response_scores_the_share_of_its_instructions(tmp_path: Path) -> None:
    def respond(request: Request, repeat: int) -> str:
        return "The Kell, the Orm and the Vard"

    for name, value in (("ifeval", 0.5), ("ifbench", 0.0)):
        source = load(name, tmp_path)
        settings = {"data.source": str(tmp_path / "rows.jsonl")}
        config = Config(journal=str(tmp_path / f"{name}.db"), task=settings)
        evaluation = await aevaluate(TASKS / name, None, config, provider=ScriptedModel(respond))
        assert evaluation.scores == {e.id: value for e in source.splits["test"]}
        assert all(set(r.metrics.values()) == {0.0} for r in evaluation.results)
        assert all("not followed" in r.feedback for r in evaluation.results)
