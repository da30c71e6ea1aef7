"""Which pixels a file has: turned as the camera noted, grey of 16 bits scaled, transparency on a background."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support import bytes_of

from tinyvit.config import Decode
from tinyvit.views.images import BrokenImage, EncodedImage

# Of even sides, so that a quarter of them is whole.
COLOURS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
IMAGE = Image.fromarray(COLOURS).resize((48, 32))
FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {"quality": 95}),
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("AVIF", {}),
    ("MPO", {"save_all": True, "append_images": [IMAGE]}),
]
GREY = np.linspace(0, 65535, 24 * 10).astype(np.uint16).reshape(10, 24)


def noted(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def rgb(content: bytes, **decode: Any) -> np.ndarray:
    return EncodedImage(content, Decode(**decode)).pixels()


def png(bits: int, kind: int, row: bytes, width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one row, as no version of Pillow writes it."""
    header = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), FORMATS, ids=lambda value: str(value)[:24])
def test_an_image_is_turned_as_the_camera_noted_or_not_at_all(
    kind: str, options: dict[str, Any], orientation: int
) -> None:
    content = bytes_of(IMAGE, kind, exif=noted(orientation), **options)
    with Image.open(io.BytesIO(content)) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    image = EncodedImage(content, Decode())
    assert image.size == upright.shape[1::-1]
    assert (image.pixels() == upright).all()
    with Image.open(io.BytesIO(bytes_of(IMAGE, kind, **options))) as plain:
        stored = np.asarray(plain.convert("RGB"))
    image = EncodedImage(content, Decode(orientation="ignore"))
    assert image.size == (48, 32)
    assert (image.pixels() == stored).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_turned_too(orientation: int) -> None:
    large = IMAGE.resize((321, 240))
    image = EncodedImage(bytes_of(large, "JPEG", exif=noted(orientation)), Decode())
    assert image.reduction(*image.size, 30) == 8
    plain = EncodedImage(bytes_of(large, "JPEG"), Decode()).pixels(8)
    assert plain.shape == (30, 41, 3)
    reduced = Image.fromarray(plain)
    reduced.getexif()[0x0112] = orientation
    assert (image.pixels(8) == np.asarray(ImageOps.exif_transpose(reduced))).all()


def test_a_note_behind_the_pixels_or_in_xmp_counts_and_a_damaged_one_does_not() -> None:
    behind = bytes_of(IMAGE, "PNG")
    exif = noted(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    assert EncodedImage(behind[:-12] + chunk + behind[-12:], Decode()).size == (32, 48)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="8"/></x:xmpmeta>'
    assert EncodedImage(bytes_of(IMAGE, "WEBP", xmp=xmp), Decode()).size == (32, 48)
    for damaged in (b"Exif\0\0nothing", b"Exif\0\0II*\0\xff\xff\xff\xff", noted(0).tobytes(), noted(9).tobytes()):
        image = EncodedImage(bytes_of(IMAGE, "JPEG", exif=damaged), Decode())
        assert (image.size, image.pixels().shape) == ((48, 32), (32, 48, 3))


def test_grey_of_16_bits_is_that_of_its_upper_8_whatever_the_file() -> None:
    deep, plain = Image.fromarray(GREY), np.repeat((GREY >> 8).astype(np.uint8)[..., None], 3, axis=2)
    for kind in ("PNG", "TIFF", "PPM", "JPEG2000"):
        assert (rgb(bytes_of(deep, kind)) == plain).all(), kind
    assert (rgb(bytes_of(deep, "TIFF", compression="tiff_lzw")) == plain).all()
    assert (rgb(bytes_of(deep, "PNG", exif=noted(6))) == np.rot90(plain, -1)).all()
    # As Pillow reads colours of 16 bits.
    row = np.repeat(GREY[0], 3).astype(">u2").tobytes()
    assert (rgb(png(16, 2, row, 24)) == plain[:1]).all()
    # Any whole number may be white in a PGM.
    assert rgb(b"P5 3 1 1000\n" + np.array([0, 500, 1000], ">u2").tobytes())[0, :, 0].tolist() == [0, 128, 255]


def tiff(values: np.ndarray, bits: int, photometric: int, order: str = "<") -> bytes:
    """A TIFF of one strip of grey."""
    tags = [(256, values.shape[1]), (257, values.shape[0]), (258, bits), (259, 1), (262, photometric), (273, 200),
            (277, 1), (278, values.shape[0]), (279, values.nbytes)]  # fmt: skip
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 4, 1, value)
        if tag == 279
        else struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        for tag, value in tags
    )
    return (head + entries + bytes(4)).ljust(200, b"\0") + values.tobytes()


