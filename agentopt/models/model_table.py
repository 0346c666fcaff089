"""Prices, context lengths and abilities of hosted models, from the table bundled with litellm.

The table is read as a file: importing litellm takes seconds. Nothing is fetched.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TABLE_FILE = "model_prices_and_context_window_backup.json"
MODES = ("chat", "completion", "responses")
"""Modes of the models that answer text; the table also has embeddings, images and audio."""
PROVIDER_OF_HOST = {
    "googleapis": "gemini",
    "x": "xai",
    "z": "zai",
    "together": "together_ai",
    "fireworks": "fireworks_ai",
}
"""Label of a host name -> the table's provider, for those whose label differs."""


@cache
def model_table() -> Mapping[str, Mapping[str, Any]]:
    """Return the table: model string -> fields, for models that answer text. Empty if litellm has none."""
    found = importlib.util.find_spec("litellm")
    if found is None or found.origin is None:
        return {}
    try:
        table = json.loads(Path(found.origin).with_name(TABLE_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: entry for name, entry in table.items() if isinstance(entry, dict) and entry.get("mode") in MODES}


def find_entry(name: str, *, base_url: str | None = None) -> tuple[str, Mapping[str, Any]] | None:
    """Find a model in the table.

    Args:
        name: A litellm model string such as `openai/gpt-5-mini`, or a model's name at `base_url`.
        base_url: The endpoint; a provider's host name is matched to the table's prefixes.

    Returns:
        The table's key and fields; None if the model is not in it.
    """
    table = model_table()
    for key in _keys(name, base_url):
        if key in table:
            return key, table[key]
    return None


MAKERS = ("openai", "anthropic", "gemini", "mistral", "deepseek", "xai", "cohere")
"""Providers that serve models of their own."""


def search_table(word: str) -> tuple[list[str], list[str]]:
    """Find models by a word of their names, ignoring case.

    Returns:
        The model strings that contain `word` as a part of its own (`mini` in `gpt-5-mini`), and those that contain it
        within a longer word only (`gemini`). Each list is sorted: the models of `MAKERS`, others, then those that need
        a fine-tune of your own (`ft:`).
    """
    names = {_model_string(name, entry) for name, entry in model_table().items()}
    found = sorted(
        (name for name in names if word.lower() in name.lower()),
        key=lambda name: ("ft:" in name, name.partition("/")[0] not in MAKERS, name),
    )
    part = _as_part(word)
    return [name for name in found if part.search(name)], [name for name in found if not part.search(name)]


def close_models(word: str) -> list[str]:
    """Find up to three models whose name, without its provider, `word` misspells; of equal names, the maker's.

    Args:
        word: A name, such as `gpt-5-mni`.
    """
    found = [name for names in search_table("") for name in names]
    models = {name.rpartition("/")[2]: name for name in reversed(found)}
    return [models[name] for name in get_close_matches(word.rpartition("/")[2].lower(), models, 3, 0.8)]


def similar_model(model: str) -> str | None:
    """Return the model string of the same provider that `model` misspells; None if there is none.

    Args:
        model: `PROVIDER/MODEL`. A name with other digits is that of another version, not its misspelling.
    """
    prefix, _, rest = model.partition("/")
    names = {_model_string(name, entry) for name, entry in model_table().items()}
    same = [name.removeprefix(f"{prefix}/") for name in sorted(names) if name.startswith(f"{prefix}/")]
    digits = re.sub(r"\D", "", rest)
    close = get_close_matches(rest, [name for name in same if re.sub(r"\D", "", name) == digits], 1, 0.8)
    return f"{prefix}/{close[0]}" if close else None


def _as_part(word: str) -> re.Pattern[str]:
    """A pattern that matches `word` if its letters, or digits, do not continue on either side."""
    before, after = ("[a-z]" if end.isalpha() else "[0-9]" if end.isdigit() else "$^" for end in (word[:1], word[-1:]))
    return re.compile(f"(?<!{before}){re.escape(word)}(?!{after})", re.IGNORECASE)


def table_defaults(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a table entry to fields of `ModelSpec`: prices, context length and abilities."""
    prices = {
        "usd_per_1m_prompt": entry.get("input_cost_per_token"),
        "usd_per_1m_completion": entry.get("output_cost_per_token"),
        "usd_per_1m_cached_prompt": entry.get("cache_read_input_token_cost"),
        "usd_per_1m_reasoning": entry.get("output_cost_per_reasoning_token"),
    }
    fields: dict[str, Any] = {
        key: round(usd * 1e6, 9) for key, usd in prices.items() if isinstance(usd, int | float) and usd >= 0
    }
    if _is_number(per_request := entry.get("input_cost_per_request")):
        fields["usd_per_request"] = per_request
    if isinstance(context := entry.get("max_input_tokens") or entry.get("max_tokens"), int) and context > 0:
        fields["context_length"] = context
    fields["supports"] = _abilities(entry)
    if entry.get("mode") == "responses":
        fields["api"] = "responses"
    if _is_openai_reasoning(entry):
        fields["max_tokens_parameter"] = "max_completion_tokens"
    return fields


def batch_share(entry: Mapping[str, Any]) -> float | None:
    """Return the price of batched calls as a share of direct ones: of prompts or completions, whichever is larger."""
    shares: list[float] = []
    for name in ("input_cost_per_token", "output_cost_per_token"):
        direct, batched = entry.get(name), entry.get(f"{name}_batches")
        if not isinstance(direct, int | float) or not isinstance(batched, int | float) or not 0 < batched <= direct:
            return None
        shares.append(batched / direct)
    return round(max(shares), 6)


def _keys(name: str, base_url: str | None) -> Iterator[str]:
    if base_url:
        host = urlsplit(base_url if "//" in base_url else f"//{base_url}").hostname or ""
        for label in host.split("."):
            yield f"{PROVIDER_OF_HOST.get(label, label)}/{name}"
    yield name
    provider, _, rest = name.partition("/")
    # The table has the models of the big providers without a prefix, and litellm also accepts them with it.
    if rest and model_table().get(rest, {}).get("litellm_provider") == provider:
        yield rest


def _model_string(name: str, entry: Mapping[str, Any]) -> str:
    provider = str(entry.get("litellm_provider", ""))
    return f"{provider}/{name}" if provider in ("openai", "anthropic") and "/" not in name else name


def _abilities(entry: Mapping[str, Any]) -> dict[str, bool]:
    """What the table knows to be taken or refused; the rest stays open."""
    known = {
        "json_schema": entry.get("supports_response_schema"),
        "system_role": entry.get("supports_system_messages"),
        "tools": entry.get("supports_function_calling"),
        # That a model of the table does not reason is rarely recorded, so only a positive entry counts.
        "reasoning_effort": entry.get("supports_reasoning") or None,
    }
    abilities = {name: value for name, value in known.items() if isinstance(value, bool)}
    if _is_openai_reasoning(entry):
        abilities |= dict.fromkeys(("temperature", "top_p", "seed", "stop"), False)
    elif entry.get("supports_sampling_params") is False:
        abilities |= dict.fromkeys(("temperature", "top_p"), False)
    if "anthropic" in str(entry.get("litellm_provider")):
        abilities |= {"seed": False, "n": False}
    return abilities


def _is_openai_reasoning(entry: Mapping[str, Any]) -> bool:
    return entry.get("supports_reasoning") is True and entry.get("litellm_provider") in ("openai", "azure")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
