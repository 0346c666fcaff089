"""The waits between the attempts of a call."""

import pytest

from agentopt.core.errors import TransientModelError
from agentopt.models.catalog import ModelSpec
from agentopt.models.retries import LONGEST_BACKOFF, wait_after

SPEC = ModelSpec(name="m", base_url="http://127.0.0.1:1/v1", backoff_seconds=0.5)


def test_the_wait_doubles_has_jitter_and_is_bounded() -> None:
    error = TransientModelError("busy")
    waits = [wait_after(number, error, SPEC, lambda low, high: high / 2) for number in (1, 2, 3, 4, 20, 5000)]
    assert waits == [0.75, 1.25, 2.25, 4.25, LONGEST_BACKOFF, LONGEST_BACKOFF]
    assert 0.5 <= wait_after(1, error, SPEC) <= 1.0


@pytest.mark.parametrize(("requested", "expected"), [(0.1, 0.5), (7.0, 7.0), (100.0, 100.0), (None, 0.5)])
def test_a_longer_wait_that_the_provider_requests_is_kept_to(requested: float | None, expected: float) -> None:
    error = TransientModelError("busy", retry_after=requested)
    assert wait_after(1, error, SPEC, lambda low, high: low) == expected
