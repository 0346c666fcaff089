"""How mistakes in YAML files are reported."""

from __future__ import annotations

import os
import re
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

import agentopt
from agentopt.core.candidate import Candidate, SubtaskChoice, load_candidate
from agentopt.core.errors import ConfigError
from agentopt.core.yaml_models import Mistake, Strict, _models_in, as_error, did_you_mean, validate
from agentopt.core.yaml_text import load_yaml, parse_yaml, to_yaml
from agentopt.jobs.jobfile import Job
from agentopt.models.catalog import ModelSpec
from agentopt.runs.config import Config, load_config
from agentopt.taskfile.schema import TaskSpec


class Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(default=1, gt=0)
    kind: Literal["text", "number"] = "text"


class Tree(BaseModel):
    model_config = ConfigDict(extra="forbid")
    leaves: dict[str, Leaf] = {}
    rows: list[Leaf] = []
    count: int | Leaf = 1
    title: str | None = None


def written(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def report(data: object) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(Tree, data, "tree.yaml", ConfigError)
    return str(caught.value)


def test_yaml_words_and_numbers_mean_what_they_look_like(tmp_path: Path) -> None:
    text = "a: no\nb: 1e6\nc: 134.5e6\nd: 2024-01-01\ne: 007\nf: -3\ng: true\nh:\ni: 1:30\nj: .5\nk: 0x10\n"
    loaded = load_yaml(written(tmp_path, text), ConfigError)
    assert loaded == {
        "a": "no", "b": 1e6, "c": 134.5e6, "d": "2024-01-01", "e": "007", "f": -3, "g": True, "h": None,
        "i": "1:30", "j": 0.5, "k": 16,
    }  # fmt: skip


def test_merge_keys_still_work(tmp_path: Path) -> None:
    assert load_yaml(written(tmp_path, "a: &a {x: 1}\nb: {<<: *a, y: 2}\n"), ConfigError)["b"] == {"x": 1, "y": 2}


def test_an_empty_file_is_none(tmp_path: Path) -> None:
    assert load_yaml(written(tmp_path, ""), ConfigError) is None


def bomb(form: str) -> str:
    """Nine levels, of which each has nine aliases of the one before."""
    levels = (f"k{i}: &k{i} {form.format(','.join([f'*k{i - 1}'] * 9))}\n" for i in range(1, 10))
    return "k0: &k0 {x: 1}\n" + "".join(levels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\n", "file.yaml:3: is not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", "file.yaml:3: is not valid YAML: the key 'a' is given twice"),
        ("a: !!python/object:os.system {}\n", "file.yaml:1: must have no tags"),
        ("a: 1\nb: !!int abc\n", "file.yaml:2: must have no tags, but has tag:yaml.org,2002:int"),
        ("a: !!timestamp x\n", "must have no tags"),
        ("!!set {x, y}\n", "must have no tags"),
        ("a: !own x\n", "must have no tags, but has !own"),
        (f"a: {'9' * 5000}\n", "a number must have at most 400 digits, but got 5,000"),
        (f"a: 0x{'f' * 6000}\n", "a number must have at most 400 digits"),
        (f"a: 1.5e{'9' * 500}\n", "a number must have at most 400 digits"),
        ("[" * 5000 + "]" * 5000, "must be nested at most 100 levels deep"),
        ("".join(" " * level + "a:\n" for level in range(1500)), "file.yaml:100: must be nested at most 100 levels"),
        ("&a [*a]", "a value cannot contain itself, but *a does"),
        ("a: &a\n  <<: *a\n", "a value cannot contain itself"),
        (bomb("[{}]"), "must have at most 100,000 keys and values, aliases included"),
        (bomb("{{<<: [{}]}}"), "must have at most 100,000 keys and values, aliases included"),
        ("? [a, b]\n: 1", "file.yaml:1: is not valid YAML"),
        ("a: \x07\n", "file.yaml: is not valid YAML"),
    ],
)
def test_broken_yaml_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_yaml(written(tmp_path, text), ConfigError)
    assert message in str(caught.value)
    assert caught.value.remedy


def test_a_file_that_is_not_there_or_not_text_is_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(tmp_path / "absent.yaml", ConfigError)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_yaml(tmp_path / "binary.yaml", ConfigError)


