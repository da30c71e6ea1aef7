"""How near a student's logits are to the teacher's, on stored views that it was not trained on."""

from __future__ import annotations

import torch
from torch import nn

from tinyvit.config import Residual
from tinyvit.data.index import ShardIndex
from tinyvit.data.loader import run_streams
from tinyvit.data.location import cache_for
from tinyvit.data.training_views import Kept, TrainingViews, counts_of
from tinyvit.errors import UserError
from tinyvit.models import input_size, mean_std
from tinyvit.targets.losses import agreement, distillation_loss
from tinyvit.training.model_runner import precision_of
from tinyvit.training.run import Run
from tinyvit.views.pixels import normalise

# Views that are answered together.
TOGETHER = 250


@torch.inference_mode()
def score(
    student: nn.Module, run: Run[ShardIndex], shards: frozenset[int], epochs: int, residual: Residual
) -> tuple[float, float, int]:
    """(loss in nats, agreement in percent, views) of the first stored epochs of these shards of a run on a store.

    The loss is that of training: it also tells students apart whose best class is the same. UserError where no view
    of theirs has logits.
    """
    device, source = run.world.device, run.taught
    model = student.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean, std = mean_std(model)
    images, data = sum(counts_of(run.data, shards)), run.recipe.data
    index, kept = run.data.through(cache_for(data.train, data)), Kept()
    row_cache = cache_for(source.location, data) if source.location else None
    views = [
        TrainingViews(
            index=index,
            augment=run.recipe.label.augment,
            decode=run.recipe.data.decode,
            size=input_size(model),
            num_classes=source.num_classes,
            # Of about that size, and so that few views are left over.
            batch_size=images // -(-images // TOGETHER),
            epoch=epoch,
            seed=0,
            replayed=(source.replayed(epoch, frozenset()),),
            missing="skip",
            broken="skip",
            shards=shards,
            row_cache=row_cache,
            kept=kept,
        )
        for epoch in range(min(epochs, source.epochs))
    ]
    dtype = precision_of(run.recipe.engine.precision, device)
    sums, seen = torch.zeros(2, dtype=torch.float64, device=device), 0
    with run.progress.task("score", sum(epoch.steps * epoch.batch_size for epoch in views), "views") as bar:
        for batches in run_streams(views, run.workers, device.type == "cuda", run.stop):
            for batch in batches:
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    logits = model(normalise(batch.views, mean, std, device))
                signal = source.signal(batch, device)
                loss = distillation_loss(logits, signal, residual)
                sums += torch.stack([loss.sum(), agreement(logits, signal).sum()]).double()
                seen += len(batch)
                bar.advance(len(batch))
    if not seen:
        raise UserError(f"no view of the shards {sorted(shards)} has logits in the store; label them")
    loss_sum, agreed = sums.tolist()
    return loss_sum / seen, 100 * agreed / seen, seen
