"""Measures of generated images: features in, numbers out. Each name is imported at its first use.

The functions take features, numpy arrays or tensors (N, D): `frechet_distance`, `kernel_distance`, `manifold_scores`,
`tail_scores`, `mode_coverage`, `vendi_score`. `Moments` streams what the Frechet distance needs; `FrechetDistance` and
`VarianceRatio` are torchmetrics `Metric`s. `frechet_from_moments` takes means and covariances; `frechet_infinity`
extrapolates to infinitely many samples; manifold and tail scores are computed from `nearest_distances`. `score` and
`python -m imgloop.metrics` compare sets of images.
"""

from __future__ import annotations

from imgloop.lazy import attached

_PUBLIC = {
    "frechet_distance": "imgloop.metrics.frechet",
    "frechet_from_moments": "imgloop.metrics.frechet",
    "frechet_infinity": "imgloop.metrics.frechet",
    "Moments": "imgloop.metrics.frechet",
    "kernel_distance": "imgloop.metrics.kernel",
    "manifold_scores": "imgloop.metrics.manifold",
    "nearest_distances": "imgloop.metrics.manifold",
    "tail_scores": "imgloop.metrics.tails",
    "mode_coverage": "imgloop.metrics.modes",
    "vendi_score": "imgloop.metrics.vendi",
    "FrechetDistance": "imgloop.metrics.streaming",
    "VarianceRatio": "imgloop.metrics.streaming",
    "score": "imgloop.metrics.scoring",
}
__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = attached(__name__, _PUBLIC)
