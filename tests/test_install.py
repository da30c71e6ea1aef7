"""What is built and installed, in environments of their own, outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support import EXAMPLE, ROOT, SMALL

UV = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
CONSTRAINTS = ROOT / "constraints.txt"


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command as in a shell that knows nothing of this environment; its output."""
    unknown = {"PYTHONPATH", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in unknown}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the checkout that git has or would add, elsewhere: building leaves its own beside them."""
    out = tmp_path_factory.mktemp("source")
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if not name.startswith(("benchmarks/results/", "runs/")) and (ROOT / name).is_file():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, out / name)
    return out


def environment(path: Path, *what: str) -> Path:
    """A new environment with these things installed; the folder of its commands."""
    run(UV, "venv", "-q", "--python", sys.executable, path, cwd=path.parent)
    python = path / "bin" / "python"
    run(UV, "pip", "install", "-q", "--python", python, "-c", CONSTRAINTS, *what, cwd=path.parent)
    return python.parent


def test_the_store_is_installed_alone_and_passes_its_tests(source: Path, tmp_path: Path) -> None:
    commands = environment(tmp_path / "environment", f"{source / 'storage'}[remote,test]")
    absent = "import importlib.util as u; print([n for n in ('torch', 'timm', 'prefect', 'tinyvit') if u.find_spec(n)])"
    assert run(commands / "python", "-c", absent, cwd=tmp_path).strip() == "[]"
    shutil.copytree(source / "storage" / "tests", tmp_path / "alone" / "tests")
    shutil.copy(source / "storage" / "pyproject.toml", tmp_path / "alone")
    shutil.copy(source / "storage" / "README.md", tmp_path / "alone")
    told = run(commands / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / "alone")
    assert " passed" in told.splitlines()[-1]
    assert "skipped" not in told


def test_what_is_built_holds_what_it_should_and_labels_and_trains(source: Path, tmp_path: Path) -> None:
    run(UV, "build", "-q", "--out-dir", tmp_path, source, cwd=tmp_path)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    folders = {name.split("/")[0] for name in names}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"tinyvit", "tinyvit_flows", "logitstore"}
    assert {"tinyvit/py.typed", "logitstore/py.typed", "tinyvit_flows/py.typed", "tinyvit/data/__init__.py"} <= {*names}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    recipes = [path.name for path in (source / "tinyvit" / "recipes").iterdir()]
    assert {f"tinyvit/recipes/{name}" for name in recipes} <= {*names}
    with tarfile.open(sdist) as archive:
        kept = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "docs/store.md", "storage/logitstore/store.py"} <= kept
    assert not [name for name in kept if name.startswith(("tests", "benchmarks", "storage/tests"))]

    commands = environment(tmp_path / "environment", f"{wheel}[example]")
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "fashion-mnist")
    # A user's own modules of such names are none of ours.
    for name in ("storage", "flows", "benchmarks"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    small = [part for change in (*SMALL, "label.epochs=2") for part in ("--set", change)]
    tinyvit = (commands / "python", "-m", "tinyvit")
    labelled = run(*tinyvit, "label", "example", "--store", "s", "--workers", "1", "--json", *small, cwd=tmp_path)
    assert json.loads(labelled)["sealed"]
    more = ("--stage", "distill", "--set", "stages.distill.epochs=1", "--set", "stages.distill.warmup_epochs=0")
    trained = run(
        *tinyvit, "train", "example", "--store", "s", "--run-dir", "r", *more, "--workers", "1", "--json", *small,
        cwd=tmp_path,
    )  # fmt: skip
    assert Path(tmp_path / json.loads(trained)["distill"]["checkpoint"]).is_dir()
    refused = subprocess.run(
        [commands / "tinyvit", "bench", "report"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "run this in a checkout" in refused.stderr
