"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_lines_of_the_readme_print_what_it_says(tmp_path: Path) -> None:
    code, printed = re.findall(r"```python\n(.*?)```\n\nprints\n\n    (.*?)\n\n", README.read_text(), re.DOTALL)[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == printed, done.stderr
