"""A page as a reader has it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser


class Opened:
    """A page in a browser, and what it complained of or asked for."""

    def __init__(self, browser: Browser, path: Path, width: int, dark: bool) -> None:
        scheme: Literal["dark", "light"] = "dark" if dark else "light"
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda fault: self.complaints.append(str(fault)))
        self.page.on("request", lambda asked: self._note(asked.url))
        self.page.goto(path.as_uri())

    def _note(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.complaints.append(f"asked for {url}")

    def cards(self) -> int:
        return int(self.page.locator("main .card:visible").count())
