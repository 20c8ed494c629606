"""Indexed-colour pictures: palette, a pixel font, and PNG encoding.

A report needs some fifty grey slices and a few coloured lines. One byte per pixel and a palette hold that, encode
in a millisecond and stay small; a plotting library would cost more time than the rest of the report together.
"""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from isal import isal_zlib

OUTSIDE = 0  # beyond the field of view
PADDING = 1  # between tiles
GREY_FIRST, GREY_LAST = 2, 127
_LINE_FIRST, _ALPHAS, _GREYS = 128, 4, 16  # lines: 2 colours x 4 opacities x 16 grey levels below them

LINE_COLOURS = ((255, 159, 28), (46, 213, 235))  # orange, cyan: told apart with any colour vision
_OUTSIDE_COLOUR = (27, 36, 48)
_PADDING_COLOUR = (0, 0, 0)

# 5 x 7 pixels; each row of a glyph is five bits.
_GLYPHS = {
    "L": "10 10 10 10 10 10 1F", "R": "1E 11 11 1E 14 12 11", "A": "0E 11 11 1F 11 11 11",
    "P": "1E 11 11 1E 10 10 10", "S": "0F 10 10 0E 01 01 1E", "I": "0E 04 04 04 04 04 0E",
    "x": "00 00 11 0A 04 0A 11", "y": "00 00 11 11 0F 01 0E", "z": "00 00 1F 02 04 08 1F",
    "0": "0E 11 13 15 19 11 0E", "1": "04 0C 04 04 04 04 0E", "2": "0E 11 01 02 04 08 1F",
    "3": "1F 02 04 02 01 11 0E", "4": "02 06 0A 12 1F 02 02", "5": "1F 10 1E 01 01 11 0E",
    "6": "06 08 10 1E 11 11 0E", "7": "1F 01 02 04 08 08 08", "8": "0E 11 11 0E 11 11 0E",
    "9": "0E 11 11 0F 01 02 0C", "-": "00 00 00 0E 00 00 00", " ": "00 00 00 00 00 00 00",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picture:
    """Palette indices (rows, columns) uint8, and the palette (256, 3) uint8."""

    index: np.ndarray
    palette: np.ndarray

    def small_png(self, bytes_per_pixel: float = 0.5) -> bytes:
        """PNG of bounded size: noise does not compress, so a noisy picture is given fewer grey levels."""
        encoded = self.png()
        for step in (2, 4, 8):
            if len(encoded) <= bytes_per_pixel * self.index.size:
                break
            is_grey = (self.index >= GREY_FIRST) & (self.index <= GREY_LAST)
            rounded = (self.index - GREY_FIRST) // step * step + GREY_FIRST
            encoded = Picture(np.where(is_grey, rounded, self.index).astype(np.uint8), self.palette).png()
        return encoded

    def uri(self) -> str:
        """The picture, of bounded size, as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.small_png()).decode("ascii")

    def png(self) -> bytes:
        """The picture as a PNG file.

        Palettes are ramps, so neighbours in them look alike: the difference to the row above packs a sixth smaller
        than the indices do (PNG, filter type 2), and the fast deflate then loses nothing to the thorough one.
        """
        rows, columns = self.index.shape
        scanlines = np.empty((rows, columns + 1), dtype=np.uint8)
        scanlines[:, 0] = 2
        scanlines[0, 1:] = self.index[0]
        np.subtract(self.index[1:], self.index[:-1], out=scanlines[1:, 1:])  # modulo 256, as the format wants
        header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)  # 8 bits, colour type 3 (palette)
        used = self.palette[: int(self.index.max(initial=0)) + 1]
        parts = [(b"IHDR", header), (b"PLTE", np.ascontiguousarray(used, np.uint8).tobytes()),
                 (b"IDAT", isal_zlib.compress(scanlines.tobytes(), 1)), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in parts)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def slice_palette() -> np.ndarray:
    """Greys, and two line colours at four opacities over sixteen greys; (256, 3) uint8."""
    palette = np.zeros((256, 3))
    palette[OUTSIDE], palette[PADDING] = _OUTSIDE_COLOUR, _PADDING_COLOUR
    palette[GREY_FIRST : GREY_LAST + 1] = np.linspace(0, 255, GREY_LAST - GREY_FIRST + 1)[:, None]
    below = np.linspace(0, 255, _GREYS)[:, None]
    for line, colour in enumerate(LINE_COLOURS):
        for step in range(_ALPHAS):
            opacity = (step + 1) / _ALPHAS
            first = _LINE_FIRST + (line * _ALPHAS + step) * _GREYS
            palette[first : first + _GREYS] = (1 - opacity) * below + opacity * np.array(colour)
    return np.rint(palette).astype(np.uint8)


def grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Intensities -> palette indices; not-a-number is beyond the field of view."""
    steps = GREY_LAST - GREY_FIRST
    scaled = np.clip((values - low) * (steps / (high - low)), 0, steps)
    outside = np.isnan(scaled)
    index = np.where(outside, 0.0, scaled).astype(np.uint8) + np.uint8(GREY_FIRST)
    index[outside] = OUTSIDE
    return index


def draw_line(index: np.ndarray, opacity: np.ndarray, line: int) -> None:
    """Blend line colour 0 or 1 over the greys of `index`, in place.

    Parameters
    ----------
    opacity : 0 to 1, shape of `index`; under one eighth nothing is drawn.
    """
    step = np.rint(opacity * _ALPHAS).astype(np.int64)
    rows = np.nonzero(step > 0)
    under = index[rows].astype(np.int64)
    # A pixel that already carries a line keeps the grey level below that line.
    grey_level = np.where(under >= _LINE_FIRST, under % _GREYS,
                          np.clip(under - GREY_FIRST, 0, None) * _GREYS // (GREY_LAST - GREY_FIRST + 1))
    index[rows] = _LINE_FIRST + (line * _ALPHAS + step[rows] - 1) * _GREYS + grey_level


def draw_text(index: np.ndarray, text: str, row: int, column: int, scale: int = 2) -> None:
    """Write `text` with its upper left corner at (row, column), white on a black rim, clipped to the picture."""
    for (rows, columns), level in zip(_stencil(text, scale), (GREY_FIRST, GREY_LAST), strict=True):
        rows, columns = rows + row - 1, columns + column - 1
        keep = (rows >= 0) & (rows < index.shape[0]) & (columns >= 0) & (columns < index.shape[1])
        index[rows[keep], columns[keep]] = level


@lru_cache(maxsize=256)
def _stencil(text: str, scale: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the rim and of the ink; a report writes the same few words over and over."""
    glyphs = [np.array([[int(line, 16) >> bit & 1 for bit in (4, 3, 2, 1, 0)] for line in _GLYPHS[letter].split()])
              for letter in text]
    spaced = np.hstack([np.pad(glyph, ((0, 0), (0, 1))) for glyph in glyphs])[:, :-1]
    ink = np.pad(np.kron(spaced, np.ones((scale, scale), dtype=int)), 1).astype(bool)
    rim = ink.copy()
    for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        rim |= np.roll(ink, (down, right), (0, 1))
    rim_rows, rim_columns = np.nonzero(rim)
    ink_rows, ink_columns = np.nonzero(ink)
    return (rim_rows, rim_columns), (ink_rows, ink_columns)


def text_width(text: str, scale: int = 2) -> int:
    """Pixels that `draw_text` needs from left to right."""
    return (6 * len(text) - 1) * scale
