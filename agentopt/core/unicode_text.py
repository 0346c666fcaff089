"""Text that UTF-8 and a database can hold. A model's response may end with half a surrogate pair."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by question marks."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def database_text(text: str) -> str:
    """Replace lone surrogates and the null character, which databases refuse."""
    return well_formed(text).replace("\0", "\ufffd")
