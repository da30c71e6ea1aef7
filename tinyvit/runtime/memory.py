"""How much memory a process has taken."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_mib() -> int:
    """The most that this process has had at once (VmHWM of Linux; 0 where there is none).

    Not getrusage's ru_maxrss: that is at least what the parent had.
    """
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return sum(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))
