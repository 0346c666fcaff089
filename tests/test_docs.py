"""The examples of the pages run unchanged."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from rich.console import Console
from typer.main import get_command

from agentopt.api import optimize
from agentopt.cli.commands.init import HOSTED
from agentopt.cli.commands.optimize import estimate_run
from agentopt.cli.main import app
from agentopt.core.errors import ConfigError, TaskError, UserError
from agentopt.core.registry import FUSIONS, PARSERS, SCORERS, STRATEGIES
from agentopt.core.yaml_models import RuleError
from agentopt.runs.config import Config
from agentopt.runs.strategies import check_search_settings
from agentopt.testing.toy import toy_model, toy_task
from tests.report.test_page_browser import CHROMIUM, MISSING

DOCS = Path(__file__).parents[1] / "docs"
MARK = "run in tests/test_docs.py"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if MARK in page.read_text(encoding="utf-8")]
BLOCK = re.compile(r"(?:`([\w/.-]+\.\w+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w/.-]+\.\w+)\n")
COMMENTED = {"python", "yaml", "toml"}
"""Languages of files that may begin with a comment, which names the file; otherwise the text before the block does."""


def blocks(page: Path) -> Iterator[tuple[str, str | None, str]]:
    """Language, path (None: not a file) and content of every block of code."""
    for before, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        named = FILE.match(text) if language in COMMENTED else None
        yield language, (named[1] if named else before) or None, text[named.end() :] if named else text


def write_files(page: Path, folder: Path) -> None:
    for _, path, text in blocks(page):
        if path:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder from which modules are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_pkg"]:
        del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_examples_of_a_page_run(page: Path, place: Path) -> None:
    write_files(page, place)
    space: dict[str, Any] = {"__name__": page.stem}
    for language, path, text in blocks(page):
        if language == "python" and path is None:
            exec(compile(text, str(page), "exec"), space)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_a_block_of_data_can_be_pasted_into_its_file(page: Path) -> None:
    pasted = [text for language, _, text in blocks(page) if language in ("json", "csv")]
    assert [text for text in pasted if text.startswith(("#", "//"))] == []


def test_the_commands_of_the_page_on_spreadsheets_run(
    place: Path, console_script: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTOPT_CACHE", str(place / "cache"))
    monkeypatch.setenv("AGENTOPT_CONFIG", str(place / "config"))
    for variable in HOSTED:
        monkeypatch.delenv(variable, raising=False)
    write_files(DOCS / "start.md", place)
    commands = [text for language, _, text in blocks(DOCS / "start.md") if language == "sh"]
    assert len(commands) == 2
    for command in commands:
        code, printed, errors = console_script(*shlex.split(command)[1:])
        assert (code, errors) == (0, "")
    assert "billing: 6, support: 6" in printed


def install(place: Path, points: dict[str, str], package: str = "my-pkg") -> None:
    """The metadata of an installed package with these entry points."""
    info = place / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[agentopt.plugins]", *lines]) + "\n")


def test_the_entry_points_of_an_installed_package_are_found_without_an_import(place: Path) -> None:
    write_files(DOCS / "extend.md", place)
    project = tomllib.loads((place / "pyproject.toml").read_text())["project"]
    install(place, project["entry-points"]["agentopt.plugins"])
    assert "my_pkg" not in sys.modules
    found = [SCORERS.find("within"), PARSERS.find("tagged"), FUSIONS.find("longest"), STRATEGIES.find("cheapest_first")]
    assert [entry.make.__module__ for entry in found] == [
        f"my_pkg.{m}" for m in ("judges", "reading", "fusing", "search")
    ]
    assert Config(strategy="cheapest_first").strategy == "cheapest_first"


def test_names_of_plugins_are_listed_and_suggested(place: Path) -> None:
    write_files(DOCS / "extend.md", place)
    install(place, {"judges": "my_pkg.judges"})
    with pytest.raises(RuleError, match=r"must be one of .*within[\s\S]*did you mean 'within'"):
        SCORERS.find("witin")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", r"my_pkg\.broken: the plugin 'it' cannot be loaded: ZeroDivisionError[\s\S]*fix the package my-pkg"),
        ("import nowhere_at_all", "cannot be loaded: ModuleNotFoundError"),
        (
            "from agentopt import scorer\n\n\n@scorer('contains')\ndef f(): ...\n",
            "two scorers are registered as 'contains'",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_clear_error(place: Path, code: str, message: str) -> None:
    (place / "my_pkg").mkdir()
    (place / "my_pkg" / "broken.py").write_text(code)
    install(place, {"it": "my_pkg.broken"})
    with pytest.raises(UserError, match=message):
        SCORERS.find("unheard_of")


CLASH = "from agentopt import scorer\n\n\n@scorer('{name}')\ndef f(): ...\n"


@pytest.mark.parametrize(
    ("name", "order", "message"),
    [
        ("twice", "ab", "'twice': my_pkg.a.f and my_pkg.b.f\n  remedy: rename it in pkg-a or pkg-b, or uninstall one"),
        ("twice", "ba", "'twice': my_pkg.a.f and my_pkg.b.f\n  remedy: rename it in pkg-a or pkg-b, or uninstall one"),
        (
            "contains",
            "a",
            "agentopt.evaluation.scorers.contains and my_pkg.a.f\n  remedy: rename it in pkg-a, or uninst",
        ),
    ],
)
def test_a_name_that_is_registered_twice_names_the_packages_in_any_order(
    place: Path, name: str, order: str, message: str
) -> None:
    (place / "my_pkg").mkdir()
    for number, letter in enumerate(order):
        (place / "my_pkg" / f"{letter}.py").write_text(CLASH.format(name=name))
        install(place, {str(number): f"my_pkg.{letter}"}, f"pkg-{letter}")
    for letter in order[:-1]:
        importlib.import_module(f"my_pkg.{letter}")
    with pytest.raises(UserError, match=re.escape(message)):
        SCORERS.find("unheard_of")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_pkg.gone:f", "ModuleNotFoundError.*\n.*write package.module:name, and install the package"),
        ("my_pkg.needy:f", "ModuleNotFoundError.*\n.*install nowhere_at_all, which my_pkg.needy imports"),
        ("my_pkg.broken:f", "ZeroDivisionError.*\n.*correct the module my_pkg.broken"),
        ("my_pkg.moved:f", "ImportError.*\n.*correct the module my_pkg.moved"),
    ],
)
def test_the_remedy_of_a_module_that_cannot_be_imported_fits_the_reason(place: Path, name: str, message: str) -> None:
    codes = {"needy": "import nowhere_at_all", "broken": "1 / 0", "moved": "from agentopt.core.task import Exemple"}
    write_files(DOCS / "extend.md", place)
    for module, code in codes.items():
        (place / "my_pkg" / f"{module}.py").write_text(code)
    with pytest.raises(RuleError, match=message):
        SCORERS.find(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("within", {"edit": 2}, "edit: unknown key[\\s\\S]*did you mean 'edits'"),
        ("within", {"edits": "two"}, "edits: must be a whole number"),
        ("my_pkg.judges:within", {"edits": "two"}, "edits: must be a whole number"),
        ("my_pkg.judges:polite", {"edits": 2}, "is an option of within, not of my_pkg.judges:polite"),
        ("my_pkg.judges:polit", {}, "must have a function 'polit'[\\s\\S]*did you mean 'polite'"),
        ("my_pkg.judges:kind", {}, "must have a function 'kind'\n  remedy: known: polite, within$"),
        ("my_pkg.judge:polite", {}, "'my_pkg.judge' cannot be imported"),
        ("own.py:polite", {}, "kind: python, function"),
    ],
)
def test_a_wrong_name_or_option_is_refused(place: Path, name: str, options: dict[str, Any], message: str) -> None:
    write_files(DOCS / "extend.md", place)
    install(place, {"judges": "my_pkg.judges"})
    SCORERS.names()
    with pytest.raises(RuleError, match=message):
        SCORERS.read(name, options)


def test_a_configuration_with_an_unknown_strategy_or_option_is_refused(place: Path) -> None:
    from agentopt.runs.config import load_config

    with pytest.raises(ConfigError, match=r"strategy: `strategy` must be one of agent,[\s\S]*did you mean 'random'"):
        load_config(["strategy=randon"])
    with pytest.raises(ConfigError, match=r"search\.options: sed: unknown key"):
        check_search_settings(
            toy_task(), Config.model_validate({"strategy": "random", "search": {"options": {"sed": 1}}})
        )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "strategy my_pkg.bad:f: a strategy has a method `propose`, or `run` .* but got None"),
        ("return Exception", "strategy my_pkg.bad:f: a strategy is an object, but got the class Exception"),
        ("1 / 0", "strategy my_pkg.bad:f: it failed: ZeroDivisionError"),
        ("raise ValueError('n is odd')", "strategy my_pkg.bad:f: n is odd"),
    ],
)
def test_a_strategy_that_cannot_be_built_is_refused_by_the_dry_run_and_before_a_run(
    place: Path, body: str, message: str
) -> None:
    write_files(DOCS / "extend.md", place)
    (place / "my_pkg" / "bad.py").write_text(f"def f(context):\n    {body}\n")
    for module in ("judges", "reading", "fusing"):
        importlib.import_module(f"my_pkg.{module}")
    with pytest.raises(ConfigError, match=message):
        estimate_run(Path("task"), ["strategy=my_pkg.bad:f"], Console())
    with pytest.raises(ConfigError, match=message):
        optimize(toy_task(), Config(strategy="my_pkg.bad:f"), provider=toy_model())
    assert not Path("runs").exists()


def test_a_task_file_with_a_wrong_option_names_file_and_key(place: Path) -> None:
    from agentopt import load_task

    write_files(DOCS / "extend.md", place)
    install(place, {"judges": "my_pkg.judges", "reading": "my_pkg.reading", "fusing": "my_pkg.fusing"})
    path = place / "task" / "task.yaml"
    spec = yaml.safe_load(path.read_text())
    spec["subtasks"][0]["fuse"] = {"method": "longest", "at_mots": 3}
    path.write_text(yaml.safe_dump(spec))
    with pytest.raises(TaskError, match=r"task\.yaml: subtasks\.answer\.fuse\.at_mots: unknown key"):
        load_task("task")


def test_registering_strategies_loads_no_search_library() -> None:
    code = "import sys; from agentopt.core.registry import STRATEGIES; STRATEGIES.names();"
    code += "print(sorted({'optuna', 'langgraph', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ROOT = DOCS.parent
COMMANDS = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("tasks/*/README.md"), *ROOT.glob("benchmarks/*.md")]


def unquoted(text: str) -> str:
    """What is outside of quotation marks."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", text)


