"""One run's comparisons: the challengers that it found against the champion, by the evidence of all runs of the job.

Three candidates are compared on the test split: the champion, the challenger and the champion's *anchor*, the last
champion that was promoted for being better. A champion that was promoted for its cost keeps the anchor of its
predecessor, so that a chain of ever cheaper challengers cannot lose more than the margin in all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from agentopt.core.candidate import Candidate
from agentopt.core.cost import CostMeasure
from agentopt.core.message_text import counted, three_digits
from agentopt.core.ties import is_higher
from agentopt.jobs.canary import Canary
from agentopt.jobs.champion import Champion, Champions
from agentopt.jobs.drift import ALARM, drift_evidence
from agentopt.jobs.evidence_store import Challenger, EvidenceStore, Measured
from agentopt.jobs.jobfile import PromotionRule
from agentopt.jobs.measurement import Measurement, alarms, beats, costs
from agentopt.jobs.measurer import Measurer
from agentopt.jobs.promotion import Comparison, Finding, Night, PromotionRules, e_value_above, pooled, promotion, saves
from agentopt.jobs.tables import JobRun
from agentopt.models.cost_measure import costs_usd, measure_of
from agentopt.runs.result import Result


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of a run's comparisons.

    Attributes:
        finding: The reason in one sentence.
        winner: The challenger that replaces the champion; None if it stays.
        new_anchor: Whether the winner becomes its own anchor.
        conclusive: False if another attempt may decide differently, because calls failed.
        scores: Row key -> score of the winner: drawn anew, unless the canary is off.
    """

    finding: str
    winner: Candidate | None = None
    new_anchor: bool = False
    conclusive: bool = True
    scores: Mapping[str, float] = field(default_factory=dict)


NOTHING_ELSE = Decision("the search found nothing that is better or cheaper")
INCOMPLETE = Decision("not every example of the test split has a score", conclusive=False)


def rules_of(settings: PromotionRule) -> PromotionRules:
    """The rules that a job file sets."""
    alpha = 1 - settings.confidence
    return PromotionRules(alpha, settings.margin, settings.cheaper_by, settings.max_cost_ratio)


