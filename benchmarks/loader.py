"""`tinyvit bench loader`: images a second of the data path, beside timm's own, on the same photographs in one run.

Compared are timm's WebDataset reader with create_transform, ours without a store, ours joined with one, and decoding
alone; with no data process and with two. The rounds of all take turns, so that a noisy machine troubles all alike;
the median round counts.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import webdataset.compat as wds
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table
from timm.data import create_transform

from benchmarks.photographs import write_photographs
from benchmarks.timm_way import describe_for_timm, timm_loader, timm_settings
from logitstore import LogitStore
from tinyvit.config import Augment, Decode, load_recipe
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.join import IndexedShard
from tinyvit.data.loader import default_workers, run_stream
from tinyvit.data.location import resolve_data
from tinyvit.data.render_views import DecodedSamples
from tinyvit.data.training_views import Replayed, TrainingViews
from tinyvit.labelling.label import label_store
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.distributed import default_device
from tinyvit.runtime.progress import Progress
from tinyvit.views import partners, view_seeds
from tinyvit.views.images import EncodedImage

T = TypeVar("T")

PHOTOGRAPHS = 2000
CLASSES = 1000
PER_SHARD = 250
SIZE = 224
BATCH = 50
# The paper's augmentation and K, one epoch.
OVERRIDES = (
    "label.augment={}",
    "label.top_k=100",
    "label.epochs=1",
    "label.epochs_per_unit=1",
    f"label.input_size={SIZE}",
)
ROUNDS = 5
WORKERS = (0, 2)
KEYS = ("timm", "timm_prefetcher", "plain", "joined", "decode_only")
WORDS = {
    "timm": "timm's reader and create_transform",
    "timm_prefetcher": "the same, bytes to the device (what timm does on a GPU)",
    "plain": "ours, no store",
    "joined": "ours, joined with the store",
    "decode_only": "reading and decoding alone",
}


def prepare(folder: Path, progress: Progress) -> ShardIndex:
    """Photographs in `folder/data` and one epoch of the example teacher's logits in `folder/store`."""
    recipe = load_recipe("example", OVERRIDES)
    teacher = load_teacher(recipe.label.teacher, default_device(), recipe.label.classes)
    data = folder / "data"
    write_photographs(data, PHOTOGRAPHS, PER_SHARD, seed=0)
    index = index_shards(data, progress)
    describe_for_timm(index, data)
    label_store(resolve_data(recipe, str(data)), folder / "store", teacher, default_workers(), progress)
    return index


def measure(folder: Path, index: ShardIndex, augment: Augment, progress: Progress) -> dict[str, Any]:
    """Images a second of every way; without data processes also where one image's time goes."""
    store = LogitStore.open(folder / "store")
    stored = Replayed(0, store.spec.run_seed, store.location)
    found: dict[str, Any] = {"images": PHOTOGRAPHS, "size": SIZE}
    with progress.task("load", len(WORKERS) * ROUNDS * len(KEYS), "passes") as bar:
        for workers in WORKERS:
            ways: dict[str, Callable[[int], Iterator[Any]]] = {
                "timm": lambda seed, w=workers: _timm(folder / "data", augment, w, seed),  # type: ignore[misc]
                "timm_prefetcher": lambda seed, w=workers: _timm(folder / "data", augment, w, seed, True),  # type: ignore[misc]
                "plain": lambda seed, w=workers: run_stream(_views(index, augment, seed), w),  # type: ignore[misc]
                "joined": lambda seed, w=workers: run_stream(_views(index, augment, seed, stored), w),  # type: ignore[misc]
                "decode_only": lambda seed, w=workers: run_stream(_Decoding(index), w),  # type: ignore[misc]
            }
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(ROUNDS):
                for name, make in ways.items():
                    rates[name].append(_rate(make(number)))
                    bar.advance(1)
            rows = {f"{name}_images_per_s": statistics.median(values) for name, values in rates.items()}
            found |= rows if workers == 0 else {f"workers_{workers}": rows}
    found["milliseconds_an_image"] = profile(index, augment, store)
    return found


def _rate(batches: Iterable[Any]) -> float:
    """Images a second from the first batch on: processes that start, start before it."""
    iterator = iter(batches)
    next(iterator)
    began, images = time.perf_counter(), 0
    for batch in iterator:
        images += len(batch[0]) if isinstance(batch, (tuple, list)) else len(batch)
    return images / (time.perf_counter() - began)


def _timm(data: Path, augment: Augment, workers: int, seed: int, prefetcher: bool = False) -> Iterator[Any]:
    loader = timm_loader(data, augment, SIZE, BATCH, workers, seed, prefetcher)
    # The prefetcher's own part belongs to the device; what the data processes make is beneath it.
    return iter(loader.loader if prefetcher else loader)


def _views(index: ShardIndex, augment: Augment, seed: int, *stored: Replayed) -> TrainingViews:
    labels = not stored
    return TrainingViews(
        index, augment, Decode(), SIZE, CLASSES, BATCH, epoch=seed, seed=0, replayed=stored, labels=labels
    )


