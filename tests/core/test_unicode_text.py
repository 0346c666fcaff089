"""Text of a model becomes text that UTF-8 and databases hold, and nothing else of it changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.unicode_text import database_text, well_formed

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "replaced"),
    [("half \ud83d", "half ?"), ("\udc80\ud800 \u00e9", "?? \u00e9"), ("\U0001f600", "\U0001f600"), ("a\0b", "a\0b")],
)
def test_lone_surrogates_become_question_marks(text: str, replaced: str) -> None:
    assert well_formed(text) == replaced


@given(ANY_TEXT)
def test_the_texts_can_be_encoded_and_keep_their_length(text: str) -> None:
    for found in (well_formed(text), database_text(text)):
        assert len(found.encode().decode()) == len(text)
        assert all(new in (old, "?", "\ufffd") for old, new in zip(text, found, strict=True))
    assert "\0" not in database_text(text)