def test_a_pipe_and_a_long_text_are_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path, kind in ((tmp_path / "pipe.yaml", "a pipe"), (tmp_path, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(ConfigError, match=f"must be a file, but is {kind}"):
            load_yaml(path, ConfigError)
    with pytest.raises(ConfigError, match="at most 2,000,000 characters"):
        parse_yaml("#" * 2_000_001, "file.yaml", ConfigError)


def test_an_unknown_key_gets_the_closest_known_one() -> None:
    reported = report({"leaves": {"a": {"sise": 2}}})
    assert reported == "tree.yaml: leaves.a.sise: unknown key\n  remedy: did you mean 'size'?"
    assert "known: kind, size" in report({"rows": [{"zzzzzz": 1}]})


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("leaves: {a: {size:2}}", "write `size: 2`: YAML needs a space after the colon"),
        ("leaves: {a: {kind:number,size:2}}", "write `kind: number`: YAML needs a space after the colon"),
        ("{title:x}", "write `title: x`: YAML needs a space after the colon"),
        ("leaves: {a: {'si:ze': 2}}", "did you mean 'size'?"),
        ("leaves: {a: {'http://host':}}", "known: kind, size"),
    ],
)
def test_a_key_that_yaml_read_with_its_value_is_written_apart(text: str, remedy: str) -> None:
    assert remedy in report(parse_yaml(text, "tree.yaml", ConfigError))


def test_a_key_where_none_is_known_is_left_out() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Strict, {"word": "Dear"}, "tree.yaml", ConfigError)
    assert str(caught.value) == "tree.yaml: word: unknown key\n  remedy: leave it out"


def test_a_wrong_value_names_rule_value_and_remedy() -> None:
    reported = report({"rows": [{"size": -4}]})
    assert reported.startswith("tree.yaml: rows.0.size: must be greater than 0, but got -4")
    assert "did you mean 'number'?" in report({"leaves": {"a": {"kind": "nummber"}}})
    assert "in quotes" in report({"title": 3})


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    size: int = 1


class Shelf(BaseModel):
    items: list[Item | int]
    keyed: dict[str, list[Item]] = {}


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"items": [{"name": "find"}, {"name": "answer", "sise": 2}]}, "items.answer.sise"),
        ({"items": [3, {"name": "answer", "size": "x"}]}, "items.answer.size"),
        ({"items": [], "keyed": {"a": [{"name": "b", "size": "x"}]}}, "keyed.a.b.size"),
        ({"items": [{"name": "two words", "size": "x"}]}, "items.two words.size"),
        ({"items": [{"size": "x", "name": 3}]}, "items.0.name"),
        ({"items": [{"name": "a"}, {"name": "a", "size": "x"}]}, "items.1.size"),
        ({"items": [{"name": "1", "size": "x"}, 3]}, "items.0.size"),
        ({"items": [{"name": "", "size": "x"}]}, "items.0.size"),
        ({"items": [{"name": "n" * 41, "size": "x"}]}, "items.0.size"),
        ({"items": [{}, {"name": "b"}]}, "items.0.name"),
    ],
)
def test_an_item_of_a_list_is_called_by_its_own_name(data: Any, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Shelf, data, "file.yaml", ConfigError)
    assert f"file.yaml: {key}: " in str(caught.value) or f"\n  {key}: " in str(caught.value)


def test_the_branches_of_a_union_are_one_mistake() -> None:
    reported = report({"count": "many"})
    assert (
        reported == "tree.yaml: count: must be a whole number or a mapping, but got 'many'\n  remedy: use one of these"
    )
    assert report({"count": {"size": "x"}}).startswith("tree.yaml: count.size: must be a whole number, but got 'x'")


def test_several_mistakes_are_all_reported() -> None:
    reported = report({"title": 3, "titel": "x"})
    assert reported.startswith("tree.yaml: 2 mistakes")
    assert "title: must be" in reported
    assert "titel: unknown key (did you mean 'title'?)" in reported


