"""The notebook in docs/ runs, and what it prints is what the store says."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from support import ROOT

from logitstore import LogitStore

NOTEBOOK = ROOT / "docs" / "store.ipynb"


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output["text"] for output in cell["outputs"] if output["output_type"] == "stream")


def test_it_runs_on_another_store(small_store: LogitStore, tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source.startswith("STORE = ")
    assert not any(ours in cell.source for cell in code for ours in ("import logitstore", "import tinyvit"))
    code[0].source = f"STORE = {small_store.location!r}"
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    rows = sum(small_store.samples) * small_store.spec.epochs
    assert f"rows with logits: {rows} of {rows}" in printed(code[2])
    assert small_store.class_names is not None
    view = small_store.read(1, 0)
    best = int(view.probability[7].argmax())
    share, name = printed(code[-1]).splitlines()[1].split("%")
    assert name.strip() == small_store.class_names[int(view.class_id[7][best])]
    assert abs(float(share) - 100 * float(view.probability[7][best])) < 0.06
    keys = small_store.keys(0)
    assert keys is not None
    assert f"seed {int(view.seed[7])}, key {keys[7]!r}" in printed(code[-1])


def test_it_was_run_before_it_was_kept() -> None:
    code = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
