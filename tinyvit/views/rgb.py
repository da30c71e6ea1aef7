"""What Pillow leaves open between a file and RGB of 8 bits: how it is turned, grey of 16 bits, what is transparent."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

# EXIF's tag of how the camera was held, and its value for upright.
ORIENTATION, UPRIGHT = 0x0112, 1
# From 5 on width and height change places.
SIDEWAYS = 5
# What undoes each of them: all but the quarter turns undo themselves.
UNDONE = {6: 8, 8: 6}

# Formats whose grey of 16 bits goes from black at 0 to white at the most that its bits hold.
GREY_16 = ("PNG", "TIFF", "PPM", "JPEG2000")
# Pillow has it in 32 bits for these.
GREY_16_IN_32 = ("PNG", "PPM")
# Tags of TIFF: bits a sample, and which end of them is white (0: the lower).
BITS, PHOTOMETRIC = 258, 262


def opened(content: bytes) -> Image.Image:
    """An image's header, its pixels not read yet. What Pillow raises for bytes that are none."""
    image = Image.open(io.BytesIO(content))
    if image.format == "PNG" and image.mode in ("L", "RGB") and "transparency" in image.info:
        # Pillow scales PNG's samples to 8 bits, but not the one that is transparent.
        bits, clear = content[24], image.info["transparency"]
        image.info["transparency"] = (
            clear * 255 // (2**bits - 1) if image.mode == "L" else tuple(value >> (bits - 8) for value in clear)
        )
    return image


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the pixels as they stand in the file."""
    # Pillow turns TIFF by itself, some releases already its size.
    return (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size  # type: ignore[attr-defined]


def orientation_of(image: Image.Image) -> int:
    """How the camera was held, 1 (upright) to 8 as EXIF numbers it; upright where no note of it can be read.

    It may be in EXIF or XMP. For PNG the pixels are read, for it may stand behind them.
    """
    if image.format == "PNG":
        image.load()
    try:
        noted = image.getexif().get(ORIENTATION, UPRIGHT)
        return int(noted) if noted in range(UPRIGHT, 9) else UPRIGHT
    except Exception:  # a damaged note is none: what Pillow raises for one has many types
        return UPRIGHT


def turn_left(image: Image.Image, orientation: int, obey: bool) -> int:
    """The turn, by EXIF's numbers, from the pixels as Pillow reads them to upright, or to as they are stored."""
    if image.format == "TIFF":
        return UPRIGHT if obey else UNDONE.get(orientation, orientation)
    return orientation if obey else UPRIGHT


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels [H, W, 3] of a camera that was held so, upright."""
    if orientation == UPRIGHT:
        return pixels
    sideways = pixels.transpose(1, 0, 2) if orientation >= SIDEWAYS else pixels
    flipped = sideways[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]
    return np.ascontiguousarray(flipped)


def eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel: of grey of 16 bits the upper half, as Pillow reads colours of 16 bits.

    ValueError for grey that says of no value how bright it is.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    deep = image.mode.startswith("I;16") and image.format in GREY_16
    if not deep and not (image.mode == "I" and image.format in GREY_16_IN_32):
        kind = {"I": "whole numbers of 32 bits", "F": "fractions"}.get(image.mode, "16 bits")
        raise ValueError(
            f"{image.format} with grey in {kind} (mode {image.mode}) does not say which value is white; "
            f"convert it to 8 or 16 bits"
        )
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    bits = int(tags.get(BITS, (16,))[0])
    values = np.asarray(image).astype(np.uint16)
    transparent = values == image.info.get("transparency", -1)
    if tags.get(PHOTOMETRIC) == 0:
        # Pillow turns white and black of such TIFFs round for 8 bits only.
        values = 2**bits - 1 - values
    grey = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    if transparent.any():
        grey.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return grey


def opaque(image: Image.Image, background: str | None) -> Image.Image:
    """An image of 8 bits as RGB: what is transparent shows a background, or without one the colour beneath."""
    if background is None or not image.has_transparency_data:
        return image.convert("RGB")
    shown = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", shown.size, background), shown).convert("RGB")
