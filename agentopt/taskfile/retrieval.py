"""Examples of retrieval tasks, and the public dataset formats that several task folders read.

A question's candidates are cut to a number that a small model can read: the needed ones are kept, seeded distractors
are added, and the order is seeded.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from agentopt.core.errors import TaskError
from agentopt.core.task import Example
from agentopt.taskfile.columns import MissingColumnError, at_least_one, column, items, text

Triple = tuple[str, str, str]
"""Head, relation, tail."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its acceptable answers, the candidates to retrieve from, and the needed ones, `gold`."""

    text: str
    answers: Sequence[str]
    candidates: Sequence[str]
    gold: Sequence[str]
    id: str = ""


def retrieval_example(question: Question, *, called: str, most: int, seed: int) -> Example | None:
    """Build an example with all gold candidates and seeded distractors, in a seeded order.

    Args:
        question: The question.
        called: Name of the input column of the candidates.
        most: Most candidates.
        seed: Of the distractors and the order.

    Returns:
        The example, whose metadata `gold` lists the numbers of the needed candidates, from 1, as strings; None for a
        question without an answer, without gold, or with more gold than `most`.

    Raises:
        TaskError: `most` is below 1.
    """
    at_least_one(f"max_{called}", most)
    gold, answers = list(dict.fromkeys(question.gold)), list(dict.fromkeys(filter(None, question.answers)))
    if not answers or not 0 < len(gold) <= most:
        return None
    chance = random.Random(f"{seed}:{question.text}")
    others = sorted(set(question.candidates) - set(gold))
    chosen = gold + chance.sample(others, min(len(others), most - len(gold)))
    chance.shuffle(chosen)
    numbers = [str(number) for number, candidate in enumerate(chosen, 1) if candidate in gold]
    inputs = {"question": question.text, called: chosen}
    return Example(question.id, inputs, answers, {"gold": numbers})


def hotpot_question(row: Mapping[str, Any]) -> Question:
    """Read a row in the form of HotpotQA, which 2WikiMultihopQA shares; each sentence, with its title, is a candidate.

    `context` and `supporting_facts` are lists of pairs, or the hub's form: an object of two lists. Facts that name a
    sentence beyond the end of its paragraph, which both datasets have a few of, are left out.
    """
    sentences = {
        (title, number): f"{title}: {sentence.strip()}"
        for title, paragraph in _pairs(row, "context", "sentences")
        for number, sentence in enumerate(paragraph)
        if sentence.strip()
    }
    facts = [tuple(fact) for fact in _pairs(row, "supporting_facts", "sent_id")]
    gold = [sentences[fact] for fact in facts if fact in sentences]
    answers = [row["answer"]] if row.get("answer") else []
    return Question(
        text(row, "question"), answers, list(sentences.values()), gold, str(row.get("id", row.get("_id", "")))
    )


def _pairs(row: Mapping[str, Any], name: str, second: str) -> Iterable[tuple[str, Any]]:
    """Pairs of a title and something, from a column that is a list of pairs or an object of two lists."""
    value = column(row, name)
    if isinstance(value, Mapping):
        return zip(value["title"], value[second], strict=True)
    return map(tuple, items(row, name))


Gold = Literal["crucial_triples", "gt_triples"]


def graph_question(row: Mapping[str, Any], gold: str = "crucial_triples") -> Question:
    """Read a question over a knowledge graph, whose triples are the candidates, in one of two forms.

    In the annotated form, `gt_triples` lead to the answer, `crucial_triples` are those of them that AgentTTS's released
    code wants retrieved, and `2hop_triples` are distractors. In RoG's form (`graph`, `q_entity`, `a_entity`) gold are
    the triples on the shortest paths from each entity of the question to the nearest answer: RoG's weak supervision
    (arXiv 2310.01061, section 4.3).

    Args:
        row: The row.
        gold: The gold column of the annotated form. With `crucial_triples`, as in the released code, the other
            `gt_triples` are no candidates; a row without that column has `gt_triples` as gold.

    Raises:
        ColumnError: The row has neither form.
        TaskError: `gold` is neither column.
    """
    if gold not in get_args(Gold):
        rule = f"the option gold must be {' or '.join(get_args(Gold))}, but got {gold!r}"
        raise TaskError(rule, remedy="correct -c data.options.gold=...")
    if "gt_triples" in row:
        needed = _triples(items(row, "gt_triples"))
        others = _triples(row.get("2hop_triples", ()))
        if gold == "crucial_triples" and row.get("crucial_triples"):
            others = [triple for triple in others if triple not in set(needed)]
            needed = _triples(items(row, "crucial_triples"))
        triples = [*_triples(row.get("crucial_triples", ())), *others]
    else:
        if "graph" not in row:
            raise MissingColumnError(row, "gt_triples", "graph")
        triples = _triples(items(row, "graph"))
        needed = shortest_path_triples(triples, items(row, "q_entity"), items(row, "a_entity"))
    wanted = set(needed)
    facts = list(_one_way([*needed, *triples]))
    return Question(
        text(row, "question", "RawQuestion"),
        items(row, "answer"),
        [_fact(triple) for triple in facts],
        [_fact(triple) for triple in facts if triple in wanted],
        str(row.get("id", row.get("ID", row.get("QuestionId", "")))),
    )


def shortest_path_triples(graph: Sequence[Triple], sources: Sequence[str], targets: Sequence[str]) -> list[Triple]:
    """Find the triples on a shortest path from each source to its nearest target.

    A path may follow a triple in either direction. A source that is a target, or reaches none, is ignored.

    Args:
        graph: The triples.
        sources: Entities of the question.
        targets: Entities that are answers.

    Returns:
        The triples, in the order of `graph`.
    """
    neighbours: dict[str, set[str]] = {}
    for head, _, tail in graph:
        neighbours.setdefault(head, set()).add(tail)
        neighbours.setdefault(tail, set()).add(head)
    to_target = _distances(neighbours, targets)
    found: set[Triple] = set()
    for source in sources:
        length, from_source = to_target.get(source, 0), _distances(neighbours, [source])
        for triple in graph if length else ():
            head, _, tail = triple
            ways = ((head, tail), (tail, head))
            if any(from_source.get(a, length) + 1 + to_target.get(b, length) == length for a, b in ways):
                found.add(triple)
    return [triple for triple in dict.fromkeys(graph) if triple in found]


def _distances(neighbours: Mapping[str, set[str]], start: Iterable[str]) -> dict[str, int]:
    """Entity -> steps from the nearest of `start`, of those that can be reached."""
    steps = dict.fromkeys((entity for entity in start if entity in neighbours), 0)
    queue = list(steps)
    for entity in queue:
        for other in neighbours[entity]:
            if other not in steps:
                steps[other] = steps[entity] + 1
                queue.append(other)
    return steps


def _triples(value: Iterable[Sequence[str]]) -> list[Triple]:
    return [(head, relation, tail) for head, relation, tail in value]


def _one_way(triples: Iterable[Triple]) -> Iterator[Triple]:
    """Keep the first of two triples that link a pair in both directions, as Freebase states most facts."""
    seen: set[tuple[str, str]] = set()
    for head, relation, tail in triples:
        if (tail, head) not in seen or head == tail:
            seen.add((head, tail))
            yield head, relation, tail


def _fact(triple: Triple) -> str:
    return " -> ".join(triple)