@pytest.mark.parametrize(("count", "length"), [(4, 100), (4, 195), (4, 900), (9, 100), (60, 100), (2, 2000)])
def test_mistakes_that_do_not_fit_are_named_by_their_keys(count: int, length: int) -> None:
    mistakes = [Mistake(f"key{number}", "x" * length, "fix it") for number in range(count)]
    message = str(as_error(mistakes, "tree.yaml", ConfigError))
    head, *lines = message.splitlines()
    *listed, last = lines
    assert head == f"tree.yaml: {count} mistakes"
    assert all(line.startswith(f"  key{number}: ") for number, line in enumerate(listed))
    if last.startswith("  and "):
        assert last.startswith(f"  and {count - len(listed)} more: key{len(listed)}")
        assert count > 20 or last.endswith(f"key{count - 1}")
    else:
        assert (length, len(lines)) == (100, count)
    assert length > 800 or len(message) < 850


def test_the_place_inside_the_file_is_put_in_front() -> None:
    with pytest.raises(ConfigError, match=r"tree\.yaml: trees\.3\.titel: unknown key"):
        validate(Tree, {"titel": "x"}, "tree.yaml", ConfigError, key=("trees", 3))


def test_data_that_is_no_mapping_is_reported() -> None:
    assert report([1]).startswith("tree.yaml: must be a mapping, but got [1]")


def test_a_validator_may_give_its_own_remedy() -> None:
    class Picky(BaseModel):
        def model_post_init(self, _: object) -> None:
            raise PydanticCustomError("picky", "must be elsewhere", {"remedy": "go away"})

    with pytest.raises(ConfigError, match=r"(?s)must be elsewhere.*remedy: go away"):
        validate(Picky, {}, "file", ConfigError)


def test_did_you_mean_lists_everything_when_nothing_is_close() -> None:
    assert did_you_mean("qqq", ["b", "a"]) == "known: a, b"


STORABLE = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
PLAIN = st.text(STORABLE) | st.text("0123456789.eE+-_:xo~=<", max_size=8)


@given(st.recursive(PLAIN | st.integers() | st.booleans() | st.none(), st.lists, max_leaves=5))
@example("1234567e89012345")
def test_written_yaml_is_read_back_unchanged(value: object) -> None:
    """A fingerprint such as 1234567e89012345 is a number to YAML 1.2, but not to PyYAML, which left it bare."""
    assert parse_yaml(to_yaml({"value": value}), "here", ConfigError) == {"value": value}


@pytest.mark.parametrize("text", ['{"a\\u0000b": 1}', 'a: "x\\0"', 'a: ["\\uD800"]', '"\\uDFFFx": 1', '- k: "\\x00"'])
def test_text_that_no_file_and_no_database_can_store_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"here:1: text must not contain (a zero byte|half a surrogate pair)\n  rem"):
        parse_yaml(text, "here", ConfigError)


READ_AS_SOMETHING_ELSE = [
    *("1e6", "0x1F", "no", "No", "off", "y", "2026-01-01", "2026-01-01T00:00:00Z", "~", "=", "<<", "null", "", " "),
    *(
        "1_000",
        "0b1",
        "017",
        "12:30",
        ".inf",
        "true",
        "- a",
        "a: b",
        "# a",
        "{{ x }}",
        "@a",
        "%a",
        "a\nb\n",
        "\x85",
        "a\u2028b",
        "\u2029",
    ),
]


@pytest.mark.parametrize("prompt", READ_AS_SOMETHING_ELSE)
def test_a_system_prompt_reads_back_as_it_was_written_by_our_reader_and_by_pyyaml(tmp_path: Path, prompt: str) -> None:
    candidate = Candidate.of({"no": SubtaskChoice("1e6", 2, prompt), "answer": SubtaskChoice("m", 1, "x")})
    file = tmp_path / "best.yaml"
    file.write_bytes(to_yaml(candidate.to_dict()).encode())
    assert load_candidate(file) == candidate
    assert yaml.safe_load(file.read_bytes()) == candidate.to_dict()


def test_one_module_reads_and_writes_yaml() -> None:
    package = Path(agentopt.__file__).parent
    statement = re.compile(r"^\s*(import|from) yaml\b", re.MULTILINE)
    importers = {file.name for file in package.rglob("*.py") if statement.search(file.read_text())}
    assert importers == {"yaml_text.py"}


