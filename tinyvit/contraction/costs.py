"""What a student costs, and whether it keeps within bounds."""

from __future__ import annotations

import math
import statistics
import time
import weakref
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tinyvit.config import Contraction, Student
from tinyvit.contraction.count import count
from tinyvit.contraction.point import Point

# Passes that are not timed: the first ones choose algorithms and fill caches.
WARM_UP = 2


@dataclass(frozen=True)
class Costs:
    """Parameters and multiply-adds of a picture; `throughput` is the rate in pictures as a multiple of the first
    student's, measured beside it, `images_per_s` the rate itself; latency of one picture; MiB of the tensors that a
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


class Meter:
    """Measures students of `size` pixels beside the first of a search, in the same moments."""

    def __init__(
        self, first: Point, like: Student, size: int, classes: int, plan: Contraction, device: torch.device,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self._like, self._size, self._classes, self._plan = like, size, classes, plan
        self._device, self._dtype = device, dtype
        self._first_point = first
        self._first = self._built(first)

    def on_paper(self, point: Point) -> Costs:
        """What is known without a network."""
        found = count(point, self._size, self._classes)
        return Costs(found.parameters, found.macs)

    @torch.inference_mode()
    def measure(self, point: Point) -> Costs:
        """All costs that the budget bounds, and the throughput in any case."""
        model = self._built(point)
        pixels = self._pixels(self._plan.batch_size)
        for network in (self._first, model):
            for _ in range(WARM_UP):
                self._seconds(network, pixels)
        # By turns, each first in every second pair: what the machine does beside hits both.
        pairs = []
        for number in range(self._plan.repeats):
            turn = (self._first, model) if number % 2 else (model, self._first)
            times = {id(network): self._seconds(network, pixels) for network in turn}
            pairs.append((times[id(self._first)], times[id(model)]))
        bounds = self._plan.budget.bounds
        return Costs(
            **{key: value for key, value in self.on_paper(point).as_dict().items() if value is not None},
            throughput=1.0 if point == self._first_point else statistics.median(one / two for one, two in pairs),
            images_per_s=len(pixels) / statistics.median(two for _, two in pairs),
            latency_ms=self._latency(model) if "latency_ms" in bounds else None,
            memory_mib=self._memory(model, pixels) if "memory_mib" in bounds else None,
        )

    def _built(self, point: Point) -> nn.Module:
        model: Any = point.build(self._like, self._classes, 0).eval()
        built: nn.Module = model.to(self._device, memory_format=torch.channels_last)
        return built

    def _pixels(self, number: int) -> Tensor:
        pixels = torch.zeros(number, 3, self._size, self._size, device=self._device)
        return pixels.to(memory_format=torch.channels_last)

    def _seconds(self, model: nn.Module, pixels: Tensor) -> float:
        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self._device)
        began = time.perf_counter()
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            model(pixels)
        if cuda:
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - began

    def _latency(self, model: nn.Module) -> float:
        pixels = self._pixels(1)
        for _ in range(WARM_UP):
            self._seconds(model, pixels)
        return 1000 * statistics.median(self._seconds(model, pixels) for _ in range(self._plan.repeats))

    def _memory(self, model: nn.Module, pixels: Tensor) -> float:
        if self._device.type == "cuda":
            # The first student's weights are there too.
            before: int = torch.cuda.memory_allocated(self._device) - _bytes(model)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._seconds(model, pixels)
            most: int = torch.cuda.max_memory_allocated(self._device)
            return (most - before) / 2**20
        held = _Held()
        with torch.inference_mode(False), torch.no_grad(), held:
            model(pixels.clone())
        return (held.most + _bytes(model)) / 2**20


def _bytes(model: nn.Module) -> int:
    return sum(int(tensor.nbytes) for tensor in model.state_dict().values())


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that operations made and that are still held: a CPU's allocator does not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most, self._now = 0, 0
        self._known = weakref.WeakKeyDictionary[Any, None]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, made)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known[storage] = None
            self._now += (size := storage.nbytes())
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._now -= size
