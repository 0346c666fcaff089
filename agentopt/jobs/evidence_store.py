"""What a job has measured over its nights, and the comparisons that it has opened.

Scores are stored under their *subject*: a hash of a candidate and of everything that its scores depend on
(`Snapshot.subject`), so that scores are pooled over nights only while they mean the same. A measurement is stored once:
a run that is resumed reads what it stored before it was killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from agentopt.jobs.tables import CHALLENGERS, COMPARISONS, SCORES

Kind = Literal["test", "reference", "canary"]
"""test: the test split, answered from the journal where it can; slot: the run. reference: the test split, drawn anew;
slot: the number of the draw. canary: rows drawn anew; slot: the run."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores of one subject, by row key.

    Attributes:
        job: The job's name.
        subject: `Snapshot.subject`.
        kind: How they were drawn.
        slot: The run, or the number of the draw.
        time: Seconds since the epoch.
        scores: Row key -> score.
        evidence: For a canary, the evidence of drift after it.
    """

    job: str
    subject: str
    kind: Kind
    slot: str
    time: float
    scores: Mapping[str, float]
    evidence: float | None = None


@dataclass(frozen=True, slots=True)
class Challenger:
    """A challenger, and what was found when it was last compared with the champion.

    Attributes:
        number: Number of the comparison.
        champion: Number of the champion.
        time: When they were last compared, in seconds since 1970.
        candidate: Subtask -> its model, number of samples and prompts.
        rows: Rows that both have scores for.
        mean: Mean score of the challenger minus the champion's on them.
        better: Evidence (an e-value) that it is better than the champion and its anchor.
        non_inferior: Evidence that it is not worse than the anchor by the margin.
        needed: Evidence that is enough for a promotion.
        finding: The decision in one sentence.
    """

    number: int
    champion: int
    time: float
    candidate: dict[str, dict[str, Any]]
    rows: int
    mean: float
    better: float
    non_inferior: float
    needed: float
    finding: str


class EvidenceStore:
    """Scores and comparisons in the jobs' database. Every method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, measured: Measured) -> None:
        """Store scores, unless this measurement is stored already."""
        names = ("job", "subject", "kind", "slot", "time", "evidence")
        row = {name: getattr(measured, name) for name in names} | {"scores": json.dumps(dict(measured.scores))}
        self._insert(SCORES, row)

    def of(self, job: str, subject: str, kind: Kind) -> list[Measured]:
        """The measurements of one kind, oldest first.

        Args:
            job: Name of the job.
            subject: Key of the measured candidate and task.
            kind: Kind of the measurements.
        """
        return self._read(SCORES.c.job == job, SCORES.c.subject == subject, SCORES.c.kind == kind)

    def canary_of_run(self, job: str, run: str) -> Measured | None:
        """The canary that a run has stored."""
        return next(iter(self._read(SCORES.c.job == job, SCORES.c.kind == "canary", SCORES.c.slot == run)), None)

    def last_canary(self, job: str) -> Measured | None:
        """The newest canary of a job, whichever its subject."""
        return next(iter(self._read(SCORES.c.job == job, SCORES.c.kind == "canary", newest=True)), None)

    def alarms(self, job: str, alarm: float) -> int:
        """How many canaries of a job have raised the alarm."""
        raised = (SCORES.c.job == job, SCORES.c.kind == "canary", SCORES.c.evidence >= alarm)
        with self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(SCORES).where(*raised)).scalar_one())

    def open_comparison(self, job: str, challenger: str, champion: str, time: float) -> int:
        """The number of the comparison of two subjects, which is opened unless it was before.

        Args:
            job: Name of the job.
            challenger: Subject of the challenger.
            champion: Subject of the champion.
            time: When it is opened, in seconds since the epoch.
        """
        same = (COMPARISONS.c.challenger == challenger, COMPARISONS.c.champion == champion)
        while True:
            with self._engine.connect() as connection:
                known = connection.execute(sa.select(COMPARISONS.c.number).where(COMPARISONS.c.job == job, *same))
                if (number := known.scalar()) is not None:
                    return int(number)
            number = self.comparisons(job) + 1
            row = {"job": job, "number": number, "challenger": challenger, "champion": champion, "time": time}
            self._insert(COMPARISONS, row)  # if another process opened that number meanwhile, the next one is tried

    def comparisons(self, job: str) -> int:
        """How many comparisons a job has opened."""
        query = sa.select(sa.func.count()).select_from(COMPARISONS).where(COMPARISONS.c.job == job)
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def record(self, job: str, found: Challenger) -> None:
        """Store what was found about a challenger, in place of what was found before."""
        values = {**asdict(found), "candidate": json.dumps(found.candidate)}
        c = CHALLENGERS.c
        with self._engine.begin() as connection:
            connection.execute(CHALLENGERS.delete().where(c.job == job, c.number == found.number))
            connection.execute(CHALLENGERS.insert().values(job=job, **values))

    def challengers(self, job: str) -> list[Challenger]:
        """The challengers of a job by comparison, oldest first; comparisons of earlier versions have none."""
        c, names = CHALLENGERS.c, Challenger.__dataclass_fields__
        query = sa.select(*(c[name] for name in names)).where(c.job == job).order_by(c.number)
        with self._engine.connect() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return [Challenger(**{**row, "candidate": json.loads(row["candidate"])}) for row in rows]

    def _insert(self, table: sa.Table, row: Mapping[str, Any]) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(table.insert().values(**row))
        except IntegrityError:
            pass

    def _read(self, *where: sa.ColumnElement[bool], newest: bool = False) -> list[Measured]:
        order = SCORES.c.id.desc() if newest else SCORES.c.id
        query = sa.select(SCORES).where(*where).order_by(order).limit(1 if newest else None)
        with self._engine.connect() as connection:
            return [
                Measured(r.job, r.subject, r.kind, r.slot, r.time, json.loads(r.scores), r.evidence)
                for r in connection.execute(query)
            ]
