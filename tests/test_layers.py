"""The architecture as a test: what a folder must not import is not there when it is imported."""

from pathlib import Path

import pytest
from isolated import without_packages
from support import ROOT

from logitstore import LogitStore

FORBIDDEN = {
    "storage/logitstore": {"torch", "timm", "prefect", "tinyvit", "tinyvit_flows", "webdataset"},
    "tinyvit": {"prefect", "tinyvit_flows"},
    "flows/tinyvit_flows": {"tests", "benchmarks"},
}
# What a folder may reach only through another one: read in its own source, not in what it imports.
INDIRECT = {"tinyvit": {"zarr", "numcodecs"}, "flows": {"zarr", "numcodecs", "webdataset"}}


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
