"""The result of a run: frozen records that are printed, written to `result.json` and loaded again."""

from __future__ import annotations

import html
import json
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationInfo, computed_field

from agentopt.core.budget import Usage
from agentopt.core.candidate import Candidate
from agentopt.core.comparison import compare
from agentopt.core.cost import CostMeasure, cost_in_words
from agentopt.core.errors import ConfigError, NoFinalistError
from agentopt.core.files import own_file, write_atomically
from agentopt.core.gate import GateVerdict, gate_verdict
from agentopt.core.message_text import counted, in_words
from agentopt.core.paths import as_path
from agentopt.core.records import EarlyStop, Evaluation, TrialState
from agentopt.core.repeats import repeated_mean, score_table
from agentopt.core.stats import Difference, Interval, mean_interval
from agentopt.core.stop_reason import StopKind, StopReason, from_sentence
from agentopt.core.usd_text import format_usd
from agentopt.core.yaml_models import did_you_mean, shown
from agentopt.core.yaml_text import to_yaml
from agentopt.runs.dataframes import example_rows, frame, trial_row
from agentopt.runs.earnings import Earned, earned
from agentopt.runs.example_costs import ExampleCosts, SubtaskCostShown
from agentopt.runs.folder import check_not_task
from agentopt.runs.prompt_report import PromptReport, report_of_0_1_0
from agentopt.runs.response_issues import IncompleteResponses, LeftOut

SCREEN_WIDTH = 100
"""Most columns of a line of `repr(result)`."""

KEPT = "non-inferior: the best candidate is the baseline itself"
"""The verdict of a run whose best candidate is the baseline, in words."""

Role = Literal["baseline", "best", "recommended"]


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean score with its 95% interval, over `n` scored examples of `planned`; a group of examples counts once."""

    score: float
    interval: Interval
    n: int
    planned: int

    @classmethod
    def of(cls, evaluation: Evaluation, *, seed: int = 0) -> Measured | None:
        """The mean score of an evaluation, over all its repeats; None without a scored example."""
        if evaluation.repeats > 1 and evaluation.scores:
            found = repeated_mean(score_table(evaluation), seed=seed)
            return cls(found.mean, found.interval, found.rows, evaluation.planned_scores)
        return cls._mean(evaluation.scores.values(), evaluation.planned_scores, seed)

    @classmethod
    def metrics_of(cls, evaluation: Evaluation, *, seed: int = 0) -> dict[str, Measured]:
        """The mean of each metric that has a value."""
        means = {
            name: cls._mean(of.values(), evaluation.planned_scores, seed) for name, of in evaluation.metrics.items()
        }
        return {name: mean for name, mean in means.items() if mean is not None}

    @classmethod
    def _mean(cls, values: Iterable[float], planned: int, seed: int) -> Measured | None:
        scores = list(values)
        if not scores:
            return None
        return cls(sum(scores) / len(scores), mean_interval(scores, seed=seed), len(scores), planned)


def _verdict_of(recorded: object, read: ValidationInfo) -> object:
    """Reads the verdict of a `result.json`; one of version 0.1.0 has other words, and no margin."""
    return gate_verdict(read.data["difference"]) if "difference" in read.data else recorded


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired comparison with the baseline on one split. `verdict` is that of `difference` within a margin of .02.

    A record of version 0.1.0 (better, not distinguishable, worse) is read as the verdict of its difference.
    """

    difference: Difference
    verdict: Annotated[GateVerdict, BeforeValidator(_verdict_of)]

    @classmethod
    def of(cls, evaluation: Evaluation, baseline: Evaluation, *, seed: int = 0) -> Comparison | None:
        """Compare on the examples that both scored; None without any.

        Args:
            evaluation: Of the candidate, on the test split.
            baseline: Of the baseline, on the test split.
            seed: Seeds the interval.
        """
        difference = compare(evaluation, baseline, seed=seed)
        return cls(difference, gate_verdict(difference)) if difference else None


