"""Instructions of IFEval and IFBench with arguments of our own, and outputs that follow them more or less."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from benchmarks.official.texts import NAMES, SHAPES, WORDS, paragraph, sentence

Arguments = dict[str, Any]
Draw = Callable[[Random], Arguments]


def _counted(name: str, most: int, relation: str | None = None) -> Draw:
    def draw(chance: Random) -> Arguments:
        counted: Arguments = {name: chance.randint(1, most)}
        return counted | ({relation: chance.choice(["at least", "less than"])} if relation else {})

    return draw


def _words(name: str, count: int) -> Draw:
    return lambda chance: {name: chance.sample(WORDS, count)}


def _word(name: str) -> Draw:
    return lambda chance: {name: chance.choice(WORDS)}


def _none(chance: Random) -> Arguments:
    return {}


def _request(chance: Random) -> str:
    return f"Write about the {chance.choice(WORDS)} and the {chance.choice(WORDS)} of {chance.choice(NAMES)}."


def _span(chance: Random) -> Arguments:
    text = _request(chance)
    start = chance.randint(0, 12)
    return {"prompt_to_repeat": text, "n_start": start, "n_end": start + chance.randint(2, 12)}


def _letter(chance: Random) -> Arguments:
    relation = chance.choice(["at least", "less than"])
    return {"letter": chance.choice("aeQz"), "let_frequency": chance.randint(1, 20), "let_relation": relation}


def _paragraph_word(chance: Random) -> Arguments:
    count = chance.randint(1, 4)
    return {"num_paragraphs": count, "nth_paragraph": chance.randint(1, count), "first_word": chance.choice(WORDS)}


IFEVAL: dict[str, Draw] = {
    "keywords:existence": _words("keywords", 2),
    "keywords:frequency": lambda c: _word("keyword")(c) | _counted("frequency", 3, "relation")(c),
    "keywords:forbidden_words": _words("forbidden_words", 3),
    "keywords:letter_frequency": _letter,
    "language:response_language": lambda c: {"language": c.choice(["en", "de", "hi"])},
    "length_constraints:number_sentences": _counted("num_sentences", 8, "relation"),
    "length_constraints:number_paragraphs": _counted("num_paragraphs", 4),
    "length_constraints:number_words": _counted("num_words", 80, "relation"),
    "length_constraints:nth_paragraph_first_word": _paragraph_word,
    "detectable_content:number_placeholders": _counted("num_placeholders", 4),
    "detectable_content:postscript": lambda c: {"postscript_marker": c.choice(["P.S.", "P.P.S"])},
    "detectable_format:number_bullet_lists": _counted("num_bullets", 4),
    "detectable_format:constrained_response": _none,
    "detectable_format:number_highlighted_sections": _counted("num_highlights", 3),
    "detectable_format:multiple_sections": lambda c: {"section_spliter": "SECTION", **_counted("num_sections", 3)(c)},
    "detectable_format:json_format": _none,
    "detectable_format:title": _none,
    "combination:two_responses": _none,
    "combination:repeat_prompt": lambda c: {"prompt_to_repeat": _request(c)},
    "startend:end_checker": lambda c: {"end_phrase": sentence(c, 2, 4)},
    "startend:quotation": _none,
    "change_case:capital_word_frequency": _counted("capital_frequency", 3, "capital_relation"),
    "change_case:english_capital": _none,
    "change_case:english_lowercase": _none,
    "punctuation:no_comma": _none,
}
WITHOUT_ARGUMENTS = """
count:punctuation custom:character_reverse custom:csv_city custom:csv_quotes custom:csv_special_character
custom:date_format_list custom:european_capitals_sort custom:mcq_count_length custom:multiples
custom:reverse_newline custom:sentence_alphabet custom:word_reverse format:emoji format:line_indent
format:newline format:no_bullets_bullets format:no_whitespace format:output_template format:parentheses
format:quote_unquote format:quotes format:sub-bullets format:thesis format:title_case ratio:sentence_balance
ratio:sentence_type ratio:sentence_words repeat:repeat_simple sentence:alliteration_increment words:alphabet
words:consonants words:last_first words:no_consecutive words:odd_even_syllables words:palindrome
words:paragraph_last_first words:prime_lengths words:vowel
"""
IFBENCH: dict[str, Draw] = {
    "count:conjunctions": _counted("small_n", 3),
    "count:keywords_multiple": lambda c: {f"keyword{n + 1}": word for n, word in enumerate(c.sample(WORDS, 5))},
    "count:numbers": _counted("N", 4),
    "count:person_names": _counted("N", 3),
    "count:pronouns": _counted("N", 3),
    "count:unique_word_count": _counted("N", 60),
    "count:word_count_range": lambda c: {"min_words": (least := c.randint(1, 40)), "max_words": least + 20},
    "count:words_japanese": _counted("N", 3),
    "format:list": lambda c: {"sep": c.choice(["-", "*", "!?"])},
    "format:options": lambda c: {"options": c.choice(["I know or I don't know", "A/B/C", "yes, no, maybe"])},
    "ratio:overlap": lambda c: {"percentage": c.randint(1, 60), "reference_text": paragraph(c)},
    "ratio:stop_words": _counted("percentage", 60),
    "repeat:repeat_change": lambda c: {"prompt_to_repeat": _request(c)},
    "repeat:repeat_span": _span,
    "sentence:increment": _counted("small_n", 3),
    "sentence:keyword": lambda c: _word("word")(c) | _counted("N", 3)(c),
    "words:keywords_specific_position": lambda c: {**_word("keyword")(c), "n": c.randint(1, 2), "m": c.randint(1, 4)},
    "words:repeats": _counted("small_n", 4),
    "words:words_position": _word("keyword"),
    **dict.fromkeys(WITHOUT_ARGUMENTS.split(), _none),
}
"""All instructions but `words:start_verb`, which needs NLTK's tagger."""


