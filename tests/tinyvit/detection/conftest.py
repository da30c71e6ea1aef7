"""Rendered scenes for every test of detection."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import EXAMPLE, samples_of

from tinyvit.config import Decode
from tinyvit.datasets.scenes import render_scenes
from tinyvit.detection.coco import CocoSet
from tinyvit.runtime.progress import LogProgress
from tinyvit.views.images import EncodedImage


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of a few rendered scenes, of the example's own images."""
    folder = tmp_path_factory.mktemp("scenes")
    objects = {
        split: [
            (EncodedImage(s.image, Decode()).pixels()[..., 0], int(s.label or 0))
            for s in samples_of(EXAMPLE / split)[:300]
        ]
        for split in ("train", "val")
    }
    render_scenes(objects, {"train": 9, "val": 4}, folder, 0, LogProgress())
    return folder


@pytest.fixture(scope="session")
def coco(scenes: Path) -> CocoSet:
    return CocoSet(scenes / "annotations" / "instances_train.json")
