#!/usr/bin/env bash
# Pillow 12.3.0 brings samples of other than 8 bits to 8, but not everything that belongs to them. With valid files:
#
# - PNG, grey of 2 or 4 bits and colours of 16: pixels are scaled, the one that tRNS calls transparent is not. So none is
#   found, and a picture with one transparent shade has none: convert("RGBA") is opaque everywhere (of 8 bits it is not).
# - TIFF, grey of 16 bits with PhotometricInterpretation 0 (white is zero): not turned round, as grey of 8 bits is. The
#   picture is a negative.
# - TIFF, grey of 12 bits: mode I;16 with values 0..4095, so that white is 1/16 of the brightness of a TIFF of 16 bits;
#   JPEG 2000 and PGM of fewer than 16 bits are scaled to 65535.
#
# Seen: alpha of the shade that is transparent: 8 bits 0, 4 bits 255, 2 bits 255, colours of 16 bits 255
#       white is zero: 8 bits [255, 0], 16 bits [0, 65535]
#       white of 12 bits: TIFF 4095, PGM 65535
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" -q install pillow==12.3.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PYTHON'
import io
import struct
import zlib

import numpy as np
from PIL import Image


def png(bits, kind, row, width, clear):
    header = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", clear), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def tiff(values, width, bits, photometric):
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 200), (277, 1), (278, 1),
            (279, values.nbytes)]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return (struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)).ljust(200, b"\0") + values.tobytes()


def opened(content):
    return Image.open(io.BytesIO(content))


grey, colours = struct.pack(">H", 1), struct.pack(">3H", 0x100, 0x200, 0x300)
alpha = [
    opened(content).convert("RGBA").getpixel((1, 0))[3]
    for content in (
        png(8, 0, bytes([0, 1]), 2, grey),
        png(4, 0, bytes([0x01]), 2, grey),
        png(2, 0, bytes([0b00010000]), 2, grey),
        png(16, 2, struct.pack(">6H", 0, 0, 0, 0x100, 0x200, 0x300), 2, colours),
    )
]
print("alpha of the shade that is transparent: 8 bits {}, 4 bits {}, 2 bits {}, colours of 16 bits {}".format(*alpha))
zero = [
    np.asarray(opened(tiff(np.array([0, most], dtype), 2, bits, 0)))[0].tolist()
    for bits, dtype, most in ((8, np.uint8, 255), (16, np.uint16, 65535))
]
print(f"white is zero: 8 bits {zero[0]}, 16 bits {zero[1]}")
twelve = opened(tiff(np.array([0xFF, 0xFF, 0xFF], np.uint8), 2, 12, 1))
pgm = opened(b"P5 1 1 4095\n" + struct.pack(">H", 4095))
white = [int(np.asarray(twelve).max()), int(np.asarray(pgm).max())]
print(f"white of 12 bits: TIFF {white[0]}, PGM {white[1]}")
assert alpha == [0, 255, 255, 255], alpha
assert zero == [[255, 0], [0, 65535]], zero
assert white == [4095, 65535], white
PYTHON
