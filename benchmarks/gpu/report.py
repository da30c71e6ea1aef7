"""The file of results: tables that fill up, written whole after each row; the same figures as JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.tables import file_table
from logitstore import write_whole


@dataclass(frozen=True)
class Row:
    """A line of a section's table, and the figures in it for programs."""

    section: str
    cells: tuple[str, ...]
    figures: dict[str, Any]


@dataclass(frozen=True)
class Note:
    """A line below a section's table: what is to be known of it, what was left out and why.

    A fault has the `trace` that shows where.
    """

    section: str
    text: str
    trace: str = ""


@dataclass
class Section:
    """A table under a heading."""

    title: str
    about: str
    columns: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def markdown(self) -> str:
        """For the file."""
        table = file_table(self.columns, [row.cells for row in self.rows]) if self.rows else ""
        notes = "".join(f"\n- {note.text}" for note in self.notes)
        return f"\n## {self.title}\n\n{self.about}\n{table}{notes}\n"


class Report:
    """What was found so far, in `file` and in a .json of the same name."""

    def __init__(self, file: Path, head: Sequence[str], about: Mapping[str, Any], sections: dict[str, Section]) -> None:
        self.file, self._head, self._about, self._sections = file, head, about, sections
        self._seconds: dict[str, float] = {}
        self._write()

    def add(self, found: Row | Note) -> None:
        """Take a row or a note into its section."""
        section = self._sections[found.section]
        if isinstance(found, Row):
            section.rows.append(found)
        else:
            section.notes.append(found)
        self._write()

    def spent(self, job: str, seconds: float) -> None:
        """Take how long a job took."""
        self._seconds[job] = seconds
        self._write()

    @property
    def figures(self) -> dict[str, list[dict[str, Any]]]:
        """Of each section, the figures of its rows."""
        return {name: [row.figures for row in section.rows] for name, section in self._sections.items()}

    def _write(self) -> None:
        text = "\n".join(self._head) + "\n" + "".join(section.markdown() for section in self._sections.values())
        if self._seconds:
            text += "\nSeconds: " + ", ".join(f"{job} {took:.0f}" for job, took in self._seconds.items()) + ".\n"
        write_whole(self.file, text.encode())
        notes = {
            name: [{"text": note.text, "trace": note.trace} for note in section.notes]
            for name, section in self._sections.items()
        }
        document = {"about": self._about, "figures": self.figures, "notes": notes, "seconds": self._seconds}
        write_whole(self.file.with_suffix(".json"), (json.dumps(document, indent=1) + "\n").encode())


def new_file(folder: Path, stem: str) -> Path:
    """A name for a results file that is not there yet: an earlier run of the day keeps its own."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [stem, *(f"{stem}_{number}" for number in range(2, 1000))]
    return next(file for name in names if not (file := folder / f"{name}.md").exists())