@pytest.mark.parametrize("page", COMMANDS, ids=[str(page.relative_to(ROOT)) for page in COMMANDS])
def test_arguments_in_commands_are_quoted_if_a_shell_would_expand_them(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"^```(?:sh|bash|)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) + re.findall(
        r"`([^`\n]+)`", text
    )
    lines = [line.partition(" #")[0] for part in code for line in part.splitlines()]
    settings = [word for line in lines for word in re.findall(r"(?:-c |pip install ).*", unquoted(line))]
    assert [word for word in settings if re.search(r"[\[\]*?{}]", word)] == []


def test_the_list_of_commands_has_every_command() -> None:
    listed = re.findall(r"^agentopt (\w+)", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(get_command(app).commands) <= set(listed)  # type: ignore[attr-defined]


def test_every_setting_has_a_meaning_in_the_reference() -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    from tools.docs_pages import settings

    rows = [line.strip("| ").split(" | ") for line in settings().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row[0] for row in rows if len(row) < 4 or not row[-1].strip()] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation site, built with warnings as errors."""
    if not (find_spec("material") and find_spec("mkdocstrings_handlers")):
        pytest.skip("mkdocs-material and mkdocstrings-python are not installed (extra docs)")
    folder = tmp_path_factory.mktemp("site")
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


class Loaded(HTMLParser):
    """The addresses that a browser loads to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"script": "src", "img": "src", "iframe": "src", "link": "href"}
        self.found += [value for name, value in attrs if name == names.get(tag) and value]


