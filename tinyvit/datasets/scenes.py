"""Scenes to find objects in: Fashion-MNIST's images of clothes, shoes and bags, tinted, on pieces of photographs.

Rendered, not photographed: a small set in COCO's format for trying out and testing detection where COCO is not at hand.
The objects are Fashion-MNIST's (MIT licence), the photographs those that come with scikit-learn and scikit-image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from logitstore import write_whole
from tinyvit.datasets.fetch import CLASSES, load_fashion_mnist
from tinyvit.errors import UserError
from tinyvit.runtime.progress import Progress

# Scenes of each split, and what they are drawn by.
COUNTS = {"train": 800, "val": 200}
SEED = 0
# Pixels a side of a scene, of its objects at most and at least, and how many there are at most.
SIDE, SMALLEST, LARGEST, MOST = 192, 28, 96, 4
# Of an object's grey: what is darker is background. Two objects overlap no more than by this share of the smaller.
THRESHOLD, OVERLAP = 24, 0.15
# Fewer pixels of it show where no place was found in so many tries: it is left out.
TRIES = 20
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


# Grey pixels [28, 28] and the class.
Object = tuple[NDArray[np.uint8], int]


@dataclass(frozen=True)
class Placed:
    """An object in a scene: its class and which pixels [SIDE, SIDE] show it."""

    label: int
    mask: NDArray[np.bool_]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        left, top = int(columns[0]), int(rows[0])
        return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def make_scenes(out: Path, progress: Progress, source: Path | None) -> dict[str, int]:
    """Render the set, each split of the objects of its own split of Fashion-MNIST (see `load_fashion_mnist`); returns
    the counts. UserError without the photographs, or pycocotools.
    """
    splits = load_fashion_mnist(source)
    objects = {name: list(zip(images, labels.tolist(), strict=True)) for name, (images, labels) in splits.items()}
    render_scenes(objects, COUNTS, out, SEED, progress)
    return COUNTS


def render_scenes(
    objects: Mapping[str, Sequence[Object]],
    counts: Mapping[str, int],
    out: Path,
    seed: int,
    progress: Progress,
) -> None:
    """Write so many scenes of each split, of the split's own objects, to `out/SPLIT/*.png` and
    `out/annotations/instances_SPLIT.json`. UserError without the photographs.
    """
    grounds = _grounds()
    for number, (split, count) in enumerate(counts.items()):
        rng = np.random.default_rng([seed, number])
        (out / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], list[dict[str, Any]]()
        with progress.task(f"render {split}", count, "scenes") as bar:
            for image in range(1, count + 1):
                pixels, placed = _scene(objects[split], grounds, rng)
                file = f"{image:06d}.png"
                Image.fromarray(pixels).save(out / split / file)
                images.append({"id": image, "file_name": file, "width": SIDE, "height": SIDE})
                annotations += [
                    {"id": len(annotations) + n, "image_id": image, **_annotation(one)}
                    for n, one in enumerate(placed, 1)
                ]
                bar.advance(1)
        categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES, 1)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        # Last: a set without its annotations is none.
        write_whole(out / "annotations" / f"instances_{split}.json", json.dumps(document).encode())


def _grounds() -> list[Image.Image]:
    try:
        import pycocotools.mask  # noqa: F401, draws the masks
        import skimage.data
        from sklearn.datasets import load_sample_images
    except ImportError as fault:
        raise UserError(f"scenes need scikit-learn, scikit-image and pycocotools: pip install {fault.name}") from fault
    found = [*load_sample_images().images, *(getattr(skimage.data, name)() for name in PHOTOGRAPHS)]
    return [Image.fromarray(pixels) for pixels in found]


def _scene(
    objects: Sequence[Object], grounds: Sequence[Image.Image], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Placed]]:
    """Pixels [SIDE, SIDE, 3] and the objects in them."""
    scene = _piece(grounds[int(rng.integers(len(grounds)))], rng).astype(np.float32)
    placed: list[Placed] = []
    for number in rng.integers(len(objects), size=rng.integers(1, MOST + 1)):
        grey, label = objects[number]
        side = int(rng.integers(SMALLEST, LARGEST + 1))
        large = np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC), np.float32)
        shown = large > THRESHOLD
        for top, left in rng.integers(SIDE - side + 1, size=(TRIES, 2)):
            mask = np.zeros((SIDE, SIDE), np.bool_)
            mask[top : top + side, left : left + side] = shown
            if shown.any() and not any(_overlap(mask, other.mask) > OVERLAP for other in placed):
                break
        else:
            continue
        # Its grey goes from dark to a colour of its own, so that neither brightness nor hue gives it away.
        colour = rng.uniform(60, 255, 3)
        tinted = (0.25 + 0.75 * large[..., None] / 255) * colour
        scene[mask] = tinted[shown]
        placed = [Placed(one.label, one.mask & ~mask) for one in placed] + [Placed(label, mask)]
    return scene.clip(0, 255).round().astype(np.uint8), placed


def _piece(ground: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random square of a photograph."""
    side = int(rng.uniform(0.3, 0.9) * min(ground.size))
    left, top = (int(rng.integers(length - side + 1)) for length in ground.size)
    return np.asarray(ground.crop((left, top, left + side, top + side)).resize((SIDE, SIDE)))


def _overlap(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> float:
    return float((one & two).sum() / max(1, min(one.sum(), two.sum())))


def _annotation(placed: Placed) -> dict[str, Any]:
    from pycocotools import mask as masks

    encoded = masks.encode(np.asfortranarray(placed.mask.astype(np.uint8)))
    return {
        "category_id": placed.label + 1,
        "bbox": list(placed.box),
        "area": int(placed.mask.sum()),
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
        "iscrowd": 0,
    }
