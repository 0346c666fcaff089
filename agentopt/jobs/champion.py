"""A job's champion on disk: one file that programs read, and every champion there ever was, by number.

`<data folder>/jobs/<job>/champion.yaml` is the candidate in use. It is only ever replaced whole, so a reader sees the
old champion or the new one. Beside it, `champions/0001.yaml` and so on keep each champion, and `0001.json` how it came
to its place. The file in use is the truth: its number is that of the last kept champion with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from agentopt.core.candidate import Candidate, load_candidate
from agentopt.core.errors import CandidateError, UserError
from agentopt.core.files import write_atomically
from agentopt.core.task import Example
from agentopt.core.yaml_models import Strict, to_yaml
from agentopt.jobs.store import data_folder

FILE = "champion.yaml"


class ChampionRecord(Strict):
    """How a champion came to its place.

    `scores` are those of the test split at that time: example id -> (digest of the example, score). `anchor` is the
    number of the last champion that took the place for being better; its own number where it was itself. `won` says
    that it took the place by the promotion rule.
    """

    number: int
    time: str
    run: str
    reason: str
    anchor: int
    won: bool = False
    scores: dict[str, tuple[str, float]] = Field(default_factory=dict)

    def scores_of(self, examples: tuple[Example, ...]) -> dict[str, float]:
        """The recorded scores of those examples that are the same now as they were then."""
        then = self.scores
        return {e.id: then[e.id][1] for e in examples if e.id in then and then[e.id][0] == digest(e)}


@dataclass(frozen=True, slots=True)
class Champion:
    """One champion: the candidate, and how it came to its place."""

    candidate: Candidate
    record: ChampionRecord

    @property
    def number(self) -> int:
        return self.record.number


def digest(example: Example) -> str:
    """Changes when the example does."""
    whole = json.dumps([dict(example.inputs), example.target, dict(example.metadata)], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


class Champions:
    """The champions of one job, in its folder. One process at a time promotes; any number may read the file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / FILE
        self._kept = folder / "champions"

    def current(self) -> Champion | None:
        """The champion in use; None before the first. A file that somebody wrote by hand is kept as a new number."""
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
        """Raises `CandidateError` for a file that no champion can be read from."""
        try:
            load_candidate(self.file)
        except CandidateError as error:
            *_, last = (0, *self.numbers())
            remedy = f"`agentopt jobs rollback {self.folder.name} {last}` puts champion {last} back in its place"
            if not last:
                remedy = "mend the file, or remove it: the next run makes a first champion"
            raise CandidateError(error.message, where=error.where, remedy=remedy) from error

    def numbers(self) -> list[int]:
        """The numbers of all champions, oldest first."""
        return sorted(int(path.stem) for path in self._kept.glob("*.yaml") if path.stem.isdigit())

    def get(self, number: int) -> Champion:
        """Raises `UserError` for a number that there is not."""
        path = self._path(number)
        if not path.exists():
            known = ", ".join(map(str, self.numbers())) or "none"
            raise UserError(f"there is no champion {number}", where=self.folder, remedy=f"known: {known}")
        sidecar = path.with_suffix(".json")
        if not sidecar.exists():  # a file that somebody copied here
            return Champion(load_candidate(path), _record(number, "", "unknown", number, {}))
        return Champion(load_candidate(path), ChampionRecord.model_validate_json(sidecar.read_bytes()))

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
        """Make `candidate` the champion: it is kept under the next number first, then the file is swapped.

        `anchor` None makes it its own anchor.
        """
        content = to_yaml(candidate.to_dict()).encode()
        number = self._number_for(content, run)
        kept = self._keep(content, _record(number, run, reason, anchor or number, dict(scores or {}), time, won))
        write_atomically(self.file, content)
        return kept

    def rollback(self, number: int | None = None) -> Champion:
        """Put an earlier champion back in its place, byte for byte; the one before the current unless given.

        Raises `UserError` when there is no such champion.
        """
        current = None
        # A file that somebody wrote by hand gets its number first. A broken one is what a rollback mends.
        with nullcontext() if number is None else suppress(UserError):
            current = self.current()
        if number is None:
            earlier = [n for n in self.numbers() if current and n < current.number]
            if not earlier:
                raise UserError("there is no earlier champion", where=self.folder, remedy="nothing to go back to")
            number = earlier[-1]
        champion = self.get(number)
        write_atomically(self.file, self._path(number).read_bytes())
        return champion

    def _keep(self, content: bytes, record: ChampionRecord) -> Champion:
        self._kept.mkdir(parents=True, exist_ok=True)
        path = self._path(record.number)
        write_atomically(path.with_suffix(".json"), record.model_dump_json(indent=2).encode() + b"\n")
        write_atomically(path, content)
        return Champion(load_candidate(path), record)

    def _number_for(self, content: bytes, run: str) -> int:
        """The next number; or the last one, where a kill stopped this very promotion before the file was swapped."""
        last = max(self.numbers(), default=0)
        if last and self._path(last).read_bytes() == content and self.get(last).record.run == run:
            return last
        return last + 1

    def _next(self) -> int:
        return max(self.numbers(), default=0) + 1

    def _path(self, number: int) -> Path:
        return self._kept / f"{number:04d}.yaml"


def champions_of(job: str, data: Path | None = None) -> Champions:
    """The champions of a job: in `data`, the data folder unless given."""
    return Champions((data or data_folder()) / "jobs" / job)


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
