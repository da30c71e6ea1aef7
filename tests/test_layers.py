"""The architecture as a test: what a folder must not import is not there when it is imported."""

import ast
from pathlib import Path

import pytest
from isolated import without_packages
from structure import circles, imports
from support import ROOT

from logitstore import LogitStore

FORBIDDEN = {
    "storage/logitstore": {"torch", "timm", "prefect", "tinyvit", "tinyvit_flows", "webdataset"},
    "tinyvit": {"prefect", "tinyvit_flows"},
    "flows/tinyvit_flows": {"tests", "benchmarks"},
}
# What a folder may reach only through another one: read in its own source, not in what it imports.
INDIRECT = {"tinyvit": {"zarr", "numcodecs"}, "flows": {"zarr", "numcodecs", "webdataset"}}


# The floor plan of tinyvit/, from the ground up: what each package may import of the others, at the head of a file or
# inside a function.
GROUND = {"errors"}
SHARED = GROUND | {"cache", "classes", "config", "runtime"}
PLAN = {
    "errors": set(),
    "cache": GROUND,
    "classes": GROUND,
    "config": GROUND,
    "runtime": GROUND,
    "targets": SHARED,
    "views": SHARED,
    "data": SHARED | {"targets", "views"},
    "models": SHARED | {"targets", "views"},
    "datasets": SHARED | {"data", "views"},
    "labelling": SHARED | {"data", "models", "targets", "views"},
    "evaluation": SHARED | {"data", "datasets", "models", "targets", "views"},
    "training": SHARED | {"data", "targets"},
    "reports": SHARED | {"data", "labelling", "models", "training", "views"},
    "detection": SHARED | {"data", "models", "reports", "training", "views"},
    "tasks": SHARED | {"data", "detection", "evaluation", "models", "targets", "training", "views"},
    "contraction": SHARED | {"data", "models", "reports", "targets", "tasks", "training", "views"},
    "transfer": SHARED | {"data", "evaluation", "models", "reports", "training", "views"},
    "doctor": SHARED | {"data", "evaluation", "labelling", "models", "views"},
    "export": SHARED | {"models", "training"},
}


def modules(folder: str) -> list[str]:
    package = ROOT / folder
    files = sorted(package.rglob("*.py"))
    return [".".join(f.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__") for f in files]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_folder_imports_where_forbidden_packages_are_absent(folder: str) -> None:
    lines = "\n".join(f"import {name}" for name in modules(folder))
    done = without_packages(FORBIDDEN[folder], lines)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_guard_bites(tmp_path: Path) -> None:
    done = without_packages({"prefect"}, "import prefect")
    assert done.returncode == 1
    assert "forbidden: prefect" in done.stderr


@pytest.mark.parametrize("folder", INDIRECT)
def test_source_names_no_package_of_another_layer(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                assert words[1].split(".")[0] not in INDIRECT[folder], f"{file}: {line}"


def test_others_use_only_public_names_of_the_store() -> None:
    for folder in ("tinyvit", "flows"):
        for file in (ROOT / folder).rglob("*.py"):
            assert "from logitstore." not in file.read_text(), file


@pytest.mark.parametrize("command", ["info", "show", "verify"])
def test_who_looks_into_a_store_does_not_wait_for_torch(command: str, small_store: LogitStore) -> None:
    line = ["store", command, small_store.location]
    code = f"sys.argv[1:] = {line!r}\nfrom tinyvit.cli.main import main\nmain()"
    done = without_packages({"torch", "torchvision", "timm", "webdataset"}, code)
    assert done.returncode == 0, done.stderr[-2000:]


def against_the_plan(package: Path) -> list[str]:
    """The imports that the floor plan does not have. Who starts a command may import everything."""
    free = {"cli", "__main__", "__init__"}
    return [
        f"{where}: {one} imports {other}"
        for one, other, where in imports(package)
        if one not in free and other not in PLAN[one] and not other.startswith("__")
    ]


def test_packages_import_only_what_the_floor_plan_says() -> None:
    assert against_the_plan(ROOT / "tinyvit") == []
    parts = {one for one, _, _ in imports(ROOT / "tinyvit")} - {"cli", "__main__", "__init__"}
    assert parts <= set(PLAN)


def test_no_parts_import_each_other() -> None:
    for package in (ROOT / "tinyvit", ROOT / "storage" / "logitstore", ROOT / "flows" / "tinyvit_flows"):
        assert circles(package) == []


def test_an_import_against_the_plan_is_found_also_inside_a_function(tmp_path: Path) -> None:
    for part, line in {"data": "import torch", "views": "def f():\n    from tinyvit.data.index import x"}.items():
        (tmp_path / "tinyvit" / part).mkdir(parents=True)
        (tmp_path / "tinyvit" / part / "a.py").write_text(line)
    assert against_the_plan(tmp_path / "tinyvit") == ["tinyvit/views/a.py:2: views imports data"]


def checks(statement: ast.Assert) -> bool:
    """Whether an assertion asks more than what a type checker wants to be told: python -O leaves it out."""
    told = {"isinstance", "issubclass"}
    called = [node.func for node in ast.walk(statement.test) if isinstance(node, ast.Call)]
    compared = [op for node in ast.walk(statement.test) if isinstance(node, ast.Compare) for op in node.ops]
    return any(not isinstance(call, ast.Name) or call.id not in told for call in called) or any(
        not isinstance(op, ast.Is | ast.IsNot) for op in compared
    )


def test_no_check_is_inside_an_assertion() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for folder in ("tinyvit", "flows", "storage/logitstore", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
        # Tests that other places of a store are tried with.
        if file.name != "testing.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Assert) and checks(node)
    ]
    assert found == []
    for line, is_check in {
        "x": False,
        "x is not None": False,
        "isinstance(x, A)": False,
        "x.f()": True,
        "x == 1": True,
    }.items():
        (statement,) = ast.parse(f"assert {line}").body
        assert isinstance(statement, ast.Assert)
        assert checks(statement) == is_check