def test_grey_of_a_tiff_is_scaled_by_its_bits_and_may_be_white_at_zero() -> None:
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    assert rgb(tiff(values, 16, 1))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert rgb(tiff(values.astype(">u2"), 16, 1, ">"))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert rgb(tiff(values, 16, 0))[0, :, 0].tolist() == [255, 254, 127, 0]
    # Two values of 12 bits in three bytes: 0x000 0x800, 0x7ff 0xfff.
    packed = np.array([[0x00, 0x08, 0x00, 0x7F, 0xFF, 0xFF]], np.uint8)
    twelve = tiff(packed, 12, 1).replace(struct.pack("<HHIHH", 256, 3, 1, 6, 0), struct.pack("<HHIHH", 256, 3, 1, 4, 0))
    assert rgb(twelve)[0, :, 0].tolist() == [0, 128, 127, 255]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.fromarray(np.ones((4, 4), np.float32)), "grey in fractions"),
        (Image.fromarray(np.ones((4, 4), np.int32)), "grey in whole numbers of 32 bits"),
    ],
)
def test_grey_without_a_white_is_a_broken_image(image: Image.Image, words: str) -> None:
    grey = EncodedImage(bytes_of(image, "TIFF"), Decode())
    assert grey.size == (4, 4)
    with pytest.raises(BrokenImage, match=f"TIFF with {words} .* does not say which value is white; convert it"):
        grey.pixels()


def see_through() -> Image.Image:
    """Black, 100 % to 0 % opaque from left to right; of the clear right half the colour beneath is red."""
    colours = np.zeros((4, 6, 4), np.uint8)
    colours[:, 3:, 0] = 200
    colours[..., 3] = [255, 255, 128, 0, 0, 0]
    return Image.fromarray(colours)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})])
def test_what_is_transparent_shows_the_colour_beneath_or_a_background(kind: str, options: dict[str, Any]) -> None:
    content = bytes_of(see_through(), kind, **options)
    assert rgb(content)[0].tolist() == [[0, 0, 0]] * 3 + [[200, 0, 0]] * 3
    assert rgb(content, background="white")[0].tolist() == [[0] * 3] * 2 + [[127] * 3] + [[255] * 3] * 3
    assert rgb(content, background="#00ff00")[0, -1].tolist() == [0, 255, 0]
    assert rgb(content, background="black").max() == 0


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_colours_of_a_palette_show_a_background(kind: str) -> None:
    glyph = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    glyph.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 250])
    content = bytes_of(glyph, kind, transparency=0)
    assert rgb(content)[0].tolist() == [[0, 0, 0], [200, 0, 0], [0, 0, 250]]
    assert rgb(content, background="white")[0].tolist() == [[255, 255, 255], [200, 0, 0], [0, 0, 250]]
    if kind == "PNG":
        several = bytes_of(glyph, kind, transparency=bytes([255, 0, 128]))
        assert rgb(several, background="white")[0].tolist() == [[0, 0, 0], [255, 255, 255], [127, 127, 252]]


def test_the_transparent_sample_of_a_png_is_found_at_every_depth() -> None:
    def clear(*sample: int) -> tuple[bytes, bytes]:
        return b"tRNS", struct.pack(f">{len(sample)}H", *sample)

    for content, wanted in [
        (png(1, 0, bytes([0b01000000]), 2, clear(0)), [255, 255]),
        (png(2, 0, bytes([0b00011011]), 4, clear(1)), [0, 255, 170, 255]),
        (png(4, 0, bytes([0x05, 0xA0]), 4, clear(5)), [0, 255, 170, 0]),
        (png(8, 0, bytes([0, 5, 6]), 3, clear(5)), [0, 255, 6]),
        # Only to the last bit: what looks the same in 8 bits stays.
        (png(16, 0, struct.pack(">3H", 0, 0x0501, 0x0502), 3, clear(0x0501)), [0, 255, 5]),
        (png(16, 2, struct.pack(">6H", 1, 2, 3, 0x400, 0x500, 0x600), 2, clear(0x400, 0x500, 0x600)), [0, 255]),
    ]:
        assert rgb(content, background="white")[0, :, 0].tolist() == wanted
        assert rgb(content).shape[2] == 3


def test_every_damage_is_a_broken_image_in_words() -> None:
    rng = np.random.default_rng(0)
    sources = [bytes_of(IMAGE, kind, **options) for kind, options in FORMATS]
    sources += [bytes_of(IMAGE.quantize(8), "GIF"), bytes_of(IMAGE, "QOI"), bytes_of(IMAGE, "ICO")]
    reasons = set()
    for number in range(600):
        damaged = bytearray(sources[number % len(sources)])
        places = rng.integers(0, len(damaged) if number % 2 else 80, 4)
        damaged[:] = damaged[: places.max()] if number % 3 == 0 else damaged
        for place in places[places < len(damaged)]:
            damaged[place] = rng.integers(256)
        try:
            image = EncodedImage(bytes(damaged), Decode(background="white"))
            assert image.pixels().shape[1::-1] == image.size
        except BrokenImage as fault:
            reasons.add(str(fault))
    assert "it is in no format of images that Pillow knows" in reasons
    assert not [reason for reason in reasons if " at 0x" in reason or not reason]
