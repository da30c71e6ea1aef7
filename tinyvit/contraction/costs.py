"""What a student costs, and whether it keeps within bounds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Costs:
    """Parameters and multiply-adds of an image; `throughput` is the rate in images as a multiple of the first
    student's, measured beside it, `images_per_s` the rate itself; latency of one image; MiB of the tensors that a
    forward pass holds at once, weights included. None where it was not asked for.
    """

    parameters: int
    macs: int
    throughput: float | None = None
    images_per_s: float | None = None
    latency_ms: float | None = None
    memory_mib: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-simple."""
        return asdict(self)


class Bounds:
    """What the students of a round may cost, by the names of a budget's fields."""

    def __init__(self, values: dict[str, float]) -> None:
        self.values = values

    def broken(self, costs: Costs) -> list[str]:
        """The names of those that are not kept, of the costs that are known."""
        known = costs.as_dict()
        return [
            name
            for name, bound in self.values.items()
            if known[name] is not None and _burden(name, known[name]) > _burden(name, bound)
        ]

    def tightened(self, costs: Costs, share: float) -> Bounds:
        """The bounds of the next round on the way from these costs to these bounds.

        Every cost goes the same part of its way, in ratios: so many rounds are left as the one that is farthest
        needs, when a round leaves `share` of it.
        """
        known = costs.as_dict()
        ways = {name: _burden(name, known[name]) / _burden(name, bound) for name, bound in self.values.items()}
        # A hair less than what a logarithm says, which may say 3.0000000000000004 rounds.
        rounds = max(1, math.ceil(math.log(max(ways.values())) / -math.log(share) - 1e-9))
        return Bounds(
            {
                name: bound if way <= 1 or rounds == 1 else _part(name, known[name], way ** (1 / rounds))
                for (name, bound), way in zip(self.values.items(), ways.values(), strict=True)
            }
        )

    def told(self, names: list[str] | None = None) -> str:
        """In words."""
        chosen = self.values if names is None else {name: self.values[name] for name in names}
        return ", ".join(tell(name, value, bound=True) for name, value in chosen.items())

    def told_exactly(self) -> str:
        """As costs that something has, in words."""
        return ", ".join(tell(name, value) for name, value in self.values.items())


def tell(name: str, value: float, bound: bool = False) -> str:
    """A cost in words."""
    sign = {True: "at least " if name == "throughput" else "at most ", False: ""}[bound]
    return {
        "parameters": f"{sign}{value / 1e6:.2f} M parameters",
        "macs": f"{sign}{value / 1e9:.3f} G multiply-adds",
        "throughput": f"{sign}{value:.2f} times the throughput",
        "latency_ms": f"{sign}{value:.1f} ms latency",
        "memory_mib": f"{sign}{value:.1f} MiB memory",
    }[name]


def _burden(name: str, value: float) -> float:
    """The lower the better."""
    return 1 / value if name == "throughput" else value


def _part(name: str, present: float, factor: float) -> float:
    return present * factor if name == "throughput" else present / factor