WRONG: list[Any] = [None, "", "x", 3, -1, 1.5, True, [], [[]], [3], {}, {"a": 1}, {3: 4}, "x" * 3000]
LEAKS = ("Input should", "nstance of", "valid dictionary", "valid string", "valid integer", "Value error", "pydantic")


def models_of_files() -> list[type[BaseModel]]:
    """Every model of a file that users write, nested ones included."""
    found, new = set[type[BaseModel]](), list[type[BaseModel]]([Config, TaskSpec, ModelSpec, Job])
    while new:
        model = new.pop()
        if model not in found:
            found.add(model)
            new += [m for field in model.model_fields.values() for m in _models_in(field.annotation)]
    return sorted(found, key=lambda model: model.__name__)


@pytest.mark.parametrize("model", models_of_files(), ids=lambda model: model.__name__)
def test_no_message_has_the_words_of_pydantic(model: type[BaseModel]) -> None:
    reported = []
    for name, value in product(model.model_fields, WRONG):
        try:
            validate(model, {name: value}, "file.yaml", ConfigError)
        except ConfigError as error:
            reported.append(str(error))
    assert reported
    for message in reported:
        assert not [leak for leak in LEAKS if leak in message], message
        assert len(message) < 1500
        assert "remedy: " in message or ")" in message


def types_in(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    return {annotation}.union(*(types_in(part) for part in get_args(annotation) if not isinstance(annotation, str)))


def numeric_fields() -> list[tuple[type[BaseModel], str]]:
    return [
        (model, name)
        for model in models_of_files()
        for name, field in model.model_fields.items()
        if types_in(field.annotation) & {int, float} and bool not in types_in(field.annotation)
    ]


def test_the_numeric_fields_of_every_file_are_found() -> None:
    found = {f"{model.__name__}.{name}" for model, name in numeric_fields()}
    known = {
        "BudgetConfig.usd",
        "RunCaps.seconds",
        "SubtaskSpec.num_samples",
        "ModelSpec.timeout_seconds",
        "Job.canary",
    }
    assert known <= found
    assert len(found) > 60


@pytest.mark.parametrize(("model", "name"), numeric_fields(), ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("boolean", [True, False])
def test_a_boolean_is_no_number(model: type[BaseModel], name: str, boolean: bool) -> None:
    for value in (boolean, [boolean], {"a": boolean}):
        with pytest.raises(ConfigError, match=rf"(?m)(^|: |^  ){name}[.\w]*: must (?!be given)"):
            validate(model, {name: value}, "file.yaml", ConfigError)


@pytest.mark.parametrize("boolean", [True, False])
def test_a_boolean_in_a_nested_number_is_named_with_its_place(boolean: bool) -> None:
    class Inner(Strict):
        size: int | Literal["all"]

    class Outer(Strict):
        fields: dict[str, tuple[Inner, ...]]
        definitions: tuple[float | bool, ...] = ()
        choices: dict[str, list[int]] = Field(default_factory=dict)

    wrong = {"fields": {"a": [{"size": 1}, {"size": boolean}]}, "choices": {"b": [2, boolean]}}
    with pytest.raises(ConfigError) as error:
        validate(Outer, wrong, "file.yaml", ConfigError)
    assert f"fields.a.1.size: must be a whole number or 'all', but got {boolean}" in str(error.value)
    assert f"choices.b.1: must be a whole number, but got {boolean}" in str(error.value)
    right = validate(Outer, {"fields": {"a": [{"size": "all"}]}, "definitions": (boolean, 2)}, "file.yaml", ConfigError)
    assert right.definitions == (boolean, 2)


def test_a_number_out_of_its_bounds_and_a_setting_without_a_value_have_their_remedies() -> None:
    for number in ("-1", "-0.5"):
        with pytest.raises(ConfigError, match=r"usd: must be .*\n  remedy: write (0 or more|a number above 0)"):
            load_config([f"budget.usd={number}"])
    with pytest.raises(ConfigError, match=r"trials: must be .*\n  remedy: write 1 or more"):
        load_config(["budget.trials=0"])
    for name in ("budget.usd", "batch", "search.tolerance"):
        with pytest.raises(ConfigError, match=rf"must have a value, but got '{name}'\n  remedy: write {name}=VALUE"):
            load_config([name])
