"""The release gate's report: verdict, interval, cost and exit code, as text, as Markdown and as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentopt.core.gate import EXIT_CODES, POWER, GateVerdict, gate_verdict
from agentopt.core.stats import Bound, Difference
from agentopt.report.formatting import APPROXIMATE, format_difference
from agentopt.runs.example_costs import ExampleCosts, SubtaskCostShown

FAILED = 1
"""Exit code of a candidate that costs more than the limit."""

BASELINE = "baseline"
"""The reference that needs no file."""

Costs = Mapping[str, SubtaskCostShown]
"""Subtask -> mean cost of one example."""


@dataclass(frozen=True, slots=True)
class CostRatio:
    """The cost of one example with the candidate over that with the reference.

    Attributes:
        value: The ratio.
        measure: What the costs are counted in: USD if both are known, else units if both are positive, else tokens.
            None if both are the same candidate, whose costs are not compared.
    """

    value: float
    measure: str | None

    @classmethod
    def of(cls, candidate: Costs, reference: Costs) -> CostRatio:
        """The ratio of two mean costs of one example."""
        for measure, fields in (("USD", ("usd", "fusion_usd")), ("units", ("units", "fusion_units"))):
            ours, theirs = _sum(candidate, fields), _sum(reference, fields)
            if ours > 0 and theirs > 0:
                return cls(ours / theirs, measure)
        tokens = ("prompt_tokens", "completion_tokens", "fusion_tokens")
        ours, theirs = _sum(candidate, tokens), _sum(reference, tokens)
        return cls(ours / theirs if theirs else float("inf") if ours else 1.0, "tokens")


def _sum(costs: Costs, fields: tuple[str, ...]) -> float:
    return sum(float(getattr(cost, field)) for cost in costs.values() for field in fields)


@dataclass(frozen=True, slots=True)
class GateReport:
    """The verdict on a candidate against a reference.

    Attributes:
        candidate: Its file or run.
        reference: `baseline`, or the file of another candidate.
        split: The split that both were scored on.
        difference: Mean of the candidate's score minus the reference's, over the rows that both have scores for; None
            if both are the same candidate, which is non-inferior by definition.
        margin: Loss of score that still counts as non-inferior.
        cost: The ratio of the costs.
        max_cost_ratio: Highest ratio that passes; None for any.
        rows_needed: Rows at which the gate passes with probability .8 if there is no difference; None if it was not
            computed, or if no number of rows is enough.
        notes: Remarks, such as on rows without a score.
        measures: USD and latency of a request to the candidate and to the reference, where they were measured.
        measured_on: The split that the measures and the cost are of: that of the scores, except for a run of an
            earlier version.
    """

    candidate: str
    reference: str
    split: str
    difference: Difference | None
    margin: float
    cost: CostRatio
    max_cost_ratio: float | None = None
    rows_needed: int | None = None
    notes: tuple[str, ...] = ()
    measures: tuple[ExampleCosts | None, ExampleCosts | None] = (None, None)
    measured_on: str = "test"

    @property
    def verdict(self) -> GateVerdict:
        """Superior, non-inferior within the margin, inferior, or not enough rows."""
        return gate_verdict(self.difference, self.margin) if self.difference else "non-inferior"

    @property
    def too_dear(self) -> bool:
        """Whether the cost ratio is above the limit."""
        return self.max_cost_ratio is not None and self.cost.value > self.max_cost_ratio

    @property
    def exit_code(self) -> int:
        """0 for superior and non-inferior, 1 for inferior or too dear, 3 for not enough rows."""
        return FAILED if self.too_dear else EXIT_CODES[self.verdict]

    @property
    def cost_line(self) -> str:
        """The cost ratio in words."""
        limit = f", above the limit of {self.max_cost_ratio:g}: the gate fails" if self.too_dear else ""
        if not self.cost.measure:
            return f"that of the reference, which is the same candidate{limit}"
        split = "" if self.measured_on == self.split else f", on the {self.measured_on} split"
        return f"{self.cost.value:.3g} times the reference's {self.cost.measure} per example{split}{limit}"

    @property
    def finding(self) -> str:
        """The difference with its number of rows, or that there is none to measure."""
        if self.difference is None:
            return f"the candidate is the {self._reference} itself"
        return f"{format_difference(self.difference)}, n={self.difference.n}, margin {self.margin:g}"

    @property
    def _reference(self) -> str:
        return BASELINE if self.reference == BASELINE else "reference"

    @property
    def _measured(self) -> list[tuple[str, ExampleCosts]]:
        """What was measured of the candidate and of the reference, if the price or the latency is known."""
        named = zip(("candidate", "reference"), self.measures, strict=True)
        of = f"measured on the {self.measured_on} split"
        return [(f"{of}, {name}", one) for name, one in named if one and (one.usd or one.seconds_p50 is not None)]

    def lines(self) -> Iterator[str]:
        """The report as lines of text."""
        yield f"{self.verdict}: {self.finding}"
        if self.difference and self.difference.interval.approximate:
            yield f"  {APPROXIMATE}"
        yield f"{self.candidate} against {self.reference}, on the {self.split} split"
        yield f"cost: {self.cost_line}"
        yield from (f"{name}: {measured}" for name, measured in self._measured)
        if self.rows_needed is not None:
            yield f"rows needed: {self.rows_needed:,}, to pass with probability {POWER:g} if there is no difference"
        yield from self.notes

    def markdown(self) -> str:
        """The report as a section of Markdown, for a pull request."""
        rows = {
            "candidate": self.candidate,
            "reference": self.reference,
            "split": self.split,
            "difference": self.finding,
            "cost": self.cost_line,
            **{name: str(measured) for name, measured in self._measured},
            "rows needed": "" if self.rows_needed is None else f"{self.rows_needed:,}",
            "notes": "; ".join(self.notes),
        }
        cells = [f"| {name} | {' '.join(text.split()).replace('|', '/')} |" for name, text in rows.items() if text]
        outcome = "fails" if self.exit_code == FAILED else "passes" if self.exit_code == 0 else "is undecided"
        return "\n".join([f"## The release gate {outcome}: {self.verdict}", "", "| | |", "|---|---|", *cells, ""])

    @property
    def data(self) -> GateData:
        """The report as it is printed as JSON."""
        return GateData(
            verdict=self.verdict,
            exit_code=self.exit_code,
            candidate=self.candidate,
            reference=self.reference,
            split=self.split,
            difference=self.difference,
            margin=self.margin,
            cost_ratio=self.cost.value,
            cost_in=self.cost.measure,
            max_cost_ratio=self.max_cost_ratio,
            measured_on=self.measured_on,
            measured=dict(zip(("candidate", "reference"), self.measures, strict=True)),
            rows_needed=self.rows_needed,
            notes=self.notes,
        )


@dataclass(frozen=True, slots=True)
class GateData:
    """The output of `agentopt gate --json`: a `GateReport` with its verdict; see there.

    Attributes:
        cost_ratio: Cost of an example with the candidate over that with the reference; "Infinity" if that is 0.
        cost_in: What the costs are counted in: USD, units or tokens; None if both are the same candidate.
        measured_on: The split of the costs and of `measured`.
        measured: `candidate` and `reference` -> its USD and latency.
    """

    verdict: GateVerdict
    exit_code: int
    candidate: str
    reference: str
    split: str
    difference: Difference | None
    margin: float
    cost_ratio: Bound
    cost_in: str | None
    max_cost_ratio: float | None
    measured_on: str
    measured: dict[str, ExampleCosts | None]
    rows_needed: int | None
    notes: tuple[str, ...]