@dataclass
class Contest:
    """Compares the challengers of one run with the champion.

    Attributes:
        measurer: Evaluates; the journal answers what was measured before.
        settings: The `promotion` section of the job file.
        run: The run.
        champions: The job's champions.
        champion: The current one.
        canary: Draws a challenger's rows anew before it is promoted; None if the canary is off.
        evidence: Where scores and comparisons are stored.
        now: The clock, in seconds since the epoch.
    """

    measurer: Measurer
    settings: PromotionRule
    run: JobRun
    champions: Champions
    champion: Champion
    canary: Canary | None
    evidence: EvidenceStore
    now: Callable[[], float]
    _tests: dict[Candidate, Measurement] = field(default_factory=dict)

    async def alarms(self) -> list[str]:
        """The alarms that the champion's measurement on the whole test split raises."""
        champion, baseline = self.champion.candidate, self.measurer.snapshot.task.baseline
        confidence = self.settings.confidence
        found = alarms(await self._test(champion), self.champion.record.by_row, confidence)
        await self._test(baseline)
        ahead, needed = pooled(self._nights(baseline, champion)), 1 / (1 - confidence)
        if (evidence := e_value_above(ahead, 0.0)) >= needed:
            rows, found_and_needed = counted(len(ahead), "row"), f"{three_digits(evidence)}; {three_digits(needed)}"
            figures = f"{-ahead.mean():+.3f} on {rows}, evidence {found_and_needed} is needed"
            found.append(f"the champion is worse than the baseline ({figures})")
        return found

    async def decide(self, result: Result, log: Callable[[str, str], None]) -> Decision:
        """The first of best, recommended and cheapest that the evidence promotes.

        Args:
            result: The search's.
            log: Logs (kind of event, message).
        """
        decision = NOTHING_ELSE
        cheapest = await self._cheapest(result)
        for challenger in dict.fromkeys((result.best_candidate, result.recommended_candidate, cheapest)):
            if challenger == self.champion.candidate:
                continue
            found = await self._compare(challenger, result)
            named = f"challenger ({challenger}): {found.finding}"
            log("decision", named)
            if found.winner:
                return found
            if decision is NOTHING_ELSE or (decision.conclusive and not found.conclusive):
                decision = found if found is NOTHING_ELSE else replace(found, finding=named)
        return decision

    async def _compare(self, challenger: Candidate, result: Result) -> Decision:
        champion, anchor = self.champion.candidate, self._fitting(self.champion.record.anchor)
        first = self._fitting(min(self.champions.numbers())) if self.settings.max_cost_ratio else champion
        one, held, third, start = [await self._test(c) for c in (challenger, champion, anchor, first)]
        if not (one.complete and held.complete and third.complete):
            return INCOMPLETE
        rules, nights = rules_of(self.settings), self._nights(challenger, champion)
        comparison = Comparison(
            1, nights, self._nights(challenger, anchor), *costs(one, held, start, measure=self._measure)
        )
        if not (saves(comparison, rules) or _leads(challenger, champion, result)):
            return NOTHING_ELSE
        # The error is spent before the scores of the test split are looked at.
        comparison = replace(comparison, number=self._number(challenger))
        found = promotion(comparison, rules)
        if found.promotion is None:
            decision = Decision(found.reason)
        else:
            decision = await self._confirmed(challenger, one, found.reason, new_anchor=found.promotion == "better")
        self._record(comparison.number, challenger, found, decision.finding)
        return decision

    def _record(self, number: int, challenger: Candidate, found: Finding, finding: str) -> None:
        evidence = (found.rows, found.mean, min(found.better, found.better_than_anchor), found.non_inferior)
        shown = challenger.to_dict()
        record = Challenger(number, self.champion.number, self.now(), shown, *evidence, found.needed, finding)
        self.evidence.record(self.run.job, record)

    async def _confirmed(self, challenger: Candidate, test: Measurement, finding: str, new_anchor: bool) -> Decision:
        """The promotion, unless the challenger's rows score worse when they are drawn anew."""
        if self.canary is None:
            return Decision(finding, challenger, new_anchor, scores=test.scores)
        draw = await self.canary.reference_draw(self.measurer, challenger, 0)
        if draw is None:
            return INCOMPLETE
        evidence = drift_evidence([test.scores], [draw.scores])[-1]
        if evidence >= ALARM:
            found = f"evidence {three_digits(evidence)}, an alarm at {ALARM:g}"
            stale = f"but its rows score worse when they are drawn anew ({found})"
            return Decision(f"{finding}, {stale}; set another response_seed to measure everything anew")
        return Decision(finding, challenger, new_anchor, scores=draw.scores)

    async def _test(self, candidate: Candidate) -> Measurement:
        """The candidate on the test split, by row key; stored as evidence if it is complete."""
        if candidate not in self._tests:
            snapshot = self.measurer.snapshot
            found = Measurement.of(await self.measurer.measure(candidate))
            self._tests[candidate] = found = replace(found, scores=snapshot.keyed(found.scores))
            if found.complete:
                subject, slot = snapshot.subject(candidate), self.run.id
                self.evidence.add(Measured(self.run.job, subject, "test", slot, self.now(), found.scores))
        return self._tests[candidate]

    async def _cheapest(self, result: Result) -> Candidate:
        """The candidate with the lowest cost in USD that is not significantly worse than the best on validation.

        With costs in units, which do not depend on prices, `recommended` may be another one. All responses come from
        the journal.
        """
        if result.cost_in != "units" or not any(map(costs_usd, self.measurer.snapshot.specs.values())):
            return result.recommended_candidate
        complete = [t.candidate for t in result.trials if t.state == "complete"]
        candidates = dict.fromkeys([result.best_candidate, *complete])
        found = {c: Measurement.of(await self.measurer.measure(c, "validation")) for c in candidates}
        best = found[result.best_candidate]
        as_good = [c for c, measured in found.items() if not beats(best, measured, self.settings.confidence)]
        return min(as_good, key=lambda c: found[c].usd)

    @property
    def _measure(self) -> CostMeasure:
        snapshot = self.measurer.snapshot
        models = dict.fromkeys(model for subtask in snapshot.task.subtasks for model in subtask.models)
        return measure_of(snapshot.task.cost_measure, [snapshot.specs[model] for model in models])

    def _fitting(self, number: int) -> Candidate:
        """The champion of that number, or the current one if that one no longer fits the task."""
        candidate = self.champions.get(number).candidate
        return self.champion.candidate if self.measurer.snapshot.misfit(candidate) else candidate

    def _nights(self, one: Candidate, other: Candidate) -> list[Night]:
        """The scores of two candidates in all nights in which both were measured on the test split."""
        ones, others = (self._tested(candidate) for candidate in (one, other))
        return [(scores, others[run]) for run, scores in ones.items() if run in others]

    def _tested(self, candidate: Candidate) -> dict[str, Mapping[str, float]]:
        subject = self.measurer.snapshot.subject(candidate)
        return {night.slot: night.scores for night in self.evidence.of(self.run.job, subject, "test")}

    def _number(self, challenger: Candidate) -> int:
        subject = self.measurer.snapshot.subject
        champion = subject(self.champion.candidate)
        return self.evidence.open_comparison(self.run.job, subject(challenger), champion, self.now())


def _leads(challenger: Candidate, champion: Candidate, result: Result) -> bool:
    """Whether the challenger scores higher than the champion on validation, or the champion has no score there."""
    scores = {trial.candidate: trial.score for trial in result.trials if trial.state == "complete"}
    ours, theirs = scores.get(challenger), scores.get(champion)
    return theirs is None or (ours is not None and is_higher(ours, theirs))
