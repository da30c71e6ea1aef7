"""The page about a store, in a real browser: it opens offline, finds, filters, opens, and runs nothing foreign."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opened import Opened
from playwright.sync_api import Browser
from support import EXAMPLE, tinyvit

from logitstore import LogitStore
from tinyvit.errors import UserError
from tinyvit.reports.store_page import write_store_page
from tinyvit.runtime.progress import SilentProgress

SCRIPT = "</script><script>window.hacked=1</script>"
IMAGES = 40


@pytest.fixture(scope="module")
def page(foreign: tuple[LogitStore, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about that store."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    found = write_store_page(path, foreign[0], str(foreign[1]), 100_000, 0, SilentProgress())
    assert found["rows_drawn"] == found["rows"] == 3 * IMAGES
    assert found["agreement"]["rows"] == 3 * IMAGES
    return path


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_it_opens_offline_fits_and_runs_nothing_foreign(browser: Browser, page: Path, width: int, dark: bool) -> None:
    opened = Opened(browser, page, width, dark)
    opened.page.wait_for_load_state("load")
    assert opened.complaints == []
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert opened.page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive") < 2000
    # Everything that is seen has words for those who do not see it.
    assert opened.page.locator("img:not([alt])").count() == 0
    ids = opened.page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    assert SCRIPT in opened.page.locator("main .card h3").first.inner_text()


def test_searching_filtering_and_opening_a_sample(browser: Browser, page: Path) -> None:
    opened = Opened(browser, page, 1440, False)
    everything = opened.cards()
    assert everything > 20
    opened.page.get_by_label("Key or class").fill("script>07")
    rows = opened.page.locator("#rows tbody tr")
    assert rows.count() == 3
    assert SCRIPT in rows.first.inner_text()
    assert opened.cards() < everything
    opened.page.get_by_label("Key or class").fill("no such key")
    assert opened.cards() == 0
    assert opened.page.locator("#found").inner_text().startswith("0 of 120 rows")
    opened.page.get_by_label("Key or class").fill("")
    opened.page.get_by_label("Show").select_option("no")
    assert opened.page.locator("main .card:visible:not([data-agrees=no])").count() == 0
    assert opened.page.locator("#rows tbody tr").count() == 50
    opened.page.get_by_label("Show").select_option("all")
    assert opened.cards() == everything
    # By keyboard alone.
    opened.page.locator("main .card .open").first.focus()
    opened.page.keyboard.press("Enter")
    dialog = opened.page.get_by_role("dialog")
    assert dialog.is_visible()
    assert dialog.locator("img").count() == 4
    assert "outside the kept classes" in dialog.inner_text()
    opened.page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert opened.complaints == []
    assert opened.page.evaluate("window.hacked") is None


def test_a_sample_of_the_rows_is_said_to_be_one(whole: LogitStore, small_data: Path, tmp_path: Path) -> None:
    found = write_store_page(tmp_path / "a.html", whole, None, 300, 7, SilentProgress())
    text = (tmp_path / "a.html").read_text()
    assert "All figures are of a sample: 300 of 4,000 rows, drawn by seed 7." in text
    assert "Gallery" not in text
    assert found["page_bytes"] == len(text.encode())
    found = write_store_page(tmp_path / "b.html", whole, str(small_data), 300, 7, SilentProgress())
    assert "other classes than the teacher" in found["labels"]
    assert found["agreement"] is None
    # What the data calls them is said nevertheless.
    assert "label: " in (tmp_path / "b.html").read_text()


def test_what_there_is_no_page_about(small_store: LogitStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not what .* was made from"):
        write_store_page(tmp_path / "a.html", small_store, str(EXAMPLE / "val"), 10, 0, SilentProgress())
    empty = LogitStore.create(tmp_path / "empty", small_store.spec, small_store.table)
    with pytest.raises(UserError, match="no logits yet"):
        write_store_page(tmp_path / "a.html", empty, None, 10, 0, SilentProgress())
    assert not (tmp_path / "a.html").exists()


def test_the_command_line(foreign: tuple[LogitStore, Path], tmp_path: Path) -> None:
    store, data = foreign
    done = tinyvit(
        "store", "report", store.location, "--data", str(data), "-o", str(tmp_path / "r.html"), "--rows", "50", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows_drawn"] == 50
