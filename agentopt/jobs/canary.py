"""The canary of a job: test rows of its champion that every run draws anew, to see a model that changed under its name.

The evidence compares them with the *reference*: two draws of every test row from the time when the champion took its
place. The journal answers none of these draws, except those that a killed run has received already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agentopt.core.candidate import Candidate
from agentopt.core.message_text import counted, three_digits
from agentopt.core.records import Evaluation
from agentopt.jobs.champion import Champion
from agentopt.jobs.drift import ALARM, canary_rows, drift_evidence
from agentopt.jobs.evidence_store import EvidenceStore, Measured
from agentopt.jobs.measurer import Measurer
from agentopt.jobs.snapshot import Snapshot, seed_of
from agentopt.jobs.tables import JobRun

REFERENCE_DRAWS = 2
"""Draws of every test row before the nights. One alone has a standard error of .03 on 200 rows, which hides small
drops."""

RESTART = 180
"""Nights after which those before become part of the reference, which bounds the time that the evidence takes."""


@dataclass(frozen=True, slots=True)
class Canary:
    """The canary of one job's run.

    Attributes:
        run: The run.
        share: Share of the test rows to redraw.
        evidence: Where scores are stored.
        now: The clock, in seconds since the epoch.
    """

    run: JobRun
    share: float
    evidence: EvidenceStore
    now: Callable[[], float]

    def stored(self) -> Measured | None:
        """The canary that this run has stored before it was killed."""
        return self.evidence.canary_of_run(self.run.job, self.run.id)

    def is_ready(self, subject: str) -> bool:
        """Whether the reference is complete, or in use already."""
        job, of = self.run.job, self.evidence.of
        return len(of(job, subject, "reference")) >= REFERENCE_DRAWS or bool(of(job, subject, "canary"))

    async def draw(self, measurer: Measurer, champion: Champion) -> Measured:
        """Redraw this run's rows of a champion that is ready, and store them with the evidence of drift."""
        snapshot, job = measurer.snapshot, self.run.job
        subject = snapshot.subject(champion.candidate)
        before = [night.scores for night in self.evidence.of(job, subject, "canary")]
        rows = canary_rows(snapshot.test_rows, len(before), share=self.share, seed=seed_of(subject))
        drawn = await measurer.redraw(champion.candidate, rows, seed_of("canary", self.run.id))
        scores = snapshot.keyed(drawn.scores)
        first = len(before) // RESTART * RESTART
        reference = [draw.scores for draw in self.evidence.of(job, subject, "reference")] + before[:first]
        value = drift_evidence(reference, [*before[first:], scores])[-1]
        night = Measured(job, subject, "canary", self.run.id, self.now(), scores, value)
        self.evidence.add(night)
        return night

    async def take_reference(self, measurer: Measurer, champion: Champion, measured: Evaluation | None) -> None:
        """Complete the reference of a champion, unless it is in use already.

        Args:
            measurer: Evaluates.
            champion: The champion.
            measured: Its evaluation on the test split. It is the first draw, unless the champion was chosen by it.
        """
        subject = measurer.snapshot.subject(champion.candidate)
        if self.is_ready(subject):
            return
        if measured and not champion.record.won:
            self._store(measurer.snapshot, subject, 0, measured)  # unless that draw is stored already
        for number in range(REFERENCE_DRAWS):
            await self.reference_draw(measurer, champion.candidate, number)

    async def reference_draw(self, measurer: Measurer, candidate: Candidate, number: int) -> Measured | None:
        """One draw of all test rows, made now unless it was before; None if a row has no score.

        Args:
            measurer: Evaluates the candidate.
            candidate: The champion, or a challenger.
            number: Number of the draw, from 0.
        """
        snapshot = measurer.snapshot
        subject = snapshot.subject(candidate)
        for draw in self.evidence.of(self.run.job, subject, "reference"):
            if draw.slot == str(number):
                return draw
        # The seed does not depend on the run, so that the next run continues a draw that a cap ended.
        seed = seed_of("reference", number, subject)
        drawn = await measurer.redraw(candidate, snapshot.test_rows, seed)
        return self._store(snapshot, subject, number, drawn)

    def _store(self, snapshot: Snapshot, subject: str, number: int, drawn: Evaluation) -> Measured | None:
        if drawn.state != "complete":
            return None
        scores = snapshot.keyed(drawn.scores)
        draw = Measured(self.run.job, subject, "reference", str(number), self.now(), scores)
        self.evidence.add(draw)
        return draw


def alarm_of(night: Measured) -> str | None:
    """The alarm that a canary raises, if any."""
    if night.evidence is None or night.evidence < ALARM:
        return None
    mean = sum(night.scores.values()) / max(len(night.scores), 1)
    drawn = f"{counted(len(night.scores), 'row')} drawn anew: mean score {mean:.3f}"
    evidence = f"evidence {three_digits(night.evidence)}, an alarm at {ALARM:g}"
    return f"drift: the champion has become worse ({drawn}, {evidence})"
