"""US dollars as text and in JSON."""

from __future__ import annotations

import pytest

from agentopt.cli.output import as_json_text
from agentopt.core.budget import Usage
from agentopt.core.usd_text import format_usd, rounded_usd


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (0, "0"),
        (0.0001, "0.0001"),
        (6.1e-06, "0.0000061"),
        (1e-05, "0.00001"),
        (0.004625999999999987, "0.00463"),
        (0.5, "0.5"),
        (0.99961, "1"),
        (12.345, "12.3"),
        (100, "100"),
        (1234.5678, "1,235"),
        (-0.00123456, "-0.00123"),
    ],
)
def test_an_amount_has_three_significant_digits_and_no_exponent(usd: float, text: str) -> None:
    assert format_usd(usd) == text


def test_amounts_in_json_have_no_binary_noise_and_other_numbers_stay() -> None:
    noisy = 0.1 + 0.2
    data = {"spent": [{"usd": noisy, "fusion_usd": 6.1e-06, "score": noisy}], "max_usd": None, "usd": 1}
    clean = {"spent": [{"usd": 0.3, "fusion_usd": 6.1e-06, "score": noisy}], "max_usd": None, "usd": 1}
    assert rounded_usd(data) == clean
    assert '"usd": 0.3\n' in as_json_text({"spent": Usage(usd=noisy)})
