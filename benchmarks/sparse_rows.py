"""Real rows to measure on: what a teacher says about augmented views, cut down in several ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from logitstore import Unit
from tinyvit.config import Recipe
from tinyvit.data.index import index_shards
from tinyvit.data.loader import run_jobs
from tinyvit.data.unit_views import UnitViews
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import Progress
from tinyvit.targets.signal import TeacherSignal
from tinyvit.views import view_seeds

CHUNK = 200


@dataclass
class SparseRows:
    """N rows of a teacher of C classes, cut down to at most K; float64, so that they are the measure.

    class_id    [N, K] best first
    probability [N, K], 0 where a row has fewer classes
    residual    [N] mass outside
    spread      [N] what it costs to spread that mass evenly: the divergence of the true rest from an even one
    """

    class_id: NDArray[np.int64]
    probability: NDArray[np.float64]
    residual: NDArray[np.float64]
    spread: NDArray[np.float64]


@dataclass
class Views:
    """The rows of the same N views, by how they were cut down, with each view's seed and key."""

    num_classes: int
    seed: NDArray[np.uint32]
    keys: list[str]
    cut: dict[str, SparseRows]


def collect(recipe: Recipe, teacher: Teacher, views: int, workers: int, progress: Progress) -> Views:
    """Ask the teacher about `views` training views: every image once, then again in the next epoch."""
    index = index_shards(recipe.data.train, progress)
    table = index.table
    label = recipe.label
    epochs = range(-(-views // sum(table.samples)))
    stream = UnitViews(
        index=index,
        augment=label.augment,
        decode=recipe.data.decode,
        size=label.input_size or teacher.input_size,
        run_seed=label.seed,
        batch_size=CHUNK,
        probes=4,
        skip_broken=True,
    )
    jobs = (
        part
        for epoch in epochs
        for shard in range(len(index))
        for part in stream.parts(Unit(epoch, shard), range(epoch, epoch + 1))
    )
    parts: dict[str, list[SparseRows]] = {}
    seeds: list[NDArray[np.uint32]] = []
    keys: list[str] = []
    count = 0
    with progress.task("ask", views, "views") as bar:
        for (chunk,) in run_jobs(stream.chunks, jobs, workers):
            name = table.name[chunk.unit.shard]
            slots = chunk.slots.numpy()
            seed = view_seeds(label.seed, name, chunk.unit.block, table.samples[chunk.unit.shard])[slots]
            for cut, answers in cut_down(teacher.logits(chunk.views[0]).cpu(), seed).items():
                parts.setdefault(cut, []).append(answers)
            seeds.append(seed)
            keys += [f"{name[:-4]}-{slot:06d}-{chunk.unit.block}" for slot in slots]
            count += len(slots)
            bar.advance(len(slots))
            if count >= views:
                break
    joined = {
        cut: SparseRows(*(np.concatenate([getattr(a, field) for a in found])[:views] for field in vars(found[0])))
        for cut, found in parts.items()
    }
    return Views(teacher.num_classes, np.concatenate(seeds)[:views], keys[:views], joined)


def cut_down(logits: Tensor, seed: NDArray[np.uint32]) -> dict[str, SparseRows]:
    """Logits [B, C] by the number of best classes, by mass, and by 50 draws (as in arXiv 2503.16870)."""
    p = logits.double().softmax(dim=1)
    best = {top_k: TeacherSignal.from_logits(logits, top_k) for top_k in (100, 10)}
    mass = TeacherSignal.from_logits_by_mass(logits, 100, 0.99)
    draws = TeacherSignal.sampled_from_logits(logits, 50, torch.from_numpy(seed.astype(np.int64)))
    sampled = SparseRows(
        draws.class_id.numpy(),
        draws.probability.double().numpy(),
        np.zeros(len(p)),
        np.full(len(p), np.inf),
    )
    return {f"top {k}": _measure(p, s) for k, s in best.items()} | {"mass": _measure(p, mass), "sampled": sampled}


def _measure(p: Tensor, signal: TeacherSignal) -> SparseRows:
    kept = p.gather(1, signal.class_id) * signal.present
    # Absent entries name the first class again, so scattering zeros takes out the kept classes and no others.
    rest = p.scatter(1, signal.class_id, 0.0)
    residual = rest.sum(dim=1)
    even = residual / (p.shape[1] - signal.present.sum(dim=1))
    spread = torch.where(rest > 0, rest * (rest / even[:, None]).log(), 0.0).sum(dim=1)
    return SparseRows(signal.class_id.numpy(), kept.numpy(), residual.numpy(), spread.numpy())


def stand_in(teacher: Teacher, num_classes: int) -> Teacher:
    """The same network with a head of more classes: every class several times, each with some noise of its own.

    It stands in for a teacher of that many classes where none can be had: classes come in families, as those
    of ImageNet-21k do, but nobody trained it.
    """
    head = teacher.model.get_classifier()  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    chosen = torch.arange(num_classes) % teacher.num_classes
    weight = head.weight.detach().cpu()[chosen]
    weight = weight + 0.5 * weight.std() * torch.randn(weight.shape, generator=generator)
    wide = nn.Linear(weight.shape[1], num_classes)
    wide.weight.data, wide.bias.data = weight, head.bias.detach().cpu()[chosen]
    name = type(teacher.model).__name__
    if not hasattr(teacher.model, "classifier"):
        raise TypeError(f"the head of {name} has another name than classifier")
    model = teacher.model
    model.classifier = wide.to(teacher.device)
    return Teacher(**{**vars(teacher), "model": model, "num_classes": num_classes, "classes": None})
