"""Students as backbones: timm's features of all four stages, a feature pyramid, torchvision's heads."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from tinyvit.config import Detection, Student
from tinyvit.detection.cascade import CascadeHeads
from tinyvit.errors import UserError
from tinyvit.models import create_student, mean_std, tuples, weights_of
from tinyvit.runtime.foreign import foreign

# Width to height of the anchors at each place.
RATIOS = (0.5, 1.0, 2.0)


class Pyramid(nn.Module):
    """A student's features of images [N, 3, H, W] of any size, as maps of `out_channels` at strides 4 to 64.

    Computed at `dtype` where that is not float32.
    """

    dtype = torch.float32

    def __init__(self, features: nn.Module, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.features, self.out_channels = features, out_channels
        self.pyramid = FeaturePyramidNetwork(list(channels), out_channels, extra_blocks=LastLevelMaxPool())

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Maps by name: 0 to 3 and pool."""
        with torch.autocast(pixels.device.type, self.dtype, enabled=self.dtype != torch.float32):
            stages = OrderedDict((str(number), stage) for number, stage in enumerate(self.features(pixels)))
            return {name: level.float() for name, level in self.pyramid(stages).items()}


class _Exact:
    """A detector that computes its features only at the precision of its caller: in bfloat16 a place of 1,000 pixels is
    rounded to 4, and what has its anchors, boxes and suppression rounded so finds other objects.
    """

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        """See torchvision's GeneralizedRCNN."""
        kind, detector = images[0].device.type, cast(Any, self)
        on = torch.is_autocast_enabled(kind)
        detector.backbone.dtype = torch.get_autocast_dtype(kind) if on else torch.float32
        with torch.autocast(kind, enabled=False):
            return cast(Any, super()).forward(images, targets)


class BoxDetector(_Exact, FasterRCNN):
    """Finds boxes."""


class MaskDetector(_Exact, MaskRCNN):
    """Finds boxes and masks."""


HEADS: dict[str, Any] = {"faster_rcnn": BoxDetector, "mask_rcnn": MaskDetector}


def create_detector(student: Student, detection: Detection, classes: int, seed: int) -> nn.Module:
    """A detector of so many classes (background not counted), with the student's weights and fresh heads from `seed`.

    UserError for a student that timm gives no features of, or whose features are not of four stages.
    """
    # It says how images are prepared, and refuses a name that timm does not know.
    whole = create_student(student.model_copy(update={"checkpoint": None}), 0, seed)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        features = _features(student)
        reduction, channels = features.feature_info.reduction(), features.feature_info.channels()
        if list(reduction) != [4, 8, 16, 32]:
            raise UserError(f"{student.name} has features at strides {reduction}; a detector needs 4, 8, 16 and 32")
        backbone = Pyramid(cast(nn.Module, features), channels, detection.channels)
        mean, std = mean_std(whole)
        detector: Any = HEADS[detection.head](
            backbone,
            num_classes=classes + 1,
            # In training one of several sizes is drawn for each image; in evaluation it is the last one.
            min_size=list(detection.shorter),
            max_size=detection.longer,
            # With the default these are torchvision's own numbers. Those of a level before suppression matter most for
            # time: it takes their square, a third of a step on a CPU where 2,000 are left for 200 proposals.
            rpn_pre_nms_top_n_train=2 * detection.proposals,
            rpn_pre_nms_top_n_test=detection.proposals,
            rpn_post_nms_top_n_train=2 * detection.proposals,
            rpn_post_nms_top_n_test=detection.proposals,
            box_batch_size_per_image=detection.samples,
            image_mean=list(mean),
            image_std=list(std),
            rpn_anchor_generator=cast(Any, AnchorGenerator)(
                tuple((size,) for size in detection.anchors), (RATIOS,) * len(detection.anchors)
            ),
        )
        if detection.cascade:
            detector.roi_heads = CascadeHeads(detector.roi_heads)
    return cast(nn.Module, detector)


def _features(student: Student) -> Any:
    """timm's network of the features of all four stages, with fresh weights or those of the student's checkpoint."""
    kwargs: dict[str, Any] = tuples(student.kwargs)
    kwargs.pop("img_size", None)
    with foreign(f"timm gives no features of four stages of {student.name}", "take a network of four stages"):
        features: Any = timm.create_model(student.name, features_only=True, out_indices=(0, 1, 2, 3), **kwargs)
    if student.checkpoint:
        given, _ = weights_of(student.checkpoint)
        # timm's network of features calls stages.0 stages_0.
        own = features.state_dict()
        names = {key: key if key in given else re.sub(r"_(\d+)\.", r".\1.", key, count=1) for key in own}
        if wrong := [key for key, name in names.items() if name not in given or given[name].shape != own[key].shape]:
            raise UserError(f"{student.checkpoint} is of another model than {student.name}: {wrong[0]} does not fit")
        features.load_state_dict({key: given[name] for key, name in names.items()})
    return features
