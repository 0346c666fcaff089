"""The settings of a run.

Read from YAML files and `key=value` settings; later ones win. Unknown keys are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agentopt.core.budget import Caps
from agentopt.core.database import names_no_file
from agentopt.core.errors import ConfigError
from agentopt.core.paths import as_path
from agentopt.core.records import FailedExamples
from agentopt.core.registry import STRATEGIES
from agentopt.core.yaml_models import (
    Form,
    NotNegative,
    Positive,
    RuleError,
    Strict,
    Text,
    as_error,
    broken_rule,
    shown,
    validate,
)
from agentopt.core.yaml_text import load_yaml, parse_yaml
from agentopt.models.catalog import ModelSpec
from agentopt.prompts.settings import PromptSettings
from agentopt.search.settings import AgentSettings, SearchSettings
from agentopt.taskfile.hub import HUB
from agentopt.taskfile.reader import FILE_OPTION
from agentopt.taskfile.schema import TaskSpec


class BudgetConfig(Strict):
    """Caps on the whole run: search, agent, judges and the final test together."""

    usd: Annotated[float, Field(ge=0)] | None = None
    """US dollars, by the catalogue's prices."""
    tokens: Annotated[int, Field(ge=0)] | None = None
    """Prompt and completion tokens together."""
    calls: Annotated[int, Field(ge=0)] | None = None
    """Requests sent, retries included."""
    seconds: Annotated[float, Field(ge=0)] | None = None
    """Wall time."""
    trials: Annotated[int, Field(ge=1)] = 20
    """Candidates evaluated, the baseline included."""

    def caps(self) -> Caps:
        """The caps, for a `Budget`."""
        return Caps(self.usd, self.tokens, self.calls, self.seconds, self.trials)


RECORDED = "recorded"
"""Validation context of the settings of a run: its strategy is not looked up, because only its search needs it."""


def _registered(name: str, info: ValidationInfo) -> str:
    if info.context != RECORDED:
        STRATEGIES.find(name)
    return name


