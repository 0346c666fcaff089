"""Writes the quickstart data: questions of two or three hops over a few sentences on invented people and towns.

Run `python tasks/quickstart/generate.py --help`. The committed files in `data/` are this script's output for
its defaults, byte for byte. Only the standard library is used, and one seed gives the same files on every machine.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path


def words(text: str) -> list[str]:
    """A list of words, written without a pair of quotes for each."""
    return text.split()


# Plain names of one or two tokens, so that a very small model spends its few tokens on the answer, not on spelling.
PEOPLE = words(
    "Ada Alan Anna Ben Carl Clara Dana David Ella Emma Eric Eva Frank Grace Helen Henry Hugo Ida Ivan Jack James Jane "
    "Karl Kate Laura Leo Lily Lucy Mark Mary Max Mia Nina Noah Olga Oscar Otto Paul Peter Rosa Ruth Sam Sara Simon "
    "Sofia Tom Vera"
)
TOWNS = words(
    "Blackrock Bluefield Brightwood Clearbrook Coldwater Crossfield Deepwell Eastbrook Foxhill Goldcrest Greenport "
    "Ironwood Kingsmill Moonport Oakby Pinehill Redfield Rockhaven Sandport Silverdale Snowdale Starfield Summerhill "
    "Sunfield"
)
LANDMARKS = words(
    "Anchor Arrow Bishop Copper Crown Diamond Dragon Eagle Falcon Hunter Lion Maple Phoenix Pilot Raven Ruby Tiger "
    "Velvet Willow Wolf"
)
LANDMARK_KINDS = {  # kind: (verb, preposition) of its sentence and of its question
    "river": ("flows", "through"),
    "castle": ("stands", "in"),
    "lake": ("lies", "near"),
    "hill": ("rises", "above"),
}
SPLITS = {"train": 24, "validation": 24, "test": 60}


@dataclass(frozen=True)
class Shape:
    """How hard one example is: numbers of facts, hops, landmarks of each town, and facts that only distract."""

    facts: int
    hops: int
    landmarks: int
    distractors: int

    @property
    def chains(self) -> int:
        """Towns whose sentences (links to the town, then its landmarks) fit; the question is about one of them."""
        return (self.facts - self.distractors) // (self.hops - 1 + self.landmarks)


@dataclass(frozen=True)
class Chain:
    """The sentences that lead from one person to a town and its landmarks, in the order of `kinds`."""

    person: str
    resident: str
    town: str
    links: tuple[str, ...]
    landmark_facts: tuple[str, ...]


def draw_chains(rng: random.Random, shape: Shape, kinds: list[str], answer: str) -> list[Chain]:
    """Chains with no name in common and landmarks of the same kinds: only the right town gives the right answer.

    The first chain is the one that is asked about, and `answer` its first landmark.
    """
    towns = rng.sample(TOWNS, shape.chains)
    names = rng.sample(PEOPLE, 2 * shape.chains)
    others = [landmark for landmark in LANDMARKS if landmark != answer]
    landmarks = [answer, *rng.sample(others, shape.chains * shape.landmarks - 1)]
    made = []
    for number, town in enumerate(towns):
        resident = names[2 * number]
        person = resident if shape.hops == 2 else names[2 * number + 1]
        links = (f"{person} works for {resident}.",) if person != resident else ()
        own = landmarks[number * shape.landmarks :][: shape.landmarks]
        facts = [
            f"The {kind} {name} {' '.join(LANDMARK_KINDS[kind])} {town}." for kind, name in zip(kinds, own, strict=True)
        ]
        made.append(Chain(person, resident, town, (*links, f"{resident} lives in {town}."), tuple(facts)))
    return made


def draw_distractors(rng: random.Random, made: list[Chain], count: int) -> list[str]:
    """Sentences about the same people that name a town in which they do not live."""
    pairs = [(one.resident, other.town) for one, other in product(made, made) if one is not other]
    return [f"{resident} was born in {town}." for resident, town in rng.sample(pairs, count)]


def arrange(rng: random.Random, made: list[Chain], distractors: list[str], number: int) -> list[str]:
    """All sentences in one order, shuffled but for two: their positions rotate from example to example.

    These are the one that names the answer, and the one that names the town, among those about who lives where.
    """
    answer_fact = made[0].landmark_facts[0]
    facts = [*distractors, *(fact for chain in made for fact in (*chain.links, *chain.landmark_facts))]
    facts.remove(answer_fact)
    rng.shuffle(facts)
    lives = [facts.index(chain.links[-1]) for chain in made]
    turn = sorted(lives)[(number + number // (len(facts) + 1)) % len(made)]
    facts[lives[0]], facts[turn] = facts[turn], facts[lives[0]]
    facts.insert(number % (len(facts) + 1), answer_fact)
    return facts


def draw_example(rng: random.Random, shape: Shape, number: int, split: str, answer: str) -> dict[str, object]:
    """One row. The kinds rotate; `link_question` is about the town only."""
    all_kinds = list(LANDMARK_KINDS)
    kind = all_kinds[(number // 2 + number // shape.facts) % len(all_kinds)]
    kinds = [kind, *rng.sample([other for other in all_kinds if other != kind], shape.landmarks - 1)]
    made = draw_chains(rng, shape, kinds, answer)
    rest = shape.facts - shape.chains * (shape.hops - 1 + shape.landmarks)
    who = made[0].person if shape.hops == 2 else f"the employer of {made[0].person}"
    return {
        "id": f"{split}-{number:03d}",
        "facts": arrange(rng, made, draw_distractors(rng, made, rest), number),
        "question": f"Which {kind} {' '.join(LANDMARK_KINDS[kind])} the town where {who} lives?",
        "link_question": f"In which town does {who} live?",
        "kind": kind,
        "answer": answer,
        "town": made[0].town,
        "person": made[0].person,
    }


def generate(seed: int, shape: Shape, sizes: dict[str, int]) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Every split's name and rows; no two rows of any split ask about the same person in the same town.

    Within a split the answers take turns, in an order that is shuffled.
    """
    rng = random.Random(seed)
    seen: set[tuple[object, object]] = set()
    for split, size in sizes.items():
        rows: list[dict[str, object]] = []
        answers = [LANDMARKS[number % len(LANDMARKS)] for number in range(size)]
        rng.shuffle(answers)
        while len(rows) < size:
            row = draw_example(rng, shape, len(rows), split, answers[len(rows)])
            if (key := (row["person"], row["town"])) not in seen:
                seen.add(key)
                rows.append(row)
        yield split, rows


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="Write train.jsonl, validation.jsonl and test.jsonl.")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--facts", type=int, default=8, help="sentences per example (default 8)")
    made.add_argument("--hops", type=int, choices=(2, 3), default=2, help="3: by way of a person's employer")
    made.add_argument("--landmarks", type=int, choices=(1, 2, 3), help="per town (default: as many as fit)")
    made.add_argument("--distractors", type=int, default=0, help="of the sentences, at least so many only distract")
    for split, size in SPLITS.items():
        made.add_argument(f"--{split}", type=int, default=size, help=f"examples (default {size})")
    made.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    return made


