"""Writes a catalogue entry for a hosted model, from its name alone."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from platformdirs import user_config_path

from agentopt.core.errors import CatalogError
from agentopt.core.files import check_writable, write_output
from agentopt.core.yaml_text import to_yaml, without_key
from agentopt.models.catalog import PROJECT_FILE, ModelSpec, read_catalog
from agentopt.models.model_table import find_entry, search_table, similar_model, table_defaults
from agentopt.models.providers import PROVIDERS, Provider, name_of

AZURE_API_VERSION = "2024-10-21"
RULES: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("dashscope", r"qwq|qvq", {"stream": True}),
    ("", r"(^|/)gemma(-?2)?([:-](?![34])|$)", {"system_role": "user"}),
)
"""Provider (empty: any), pattern of the model's name -> fields that the bundled table does not have.

Qwen's QwQ and QVQ only stream, and the chat templates of Gemma 1 and 2 have no system role.
"""


@dataclass(frozen=True, slots=True)
class AddedEntry:
    """An entry that was written.

    Attributes:
        name: Catalogue name.
        file: The catalogue file.
        entry: The fields.
        is_known: Whether the bundled table has the model, so that the entry has prices and abilities.
        similar: The model of the table that the name of an unknown one may misspell; None without one.
    """

    name: str
    file: Path
    entry: dict[str, Any]
    is_known: bool
    similar: str | None = None


def user_catalog(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the file that entries are added to: `configs/models.yaml` if it exists, else that of the config folder."""
    folder = environ.get("AGENTOPT_CONFIG")
    return (
        PROJECT_FILE
        if PROJECT_FILE.is_file()
        else (Path(folder) if folder else user_config_path("agentopt")) / "models.yaml"
    )


def entry_for(
    model: str, *, base_url: str | None = None, api_key_env: str | None = None
) -> tuple[dict[str, Any], bool]:
    """Build the entry of a model.

    Args:
        model: `PROVIDER/MODEL`, such as `openai/gpt-5-mini`; with `base_url` also the model's name there. For Azure,
            the deployment's name.
        base_url: An endpoint to call instead of the provider's: OpenAI-compatible, or with the protocol of a provider
            that is called through litellm; for Azure, the resource.
        api_key_env: The variable of the key; the provider's unless given, if the endpoint is at the provider's host.

    Returns:
        The fields of the entry, and whether the bundled table has the model.

    Raises:
        CatalogError: The provider is unknown, `base_url` is not an address, or the provider's protocol needs a key
            and `api_key_env` names none.
    """
    prefix, _, rest = model.partition("/")
    provider = PROVIDERS.get(prefix)
    if base_url:
        _check_address(base_url)
    found = find_entry(model, base_url=base_url) or (find_entry(rest) if provider and rest else None)
    is_azure = prefix == "azure" and base_url is not None
    if base_url and provider and rest and not provider.base_url and not is_azure:
        entry: dict[str, Any] = {"litellm": model, "base_url": _checked_litellm_address(base_url, model, api_key_env)}
    elif base_url or (provider and provider.base_url and rest):
        address = base_url or (provider.base_url if provider else None)
        entry = {"base_url": address, "model": rest if provider and rest else model}
    elif (provider and rest) or found:
        entry = {"litellm": model}
    else:
        whole, within = search_table(rest or model)
        close = get_close_matches(model, search_table("")[0], 3, 0.5) or (whole or within)[:3]
        raise CatalogError(
            f"no provider is known for the model {model!r}",
            remedy=f"if it is at an endpoint of yours, add it by `agentopt models add {shlex.quote(model or 'NAME')} "
            f"--base-url URL`; otherwise name it PROVIDER/MODEL (providers: {', '.join(PROVIDERS)})"
            + (f"; similar models: {', '.join(close)}" if close else ""),
        )
    if key := api_key_env or (
        provider.api_key_env if provider and (is_azure or not base_url or _same_host(base_url, provider)) else None
    ):
        entry["api_key_env"] = key
    if is_azure:
        entry |= _azure(base_url or "", rest)
    entry |= table_defaults(found[1]) if found else {}
    for of_provider, pattern, fields in RULES:
        if of_provider in ("", prefix) and re.search(pattern, rest or model, re.IGNORECASE):
            entry |= fields
    if provider and provider.is_free:
        entry = {name: value for name, value in entry.items() if not name.startswith("usd_per_")} | {"price": "free"}
    return entry, found is not None


