"""From the bytes of a picture to RGB pixels, the same for teacher and student."""

import io

from PIL import Image, UnidentifiedImageError


class BrokenImage(ValueError):
    """The bytes are not a picture that can be decoded whole."""


def decode(content: bytes) -> Image.Image:
    """Decode to an RGB picture. BrokenImage for anything that Pillow cannot read to its end.

    Pillow raises SyntaxError for some broken PNG files and its bomb error for a picture of absurd size.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as fault:
        raise BrokenImage(str(fault)) from None
