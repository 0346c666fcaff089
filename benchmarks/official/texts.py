"""Seeded texts of the shapes that models write: prose, lists, JSON, sections, capitals, quotes, dots, emoji."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from random import Random

_WORDS = """
river stone quiet lantern morning garden winter copper whisper bridge market teacher window silver harbor
engine forest letter candle travel music answer people water light house small great again under never every
about after time year good work long little world school still three night country street home hand high part
place live where back give most right think much before mean same tell boy follow came want show also around
form set end does another well large must big even such because turn here why went men read need land move try
kind picture level noon radar civic refer change off play spell air away animal page mother study learn plant
cover food sun four between state keep eye last thought city tree cross farm hard start might story saw far
sea draw left late run while press close real life few
"""
WORDS = _WORDS.split()
_NAMES = "Emma Liam Sophia Ava Mia Leo Zoe Ella Ryan Nora Aria Owen Avalon Emmanuel Leopold Ryanair Norah"
NAMES = _NAMES.split()
EMOJI = "\U0001f600\U0001f389\U0001f30a\u2764"
OPENERS = ["Sure! Here it is:\n", "Answer:\n", "**Response**\n\n", "Certainly.\n\n"]


def sentence(chance: Random, least: int = 3, most: int = 14) -> str:
    """A sentence of random words, some with a name, a number, an abbreviation or a word in capitals."""
    words = [chance.choice(WORDS) for _ in range(chance.randint(least, most))]
    for share, word in ((0.15, chance.choice(NAMES)), (0.2, str(chance.randint(1, 2000))), (0.1, "THE"), (0.06, "Dr.")):
        if chance.random() < share:
            words.insert(chance.randrange(len(words)), word)
    if chance.random() < 0.3:
        words[0] += ","
    text = " ".join(words)
    return text[0].upper() + text[1:] + chance.choice([".", ".", ".", "!", "?", "...", ";", ":", "", '."'])


def paragraph(chance: Random, most: int = 6) -> str:
    """One to `most` sentences."""
    return " ".join(sentence(chance) for _ in range(chance.randint(1, most)))


def _paragraphs(chance: Random) -> str:
    return chance.choice(["\n\n", "\n***\n", "\n* * *\n", "\n"]).join(
        paragraph(chance) for _ in range(chance.randint(1, 6))
    )


def _listed(chance: Random) -> str:
    mark = chance.choice(["*", "-", "1.", "\u2022", "  -", "!?"])
    lines = [f"{mark} {sentence(chance)}" for _ in range(chance.randint(1, 10))]
    return "\n".join(f"{line}\n  - {sentence(chance)}" if chance.random() < 0.2 else line for line in lines)


def _json(chance: Random) -> str:
    text = json.dumps({chance.choice(WORDS): paragraph(chance)})
    return chance.choice([text, f"```json\n{text}\n```", f"```\n{text}\n```", text[:-1]])


def _sections(chance: Random) -> str:
    name = chance.choice(["SECTION", "Section", "Day", "PARAGRAPH"])
    return "\n".join(f"{name} {n + 1}\n{paragraph(chance)}" for n in range(chance.randint(1, 6)))


def _highlighted(chance: Random) -> str:
    return "\n".join(f"{chance.choice(['*', '**', ''])}{sentence(chance)}*" for _ in range(chance.randint(1, 5)))


def _indented(chance: Random) -> str:
    return "\n".join("  " * n + sentence(chance) for n in range(chance.randint(1, 6)))


def _odd(chance: Random) -> str:
    signs = [
        *EMOJI,
        "\u221e",
        "\u00bf",
        "na\u00efve",
        "\u65e5\u672c\u8a9e\u306e\u6587",
        "--",
        "(a (b [c {d}]))",
        '"q"',
        "'w'",
    ]
    return " ".join(f"{sentence(chance)} {chance.choice(signs)}" for _ in range(chance.randint(1, 6)))


def _csv(chance: Random) -> str:
    rows = [[chance.choice(WORDS) for _ in range(5)] for _ in range(chance.randint(1, 9))]
    return "\n".join(",".join(f'"{cell}"' if chance.random() < 0.3 else cell for cell in row) for row in rows)


def _short(chance: Random) -> str:
    return chance.choice(
        ["My answer is yes.", "My answer is no.", "My answer is maybe.", "yes", "No", "I know", "A", "b)"]
    )


def _dots(chance: Random) -> str:
    return chance.choice(["...", ".", " . . . ", "\u2026", "?!", '"', "```", "......\n...", "*", "-", "0", "\n.\n"])


def _alphabet(chance: Random) -> str:
    return " ".join(
        f"{letter.upper()}{chance.choice(WORDS)} {chance.choice(WORDS)}." for letter in string.ascii_lowercase
    )


def _growing(chance: Random) -> str:
    step = chance.randint(1, 4)
    return " ".join(sentence(chance, 2 + n * step, 2 + n * step) for n in range(chance.randint(1, 5)))


SHAPES: list[Callable[[Random], str]] = [
    _paragraphs,
    _listed,
    _json,
    _sections,
    _highlighted,
    _indented,
    _odd,
    _csv,
    _short,
    _dots,
    _alphabet,
    _growing,
    lambda chance: paragraph(chance, 40),
    lambda chance: paragraph(chance).upper(),
    lambda chance: paragraph(chance).lower(),
    lambda chance: paragraph(chance).title(),
    lambda chance: f'"{paragraph(chance)}"',
    lambda chance: f"<<{chance.choice(WORDS)}>>\n\n{paragraph(chance)}",
    lambda chance: f"{paragraph(chance)}\n\n{chance.choice(['P.S.', 'P.P.S', 'p.s.'])} {sentence(chance)}",
    lambda chance: " ".join(f"[{chance.choice(WORDS)}]" for _ in range(chance.randint(1, 8))),
    lambda chance: f"{paragraph(chance)}******{paragraph(chance)}",
    lambda chance: chance.choice(OPENERS) + paragraph(chance),
    lambda chance: "\n".join(chance.choice(WORDS) for _ in range(chance.randint(2, 12))),
    lambda chance: " ".join(sentence(chance, 3, 5) + chance.choice(EMOJI) for _ in range(chance.randint(1, 4))),
    lambda chance: "".join(chance.choice(WORDS) for _ in range(3)),
    lambda chance: " ".join(chance.sample(["level", "noon", "radar", "civic", "refer", "kayak", "deed"], 6)) * 2,
]
