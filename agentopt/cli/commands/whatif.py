"""`agentopt whatif`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from agentopt.api import load
from agentopt.cli.output import print_json, print_plain
from agentopt.cli.run_names import run_path
from agentopt.core.axes import CASCADE
from agentopt.core.candidate import Candidate
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.files import check_writable, write_output
from agentopt.core.message_text import counted
from agentopt.core.usd_text import format_usd
from agentopt.core.yaml_models import did_you_mean
from agentopt.core.yaml_text import to_yaml
from agentopt.runs.config import load_config
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import load_result
from agentopt.runs.whatif import Option, Question, WhatIf, read_prices, what_if


@dataclass(frozen=True, slots=True)
class WhatIfOptions:
    """The options of `agentopt whatif`; see its help."""

    run: Path
    max_usd_per_1000: float | None
    max_seconds: float | None
    min_score: float | None
    prices: Path | None
    models: str | None
    out: Path | None
    as_json: bool

    def check(self) -> None:
        """Raise `UserError` for a number outside its range, or a file that cannot be written."""
        for name in ("max_usd_per_1000", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} must be a positive number, but got {value:g}", remedy=f"write {option} 2.5")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise UserError(f"--min-score must be a number, but got {self.min_score:g}", remedy="write --min-score 0.8")
        if self.out is not None:
            check_writable(self.out)


def answer_what_if(options: WhatIfOptions, settings: Sequence[str], console: Console) -> None:
    """`agentopt whatif`: prints what the run would choose, and writes the candidate if a file is given."""
    options.check()
    run = RunFolder.open(run_path(options.run, settings))
    if run.task is None:
        rule = "the task of this run was built in Python"
        raise ConfigError(rule, where=run.path, remedy="call agentopt.runs.whatif.what_if with the task")
    config = load_config(settings, run.config)
    task, specs = load(run.task, config, agent=False)
    run = replace(run, config=run.config.with_places_of(config.absolute()))
    names = None if options.models is None else tuple(name.strip() for name in options.models.split(","))
    for name in names or ():
        if name not in task.models:
            raise UserError(f"the task has no model {name!r}", remedy=did_you_mean(name, task.models))
    question = Question(
        None if options.max_usd_per_1000 is None else options.max_usd_per_1000 / 1000,
        options.max_seconds,
        options.min_score,
        None if options.prices is None else read_prices(options.prices, specs),
        names,
    )
    found = what_if(run, task, specs, question)
    if options.out and found.chosen:
        write_output(options.out, to_yaml(found.chosen.candidate.to_dict()))
    if options.as_json:
        print_json(found)
        return
    for line in _lines(found, question, run):
        print_plain(console, line)


def _lines(found: WhatIf, question: Question, run: RunFolder) -> Iterator[str]:
    if found.chosen:
        yield f"chosen: {_described(found.chosen, found)}"
        if found.best and found.best != found.chosen:
            yield f"best:   {_described(found.best, found)}"
    else:
        yield f"chosen: none, because {_reason(found, question)}"
        if found.nearest:
            yield f"nearest to the limits: {_described(found.nearest, found)}"
    change = "the same" if found.before == found.chosen else _described(found.before, found)
    excluded = "" if found.before.is_allowed else ", which the limits or models exclude"
    yield f"the run recommends: {change}{excluded}"
    yield "front, cheapest first:" if found.front else "front: empty"
    for option in found.front:
        yield f"  {_described(option, found)}"
    yield from _unmeasured(found, run)
    options = (*found.front, *found.promising, found.before, *filter(None, (found.chosen, found.best)))
    if any(_is_cascade_of_one(option.candidate) for option in options):
        yield "x1 with cascade.below: the big model answers only if nothing is parsed or the check fails"
    yield "no model was called"


def _unmeasured(found: WhatIf, run: RunFolder) -> Iterator[str]:
    if found.chosen and not _is_tested(found.chosen, run):
        file = shlex.quote(str(run.path / "chosen.yaml"))
        yield f"not measured: the chosen candidate on the test split; --out {file}, then `agentopt gate {file}` does it"
    if found.unpriced:
        numbers = ", ".join(map(str, found.unpriced))
        reason = "whose cascades an earlier version recorded as one sum of two models"
        yield f"no cost at the new prices, so not chosen: trials {numbers}, {reason}"
    if not found.promising:
        yield "every candidate within the limits was measured" if found.front else "no candidate is within the limits"
        return
    number = "many candidates" if found.untried is None else counted(found.untried, "candidate")
    yield f"not measured in full: {number} within the limits; the most promising, with predicted costs:"
    for option in found.promising:
        stopped = "" if option.trial is None else " | stopped early"
        yield f"  {_described(option, found)}{stopped}{to_measure(option, found)}"


def to_measure(option: Option, found: WhatIf) -> str:
    """What a full measurement of a candidate would cost, as the end of its line; nothing if no cost is known.

    Args:
        option: The candidate, one of `found.promising`.
        found: The answer that it is part of.
    """
    if option.to_call == 0:
        return "; measuring it costs 0 USD: the journal has all of its responses"
    if option.usd is None:
        return ""
    rows = found.rows if option.to_call is None else option.to_call
    known = "" if rows == found.rows else f": the journal has those of {found.rows - rows} of {found.rows} rows"
    return f"; measuring it takes about {format_usd(rows * option.usd)} USD{known}"


def _is_cascade_of_one(candidate: Candidate) -> bool:
    return any(choice.num_samples == 1 and CASCADE in dict(choice.settings) for choice in candidate.values())


def _is_tested(option: Option, run: RunFolder) -> bool:
    if not (run.path / "result.json").exists():
        return False
    finalists = load_result(run.path).finalists
    return any(finalist.candidate == option.candidate and finalist.test for finalist in finalists)


def _reason(found: WhatIf, question: Question) -> str:
    if found.best is None:
        return "no complete trial has only these models and costs within the limits"
    return f"no trial within the limits has a score of {question.min_score:g}; the highest is {found.best.score:.3f}"


def _described(option: Option, found: WhatIf) -> str:
    parts = [str(option.candidate)]
    if option.trial is not None:
        parts.append(f"trial {option.trial}")
    if option.score is not None:
        parts.append(f"score {option.score:.3f}")
    if option.usd is not None:
        parts.append(f"{format_usd(1000 * option.usd)} USD per 1,000")
    if option.seconds is not None:
        parts.append(f"{option.seconds:.2f} s mean latency")
    if found.cost_in == "units":
        parts.append(f"{option.cost:.2f} units")
    return " | ".join(parts)
