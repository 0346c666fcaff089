"""Candidates: how they are shown, and their form in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from agentopt.core.candidate import Candidate, SubtaskChoice, load_candidate
from agentopt.core.errors import CandidateError

TWO = Candidate.of({"find": SubtaskChoice("qwen", 5), "answer": SubtaskChoice("smollm", 1, "Be brief.")})
AS_JSON = (
    '{"find":{"model":"qwen","num_samples":5,"system_prompt":""},'
    '"answer":{"model":"smollm","num_samples":1,"system_prompt":"Be brief."}}'
)
"""The form of version 0.1.0."""

adapter = TypeAdapter(Candidate)


def test_a_candidate_prints_as_its_allocation_on_one_line() -> None:
    assert str(TWO) == "find: qwen x5, answer: smollm x1"


def test_pydantic_reads_and_writes_the_form_of_version_0_1_0() -> None:
    assert adapter.dump_json(TWO).decode() == AS_JSON
    assert adapter.validate_json(AS_JSON) == TWO
    assert adapter.validate_python(adapter.dump_python(TWO)) == TWO
    assert adapter.validate_python(TWO) == TWO, "a candidate is valid as it is"


@pytest.mark.parametrize(
    ("choice", "rule"),
    [
        ({"model": "qwen", "num_samples": 0}, "num_samples >= 1"),
        ({"model": "qwen", "num_samples": "5"}, "valid integer"),
        ({"model": "qwen", "num_samples": True}, "valid integer"),
        ({"model": 3}, "valid string"),
        ({"model": "qwen", "samples": 5}, "samples"),
        ({"num_samples": 5}, "model"),
        ("qwen", "SubtaskChoice"),
    ],
)
def test_a_choice_that_breaks_a_rule_is_refused(choice: Any, rule: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=rule):
        adapter.validate_python({"find": choice})
    file = tmp_path / "best.yaml"
    file.write_text(adapter.dump_json(TWO).decode().replace('"qwen","num_samples":5', '"qwen","samples":5'))
    with pytest.raises(CandidateError, match=r"and system_prompt, but find\.samples: unknown key"):
        load_candidate(file)


def test_a_key_depends_on_models_samples_and_prompts_and_stays_the_same() -> None:
    assert TWO.key == "056b88c11212"
    assert TWO.having("find", num_samples=4).key != TWO.key
