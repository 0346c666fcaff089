"""Writes the file of a batch: in memory, or on disk if it is large."""

from __future__ import annotations

import hashlib
import tempfile
from typing import IO

from agentopt.models.batch_provider import BatchProvider, Entry

IN_MEMORY = 8 << 20
"""Bytes of a batch's file up to which it is not written to disk."""


class BatchFile:
    """The file of a batch while it is written.

    Args:
        provider: Its provider.
        label: The batch's label, which ends with the number of the batch.

    Attributes:
        label: The batch's label, which ends with the number of the batch.
        ids: The caller's ids of its requests.
        headers: Headers that its entries need; values of several entries are joined by commas.
    """

    def __init__(self, provider: BatchProvider, label: str) -> None:
        self.label, self.ids, self.headers = label, list[str](), dict[str, str]()
        self._provider = provider
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed by `close`
        self._size = 0

    @property
    def next_label(self) -> str:
        """The label of the model's next batch."""
        head, _, number = self.label.rpartition("-")
        return f"{head}-{int(number) + 1}"

    @property
    def custom_ids(self) -> frozenset[str]:
        """The ids of its requests at the provider."""
        return frozenset(custom_id(self.label, id_) for id_ in self.ids)

    def has_room(self, entry: Entry) -> bool:
        """Return whether the entry fits; the first one always does."""
        is_small = self._size + len(entry.content) + 64 <= self._provider.most_bytes
        return not self.ids or (is_small and len(self.ids) < self._provider.most_requests)

    def add(self, id_: str, entry: Entry) -> None:
        """Add the entry of the request `id_`."""
        begin, between, _ = self._provider.parts
        content = (between if self.ids else begin) + entry.content
        self._file.write(content)
        self._size += len(content)
        self.ids.append(id_)
        for name, value in entry.headers.items():
            known = self.headers.get(name, "").split(",")
            new = [part for part in value.split(",") if part not in known]
            self.headers[name] = ",".join([*filter(None, known), *new])

    def ended(self) -> IO[bytes]:
        """Write the end of the file, and return it."""
        self._file.write(self._provider.parts[2])
        return self._file

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


def custom_id(label: str, id_: str) -> str:
    """Return the id of a request at the provider, which accepts at most 64 letters and digits.

    Args:
        label: Label of its batch.
        id_: The caller's id of the request.
    """
    return hashlib.sha256(f"{label}\n{id_}".encode()).hexdigest()[:32]
