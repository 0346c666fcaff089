"""Draw the Mermaid diagrams of docs/*.md for the site, as `docs/images/diagram-*.svg`, with Playwright and Chromium.

Usage: python tools/diagrams.py MERMAID, the path of mermaid.min.js (`npm pack mermaid@11`). A diagram's file has the
hash of its source in its name, so that the strict build of the site fails until a changed one is drawn.
"""

from __future__ import annotations

import re
import shutil
import sys

from playwright.sync_api import sync_playwright

from tools.docs_pages import MERMAID, ROOT, drawing

SETTINGS = "{startOnLoad: false, theme: 'neutral', flowchart: {htmlLabels: false}, htmlLabels: false}"


def sized(svg: str) -> str:
    """The drawing with the size of its view box, and with a ground that fits the dark scheme, too."""
    found = re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg)
    assert found
    width, height = (round(float(side)) for side in found.groups())
    sized = svg.replace('width="100%"', f'width="{width}" height="{height}"', 1)
    return sized.replace('style="', 'style="background: white; ', 1)


def main() -> None:
    """Draw every diagram, and remove the files of others."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    sources = [source for page in pages for source in MERMAID.findall(page.read_text(encoding="utf-8"))]
    for old in (ROOT / "docs" / "images").glob("diagram-*.svg"):
        old.unlink()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.add_script_tag(path=sys.argv[1])
        page.evaluate(f"mermaid.initialize({SETTINGS})")
        for number, source in enumerate(sources):
            svg = page.evaluate("([id, text]) => mermaid.render(id, text).then(d => d.svg)", [f"d{number}", source])
            (ROOT / "docs" / drawing(source)).write_text(sized(svg) + "\n", encoding="utf-8")
            print(drawing(source))
        browser.close()


if __name__ == "__main__":
    main()
