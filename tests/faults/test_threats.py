"""The threat table of SECURITY.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_threat_names_tests_that_exist() -> None:
    lines = [line for line in (ROOT / ".github" / "SECURITY.md").read_text().splitlines() if line.startswith("| ")]
    threats = [line for line in lines if not line.startswith("| threat")]
    assert len(threats) >= 10
    for threat in threats:
        files = re.findall(r"`(tests/[a-z_/]+\.py)`", threat)
        assert files, threat
        assert all("def test_" in (ROOT / file).read_text() for file in files), threat
