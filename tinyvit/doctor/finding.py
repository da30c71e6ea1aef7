"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinyvit.errors import UserError

State = Literal["ok", "hint", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was checked, what was seen, and for all but `ok` what to do.

    `failed` is a fault that spoils labels or training; a `hint` may be as it should; `skipped` could not be checked.
    """

    check: str
    state: State
    told: str
    remedy: str = ""

    @classmethod
    def of_fault(cls, check: str, fault: UserError) -> Finding:
        """From an error, which says what is wrong and then what to do."""
        told, _, remedy = str(fault).rpartition("; ")
        return cls(check, "failed", told or remedy, remedy if told else "")
