"""chatdev: programs in responses, ChatDev's three measures, and the program that is really run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentopt import Config, Evaluation, Task, aevaluate, load_task
from agentopt.core.errors import TaskError
from agentopt.core.task import Unparsable
from agentopt.evaluation.checkers import programs
from agentopt.evaluation.checkers.embedding import similarity
from agentopt.evaluation.sandbox.sandbox import SandboxResult
from agentopt.models.base import Request
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel

FOLDER = Path(__file__).parents[2] / "tasks" / "chatdev"

# Invented requirements, in SRDD's public form.
ROWS: list[dict[str, Any]] = [
    {"name": f"Tea_Timer_{n}", "task": f"Tea Timer {n} counts down the minutes that a tea must steep and rings."}
    for n in range(1, 5)
]
TIMER = """
class TeaTimer:
    def __init__(self, minutes):
        self.minutes = minutes

    def countdown(self):
        for left in range(self.minutes, 0, -1):
            print("minutes to steep:", left)
        print("the tea is ready: ring")


TeaTimer(3).countdown()
"""


def fenced(code: str) -> str:
    return f"Here it is:\n```python\n{code}\n```\nDone."


def write(folder: Path, rows: list[dict[str, str]]) -> str:
    path = folder / "srdd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(folder: Path, rows: list[dict[str, Any]] = ROWS, **settings: object) -> Task:
    return load_task(FOLDER, catalog=Catalog.load(), overrides={"data.source": write(folder, rows), **settings})


# Reading rows and responses


def test_both_public_forms_of_srdd_are_read_and_names_may_repeat(tmp_path: Path) -> None:
    originals = [{"Name": "Tea_Timer", "Description": f"Variant {n} of it.", "Category": "Tools"} for n in range(4)]
    for rows in (ROWS, originals):
        examples = [e for split in load(tmp_path, rows).splits.values() for e in split]
        assert len({e.id for e in examples}) == 4
        assert all(e.inputs["name"].startswith("Tea Timer") and e.target is None for e in examples)


def test_a_long_requirement_can_be_cut(tmp_path: Path) -> None:
    task = load(tmp_path, ROWS, **{"data.options": {"max_words": 3}})
    assert {len(e.inputs["requirement"].split()) for e in task.splits["test"]} == {3}


def test_a_row_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"srdd\.jsonl:1: the row must have the column 'name' or 'Name'"):
        load(tmp_path, [{"title": "x"}])
    with pytest.raises(TaskError, match=r"srdd\.jsonl:1: the column 'Description' must be a string, but is 7"):
        load(tmp_path, [{"Name": "x", "Description": 7}])


@pytest.mark.parametrize("most", [0, -3])
def test_a_requirement_cannot_be_cut_to_nothing(tmp_path: Path, most: int) -> None:
    with pytest.raises(TaskError, match=rf"max_words must be at least 1, but got {most}"):
        load(tmp_path, ROWS, **{"data.options": {"max_words": most}})


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("```\nprint('é')\n```", "print('é')\n"),
        ("```py\na = 1\n```\nand\n```python\na = 1\nprint(a)\n```", "a = 1\nprint(a)\n"),
        ("It was cut off:\n```python\nprint(1)\nprint(", "print(1)\nprint(\n"),
        ("```bash\npip install x\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("```\npip install a b c d e f g\npython run.py --fast\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("```sh\npython run.py --fast --quiet\n```\n```\nx = 1\n```", "x = 1\n"),
        ("```\n$ python run.py --fast --quiet\n```\n\n```\nx = 1\n```", "x = 1\n"),
        ("```text\na long output of the program\n```\n```py\nx = 1\n```", "x = 1\n"),
        ("1. Write:\n   ```python\n   if a:\n       x = 1\n   ```\n2. Run", "if a:\n    x = 1\n"),
        ("\t```python\n\tx = 1\n\t```", "x = 1\n"),
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("~~~\nx = 1\n~~~\nDone", "x = 1\n"),
        ("````python\nx = '```'\n````", "x = '```'\n"),
        ("```{.python}\nx = 1\n```", "x = 1\n"),
        ("```Python title=run.py\nx = 1\n```", "x = 1\n"),
        ("import os\nprint(os.name)", "import os\nprint(os.name)\n"),
    ],
)
def test_the_program_is_the_longest_python_block_or_the_whole_response(response: str, code: str) -> None:
    assert programs.program(response) == code


@pytest.mark.parametrize("response", ["", "```python\n```", "Sorry, I cannot.", "Done", "```bash\nls\n```", "'a text'"])
def test_a_response_without_a_program_is_unparsable(response: str) -> None:
    with pytest.raises(Unparsable):
        programs.program(response)


# The measures


@pytest.mark.parametrize(
    ("code", "left_open"),
    [
        (TIMER, []),
        ("def f():\n    pass\nf()", ["the function f has no body"]),
        ("def f():\n    '''Says what.'''\n    ...", ["the function f has no body"]),
        (
            "class A:\n    async def g(self):\n        raise NotImplementedError('later')",
            ["the function g has no body"],
        ),
        ("import abc\nclass A(abc.ABC):\n    @abc.abstractmethod\n    def g(self): ...", []),
        ("class Late(Exception):\n    pass\ntry:\n    1/0\nexcept ZeroDivisionError:\n    pass", []),
        ("x = 1  # TODO: the rest", ["the comment '# TODO: the rest'"]),
        ("x = 1\n# your code here", ["the comment '# your code here'"]),
        ("x = 'TODO'", []),
        ("", ["no statements"]),
        ("# only words\nimport os", ["no statements"]),
        ("def f(:\n    pass", ["a line that is only pass"]),
        ("def f(:\n    return 1", []),
    ],
)
def test_a_program_is_complete_when_nothing_is_left_open(code: str, left_open: list[str]) -> None:
    assert list(programs.placeholders(code)) == left_open
    assert programs.completeness(code) == float(not left_open)


def test_consistency_is_higher_for_the_required_program() -> None:
    timer = programs.consistency(ROWS[0]["task"], TIMER)
    other = programs.consistency(ROWS[0]["task"], "def area(radius):\n    return 3.14 * radius ** 2\nprint(area(2))")
    assert 0 <= other < timer < 1


def test_consistency_does_not_count_comments_and_is_nothing_without_code() -> None:
    requirement = ROWS[0]["task"]
    bare = programs.consistency(requirement, "x = 1")
    assert programs.consistency(requirement, f"# {requirement}\nx = 1  # {requirement}") == bare
    assert programs.consistency(requirement, f"# {requirement}") == 0
    assert similarity(requirement, requirement) == pytest.approx(1)
    assert similarity("", requirement) == similarity(requirement, " ") == 0


def test_comments_go_and_what_only_looks_like_one_stays() -> None:
    assert programs.without_comments("x = '#1'  # one\n\n# two\ny = 2") == "x = '#1'\ny = 2"
    assert programs.without_comments("print(  # cut off") == "print("
    assert programs.without_comments('x = "\f"\ny = 1  # one\nz = 1234567') == 'x = "\f"\ny = 1\nz = 1234567'


def test_the_end_of_a_run_is_described_in_words() -> None:
    assert programs.describe(SandboxResult("finished", "")) == "It ran to its end. It printed nothing."
    stopped = SandboxResult("stopped", "on\n", "it ran for more than 20 seconds")
    assert programs.describe(stopped) == "It stopped: it ran for more than 20 seconds. It printed:\non"


# The whole task


async def evaluate(folder: Path, answers: dict[str, str], asked: list[Request] | None = None) -> Evaluation:
    """The task on one example, with these programs from the three subtasks."""

    def answer(request: Request, repeat: int) -> str:
        if asked is not None:
            asked.append(request)
        system = request.messages[0].content
        return answers["code" if "programmer" in system else "review" if "review" in system else "test"]

    settings = {"data.source": write(folder, ROWS), "data.limit": {"test": 1}}
    config = Config(journal=str(folder / "journal.db"), task=settings)
    return await aevaluate(FOLDER, None, config, provider=ScriptedModel(answer))


async def test_the_program_is_run_and_the_last_subtask_fixes_what_it_raised(tmp_path: Path) -> None:
    broken = TIMER.replace("TeaTimer(3)", "TeaTimer(missing)")
    asked: list[Request] = []
    answers = {"code": fenced(broken), "review": fenced(broken), "test": fenced(TIMER)}
    evaluation = await evaluate(tmp_path, answers, asked)
    assert "NameError: name 'missing' is not defined" in asked[-1].messages[-1].content
    assert "It failed: it ended with status 1." in asked[-1].messages[-1].content
    (result,) = evaluation.results
    consistency = result.metrics["consistency"]
    assert result.metrics == {
        "completeness": 1.0,
        "executability": 1.0,
        "executability_before": 0.0,
        "consistency": consistency,
    }
    assert 0 < consistency < 1
    assert result.score == pytest.approx(consistency)


async def test_a_program_that_raises_scores_0_and_the_feedback_has_the_reason(tmp_path: Path) -> None:
    evaluation = await evaluate(tmp_path, dict.fromkeys(("code", "review", "test"), fenced(f"{TIMER}\n1/0")))
    (result,) = evaluation.results
    assert (result.score, result.error) == (0.0, None)
    assert "ZeroDivisionError" in result.feedback


async def test_a_response_without_a_program_scores_nothing_and_is_no_error(tmp_path: Path) -> None:
    evaluation = await evaluate(tmp_path, dict.fromkeys(("code", "review", "test"), "I would rather not."))
    assert [(r.score, r.error) for r in evaluation.results] == [(0.0, None)]
    assert set(evaluation.results[0].metrics.values()) == {0.0}


@pytest.mark.faults
@pytest.mark.parametrize(
    "harm",
    [
        "while True: pass",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "held = bytearray(2 * 2**30)\nprint(len(held))",
        "open('/tmp/agentopt-chatdev-outside', 'w').write('x')",
        "import socket\nsocket.create_connection(('127.0.0.1', 22), 2)",
        "try: open('/etc/agentopt-chatdev', 'w')\nexcept OSError: pass",
        "import socket\ntry: socket.socket()\nexcept OSError: pass",
    ],
    ids=["endless loop", "fork bomb", "2 GB", "outside", "socket", "outside, caught", "socket, caught"],
)
async def test_a_program_that_does_harm_is_a_failure_of_that_example(harm: str, tmp_path: Path) -> None:
    evaluation = await evaluate(tmp_path, dict.fromkeys(("code", "review", "test"), fenced(f"{TIMER}\n{harm}")))
    assert [(r.score, r.error) for r in evaluation.results] == [(0.0, None)]
    assert evaluation.results[0].metrics["executability"] == 0


def test_measuring_meaning_leaves_the_programs_logging_alone() -> None:
    code = (
        "import logging\nfrom agentopt.evaluation.checkers.embedding import similarity\nsimilarity('a', 'b')\n"
        "print(logging.getLogger().handlers, logging.getLogger().level)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] 30\n"
