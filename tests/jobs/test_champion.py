"""Tests of the champion's file: atomic replacement, archive, rollback byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agentopt.core.candidate import Candidate, SubtaskChoice, load_candidate
from agentopt.core.errors import UserError
from agentopt.core.task import Example
from agentopt.jobs.champion import Champions, champions_of, digest


def candidate(samples: int, prompt: str = "Gib nur die Zahl, bitte — ohne “Worte”.") -> Candidate:
    return Candidate.of({"answer": SubtaskChoice("small", samples, prompt)})


@pytest.fixture
def champions(tmp_path: Path) -> Champions:
    champions = champions_of("nightly", tmp_path)
    for samples in (1, 2, 3):
        champions.promote(candidate(samples), time="2026-01-01", run=f"run{samples}", reason="better")
    return champions


def test_the_file_in_use_is_the_last_promoted_and_loads_as_a_candidate(champions: Champions) -> None:
    current = champions.current()
    assert current is not None
    assert (current.number, load_candidate(champions.file)) == (3, candidate(3))
    assert champions.numbers() == [1, 2, 3]


def test_a_rollback_restores_any_earlier_champion_byte_for_byte(champions: Champions) -> None:
    contents = {n: (champions.folder / "champions" / f"{n:04d}.yaml").read_bytes() for n in (1, 2, 3)}
    for number in (1, 3, 2):
        assert champions.rollback(number).number == number
        assert champions.file.read_bytes() == contents[number]
    current = champions.current()
    assert current is not None
    assert current.number == 2


def test_a_rollback_without_a_number_goes_one_back(champions: Champions) -> None:
    assert champions.rollback().number == 2
    assert champions.rollback().number == 1
    with pytest.raises(UserError, match="no earlier champion"):
        champions.rollback()


def test_a_rollback_to_an_unknown_number_lists_the_known_ones(champions: Champions) -> None:
    before = champions.file.read_bytes()
    with pytest.raises(UserError, match="known: 1, 2, 3"):
        champions.rollback(9)
    assert champions.file.read_bytes() == before


def test_a_file_that_was_written_by_hand_becomes_a_champion_with_a_number(champions: Champions) -> None:
    by_hand = b"# mine\nanswer: {model: small, num_samples: 7}\n"
    champions.file.write_bytes(by_hand)
    current = champions.current()
    assert current is not None
    assert (current.number, current.candidate["answer"].num_samples) == (4, 7)
    champions.rollback(1)
    champions.rollback(4)
    assert champions.file.read_bytes() == by_hand


def test_a_file_that_was_written_by_hand_is_kept_before_a_rollback_takes_its_place(champions: Champions) -> None:
    by_hand = b"# mine\nanswer: {model: small, num_samples: 7}\n"
    champions.file.write_bytes(by_hand)
    champions.rollback(1)
    champions.rollback(4)
    assert champions.file.read_bytes() == by_hand


def test_a_rollback_to_a_number_replaces_a_file_that_is_broken(champions: Champions) -> None:
    champions.file.write_bytes(b"answer: [")
    assert champions.rollback(2).number == 2
    current = champions.current()
    assert current is not None
    assert current.number == 2


def test_a_file_that_is_broken_names_the_rollback_that_restores_it(champions: Champions) -> None:
    champions.file.write_bytes(b"answer: [")
    with pytest.raises(UserError, match=r"champion\.yaml") as error:
        champions.current()
    assert "`agentopt jobs rollback nightly 3`" in str(error.value)


def test_a_broken_file_without_any_kept_champion_is_to_be_fixed_or_removed(tmp_path: Path) -> None:
    champions = champions_of("nightly", tmp_path)
    champions.folder.mkdir(parents=True)
    champions.file.write_bytes(b"answer: [")
    with pytest.raises(UserError, match="fix the file, or remove it"):
        champions.current()


@pytest.mark.parametrize(
    "prompt",
    ["1e6", "0x1F", "no", "yes", "2026-01-01", "null", "~", "", "12", "1_000", "0o17", "=", "1:30", " x\n\n"],
)
def test_a_prompt_that_yaml_could_read_as_another_type_is_promoted_and_rolled_back(tmp_path: Path, prompt: str) -> None:
    champions = champions_of("nightly", tmp_path)
    assert champions.promote(candidate(1, prompt), time="", run="run1", reason="").candidate == candidate(1, prompt)
    content = champions.file.read_bytes()
    assert yaml.safe_load(content)["answer"]["system_prompt"] == prompt, "other programs read the same text"
    champions.promote(candidate(2), time="", run="run2", reason="")
    assert champions.rollback().candidate == candidate(1, prompt)
    assert champions.file.read_bytes() == content


def test_a_promotion_that_a_kill_cut_short_is_not_counted_twice(champions: Champions) -> None:
    """The champion was archived, but the file was not replaced: the same run promotes the same candidate again."""
    before = champions.file.read_bytes()
    champions.promote(candidate(9), time="2026-01-02", run="killed", reason="better")
    champions.file.write_bytes(before)
    again = champions.promote(candidate(9), time="2026-01-02", run="killed", reason="better")
    assert again.number == 4
    assert champions.numbers() == [1, 2, 3, 4]
    other = champions.promote(candidate(9), time="2026-01-03", run="another", reason="better")
    assert other.number == 5


def test_recorded_scores_belong_to_the_content_of_a_row(tmp_path: Path) -> None:
    then = (Example("a", {"q": 1}, "x"), Example("b", {"q": 2}, "y"))
    scores = {e.id: (digest(e), 1.0) for e in then}
    champion = champions_of("j", tmp_path).promote(candidate(1), time="", run="r", reason="", scores=scores)
    now = (Example("renamed", {"q": 1}, "x"), Example("b", {"q": 2}, "another target"), Example("c", {"q": 3}, "z"))
    assert [champion.record.by_row.get(digest(e)) for e in now] == [1.0, None, None]


def test_there_is_no_champion_before_the_first(tmp_path: Path) -> None:
    assert champions_of("new", tmp_path).current() is None
