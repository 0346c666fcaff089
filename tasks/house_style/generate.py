"""Writes this task's data: short facts and questions whose answers have to follow a house style.

    python tasks/house_style/generate.py [--seed 1] [--each 4 5 15] [--out data]

Six kinds of question take turns, so that instructions help some and do nothing for, or hurt, others. The style is
nowhere in the user prompts: dates are YYYY-MM-DD, numbers are digits with the short unit, yes and no are in lower
case, what the facts do not contain is `unknown`, and an answer is the value alone.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

NAMES = ["Rosa", "Ivan", "Clara", "Paul", "Nina", "Oscar", "Greta", "Hugo", "Lena", "Felix", "Marta", "Jonas"]
SURNAMES = ["Bell", "Stone", "Marsh", "Reed", "Cole", "Frost", "Lane", "Wood", "Hart", "Page"]
TOWNS = ["Oakby", "Redfield", "Sandport", "Foxhill", "Deepwell", "Moonport", "Silverdale", "Kingsmill"]
PLACES = ["library", "museum", "market", "swimming pool", "bakery", "post office", "station", "theatre"]
DAYS = ["Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December"]  # fmt: skip
NUMBER_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ANIMALS = ["dogs", "cats", "goats", "hens", "rabbits", "horses"]
THINGS = [
    ("bridge", "long", "metres", "m"),
    ("tower", "tall", "metres", "m"),
    ("bag", "heavy", "kilograms", "kg"),
    ("road", "long", "kilometres", "km"),
    ("stone", "heavy", "grams", "g"),
    ("rope", "long", "metres", "m"),
]
UNTOLD = ["sister", "brother", "neighbour", "teacher", "horse", "boat"]

Made = tuple[str, str, str]
"""Fact, question, answer."""


def a_date(rng: random.Random) -> Made:
    name, day, month, year = rng.choice(NAMES), rng.randint(1, 28), rng.randrange(12), rng.randint(1950, 2015)
    fact = f"{name} was born on {day} {MONTHS[month]} {year}."
    return fact, f"When was {name} born?", f"{year}-{month + 1:02}-{day:02}"


def a_measure(rng: random.Random) -> Made:
    thing, how, unit, short = rng.choice(THINGS)
    number = rng.randint(2, 99)
    verb = "weighs" if how == "heavy" else "measures"
    return (
        f"The {thing} in {rng.choice(TOWNS)} {verb} {number} {unit}.",
        f"How {how} is the {thing}?",
        f"{number} {short}",
    )


def a_name(rng: random.Random) -> Made:
    town, name = rng.choice(TOWNS), f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"
    return f"The mayor of {town} is {name}.", f"Who is the mayor of {town}?", name


def a_yes_or_no(rng: random.Random) -> Made:
    place, (day, other) = rng.choice(PLACES), rng.sample(DAYS, 2)
    asked = rng.choice([day, other])
    return f"The {place} opens only on {day}.", f"Does the {place} open on {asked}?", "yes" if asked == day else "no"


def an_unknown(rng: random.Random) -> Made:
    name, town, untold = rng.choice(NAMES), rng.choice(TOWNS), rng.choice(UNTOLD)
    return f"{name} lives in {town}.", f"What is the name of {name}'s {untold}?", "unknown"


def a_count(rng: random.Random) -> Made:
    name, (one, other) = rng.choice(NAMES), rng.sample(ANIMALS, 2)
    a, b = rng.randint(1, 4), rng.randint(2, 5)
    fact = f"{name} has {NUMBER_WORDS[a]} {one} and {NUMBER_WORDS[b - 1]} {other}."
    return fact, f"How many {one} does {name} have?", str(a + 1)


KINDS: dict[str, Callable[[random.Random], Made]] = {
    "date": a_date, "measure": a_measure, "name": a_name, "yes or no": a_yes_or_no, "unknown": an_unknown,
    "count": a_count,
}  # fmt: skip


def rows(split: str, each: int, rng: random.Random, taken: set[tuple[str, str]]) -> list[dict[str, str]]:
    """`each` rows of every kind, taking turns; none that is in `taken` already."""
    found: list[dict[str, str]] = []
    for number in range(each * len(KINDS)):
        kind = list(KINDS)[number % len(KINDS)]
        while (made := KINDS[kind](rng))[:2] in taken:
            pass
        taken.add(made[:2])
        fact, question, answer = made
        found.append({"id": f"{split}-{number:03}", "fact": fact, "question": question, "answer": answer, "kind": kind})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, nargs=3, default=[4, 5, 15], help="rows per kind: train, validation, test")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rng, taken = random.Random(options.seed), set[tuple[str, str]]()
    for split, each in zip(("train", "validation", "test"), options.each, strict=True):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(split, each, rng, taken)]
        (options.out / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