def row(benchmark: str, number: int) -> tuple[str, Arguments, str, str]:
    """Return the instruction, its arguments, the prompt and the output of a number.

    Args:
        benchmark: `ifeval` or `ifbench`.
        number: Of the output; the instructions follow each other.
    """
    instructions = IFEVAL if benchmark == "ifeval" else IFBENCH
    name = list(instructions)[number % len(instructions)]
    chance = Random(f"{benchmark}:{number}")
    arguments, prompt = instructions[name](chance), _request(chance)
    return name, arguments, prompt, _output(chance, arguments, prompt)


def _output(chance: Random, arguments: Arguments, prompt: str) -> str:
    text = chance.choice(SHAPES)(chance)
    if chance.random() < 0.75:
        text = _with_arguments(chance, arguments, text)
    given: str | None = arguments.get("prompt_to_repeat")
    if given and chance.random() < 0.4:
        start, end = arguments.get("n_start", 0), arguments.get("n_end", len(given))
        return chance.choice(
            [given[start : end + 1], given[start:end], f"{given}\n{text}", given.replace("Write", "Say")]
        )
    if chance.random() < 0.04:
        return prompt
    if chance.random() < 0.1:
        text = f"{sentence(chance, 1, 3)}\n{text}\n{sentence(chance, 1, 3)}"
    return text.strip()


def _with_arguments(chance: Random, arguments: Arguments, text: str) -> str:
    """The text with the words and phrases of the arguments: as they are, in another case, or inside longer words."""
    phrases = [item for value in arguments.values() for item in (value if isinstance(value, list) else [value])]
    for phrase in (item for item in phrases if isinstance(item, str) and len(item) < 80):
        for _ in range(chance.randint(1, 3)):
            form = chance.choice([phrase, phrase, phrase, phrase.upper(), phrase.title(), f"{phrase}s", f"un{phrase}"])
            words = text.split(" ")
            place = chance.choice([chance.randrange(len(words) + 1), 1, len(words), max(0, len(words) - 1), 0])
            text = " ".join([*words[:place], form, *words[place:]])
    return text