class _Decoding:
    """Reading and decoding of every sample, whole."""

    def __init__(self, index: ShardIndex) -> None:
        self._index = index

    def read(self, worker: int, workers: int) -> Iterator[tuple[list[int]]]:
        """Batches of the heights of images: pixels stay where they are."""
        batches = [
            (shard, range(first, min(first + BATCH, shard.samples)))
            for shard in self._index.shards()
            for first in range(0, shard.samples, BATCH)
        ]
        for shard, slots in batches[worker::workers]:
            yield ([len(EncodedImage(sample.image, Decode()).pixels()) for sample in shard.read(slots)],)


def profile(index: ShardIndex, augment: Augment, store: LogitStore) -> dict[str, dict[str, float]]:
    """Where the time of one image goes, in milliseconds: ours and timm's, step by step on the same images."""
    shard = index.shard(0)
    ours, timms = _Clock(shard.samples), _Clock(shard.samples)
    for _ in range(ROUNDS):
        _our_steps(ours, shard, augment, store)
        _timms_steps(timms, shard, augment)
    steps = ours.medians()
    steps["policy, erasing"] = steps.pop("with policy, erasing") - steps["crop, flip"]
    return {"ours": steps, "timm": timms.medians()}


def _our_steps(clock: _Clock, shard: IndexedShard, augment: Augment, store: LogitStore) -> None:
    slots = range(shard.samples)
    seeds = view_seeds(0, shard.name, 0, shard.samples)
    alone = partners(seeds, Augment())
    bare = augment.model_copy(update={"auto_augment": None, "color_jitter": 0.0, "erase_prob": 0.0})
    samples = clock("read", lambda: shard.read(slots))
    clock("decode", lambda: [EncodedImage(sample.image, Decode()).pixels() for sample in samples])
    images = DecodedSamples(shard, slots, Decode())
    # Once for nothing: what is decoded is kept.
    images.views(slots, seeds, alone, bare, SIZE)
    clock("crop, flip", lambda: images.views(slots, seeds, alone, bare, SIZE))
    made = clock("with policy, erasing", lambda: images.views(slots, seeds, alone, augment, SIZE))
    clock("batch", lambda: np.stack(list(made.whole().values())))
    clock("join", lambda: _joined(store, np.arange(shard.samples)))


def _joined(store: LogitStore, slots: NDArray[np.intp]) -> list[torch.Tensor]:
    rows = store.read(0, 0)
    return [torch.from_numpy(values[slots]) for values in (rows.class_id.astype(np.int64), rows.probability)]


def _timms_steps(clock: _Clock, shard: IndexedShard, augment: Augment) -> None:
    crop, policy, final = create_transform(SIZE, is_training=True, separate=True, **timm_settings(augment))
    samples = clock("read", lambda: list(wds.WebDataset(shard.path, shardshuffle=False)))
    decoded = clock("decode", lambda: [Image.open(io.BytesIO(sample["jpg"])).convert("RGB") for sample in samples])
    cropped = clock("crop, flip", lambda: [crop(image) for image in decoded])
    coloured = clock("policy, erasing", lambda: [policy(image) for image in cropped])
    tensors = clock("tensor, normalise, erase", lambda: [final(image) for image in coloured])
    clock("batch", lambda: torch.stack(tensors))


class _Clock:
    """Times steps over so many images."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._seconds: dict[str, list[float]] = {}

    def __call__(self, step: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        done = work()
        self._seconds.setdefault(step, []).append(time.perf_counter() - began)
        return done

    def medians(self) -> dict[str, float]:
        """Milliseconds an image of each step."""
        return {step: 1000 * statistics.median(times) / self._images for step, times in self._seconds.items()}


def table(found: dict[str, Any]) -> Table:
    """What was measured, for a terminal."""
    made = Table("images/s", *(_processes(workers) for workers in WORKERS), title_justify="left")
    for key in KEYS:
        rates = [(found if workers == 0 else found[f"workers_{workers}"])[f"{key}_images_per_s"] for workers in WORKERS]
        made.add_row(WORDS[key], *(f"{rate:,.0f}" for rate in rates))
    return made


def _processes(workers: int) -> str:
    return "one process" if workers == 0 else f"{workers} workers"


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as tables of a results file."""
    columns = [found if workers == 0 else found[f"workers_{workers}"] for workers in WORKERS]
    lines = ["| images/s | " + " | ".join(map(_processes, WORKERS)) + " |", "| --- |" + " --- |" * len(WORKERS)]
    for key in KEYS:
        lines.append(f"| {WORDS[key]} | " + " | ".join(f"{c[f'{key}_images_per_s']:,.0f}" for c in columns) + " |")
    for name, one, two in (("joined / plain", "joined", "plain"), ("plain / timm", "plain", "timm")):
        ratios = [c[f"{one}_images_per_s"] / c[f"{two}_images_per_s"] for c in columns]
        lines.append(f"| {name} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    steps = found["milliseconds_an_image"]
    lines += ["", "| ms an image, one process | ours | timm's |", "| --- | --- | --- |"]
    for step in dict.fromkeys([*steps["timm"], *steps["ours"]]):
        shown = [f"{steps[who][step]:.3f}" if step in steps[who] else "" for who in ("ours", "timm")]
        lines.append(f"| {step} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines) + "\n"