def test_the_site_loads_nothing_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        reader = Loaded()
        reader.feed(page.read_text(encoding="utf-8"))
        assert len(reader.found) > 2
        assert [address for address in reader.found if re.match(r"(https?:)?//", address)] == [], page


@pytest.mark.browser
@pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_site_shows_its_diagrams_and_finds_words_without_a_server(
    site: Path, scheme: Literal["light", "dark"]
) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme)
        seen: list[str] = []
        page.on("request", lambda request: seen.append(request.url))
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.goto((site / "design.html").as_uri())
        sizes = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.naturalHeight])")
        assert len(sizes) == 3
        assert min(map(min, sizes)) > 300
        page.locator("[data-md-component=search-query]").click()
        page.keyboard.type("journal")
        page.wait_for_selector("li.md-search-result__item a", state="attached")
        assert page.locator("li.md-search-result__item a").count() > 3
        browser.close()
    assert [text for text in seen if not text.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize(
    ("page", "texts"),
    [
        (
            "reference/settings.html",
            ["budget.usd", "US dollars, by the catalogue", "search.tolerance", "promotion.margin"],
        ),
        ("reference/cli.html", ["agentopt whatif", "agentopt models add", "Print the worst-case cost"]),
        ("reference/api.html", ["agentopt.optimize", "agentopt.SearchSpace", "Raises", "TrialDone"]),
    ],
)
def test_the_references_are_generated(site: Path, page: str, texts: list[str]) -> None:
    shown = re.sub(r"<[^>]+>", "", (site / page).read_text(encoding="utf-8"))
    assert [text for text in texts if text not in shown] == []