class RaySettings(Strict):
    """What each worker of `engine: ray` takes of the cluster. Ray starts it on a node that has as much free."""

    num_cpus: NotNegative = 1.0
    """CPUs. Workers that wait for hosted models use little of one, such as 0.1."""
    num_gpus: NotNegative = 0.0
    """GPUs."""
    resources: dict[Text, Positive] = Field(default_factory=dict)
    """Further resources of nodes by name, such as `{gguf: 1}` for nodes that have the file of a local model: they are
    started with `ray start --resources '{"gguf": 1}'`."""
    start_seconds: Positive = 300.0
    """Seconds that the cluster has to start the first worker, as one that adds nodes needs."""

    @field_validator("num_cpus", "num_gpus", "resources")
    @classmethod
    def _whole_above_one(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        for amount in value.values() if isinstance(value, dict) else [value]:
            if amount > 1 and amount % 1:
                rule = f"amounts of a resource above 1 must be whole, as Ray requires, but got {shown(amount)}"
                raise broken_rule(rule, f"write {math.ceil(amount)}")
        return value

    @field_validator("resources")
    @classmethod
    def _has_no_own_setting(cls, value: dict[str, float]) -> dict[str, float]:
        for name, setting in {"CPU": "num_cpus", "GPU": "num_gpus"}.items():
            if name in value:
                raise broken_rule(f"{name} is no name of a further resource", f"set ray.{setting}")
        return value


BatchUse = Literal["trials", "tests", "jobs"]
"""Evaluations that can go through the batch interfaces of their models."""


class Config(Strict):
    """Settings of a run; the task is given apart."""

    strategy: Annotated[str, AfterValidator(_registered)] = "agent"
    """Who proposes candidates: a registered strategy, or one to import, as `package.module:name`. `agent`, `agent_hpo`,
    `llm_zero_shot` and `mlcopilot` call `agent.model`, and fall back on `optuna` if its reply is unusable."""
    seed: int = 0
    """Seeds the search and the intervals."""
    response_seed: int = 0
    """Part of every request's cache key, and seeds the order of the examples: another value draws other responses."""
    failed_examples: FailedExamples = "leave_out"
    """What becomes of an example if a model call on it fails for a reason that lies in the example (a content filter,
    the context length): `leave_out` of the comparison of all candidates, score it `zero`, or `fail`: the trial is
    incomplete. More than a tenth of a split left out ends the run."""
    budget: BudgetConfig = BudgetConfig()
    search: SearchSettings = SearchSettings()
    agent: AgentSettings = AgentSettings()
    prompts: PromptSettings = PromptSettings()
    models: tuple[Path | ModelSpec, ...] = ()
    """Further catalogue entries: files or, in Python, `ModelSpec` objects; a list of them, or one alone. A mapping of
    names to `ModelSpec` is accepted too. Later entries win by name."""
    batch: Annotated[
        tuple[BatchUse, ...], Form("true, or some of trials, tests and jobs, such as [trials, tests]")
    ] = ()
    """Which evaluations go through the batch interfaces of their models, at the price of batches and within a day:
    `true` for all of `trials` of the search, `tests` of its finalists and of `evaluate`, and the `jobs`' own
    measurements; or a list of them. Models without `batch` in their catalogue entry, judges, agents, prompt
    optimisation and programs are called directly."""
    storage: str | None = None
    """SQLAlchemy URL or path of a database for the trials, the state of the search and the files of runs, and for the
    journal unless `journal` is given: runs can then be listed, read and resumed from other folders and machines. Unless
    given, they are in the run's folder."""
    journal: str | None = None
    """SQLAlchemy URL or path of the journal; the storage, or the user's cache folder, unless given."""
    engine: Literal["local", "processes", "ray"] = "local"
    """What evaluates the examples of the search and of the test: this process (`local`), or `workers` processes of this
    machine (`processes`) or of a Ray cluster (`ray`) that share the journal, the caps and the rate limits. `agentopt
    worker` adds workers by hand, also on other machines. Batches, prompt optimisation and the search agent stay in this
    process."""
    workers: Annotated[int, Field(ge=1, le=1000)] = 2
    """Number of workers that `engine` starts."""
    ray: RaySettings = RaySettings()
    runs: Path = Path("runs")
    """Folder in which run folders are created."""
    task: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys of the task file and what they are set to, such as `task.data.limit.test=20`."""

    @field_validator("models", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        if isinstance(value, str | Path | ModelSpec):
            value = [value]
        if isinstance(value, Mapping) and all(isinstance(spec, ModelSpec) for spec in value.values()):
            renamed = [(name, spec.name) for name, spec in value.items() if name != spec.name]
            if renamed:
                rule = f"the key of a ModelSpec must be its name, but {renamed[0][0]!r} is the key of {renamed[0][1]!r}"
                raise broken_rule(rule, "use the name as the key, or pass a list of ModelSpecs")
            value = list(value.values())
        for entry in value if isinstance(value, list | tuple) else ():
            if isinstance(entry, str) and not Path(entry).suffix and Path(entry).name == entry:
                rule = f"must be catalogue files or ModelSpecs, but got {shown(entry)}, which is not the name of a file"
                raise broken_rule(rule, "write it as FILE.yaml, or ./FILE; a subtask's `models` choose among the names")
        return value

    @field_validator("batch", mode="before")
    @classmethod
    def _uses(cls, value: object) -> object:
        if isinstance(value, bool):
            return get_args(BatchUse) if value else ()
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _with_journal(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("storage") and data.get("journal") is None:
            return {**data, "journal": data["storage"]}
        return data

    @model_validator(mode="after")
    def _in_files(self) -> Self:
        for name, place in (("storage", self.storage), ("journal", self.journal)):
            if place and names_no_file(place):
                rule = f"the URL of the {name} names no file, so it would be lost at the end, but got {shown(place)}"
                raise broken_rule(rule, "add a path: sqlite:///PATH")
        return self

    @model_validator(mode="after")
    def _has_experience_if_needed(self) -> Self:
        if self.strategy == "mlcopilot" and self.agent.experience is None:
            raise PydanticCustomError(
                "experience",
                "strategy mlcopilot needs agent.experience: it is shown trials of a similar task",
                {"remedy": "set agent.experience to the folder of a finished run"},
            )
        return self

    @property
    def calls_model(self) -> bool:
        """Whether the strategy calls `agent.model` for its proposals. Raises `ConfigError` if it cannot be loaded."""
        try:
            return bool(STRATEGIES.find(self.strategy).traits.get("calls_model"))
        except RuleError as error:  # the plugin that the run was started with is not installed
            raise as_error(error.mistakes, "strategy", ConfigError) from error

    @property
    def writer(self) -> str | None:
        """Catalogue name of the model that writes prompts; None leaves them to the authored fragments.

        The agent's model writes prompts only for strategies that load it.
        """
        if self.prompts.when == "never" or self.prompts.proposer == "components":
            return None
        return self.prompts.model or (self.agent.model if self.calls_model else None) or None

    def absolute(self, base: Path | None = None) -> Self:
        """A copy whose paths are absolute, relative ones taken from `base` (the working directory unless given)."""
        base, experience = base or Path.cwd(), self.agent.experience
        changes = {
            **{
                name: str(base / place) if place and "://" not in place else place
                for name, place in (("storage", self.storage), ("journal", self.journal))
            },
            "models": tuple(entry if isinstance(entry, ModelSpec) else base / entry for entry in self.models),
            "runs": base / self.runs,
            "agent": self.agent.model_copy(update={"experience": experience and base / experience}),
        }
        return self.model_copy(update=changes)

    def with_places_of(self, other: Config) -> Self:
        """A copy with the databases of `other`, whose URLs may have the passwords that a run's folder does not keep."""
        return self.model_copy(update={"storage": other.storage, "journal": other.journal})

    def purpose_caps(self) -> dict[str, Caps]:
        """Caps on the agent's and the prompt writer's own calls, within the caps of the run."""
        return {
            "agent": Caps(usd=self.agent.max_usd, calls=self.agent.max_calls),
            "prompts": Caps(usd=self.prompts.max_usd, calls=self.prompts.max_calls),
        }


def load_config(sources: Iterable[str | Path] | str | Path = (), base: Config | None = None) -> Config:
    """Load a configuration.

    Args:
        sources: Files and `key.path=value` settings, in order; later ones win. A single one needs no list.
        base: What they are applied to. Default: the defaults.

    Raises:
        ConfigError: A file cannot be read, a key is unknown, or a value is of the wrong type.
    """
    if isinstance(sources, str | PathLike):
        sources = [sources]
    if not isinstance(sources, Iterable) or not isinstance(base, Config | None):
        rule = f"files and a base of the type Config are expected, but got {shown(sources)} and {shown(base)}"
        raise ConfigError(rule, remedy='write load_config(["config.yaml", "seed=3"], base=Config())')
    merged: dict[str, Any] = base.model_dump(mode="json") if base else {}
    if merged.get("storage") == merged.get("journal"):
        merged.pop("journal", None)  # it follows the storage
    for source in sources:
        a_setting = isinstance(source, str) and "=" in source
        if not a_setting and str(source).partition(".")[0] in Config.model_fields and not Path(source).exists():
            rule = f"a setting must have a value, but got {shown(str(source))}"
            raise ConfigError(rule, remedy=f"write {source}=VALUE, or the path of a YAML file")
        given = _setting(str(source)) if a_setting else _file(as_path(source, ConfigError))
        _check_of_task(given, f"-c {source}" if a_setting else f"{source}")
        _merge(merged, given)
    context = RECORDED if base and merged["strategy"] == base.strategy else None
    return validate(Config, merged, "configuration", ConfigError, context=context)


def _check_of_task(given: Mapping[str, Any], where: str) -> None:
    """Raise `ConfigError` for a key of the task file, which is set under `task`."""
    for key in given:
        if key in TaskSpec.model_fields and key not in Config.model_fields:
            value: Any = given[key]
            while isinstance(value, Mapping) and len(value) == 1:
                ((inner, value),) = value.items()
                key = f"{key}.{inner}"
            rule = f"`{key}` is a key of the task file, which is set under `task`"
            raise ConfigError(rule, where=where, remedy=f"did you mean task.{key}?")


def _file(path: Path) -> dict[str, Any]:
    data = load_yaml(path, ConfigError)
    if data is not None and not isinstance(data, dict):
        raise ConfigError(
            f"a configuration is a mapping, but got {type(data).__name__}",
            where=path,
            remedy="write key: value lines",
        )
    return data or {}


def _setting(text: str) -> dict[str, Any]:
    """`a.b=1` as {"a": {"b": 1}}; the value is parsed as YAML.

    What follows `task.` stays dotted: it reaches into the task file, whose other keys stay as they are. `data` is short
    for `task.data.source`, and `data.x` for `task.data.x`.
    """
    dotted, _, raw = text.partition("=")
    path = dotted.strip().split(".")
    if not all(path):
        rule = f"a setting is KEY=VALUE, and no part of the key is empty, but got {shown(text)}"
        raise ConfigError(rule, remedy="write it like seed=3 or budget.trials=20")
    value = parse_yaml(raw, f"-c {text}", ConfigError)
    if path[0] == "data":
        path = ["task", *(path if len(path) > 1 else ["data", "source"])]
    if path[0] == "task" and len(path) > 1:
        path = ["task", ".".join(path[1:])]
        value = _located(path[1], value)
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def _located(key: str, value: Any) -> Any:
    """Make the path of a dataset, or of a file of a reader, absolute; a relative one is in the working folder."""
    a_file = key == "data.source" or (key.startswith("data.options.") and key.endswith(FILE_OPTION))
    return str(Path(value).absolute()) if a_file and isinstance(value, str) and not value.startswith(HUB) else value


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
