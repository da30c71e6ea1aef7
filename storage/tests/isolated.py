"""Processes in which some packages are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def without_packages(forbidden: set[str], code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process in which some packages cannot be imported."""
    guard = (
        "import sys\n"
        "class Guard:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {forbidden!r}:\n"
        "            raise ImportError('forbidden: ' + name)\n"
        "sys.meta_path.insert(0, Guard())\n"
    )
    environment = os.environ | {"PYTHONPATH": ""}
    return subprocess.run(
        [sys.executable, "-c", guard + code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
