"""Rules of single instructions in place of if-verifiable's, which differ from the benchmarks' current checkers.

Each is written here from the behaviour of the checkers that the benchmark's authors publish: names and keywords count
as whole words, spans by characters, positions without punctuation. `python -m benchmarks.official` compares all
instructions with a copy of the authors' code.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Checked:
    """A response and the instruction that it is checked against.

    Attributes:
        text: The response.
        arguments: Those of the instruction.
        description: The constraint in words, as the library states it.
        words: Splits a text into tokens, punctuation included.
        sentences: Splits a text into sentences.
    """

    text: str
    arguments: Mapping[str, Any]
    description: str
    words: Callable[[str], list[str]]
    sentences: Callable[[str], list[str]]


def _letter_frequency(checked: Checked) -> bool:
    """Any character may be counted: the library replaces one that is no letter, such as `#`, by a random letter."""
    count = checked.text.lower().count(checked.arguments["letter"].strip().lower())
    frequency = checked.arguments["let_frequency"]
    return bool(count < frequency if checked.arguments["let_relation"] == "less than" else count >= frequency)


def _person_names(checked: Checked) -> bool:
    listed = checked.description.partition("person names:")[2].rstrip(" .").split(",")
    names = {name.strip() for name in listed}
    return sum(_has_word(checked.text, name) for name in names) >= int(checked.arguments["N"])


def _has_word(text: str, word: str, flags: re.RegexFlag = re.NOFLAG) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, flags) is not None


def _sentence_keyword(checked: Checked) -> bool:
    sentences, place = checked.sentences(checked.text), int(checked.arguments["N"])
    return len(sentences) >= place and _has_word(sentences[place - 1], checked.arguments["word"], re.IGNORECASE)


_PRONOUNS = (
    "i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself "
    "we us our ours ourselves they them their theirs themselves this that these those who whom whose which what "
    "whoever whomever whatever whichever anybody anyone anything everybody everyone everything nobody nothing "
    "somebody someone something each either neither both all some any none"
)


def _pronouns(checked: Checked) -> bool:
    words, pronouns = checked.words(checked.text.replace("/", " ").lower()), set(_PRONOUNS.split())
    return sum(word in pronouns for word in words) >= int(checked.arguments["N"])


def _quotes_explained(checked: Checked) -> bool:
    """Straight quotation marks alone count; neither two of them meet, nor does the text end in one."""
    text = "".join(checked.text.replace("'\"'", "").split())
    end = text.strip(string.digits + string.punctuation.replace('"', ""))
    return '""' not in text and not end.endswith('"')


def _alphabet_of_sentences(checked: Checked) -> bool:
    first = [sentence.split()[:1] for sentence in checked.sentences(checked.text)]
    initials = [word[0].lower()[0] if word else "" for word in first]
    return initials == list(string.ascii_lowercase)


def _keyword_at(checked: Checked) -> bool:
    sentences, place = checked.sentences(checked.text), int(checked.arguments["n"])
    if len(sentences) < place:
        return False
    words = [word for word in checked.words(sentences[place - 1]) if any(map(str.isalnum, word))]
    return _is_at(words, int(checked.arguments["m"]) - 1, checked.arguments["keyword"])


def _is_at(words: Sequence[str], place: int, word: str) -> bool:
    return -len(words) <= place < len(words) and words[place].lower() == word.strip().lower()


def _second_and_last_but_one(checked: Checked) -> bool:
    """One token of punctuation at the end does not count."""
    words = checked.words(checked.text)
    last = -3 if words and words[-1] in string.punctuation else -2
    return len(words) >= -last and all(_is_at(words, place, checked.arguments["keyword"]) for place in (1, last))


def _span(checked: Checked) -> bool:
    start, end = int(checked.arguments["n_start"]), int(checked.arguments["n_end"])
    span: str = checked.arguments["prompt_to_repeat"][start : end + 1]
    return checked.text.strip().lower() == span.strip().lower()


def _title_case(checked: Checked) -> bool:
    """No word begins with a small letter, unless it mixes cases after it."""
    return not any(
        word[0].islower() and _is_uniform(word[1:]) for word in checked.words(checked.text) if word[0].isalpha()
    )


def _is_uniform(rest: str) -> bool:
    return not rest or rest.islower() or rest.isupper()


Rule = Callable[[Checked], bool]
RULES: Mapping[str, tuple[Rule, tuple[str, ...]]] = {
    "keywords:letter_frequency": (_letter_frequency, ("letter", "let_frequency", "let_relation")),
    "count:person_names": (_person_names, ("N",)),
    "sentence:keyword": (_sentence_keyword, ("word", "N")),
    "count:pronouns": (_pronouns, ("N",)),
    "format:quote_unquote": (_quotes_explained, ()),
    "custom:sentence_alphabet": (_alphabet_of_sentences, ()),
    "words:keywords_specific_position": (_keyword_at, ("keyword", "n", "m")),
    "words:words_position": (_second_and_last_but_one, ("keyword",)),
    "repeat:repeat_span": (_span, ("prompt_to_repeat", "n_start", "n_end")),
    "format:title_case": (_title_case, ()),
}
"""Instruction -> its rule, and the arguments without which the library's own is used, which draws missing ones."""


def loose_variants(text: str) -> list[str]:
    """Return the forms of a response of which one must follow the instruction in the loose measure.

    These are the response without its first line, its last line, or both, each with and without asterisks.
    """
    lines = text.split("\n")
    forms = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*forms, *(form.replace("*", "") for form in forms)]
