"""Decoding one image file to an array: any mode to RGB or grey, upright, square, reduced, never enlarged."""

from __future__ import annotations

import io
import threading
from contextlib import nullcontext
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from imgloop.errors import UserError

# Listed, so that a file cannot select a decoder that starts another program (EPS starts Ghostscript).
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"}
)


KINDS = {"1": "black and white", "L": "grey", "P": "palette", "RGB": "colour", "I;16": "16-bit grey",
         "I;16B": "16-bit grey", "I": "16-bit grey", "RGBA": "transparent", "LA": "transparent"}  # fmt: skip


class Broken(Exception):
    """A file that cannot be decoded; the message is the reason, without the file's name."""


class TooSmall(Exception):
    """An image whose short side is smaller than the requested size; `width` and `height` in pixels."""

    def __init__(self, width: int, height: int):
        super().__init__(f"{width}x{height}")
        self.width, self.height = width, height


class Changes(NamedTuple):
    """What decoding changed besides the size: `mode`, the kind of pixels that were converted, or None; `cropped`."""

    mode: str | None
    cropped: bool


def decode(data: bytes, name: str, size: int, channels: int) -> np.ndarray:
    """The image in `data` as uint8 (channels, size, size); see `examined`."""
    return examined(data, name, size, channels)[0]


def examined(data: bytes, name: str, size: int, channels: int) -> tuple[np.ndarray, Changes]:
    """The image in `data` as uint8 (channels, size, size), and what was changed.

    First frame; turned upright by its EXIF entry; transparency composited on white; 16-bit grey divided by 257, not
    clipped; colour to grey by ITU-R 601 luma; embedded colour profiles not applied. The centre square is reduced by
    Pillow's antialiased bicubic filter, and unchanged if it has the size already.
    Raises Broken, TooSmall, or UserError, naming the file, for an image beyond MOST_PIXELS.
    """
    try:
        image = _open(io.BytesIO(data), name)
        if min(image.size) < size:
            raise TooSmall(*image.size)
        with _ALONE if image.width * image.height > LARGE else nullcontext():
            image.load()
            mode = "RGB" if channels == 3 else "L"
            transparent = "transparency" in image.info
            kind = None if image.mode == mode and not transparent else KINDS.get(image.mode, image.mode)
            changes = Changes("transparent" if transparent else kind, image.width != image.height)
            image = _plain(ImageOps.exif_transpose(image), mode)
            return _square(image, size, channels), changes
    except (UserError, Broken, TooSmall, MemoryError):
        raise
    except Exception as e:  # Pillow's decoders raise almost any exception on damaged data
        raise Broken(str(e) or type(e).__name__) from e


def reduced(image: np.ndarray, size: int, channels: int) -> np.ndarray:
    """A decoded image uint8 (3, H, W) as uint8 (channels, size, size), processed as in `decode`."""
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    return _square(picture if channels == 3 else picture.convert("L"), size, channels)


def _square(image: Image.Image, size: int, channels: int) -> np.ndarray:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2  # whole pixels: no shift by half a pixel
    image = image.crop((left, top, left + side, top + side))
    if side > size:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


MOST_PIXELS = 40_000_000  # of an image: decoding one takes up to 16 bytes a pixel
LARGE = 4_000_000  # pixels: larger images are decoded one at a time
MARGIN = 8 << 20  # bytes of a file beside its pixels: colour profile, thumbnail, text
_ALONE = threading.Lock()


def check_size(file: IO[bytes], size: int) -> None:
    """Raise Broken for a file with many more bytes than its image can have; reads the header alone."""
    image = _open(file, "")
    if size > 8 * image.width * image.height + MARGIN:
        raise Broken(f"{size:,} bytes are too many for {image.width}x{image.height} pixels")


def short_side(file: IO[bytes]) -> int:
    """The short side in pixels, from the header alone."""
    return min(_open(file, "").size)


def _open(file: IO[bytes], name: str) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as e:
        raise _bomb(name) from e
    except Image.UnidentifiedImageError as e:
        raise Broken("no image of a known format") from e
    if image.width * image.height > MOST_PIXELS:
        raise _bomb(name, f" ({image.width}x{image.height} pixels)")
    return image


def _bomb(name: str, size: str = "") -> UserError:
    return UserError(
        f"{name}{size} is larger than the limit of {MOST_PIXELS:,} pixels, which guards against decompression bombs; "
        "remove it or reduce it first.",
        "data.root",
    )


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """`image` in `mode` ("RGB" or "L"), with its full range and without transparency."""
    if image.mode.startswith("I"):  # 16-bit grey: "I;16" and its byte orders, "I" in older Pillow; convert() would clip
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise Broken("integer pixels outside 16 bits, whose range is not known")
        clear = values == image.info.get("transparency", -1)  # the level that means transparent
        image = Image.fromarray(np.where(clear, 255, np.rint(values / 257)).astype(np.uint8))
    elif image.mode == "F":
        raise Broken("floating-point pixels, whose range is not known")
    key = image.info.get("transparency")
    # In a 16-bit file, whose pixels Pillow reduces to 8 bits.
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        image.info["transparency"] = tuple(v >> 8 for v in key)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)