@dataclass(frozen=True, slots=True)
class Finalist:
    """A candidate that was evaluated on the test split.

    Attributes:
        roles: One or more: the best candidate is often also the recommended one, or the baseline.
        trial: Number of its trial.
        proposer: What proposed it.
        candidate: The candidate.
        units: Cost of one example in the result's `cost_in`; units are by the task's token lengths, USD and seconds are
            measured on the validation split.
        cost: Mean cost of one example by subtask, measured on the validation split.
        validation: Score on the validation split.
        test: Score on the test split; None if it was not tested.
        against_baseline: Paired comparison with the baseline on the test split.
        metrics: Metrics on the test split, or on the validation split if it was not tested.
        shrunk: Posterior mean of the validation score, which decides the roles; None in results of version 0.1.0.
        measures: USD and latency; None in results of version 0.1.0.
    """

    roles: tuple[Role, ...]
    trial: int
    proposer: str
    candidate: Candidate
    units: float
    cost: dict[str, SubtaskCostShown]
    validation: Measured
    test: Measured | None = None
    against_baseline: Comparison | None = None
    metrics: dict[str, Measured] = field(default_factory=dict)
    shrunk: float | None = None
    measures: ExampleCosts | None = None

    def lines(self, cost_in: CostMeasure = "units") -> list[str]:
        """The finalist in two lines of text: its candidate, then its scores and its cost, with the split of each."""
        test = "not tested" if self.test is None else f"test {self.test.score:.3f}"
        shrunk = "" if self.shrunk is None else f" (shrunk {self.shrunk:.3f})"
        by_lengths = cost_in == "units" or not self.measures
        cost = cost_in_words(self.units, cost_in) if by_lengths else f"on validation {self.measures}"
        scores = f"validation {self.validation.score:.3f}{shrunk}, {test}; {cost}"
        return [f"  {' = '.join(self.roles)}: {self.candidate}", f"    {scores} (trial {self.trial})"]


@dataclass(frozen=True, slots=True)
class TrialLine:
    """One row of the history. `score` is the mean over the `scored` of the `planned` rows, `shrunk` its posterior mean.

    `planned`, `stopped`, `shrunk` and `measures` are not in the files of version 0.1.0; an incomplete trial that was
    completed by a later one has no `shrunk`. `units` is the cost of one example in the result's `cost_in`.
    """

    number: int
    proposer: str
    state: TrialState
    score: float | None
    scored: int
    units: float
    candidate: Candidate
    note: str = ""
    planned: int = 0
    stopped: EarlyStop | None = None
    shrunk: float | None = None
    measures: ExampleCosts | None = None


