"""Semantic similarity of two texts, by an embedding model that ships with its library: no download, no endpoint.

The model is WordLlama's `l2_supercat`: 256 numbers per token, taken from the token table of Llama 2 70B and trained
for retrieval, averaged over the text. The only importer of wordllama.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any


def similarity(first: str, second: str) -> float:
    """Return the cosine of the two embeddings, from -1 to 1; 0 if a text is empty.

    Raises:
        ImportError: If wordllama is not installed.
    """
    if not first.strip() or not second.strip():
        return 0.0
    return max(-1.0, min(1.0, float(_model().similarity(first, second))))


@lru_cache(maxsize=1)
def _model() -> Any:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    import wordllama

    # Importing it configures logging for the whole process; undo that.
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    # The library looks for its bundled tokeniser in the cache folder only.
    own = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=own, disable_download=True)