def _check_address(base_url: str) -> None:
    try:
        httpx.URL(base_url), urlsplit(base_url)  # each accepts addresses that the other refuses
    except (httpx.InvalidURL, ValueError) as error:
        rule = f"--base-url must be an address, but got {base_url!r}: {error}"
        raise CatalogError(rule, remedy="write it as https://HOST/PATH") from error


def _same_host(base_url: str, provider: Provider) -> bool:
    """Whether an address may get the provider's key: it is encrypted, and the host is the provider's."""
    if not provider.base_url:
        return False
    given, own = httpx.URL(base_url), httpx.URL(provider.base_url)
    return given.scheme == "https" and (given.host == own.host or given.host.endswith(f".{own.host}"))


def _checked_litellm_address(base_url: str, model: str, api_key_env: str | None) -> str:
    """Refuse an address without a named key, which the protocols of these providers need."""
    if api_key_env:
        return base_url
    variable = PROVIDERS[model.partition("/")[0]].api_key_env
    raise CatalogError(
        f"the key of {model!r} is only sent to {base_url} if its variable is named, but no --api-key-env is given",
        remedy=f"add --api-key-env {variable}, or the variable of that endpoint's key; for an OpenAI-compatible "
        f"endpoint, leave out the prefix: {model.partition('/')[2]}",
    )


def _azure(resource: str, deployment: str) -> dict[str, Any]:
    """How a deployment of Azure is called: its name is part of the address."""
    address = f"{resource.rstrip('/')}/openai/deployments/{deployment}"
    return {"base_url": address, "query": {"api-version": AZURE_API_VERSION}, "api_key_header": "api-key"}


def add_entry(
    model: str,
    *,
    name: str | None = None,
    base_url: str | None = None,
    api_key_env: str | None = None,
    file: Path | None = None,
    replace: bool = False,
) -> AddedEntry:
    """Write the entry of a model to a catalogue file.

    Args:
        model: `PROVIDER/MODEL`, such as `openai/gpt-5-mini`; with `base_url` also the model's name there.
        name: Catalogue name; the last part of `model` unless given.
        base_url: An endpoint to call instead of the provider's; see `entry_for`.
        api_key_env: The variable of the key; the provider's unless given, if the endpoint is at the provider's host.
        file: The catalogue file, created if necessary; that of `user_catalog` unless given.
        replace: Whether an entry of this name is replaced.

    Raises:
        CatalogError: The provider is unknown, the name is taken, or the file has a form that cannot be extended.
        UserError: The file cannot be written.
    """
    name = name or name_of(model)
    file = file or user_catalog()
    check_writable(file, new_folder=True)
    is_taken = file.is_file() and name in read_catalog(file)
    if is_taken and not replace:
        remedy = "replace the entry with --replace, or choose another name with --as"
        raise CatalogError(f"has a model {name!r} already", where=file, remedy=remedy)
    entry, is_known = entry_for(model, base_url=base_url, api_key_env=api_key_env)
    before = file.read_text(encoding="utf-8") if file.is_file() else "models:\n"
    if is_taken:
        before = without_key(before, "models", name)
    block = "".join(f"  {line}\n" for line in to_yaml({name: entry}).splitlines())
    text, count = re.subn(
        r"(?m)^models:[ \t]*(\{\}|null|~)?[ \t]*(#.*)?$\n?", lambda _: f"models:\n{block}", before, count=1
    )
    if not count:
        text = f"{before.rstrip()}\n\nmodels:\n{block}" if "models:" not in before else before
    _check(text, file, ModelSpec(name=name, **entry))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_output(file, text)
    similar = None if is_known or entry.get("price") == "free" else similar_model(model)
    return AddedEntry(name, file, entry, is_known, similar)


def _check(text: str, file: Path, spec: ModelSpec) -> None:
    """Read the text as a catalogue, so that a file is only replaced by one that loads and has the entry."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / file.name
        draft.write_text(text, encoding="utf-8")
        try:
            written = read_catalog(draft).get(spec.name)
        except CatalogError:  # it names the draft
            written = None
        if written != spec:
            raise CatalogError(
                "has a form that an entry cannot be added to",
                where=file,
                remedy="write `models:` on a line of its own, with one entry below the other",
            )
