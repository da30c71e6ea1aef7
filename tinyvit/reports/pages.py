"""Pages of HTML from the package's templates: whole in one file, everything on them escaped."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """A page. Keys, labels and class names come from foreign files: what is not marked safe here is escaped."""
    environment = Environment(
        loader=PackageLoader("tinyvit.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["words"] = short_name
    return environment.get_template(template).render(**values)


def short_name(class_name: str) -> str:
    """A class in its first words: ImageNet's names are a WordNet id and several synonyms."""
    return re.sub(r"^n\d{8}\b *", "", class_name).partition(",")[0] or class_name
