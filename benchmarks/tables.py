"""What a benchmark measured, as a table for a terminal and for a results file."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from rich.table import Table


def terminal(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> Table:
    """For a terminal."""
    made = Table(*columns, title_justify="left", caption=caption)
    for row in rows:
        made.add_row(*row)
    return made


def file_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """For a Markdown file."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(["", *("| " + " | ".join(line) + " |" for line in lines), ""])


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """The mean, and the standard deviation where there are several."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
