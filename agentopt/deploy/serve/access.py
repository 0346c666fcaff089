"""Authentication: API keys from a file, or without one, only programs on this machine."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from agentopt.core.errors import ApiError, UserError
from agentopt.core.files import other_than_file
from agentopt.deploy.serve.hot_reload import Watched
from agentopt.models.openai_format import wrong_key


def read_keys(path: Path) -> tuple[bytes, ...]:
    """Read API keys, one a line; blank lines and those that start with # are ignored.

    Raises:
        UserError: The file cannot be read or has no key.
    """
    if kind := other_than_file(path):
        raise UserError(f"the API keys must be in a file, but this is {kind}", where=path, remedy="name a file")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        rule = f"the file of API keys cannot be read: {reason.lower()}"
        raise UserError(rule, where=path, remedy="write one key per line into it") from error
    keys = tuple(line.strip().encode() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise UserError("the file of API keys has no key", where=path, remedy="write one key per line into it")
    return keys


_log = logging.getLogger(__name__)


class Access:
    """Checks each request.

    Args:
        keys: Returns the valid keys; None if every program on this machine is allowed.
    """

    def __init__(self, keys: Callable[[], tuple[bytes, ...]] | None) -> None:
        self._keys = keys

    @classmethod
    def by_file(cls, path: Path | None, key: str | None = None) -> Access:
        """Access with the keys in a file, which is read again when it changes.

        Args:
            path: The file; None for one key, or for access without keys.
            key: The only key, if there is no file; None for access without keys.

        Raises:
            UserError: The file has no key. If that happens later, no key is valid.
        """
        if path is None:
            only = () if key is None else (key.encode(),)
            return cls((lambda: only) if only else None)
        read_keys(path)
        return cls(Watched(path, _keys_or_none))

    @property
    def has_keys(self) -> bool:
        """Whether any request can be answered: a key is valid, or none is needed."""
        return self._keys is None or bool(self._keys())

    def check(self, authorization: str, host: str, origin: str) -> str:
        """Return what identifies the caller. The arguments are the headers of these names.

        Args:
            authorization: The header `Authorization`.
            host: The header `Host`.
            origin: The header `Origin`; empty if there is none.

        Raises:
            ApiError: The request may not be answered.
        """
        if self._keys is None:
            self._check_local(host, origin)
            return ""
        scheme, _, key = authorization.partition(" ")
        digest = _digest(key.strip().encode("latin-1", "replace"))  # headers are read as Latin-1
        # Every key is compared, in constant time, so that the response time reveals nothing. Digests have one length.
        matches = [hmac.compare_digest(digest, _digest(known)) for known in self._keys()]
        if scheme.lower() != "bearer" or not any(matches):
            raise wrong_key()
        return digest.hex()

    def _check_local(self, host: str, origin: str) -> None:
        """Reject web pages in a browser on this machine, which can send requests here too."""
        came_from = _host_in(origin) if origin else "localhost"
        if not (is_loopback(_host_in(f"//{host}")) and is_loopback(came_from)):
            message = "without API keys only programs on this machine are served; start serve with --api-key-file"
            raise ApiError(403, message, type="permission_error", code="not_local")


def _keys_or_none(path: Path) -> tuple[bytes, ...]:
    """The keys in a file. One that is emptied or deleted while the server runs has none: a key in it was revoked."""
    try:
        return read_keys(path)
    except UserError as error:
        _log.warning("no API key is valid, so all calls are refused: %s", error)
        return ()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _host_in(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # such as an incomplete IPv6 address
        return ""


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
