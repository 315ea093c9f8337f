"""Near duplicates between training and held-out images: an exact search that compares few pairs at full size."""

from __future__ import annotations

import hashlib

import numpy as np

# Root-mean-square difference in grey levels. Saving a JPEG again moves an image by 0.5 to 2.5 levels; two different
# images of CIFAR-10 are 12 apart or more. Other crops and exposures of one scene differ more than two plain skies
# do: distances between pixels cannot detect them, and they are not counted.
NEAR = 5
SIDE = 8  # images are pooled to at most 8 x 8 for the search
ROWS, COLUMNS = 2048, 1024  # held-out x training images in one matrix product: 8 MiB of fp32
CHUNK = 8 << 20  # bytes of uint8 images in memory at once


def duplicates(train: np.ndarray, heldout: np.ndarray) -> tuple[int, int]:
    """Numbers of held-out images with a training image at most `NEAR` away, and with an identical one (a subset).

    `train` (N, C, H, W) and `heldout` (M, C, H, W) are uint8. Exact: pooling is an orthogonal projection, which
    increases no distance; pairs close after pooling, with a margin for fp32 rounding, are compared at full size.
    """
    pooled = _pool(heldout)
    centre = pooled.mean(0)  # centred, so that norms and rounding errors are small
    rows = (pooled - centre).astype(np.float32)
    limit = NEAR**2 * int(np.prod(train.shape[1:]))  # of the summed squares
    slack = 1 - (rows.shape[1] + 16) * np.finfo(np.float32).eps  # fp32 dot products of d terms err by d eps |a||b|
    half = 0.5 * slack * np.einsum("ij,ij->i", rows, rows) - 0.5 * limit

    digests = [_digest(image) for image in heldout]
    wanted, identical = set(digests), set()
    near = np.zeros(len(heldout), bool)
    for begin in range(0, len(train), COLUMNS):
        block = train[begin : begin + COLUMNS]
        identical.update(wanted.intersection(map(_digest, block)))
        columns = (_pool(block) - centre).astype(np.float32)
        offset = 0.5 * slack * np.einsum("ij,ij->i", columns, columns)
        for first in range(0, len(rows), ROWS):
            part = slice(first, first + ROWS)
            margin = rows[part] @ columns.T  # a.b >= (|a|^2 + |b|^2 - limit) / 2  <=>  |a - b|^2 <= limit
            margin -= offset
            close = margin >= half[part, None]
            for i in np.flatnonzero(close.any(1)):
                if not near[first + i]:
                    candidates = np.flatnonzero(close[i])
                    nearest_first = candidates[np.argsort(-margin[i, candidates], kind="stable")]
                    near[first + i] = _any_near(block, nearest_first, heldout[first + i], limit)
    return int(near.sum()), sum(d in identical for d in digests)


def _any_near(block: np.ndarray, candidates: np.ndarray, image: np.ndarray, limit: int) -> bool:
    step = max(1, CHUNK // image.size)
    for begin in range(0, len(candidates), step):
        difference = block[candidates[begin : begin + step]].astype(np.int32) - image
        if (np.square(difference).sum((1, 2, 3), dtype=np.int64) <= limit).any():
            return True
    return False


def _pool(images: np.ndarray) -> np.ndarray:
    """Block sums over sqrt(block size), float64 (N, d): coordinates on an orthonormal basis of blocks."""
    n, c, h, w = images.shape
    top, left = (np.arange(min(SIDE, k)) * k // min(SIDE, k) for k in (h, w))
    area = np.outer(np.diff(top, append=h), np.diff(left, append=w))
    out = np.empty((n, c, len(top), len(left)))
    step = max(1, CHUNK // max(1, c * h * w))
    for begin in range(0, n, step):
        sums = np.add.reduceat(images[begin : begin + step], left, axis=3, dtype=np.uint32)
        out[begin : begin + step] = np.add.reduceat(sums, top, axis=2) / np.sqrt(area)
    return out.reshape(n, -1)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
