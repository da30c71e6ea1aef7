"""Images of a data set beside their views, remade from the stored seeds, with what the teacher said of each."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from logitstore import LogitStore, Rows, UnitMissing
from tinyvit.data.index import ShardIndex
from tinyvit.data.loader import run_stream
from tinyvit.data.render_views import Pixels, render_views
from tinyvit.labelling.describe import best_classes, stored_augment, stored_decode
from tinyvit.views.images import BrokenImage, EncodedImage

# Pixels a side of an image on a page.
THUMBNAIL = 112
QUALITY = 75


@dataclass(frozen=True)
class ViewRef:
    """An image by shard and slot, and the epochs whose views of it are wanted."""

    shard: int
    slot: int
    epochs: tuple[int, ...]


@dataclass(frozen=True)
class ShownView:
    """A view: [H, W, 3] uint8, None for one that cannot be remade; classes are (id, probability), the best first."""

    epoch: int
    seed: int
    pixels: Pixels | None
    classes: tuple[tuple[int, float], ...]
    residual: float


@dataclass(frozen=True)
class ShownImage:
    """An image whole, reduced to about a page's size, and its views that have logits."""

    place: ViewRef
    key: str
    label: int | None
    pixels: Pixels | None
    views: tuple[ShownView, ...]


def remake(store: LogitStore, index: ShardIndex, places: Sequence[ViewRef], top: int) -> list[ShownImage]:
    """The images at these places, with the `top` best classes of each view."""
    # In a process of its own: threads of others, such as Prefect's, draw from the generators that a view is made with.
    return list(run_stream(_Remade(index, store.location, tuple(places), top), workers=1))


@dataclass(frozen=True)
class _Remade:
    index: ShardIndex
    location: str
    places: tuple[ViewRef, ...]
    top: int

    def read(self, worker: int, workers: int) -> Iterator[ShownImage]:
        store = LogitStore.open(self.location)
        for place in self.places[worker::workers]:
            shard = self.index.shard(place.shard)
            (sample,) = shard.read([place.slot])
            views = (self._view(store, place, epoch) for epoch in place.epochs)
            whole = _whole(EncodedImage(sample.image, stored_decode(store)))
            yield ShownImage(place, sample.key, sample.label, whole, tuple(view for view in views if view is not None))

    def _view(self, store: LogitStore, place: ViewRef, epoch: int) -> ShownView | None:
        try:
            rows: Rows = store.read(epoch, place.shard)
        except UnitMissing:
            return None
        if not rows.valid[place.slot]:
            return None
        shard, size = self.index.shard(place.shard), int(store.spec.teacher["input_size"])
        made = render_views(shard, [place.slot], rows.seed, stored_augment(store), stored_decode(store), size)
        pixels = made.pixels[place.slot]
        return ShownView(
            epoch=epoch,
            seed=int(rows.seed[place.slot]),
            pixels=None if isinstance(pixels, BrokenImage) else pixels,
            classes=tuple(best_classes(rows, place.slot)[: self.top]),
            residual=float(rows.residual[place.slot]),
        )


def _whole(image: EncodedImage) -> Pixels | None:
    try:
        return image.pixels(image.reduction(*image.size, THUMBNAIL))
    except BrokenImage:
        return None


def thumbnail(pixels: Pixels) -> str:
    """A small image for a page, as a data: URI."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
