"""A job's champions on disk: the current one, and an archive of all, by number.

`<data folder>/jobs/<job>/champion.yaml` is the current candidate. It is replaced atomically, so a reader sees the old
champion or the new one. Beside it, `champions/0001.yaml` and so on archive each champion, and `0001.json` its record.
`champion.yaml` is authoritative: its number is that of the last archived champion with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from agentopt.core.candidate import Candidate, load_candidate
from agentopt.core.errors import CandidateError, UserError
from agentopt.core.files import private_folder, write_atomically
from agentopt.core.task import Example
from agentopt.core.yaml_models import Strict
from agentopt.core.yaml_text import to_yaml
from agentopt.jobs.store import data_folder

FILE = "champion.yaml"


def _is_time(text: str) -> str:
    """Check an ISO 8601 time, which may be empty."""
    if text:
        datetime.fromisoformat(text)
    return text


class ChampionRecord(Strict):
    """How a candidate became champion.

    Attributes:
        number: Number of the champion, from 1.
        time: ISO 8601 time of the promotion; empty if unknown.
        run: Id of the run that promoted it; empty if none did.
        reason: The finding of the promotion rule, or another reason.
        anchor: Number of the last champion that was promoted for being better; may be its own.
        won: Whether a promotion rule chose it.
        scores: Example id of the test split -> (digest of the example, score), at the time of the promotion.
    """

    number: int
    time: Annotated[str, AfterValidator(_is_time)]
    run: str
    reason: str
    anchor: int
    won: bool = False
    scores: dict[str, tuple[str, float]] = Field(default_factory=dict)

    @property
    def by_row(self) -> dict[str, float]:
        """Row key (digest of the example) -> recorded score."""
        return dict(self.scores.values())


@dataclass(frozen=True, slots=True)
class Champion:
    """A champion: its candidate and its record."""

    candidate: Candidate
    record: ChampionRecord

    @property
    def number(self) -> int:
        return self.record.number


def digest(example: Example) -> str:
    """A hash of the example's inputs, target and metadata."""
    whole = json.dumps([dict(example.inputs), example.target, dict(example.metadata)], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


class Champions:
    """The champions of one job. One process at a time may promote; any number may read `file`.

    Args:
        folder: The job's folder in the data folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / FILE
        self._kept = folder / "champions"

    def current(self) -> Champion | None:
        """The current champion; None before the first.

        A file that was written by hand is archived under a new number.

        Raises:
            CandidateError: The file holds no candidate.
        """
        if not self.file.exists():
            return None
        content = self.file.read_bytes()
        number = next((n for n in reversed(self.numbers()) if self._path(n).read_bytes() == content), None)
        if number is not None:
            return self.get(number)
        self._check_file()
        number = self._next()
        return self._keep(content, _record(number, "", "found in the champion's file", number, {}))

    def _check_file(self) -> None:
        """Raise `CandidateError` if the file holds no candidate."""
        try:
            load_candidate(self.file)
        except CandidateError as error:
            *_, last = (0, *self.numbers())
            remedy = f"`agentopt jobs rollback {self.folder.name} {last}` restores champion {last}"
            if not last:
                remedy = "fix the file, or remove it: the next run makes a first champion"
            raise CandidateError(error.message, where=error.where, remedy=remedy) from error

    def numbers(self) -> list[int]:
        """The numbers of all champions, oldest first."""
        return sorted(int(path.stem) for path in self._kept.glob("*.yaml") if path.stem.isdigit())

    def get(self, number: int) -> Champion:
        """The champion of a number. Raises `UserError` for an unknown number."""
        path = self._path(number)
        if not path.exists():
            known = ", ".join(map(str, self.numbers()))
            remedy = f"known: {known}" if known else "run the job: its first run that ends makes champion 1"
            raise UserError(f"there is no champion {number}", where=self.folder, remedy=remedy)
        return Champion(load_candidate(path), _read_record(path.with_suffix(".json"), number))

    def promote(
        self,
        candidate: Candidate,
        *,
        time: str,
        run: str,
        reason: str,
        won: bool = False,
        anchor: int | None = None,
        scores: Mapping[str, tuple[str, float]] | None = None,
    ) -> Champion:
        """Make a candidate the champion: archive it under the next number, then replace the file.

        Args:
            candidate: The new champion.
            time: ISO 8601 time.
            run: Id of the run. If a kill stopped a promotion of the same run before the file was replaced, its number
                is reused.
            reason: Why it is promoted, for people.
            won: Whether a promotion rule chose it.
            anchor: Number of its anchor; None for its own.
            scores: Example id -> (digest, score) on the test split.
        """
        content = to_yaml(candidate.to_dict()).encode()
        number = self._number_for(content, run)
        kept = self._keep(content, _record(number, run, reason, anchor or number, dict(scores or {}), time, won))
        write_atomically(self.file, content)
        return kept

    def rollback(self, number: int | None = None) -> Champion:
        """Restore an earlier champion's file, byte for byte.

        Args:
            number: Which one; the one before the current unless given.

        Raises:
            UserError: There is no such champion.
        """
        current = None
        # A file that was written by hand is archived first. A broken one is no obstacle to a rollback.
        with nullcontext() if number is None else suppress(UserError):
            current = self.current()
        if number is None:
            earlier = [n for n in self.numbers() if current and n < current.number]
            if not earlier:
                raise UserError("there is no earlier champion", where=self.folder, remedy="see `agentopt jobs show`")
            number = earlier[-1]
        champion = self.get(number)
        write_atomically(self.file, self._path(number).read_bytes())
        return champion

    def _keep(self, content: bytes, record: ChampionRecord) -> Champion:
        private_folder(self._kept)
        path = self._path(record.number)
        write_atomically(path.with_suffix(".json"), record.model_dump_json(indent=2).encode() + b"\n")
        write_atomically(path, content)
        return Champion(load_candidate(path), record)

    def _number_for(self, content: bytes, run: str) -> int:
        """The next number, or the last one if a kill stopped this same promotion before the file was replaced."""
        last = max(self.numbers(), default=0)
        if last and self._path(last).read_bytes() == content and self.get(last).record.run == run:
            return last
        return last + 1

    def _next(self) -> int:
        return max(self.numbers(), default=0) + 1

    def _path(self, number: int) -> Path:
        return self._kept / f"{number:04d}.yaml"


def champions_of(job: str, data: Path | None = None) -> Champions:
    """The champions of a job in the data folder `data`, by default `data_folder()`."""
    return Champions((data or data_folder()) / "jobs" / job)


def _read_record(file: Path, number: int) -> ChampionRecord:
    """The record in a file; without it, or if it is damaged, that of a champion of which nothing else is known."""
    unknown = "unknown"
    if file.exists():
        try:
            return ChampionRecord.model_validate_json(file.read_bytes())
        except (OSError, ValueError):
            unknown = f"unknown: the record {file.name} is damaged"
    return _record(number, "", unknown, number, {})


def _record(
    number: int,
    run: str,
    reason: str,
    anchor: int,
    scores: dict[str, tuple[str, float]],
    time: str = "",
    won: bool = False,
) -> ChampionRecord:
    return ChampionRecord(number=number, time=time, run=run, reason=reason, anchor=anchor, won=won, scores=scores)
