"""What a network makes of a data set's images before its classifier, computed once and kept in a store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitstore import Claims, Features, FeatureSpec, FeatureStore, StoreError, Unit, digest_of
from tinyvit.data.loader import run_jobs
from tinyvit.errors import UserError
from tinyvit.evaluation.eval_model import EvalModel
from tinyvit.evaluation.images import DataSet
from tinyvit.evaluation.views import EvaluationViews
from tinyvit.models.teachers import weights_digest
from tinyvit.runtime.foreign import foreign
from tinyvit.runtime.progress import Progress
from tinyvit.runtime.provenance import library_versions, now, version_changes
from tinyvit.views import probe_slots, view_digest
from tinyvit.views.pixels import normalise

Span = tuple[int, range]
# Seconds between looks at what other runs have done.
LOOK_AGAIN = 2.0


@dataclass(frozen=True)
class Split:
    """Features [N, C] float32 and labels [N] of a part of a data set."""

    features: NDArray[np.float32]
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class Extractor:
    """Makes features of images with a network, on its device, at a precision; keeps them in `folder`."""

    name: str
    subject: EvalModel
    folder: Path
    device: torch.device
    dtype: torch.dtype
    workers: int
    progress: Progress
    batch_size: int = 128

    def split(self, data: str, images: DataSet) -> Split:
        """Features and labels of all images of the data set that is called `data`; what is kept is not made again.

        UserError for a network without features, for features that are not finite, and where the kept ones were made
        of other pixels than the libraries of today prepare.
        """
        self.subject.model.eval()
        try:
            store = self._open(data, images)
            with Claims(store) as claims:
                while missing := store.missing():
                    if not self._make(store, images, missing, claims):
                        # What is missing is with another run.
                        time.sleep(LOOK_AGAIN)
                claims.sweep()
            shards = [store.read_shard(number) for number in range(len(store.samples))]
        except StoreError as fault:
            raise UserError(str(fault)) from fault
        return Split(np.concatenate([s.feature for s in shards]), np.concatenate([s.label for s in shards]))

    def _open(self, data: str, images: DataSet) -> FeatureStore:
        subject, table = self.subject, images.table()
        spec = FeatureSpec(
            data=data,
            epochs=1,
            epochs_per_unit=1,
            libraries=library_versions(),
            created=now(),
            channels=self._features(torch.zeros(1, subject.size, subject.size, 3, dtype=torch.uint8)).shape[1],
            network={"name": self.name, "weights_sha256": weights_digest(subject.model)},
            preparation=subject.data_config | {"precision": str(self.dtype).removeprefix("torch.")},
        )
        # Called by all that decides them: two networks, or two preparations, never meet in one store.
        path = self.folder / digest_of([spec.network["weights_sha256"], spec.preparation, table.digest()])[:16]
        if not FeatureStore.exists(path):
            return FeatureStore.create(path, spec, table)
        store = FeatureStore.open(path)
        self._check(store, images)
        return store

    def _check(self, store: FeatureStore, images: DataSet) -> None:
        """UserError where the probe images of a shard are not prepared as they were."""
        missing = set(store.missing())
        for shard in [unit.shard for unit in store.units() if unit not in missing][:1]:
            views = self._views(images)
            slots = probe_slots(store.samples[shard], store.spec.probes)
            for slot, wanted in zip(slots, store.read_shard(shard).view_digest.tolist(), strict=True):
                pixels = views.batch((shard, range(slot, slot + 1))).views
                if view_digest(pixels[0].numpy()) != wanted:
                    versions = ", ".join(version_changes(store.spec.libraries)) or "the images or the code changed"
                    raise UserError(f"{store.location} has features of other pixels ({versions}); remove it")

    def _make(self, store: FeatureStore, images: DataSet, missing: list[Unit], claims: Claims) -> int:
        """Make and commit what is missing and no other run has claimed; returns how many batches that was."""
        views = self._views(images)
        spans: list[Span] = []

        def jobs() -> Iterator[Span]:
            for unit in claims.free(missing):
                for span in views.spans_of(unit.shard):
                    spans.append(span)
                    yield span

        total = sum(store.samples[unit.shard] for unit in missing)
        batches = run_jobs(views.batch, jobs(), self.workers, self.device.type == "cuda")
        with self.progress.task("features", total, "images") as bar:
            draft, digests = list[tuple[Tensor, Tensor]](), dict[int, int]()
            for number, (pixels, labels, *_) in enumerate(batches):
                shard, slots = spans[number]
                draft.append((self._features(pixels), labels[:, 0]))
                probed = probe_slots(store.samples[shard], store.spec.probes)
                digests |= {slot: view_digest(pixels[slot - slots.start].numpy()) for slot in probed if slot in slots}
                bar.advance(len(slots))
                if slots.stop == store.samples[shard]:
                    features, numbers = (torch.cat(parts).numpy() for parts in zip(*draft, strict=True))
                    view_digests = np.array([digests[slot] for slot in probed], np.uint32)
                    store.write_shard(shard, Features(features, numbers.astype(np.int32), view_digests))
                    claims.drop(Unit(0, shard))
                    draft, digests = [], {}
        return len(spans)

    def _views(self, images: DataSet) -> EvaluationViews:
        subject = self.subject
        return EvaluationViews(
            images=images,
            size=subject.size,
            crop_pct=subject.crop_pct,
            crop_mode=subject.crop_mode,
            interpolation=subject.interpolation,
            batch_size=self.batch_size,
            decode=subject.decode,
        )

    @torch.inference_mode()
    def _features(self, views: Tensor) -> Tensor:
        """[n, C] float32 on the CPU, for views [n, H, W, 3] uint8: what the classifier is given, pooled."""
        model: Any = self.subject.model
        if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
            raise UserError(f"{self.name} does not say what its features are; give a timm model")
        pixels = normalise(views, self.subject.mean, self.subject.std, self.device)
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with foreign(f"{self.name} makes no features of {list(pixels.shape)}", "give a timm model"), autocast:
            features: Tensor = model.forward_head(model.forward_features(pixels), pre_logits=True)
        return features.flatten(1).float().cpu()