def _fitted(line: str) -> str:
    """The line, wrapped at the width of a screen and cut, between words, if it takes more than two lines of it."""
    inner = f"{' ' * (len(line) - len(line.lstrip()))}  "
    return textwrap.fill(
        line, SCREEN_WIDTH, subsequent_indent=inner, break_on_hyphens=False, max_lines=2, placeholder=" ..."
    )


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """The outcome of a run.

    Attributes:
        task: The task's name.
        run: The run's folder.
        ended: Why the search ended.
        finalists: The distinct ones of baseline, best and recommended, with their scores on the test split.
        trials: The history, oldest first.
        pareto: Numbers of the trials on the Pareto front of shrunk score and cost, cheapest first; with costs in USD or
            seconds, of shrunk score, USD and median latency.
        spent: Usage by purpose, over all sessions of the run.
        failures: Number of failed attempts at a call, by kind.
        seconds: Wall time, over all sessions of the run.
        fallbacks: Why the fallback strategy was used, each reason once.
        prompts: One report for each subtask whose system prompt was optimised.
        notes: Remarks that a reader of the result should know.
        test_ended: The reason why the test was cut short, such as a cap; None if it was not.
        cost_in: The measure of the costs of candidates: usd, seconds or units, each per example.
        incomplete: Responses that were cut off or hold only a thought, by subtask, over all trials and the test.
        left_out: Examples that were left out of every comparison.
        failure_reasons: Number of failed evaluations of an example, by the kind of failure and the provider's words.
        refused_parameters: Model -> the parameters that its endpoint was found to refuse. They were left out.
        beyond_limits: Numbers of the complete trials that cost more than a limit of the task, which are not chosen.
    """

    # An interval that the data does not bound has infinite ends, which JSON has no numbers for.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_inf_nan="strings")

    task: str
    run: str
    ended: Annotated[StopReason, BeforeValidator(from_sentence)]
    finalists: tuple[Finalist, ...]
    trials: tuple[TrialLine, ...]
    pareto: tuple[int, ...]
    spent: dict[str, Usage]
    failures: dict[str, int]
    seconds: float
    fallbacks: tuple[str, ...] = ()
    prompts: tuple[Annotated[PromptReport, BeforeValidator(report_of_0_1_0)], ...] = ()
    notes: tuple[str, ...] = ()
    test_ended: StopReason | None = None
    cost_in: CostMeasure = "units"
    incomplete: tuple[IncompleteResponses, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    failure_reasons: dict[str, int] = field(default_factory=dict)
    refused_parameters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    beyond_limits: tuple[int, ...] = ()

    def finalist(self, role: Role) -> Finalist:
        """The finalist in `role`.

        Raises:
            NoFinalistError: There is none, because no example of the baseline could be scored, or no such role.
        """
        found = next((f for f in self.finalists if role in f.roles), None)
        if found is None:
            known = [name for finalist in self.finalists for name in finalist.roles]
            raise NoFinalistError(f"the run has no finalist {shown(role)}", remedy=did_you_mean(str(role), known))
        return found

    @property
    def best_candidate(self) -> Candidate:
        """The candidate with the highest posterior mean score on validation, over all trials."""
        return self.finalist("best").candidate

    @property
    def recommended_candidate(self) -> Candidate:
        """The cheapest candidate whose posterior mean score is within `search.tolerance` of the best one's."""
        return self.finalist("recommended").candidate

    @property
    def keeps_baseline(self) -> bool:
        """Whether the best candidate is the baseline."""
        return "baseline" in self.finalist("best").roles

    @property
    def unsearched(self) -> str | None:
        """That the search ended before any candidate but the baseline was measured; None if it did not."""
        if self.ended.kind is StopKind.NOTHING_LEFT or any(t.number and t.state != "incomplete" for t in self.trials):
            return None
        cause = f"stopped at the cap budget.{self.ended.budget_cap}" if self.ended.budget_cap else "ended early"
        return f"{cause} before any candidate but the baseline was measured"

    @property
    def unparsed(self) -> str | None:
        """That no response could be parsed, of the best candidate, so that its score is 0; None if one could."""
        best = self.finalist("best")
        names = [i.subtask for i in self.incomplete if i.unparsed is not None and i.unparsed[0] == i.unparsed[1]]
        if not names or best.validation.score:  # a program may call a subtask on a few examples only
            return None
        return f"no response{f' of {in_words(names)}' if len(best.candidate) > 1 else ''} could be parsed"

    @property
    def verdict(self) -> GateVerdict | None:
        """The best candidate against the baseline on the test split; None if they were not compared on it.

        A best candidate that is the baseline is non-inferior by definition, unless the result is `unsearched`. Without
        any response that could be parsed, nothing was compared (`unparsed`).
        """
        if self.unparsed:
            return None
        if self.keeps_baseline:
            return None if self.unsearched else "non-inferior"
        compared = self.finalist("best").against_baseline
        return compared.verdict if compared else None

    @property
    def failed(self) -> str | None:
        """Why the search or the test ended early because calls fail; None if they did not."""
        ends = (reason for reason in (self.ended, self.test_ended) if reason and reason.kind is StopKind.FAILED)
        return next(map(str, ends), None)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def proposers(self) -> tuple[Earned, ...]:
        """The trials of each proposer, what they added to the highest score, and the agent's calls."""
        return earned(self.trials, self.spent)

    @property
    def total(self) -> Usage:
        """Usage for all purposes together."""
        return sum(self.spent.values(), Usage())

    def __repr__(self) -> str:
        total, states = self.total, Counter(trial.state for trial in self.trials).items()
        spent = f"{counted(total.calls, 'call')}, {counted(total.tokens, 'token')}, {format_usd(total.usd)} USD"
        verdict = f"verdict on the test split: {self.verdict or 'not tested'}"
        if self.keeps_baseline or self.unparsed:
            missing = self.unparsed or self.unsearched
            verdict = f"verdict: {f'none, {missing}' if missing else KEPT}"
        lines = [
            f"Result of {self.task}: {self.ended}",
            f"  run: {self.run}",
            f"  trials: {len(self.trials)} ({', '.join(f'{n} {state}' for state, n in states)})",
            f"  spent: {spent}, {self.seconds:.0f} s",
            *(line for finalist in self.finalists for line in finalist.lines(self.cost_in)),
            f"  {verdict}",
            *(f"  {issue}" for issue in (*self.incomplete, *self.left_out)),
        ]
        return "\n".join(map(_fitted, lines))

    def _repr_html_(self) -> str:
        """What a notebook shows: the text of `repr`, escaped."""
        return f"<pre>{html.escape(repr(self))}</pre>"

    def trials_frame(self) -> Any:
        """A `pandas.DataFrame` with one row for each trial; its columns are in docs/python.md.

        Raises:
            UserError: pandas is not installed.
        """
        return frame(trial_row(trial, trial.number in self.pareto) for trial in self.trials)

    def examples_frame(self) -> Any:
        """A `pandas.DataFrame` with one row for each example of each evaluation; its columns are in docs/python.md.

        Raises:
            UserError: pandas is not installed, or the run's folder is gone.
        """
        return frame(example_rows(self.run, {t.number: (t.candidate, t.state, t.scored) for t in self.trials}))

    def save(self, folder: Path) -> None:
        """Write `result.json`, `best.yaml` and `recommended.yaml`, each whole or not at all."""
        write_atomically(folder / "result.json", _results.dump_json(self, indent=2).decode() + "\n")
        write_atomically(folder / "best.yaml", to_yaml(self.best_candidate.to_dict()))
        write_atomically(folder / "recommended.yaml", to_yaml(self.recommended_candidate.to_dict()))


_results = TypeAdapter(Result)


def load_result(folder: Path | str) -> Result:
    """Load the result in a run's folder; its `run` is that folder, also if it was moved.

    Raises:
        ConfigError: The run is not finished, or its result cannot be read.
    """
    file = as_path(folder, ConfigError) / "result.json"
    if not file.is_file():
        check_not_task(file.parent)
        remedy = "resume it, or see it so far with `agentopt report`; `agentopt runs list` has all runs"
        raise ConfigError("no finished run is here", where=folder, remedy=remedy)
    with own_file(file, "remove the file and resume the run: its result is computed again, from the journal"):
        result = parse_result(file.read_bytes())
    return result if Path(result.run).absolute() == file.parent.absolute() else replace(result, run=str(file.parent))


def parse_result(text: str | bytes) -> Result:
    """Read the content of `result.json`; costs in USD per 1M examples, as they once were, become those in USD."""
    written = json.loads(text)
    if isinstance(written, dict) and written.get("cost_in") == "USD per 1M examples":
        for row in (*written["trials"], *written["finalists"]):
            row["units"] /= 1e6
        written["cost_in"] = "usd"
    result = _results.validate_json(json.dumps(written))
    if any({*finalist.candidate} - finalist.cost.keys() for finalist in result.finalists):
        raise ValueError("a finalist must have the cost of every subtask")
    return result
