"""Docstrings and comments use the words of the field: idioms are at most as frequent as in Optuna's source."""

from __future__ import annotations

from pathlib import Path

import agentopt
from tools.wording import count, optuna_folder, rows, texts


def test_idioms_are_at_most_as_frequent_as_in_optuna() -> None:
    table = rows(count(Path(agentopt.__file__).parent), count(optuna_folder()))
    print(*(f"{word}: {ours:.2f} per 10,000 words, Optuna {theirs:.2f}" for word, ours, theirs in table), sep="\n")
    assert [word for word, ours, theirs in table if ours > theirs] == []


def test_docstrings_attribute_docstrings_and_comments_are_read() -> None:
    source = '"""One."""\nx = 1\n"""Two."""\n\n\nclass A:\n    y: int  # Three.\n    """Four."""\n'
    source += '\n    def f(self):\n        """Five."""\n'
    assert sorted(text.text.strip() for text in texts(source)) == ["Five.", "Four.", "One.", "Three.", "Two."]


def test_words_are_counted_in_every_form_and_have_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""Told once; it tells, and Mends; a retold tale."""\n')
    found = count(tmp_path)
    assert sorted(found.found.values()) == [1, 1, 1]
    assert found.words == 9
    assert found.places[0] == f"{tmp_path / 'a.py'}:1: told"
