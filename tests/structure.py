"""How a package is built: its parts, and which of them import which, at the head of a file or inside a function.

python tests/structure.py [PACKAGE]    # such as tinyvit: parts, loose modules, imports between them, circles
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path


def imports(package: Path) -> Iterator[tuple[str, str, str]]:
    """Every import from one part of a package to another: from which, to which, and where it stands.

    A part is a package or a module beside it.
    """
    for file in sorted(package.rglob("*.py")):
        part = file.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            named = [name.name for name in node.names]
            if isinstance(node, ast.ImportFrom):
                inside = node.module == package.name
                named = [f"{node.module}.{name}" if inside else node.module or "" for name in named]
            for name in named:
                root, *rest = name.split(".")
                if root == package.name and rest and rest[0] != part:
                    yield part, rest[0], f"{file.relative_to(package.parent)}:{node.lineno}"


def circles(package: Path) -> list[str]:
    """The parts that import each other, straight or by others."""
    below: dict[str, set[str]] = defaultdict(set)
    for one, other, _ in imports(package):
        below[one].add(other)
    left = dict(below)
    while ready := [name for name, others in left.items() if not others & set(left)]:
        for name in ready:
            del left[name]
    return sorted(left)


def main() -> None:
    """Print the figures of a package."""
    package = Path(sys.argv[1] if len(sys.argv) > 1 else "tinyvit")
    folders = [folder for folder in package.iterdir() if folder.is_dir() and any(folder.glob("*.py"))]
    loose = [file for file in package.glob("*.py") if not file.name.startswith("__")]
    found = list(imports(package))
    print(f"{package}: {len(folders)} packages, {len(loose)} loose modules")
    print(f"imports between its parts: {len(found)}, of {len({(one, other) for one, other, _ in found})} pairs")
    print(f"parts in circles: {', '.join(circles(package)) or 'none'}")
    inside = sum(
        isinstance(node, ast.Import | ast.ImportFrom)
        for file in package.rglob("*.py")
        for function in ast.walk(ast.parse(file.read_text()))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    )
    print(f"imports inside functions: {inside}")


if __name__ == "__main__":
    main()
