"""The pages: what they link to is there, and their lines are of one width."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "storage" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
WIDTH = 120


def prose(page: Path) -> list[str]:
    """The lines of a page without code, tables and images."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [line for line in text.splitlines() if not line.startswith(("|", "    ", "![", "<"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_lines_are_of_one_width(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    assert [line for line in prose(page) if len(line) > WIDTH] == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.*"):
        if page.suffix in (".md", ".ipynb") and page.name != "README.md":
            assert f"({page.name})" in index, page.name
