"""Costs that take a network to know: throughput, latency, memory."""

from __future__ import annotations

import math
import statistics
import time
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tinyvit.config import Contraction, Student
from tinyvit.contraction.costs import Costs
from tinyvit.contraction.count import count
from tinyvit.contraction.point import Point
from tinyvit.errors import UserError

# Passes that are not timed: the first ones choose algorithms and fill caches.
WARM_UP = 2
# Where pairs differ, more are timed until their median is certain to this share, at most so many times as many.
CERTAIN, MOST = 0.02, 5


def device_of(name: str) -> torch.device:
    """A device by its name. UserError for one that is not here."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as fault:
        reason = str(fault).partition("\n")[0]
        raise UserError(f"contract.device is {name!r}, which this machine has not ({reason}); name another") from fault
    return device


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
        # By turns, each first in every second pair: what the machine does beside hits both. The median of the ratios
        # then stays where it is; that of the fastest passes favours the shorter ones, which slip through.
        pairs: list[tuple[float, float]] = []
        while len(pairs) < self._plan.repeats or (
            len(pairs) < MOST * self._plan.repeats and _uncertainty(pairs) > CERTAIN
        ):
            turn = (self._first, model) if len(pairs) % 2 else (model, self._first)
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


def _uncertainty(pairs: list[tuple[float, float]]) -> float:
    """Standard error of the median of the ratios, as a share of it; a far-off pair weighs no more than another."""
    ratios = [math.log(one / two) for one, two in pairs]
    middle = statistics.median(ratios)
    spread = 1.4826 * statistics.median(abs(ratio - middle) for ratio in ratios)
    return math.sqrt(math.pi / 2 / len(ratios)) * spread


def _bytes(model: nn.Module) -> int:
    return sum(int(tensor.nbytes) for tensor in model.state_dict().values())


class _Held(TorchDispatchMode):
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
