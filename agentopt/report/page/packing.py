"""Packs the traces of trials for the page: each text once, as compressed JSON in base64."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentopt.core.records import Evaluation, ExampleResult, Split
from agentopt.runs.archive import RunArchive
from agentopt.runs.traces import CallTrace, SubtaskTrace, Trace


@dataclass
class TracePack:
    """The results and traces of some trials.

    Attributes:
        texts: Every text once; the rest of the pack refers to its position.
        trials: Trial number -> split -> example id -> its result and its trace.
    """

    texts: dict[str, int] = field(default_factory=dict)
    trials: dict[int, dict[Split, dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, archive: RunArchive, numbers: Iterable[int], traces: Mapping[tuple[int, Split], Mapping[str, Trace]]
    ) -> TracePack:
        """Pack trials with everything that is recorded of their examples.

        Args:
            archive: The run.
            numbers: Numbers of the trials.
            traces: (trial, split) -> example id -> its trace.
        """
        pack = cls()
        for number in numbers:
            trial = archive.trial(number)
            evaluations: dict[Split, Evaluation | None] = {
                "validation": trial.evaluation if trial else None,
                "test": archive.tests.get(number),
            }
            pack.trials[number] = {
                split: {r.id: pack._result(r, traces.get((number, split), {}).get(r.id)) for r in evaluation.results}
                for split, evaluation in evaluations.items()
                if evaluation
            }
        return pack

    def packed(self) -> str:
        """The pack as compressed JSON in base64."""
        data = json.dumps({"texts": list(self.texts), "trials": self.trials}, separators=(",", ":"))
        return base64.b64encode(gzip.compress(data.encode(), 6, mtime=0)).decode()

    def _text(self, text: str | None) -> int | None:
        return None if text is None else self.texts.setdefault(text, len(self.texts))

    def _result(self, result: ExampleResult, trace: Trace | None) -> dict[str, Any]:
        uses = result.subtasks.values()
        return {
            "score": result.score,
            "output": self._text(result.output),
            "feedback": self._text(result.feedback),
            "error": self._text(result.error),
            "tokens": sum(use.prompt_tokens + use.completion_tokens + use.fusion_tokens for use in uses),
            "usd": sum(use.usd + use.fusion_usd for use in uses),
            "seconds": result.seconds,
            "subtasks": None if trace is None else [self._subtask(subtask, result) for subtask in trace],
        }

    def _subtask(self, trace: SubtaskTrace, result: ExampleResult) -> dict[str, Any]:
        use = result.subtasks.get(trace.subtask)
        return {
            "name": trace.subtask,
            "value": self._text(trace.value),
            "note": self._text(trace.note),
            "tokens": use.prompt_tokens + use.completion_tokens + use.fusion_tokens if use else None,
            "usd": use.usd + use.fusion_usd if use else None,
            "seconds": use.seconds if use else None,
            "calls": [self._call(call) for call in trace.calls],
        }

    def _call(self, call: CallTrace) -> dict[str, Any]:
        samples = [
            [self._text(s.text), self._text(s.thought), self._text(s.parsed), self._text(s.problem), s.finish_reason,
             s.tokens]
            for s in call.samples
        ]  # fmt: skip
        messages = [[role, self._text(text)] for role, text in call.messages]
        return {"model": call.model, "purpose": call.purpose, "messages": messages, "samples": samples}