def shape_of(arguments: argparse.Namespace) -> Shape:
    """The requested shape; unless given, with as many landmarks per town as leave room for two towns."""
    shapes = [Shape(arguments.facts, arguments.hops, n, arguments.distractors) for n in (3, 2, 1)]
    if arguments.landmarks:
        shapes = [shape for shape in shapes if shape.landmarks == arguments.landmarks]
    return next((shape for shape in shapes if shape.chains >= 2), shapes[-1])


def complaint_about(shape: Shape, sizes: dict[str, int]) -> str | None:
    """The error of the requested numbers, with the remedy; None if they fit."""
    most_towns = min(len(PEOPLE) // 2, len(TOWNS), len(LANDMARKS) // shape.landmarks)
    if not 2 <= shape.chains <= most_towns or shape.distractors < 0:
        return f"2 to {most_towns} towns must fit, but got {shape.chains}: change --facts, --landmarks or --distractors"
    distractors = shape.facts - shape.chains * (shape.hops - 1 + shape.landmarks)
    if distractors > (most := shape.chains * (shape.chains - 1)):
        return f"at most {most} sentences can distract, but got {distractors}: change --facts or --distractors"
    if sum(sizes.values()) > (most := len(PEOPLE) * len(TOWNS) // 2):
        return f"at most {most} examples can be told apart, but got {sum(sizes.values())}: ask for fewer"
    return None


def main() -> None:
    command = parser()
    arguments = command.parse_args()
    shape, sizes = shape_of(arguments), {split: getattr(arguments, split) for split in SPLITS}
    if complaint := complaint_about(shape, sizes):
        command.error(complaint)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for split, rows in generate(arguments.seed, shape, sizes):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (arguments.out / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
