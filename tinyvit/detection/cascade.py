"""Cascade R-CNN (arXiv 1712.00726): box heads in a row, each mending the boxes of the one before."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import clip_boxes_to_image

# Of each head: the overlap from which a box counts as an object's, the weight of its losses, and by what the offsets
# that it learns are multiplied. Overlaps are those of the paper's section 5, the rest is mmdetection's for it.
HEADS = (
    (0.5, 1.0, (10.0, 10.0, 5.0, 5.0)),
    (0.6, 0.5, (20.0, 20.0, 10.0, 10.0)),
    (0.7, 0.25, (30.0, 30.0, 15.0, 15.0)),
)
HIDDEN = 1024


class OneBox(nn.Module):
    """Of features [N, HIDDEN] scores [N, C] of the classes and offsets [N, 4 C], the same for each class: a box that
    the next head mends is of no class yet.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scores, self.offsets = nn.Linear(HIDDEN, classes), nn.Linear(HIDDEN, 4)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.scores(features)
        return scores, self.offsets(features).repeat(1, scores.shape[1])


class CascadeHeads(RoIHeads):
    """torchvision's heads, which are the last of the row and may find masks, behind two more box heads.

    `plain` are the heads of a detector of one box head, of which all but that is taken over.
    """

    def __init__(self, plain: RoIHeads) -> None:
        heads: Any = plain

        def options(overlap: float, offsets: tuple[float, ...]) -> dict[str, Any]:
            return {
                "box_roi_pool": heads.box_roi_pool,
                "box_head": cast(Any, TwoMLPHead)(heads.box_head.fc6.in_features, HIDDEN),
                "box_predictor": OneBox(heads.box_predictor.cls_score.out_features),
                "fg_iou_thresh": overlap,
                "bg_iou_thresh": overlap,
                "batch_size_per_image": heads.fg_bg_sampler.batch_size_per_image,
                "positive_fraction": heads.fg_bg_sampler.positive_fraction,
                "bbox_reg_weights": offsets,
                "score_thresh": heads.score_thresh,
                "nms_thresh": heads.nms_thresh,
                "detections_per_img": heads.detections_per_img,
            }

        *earlier, last = (options(overlap, offsets) for overlap, _, offsets in HEADS)
        masks = {name: getattr(heads, name) for name in ("mask_roi_pool", "mask_head", "mask_predictor")}
        cast(Any, super()).__init__(**last, **masks)
        self.earlier = nn.ModuleList(cast(Any, RoIHeads)(**each) for each in earlier)
        self._scores: list[Tensor] = []

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Any, targets: Any = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """See torchvision's RoIHeads."""
        losses: dict[str, Tensor] = {}
        self._scores = []
        for number, head in enumerate(cast(Any, self.earlier)):
            labels, aims = [], []
            if self.training:
                proposals, _, labels, aims = head.select_training_samples(proposals, targets)
            scores, offsets = head.box_predictor(head.box_head(head.box_roi_pool(features, proposals, image_shapes)))
            if self.training:
                losses |= _weighted(number, *fastrcnn_loss(scores, offsets, labels, aims))
            else:
                self._scores.append(scores.softmax(-1))
            mended = head.box_coder.decode(offsets.detach(), proposals)[:, 0].split([len(boxes) for boxes in proposals])
            proposals = [clip_boxes_to_image(boxes, size) for boxes, size in zip(mended, image_shapes, strict=True)]
        found, last = super().forward(features, proposals, image_shapes, targets)
        if self.training:
            last |= _weighted(len(HEADS) - 1, last.pop("loss_classifier"), last.pop("loss_box_reg"))
        return found, losses | last

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: Any
    ) -> Any:
        """See torchvision's RoIHeads. A box has the mean of what all heads said about the one that it came from."""
        mean = torch.stack([*self._scores, class_logits.softmax(-1)]).mean(dim=0)
        return super().postprocess_detections(mean.log(), box_regression, proposals, image_shapes)


def _weighted(number: int, classifier: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    weight = HEADS[number][1]
    return {f"loss_classifier_{number}": weight * classifier, f"loss_box_reg_{number}": weight * boxes}
