"""Frechet distance between two sets of features, exact and without a matrix square root."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.blas import dsyrk, dtrmm  # pyright: ignore[reportAttributeAccessIssue]
from scipy.linalg.lapack import dsygst  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from imgloop.errors import UserError, first_line

LARGEST = 1e50  # feature: inner products, cubed by the kernel distance, stay within float64
ROWS = 4096  # rows converted to float64 at a time, so that the copy of a large array stays small
EPS = torch.finfo(torch.float64).eps


def as_features(x, name: str, *, at_least: int = 2, width: int | None = None) -> Tensor:
    """`x` (N, D), numpy array or torch tensor, as a float32 or float64 tensor on the CPU; float32 stays float32.

    Raises UserError unless it is one array of real numbers with two dimensions, `at_least` rows, `width` columns (where
    given) and finite values of at most 1e50.
    """
    if not isinstance(x, Tensor):
        x = _array(x, name)
    if x.is_complex() or x.layout != torch.strided:
        raise UserError(f"The {name} features are {x.dtype}, {x.layout}; expected a dense tensor of real numbers.")
    x = x.detach().cpu()
    if x.dtype not in (torch.float32, torch.float64):
        x = x.to(torch.float32 if x.is_floating_point() else torch.float64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise UserError(f"The {name} features have shape {tuple(x.shape)}; expected (N, D): one row per sample.")
    if len(x) < at_least:
        raise UserError(f"There are {len(x)} {name} samples; at least {at_least} are needed.")
    if width is not None and x.shape[1] != width:
        raise UserError(
            f"The {name} features are {x.shape[1]} wide and the real ones {width}; both must come from one extractor."
        )
    if not all(torch.isfinite(block).all() for block in x.split(ROWS)):
        raise UserError(
            f"The {name} features contain NaN or infinity in {int((~x.isfinite()).any(1).sum())} of {len(x)} samples."
        )
    if x.dtype == torch.float64 and any(block.abs().max() > LARGEST for block in x.split(ROWS)):
        raise UserError(
            f"The {name} features reach beyond {LARGEST:g}, where their products overflow: rescale both sets."
        )
    return x


def _array(x, name: str) -> Tensor:
    """Anything that numpy can read as an array of real numbers, as a tensor."""
    if np.ma.isMaskedArray(x):
        raise UserError(f"The {name} features are a masked array; remove the masked values.")
    try:
        x = np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as e:  # rows of unequal lengths, tensors that need gradients
        raise UserError(f"The {name} features cannot be read as one array ({first_line(e)}).") from e
    if x.dtype.kind not in "fiub":
        raise UserError(f"The {name} features have dtype {x.dtype}; expected real numbers.")
    if x.dtype.itemsize > 8 or not x.dtype.isnative:  # torch supports neither
        x = x.astype(np.float64)
    with warnings.catch_warnings():  # features are never written to, so memory maps need no copy
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(x))


def mean_of(x: Tensor) -> Tensor:
    """Mean of the rows, float64 (D,), whatever the dtype of `x` (N, D)."""
    return torch.stack([block.double().sum(0) for block in x.split(ROWS)]).sum(0) / len(x)


def covariance_of(x: Tensor, mean: Tensor) -> Tensor:
    """Unbiased covariance of the rows of `x` (N, D), float64 (D, D)."""
    upper = np.zeros((x.shape[1], x.shape[1]), order="F")
    for block in x.split(ROWS):  # dsyrk takes half the time of a full product
        upper = dsyrk(1.0, (block.double() - mean).numpy().T, beta=1.0, c=upper, overwrite_c=1)
    upper = torch.from_numpy(upper) / (len(x) - 1)
    return upper + upper.triu(1).T


def variance_of(x: Tensor, mean: Tensor) -> float:
    """Trace of the unbiased covariance of `x` (N, D): the total variance, in squared units of the features."""
    return sum(float((block.double() - mean).square().sum()) for block in x.split(ROWS)) / (len(x) - 1)


class Moments:
    """Mean and covariance of features that come in batches; its memory is one float64 matrix (D, D).

        moments = Moments()
        for batch in batches: moments.update(batch)     # (B, D)
        frechet_distance(real, moments)

    Each batch is centred on its own mean before it is added, so that a large offset does not cost precision.
    Source: Chan, Golub and LeVeque 1983, eq. 2.1.
    """

    def __init__(self):
        self.n = 0
        self.mean = torch.zeros(0, dtype=torch.float64)  # (D,)
        self._sums = np.zeros((0, 0))  # float64 (D, D): upper triangle of the sums of products about the mean

    def update(self, features) -> Moments:
        """Add features (B, D), B >= 1; raises UserError as `as_features`. Returns self."""
        x = as_features(features, "further", at_least=1)
        if self.n and x.shape[1] != len(self.mean):
            raise UserError(f"The further features are {x.shape[1]} wide and those before them {len(self.mean)}.")
        for block in x.split(ROWS):
            mean = mean_of(block)
            self._add(len(block), mean, block.double() - mean)
        return self

    def merge(self, other: Moments) -> Moments:
        """Add the moments of another stream, such as another process. Returns self."""
        if other.n:
            if self.n and len(self.mean) != len(other.mean):
                raise UserError(f"Moments of {len(self.mean)} and {len(other.mean)} features cannot be merged.")
            self._add(other.n, other.mean, None)
            self._sums += other._sums
        return self

    def _add(self, n: int, mean: Tensor, centred: Tensor | None) -> None:
        if self.n == 0:
            self.mean, self._sums = torch.zeros_like(mean), np.zeros((len(mean),) * 2, order="F")
        shift = mean - self.mean
        rows = shift[None] * (self.n * n / (self.n + n)) ** 0.5  # the difference of the means acts as one more row
        rows = rows if centred is None else torch.cat([centred, rows])
        self._sums = dsyrk(1.0, rows.numpy().T, beta=1.0, c=self._sums, overwrite_c=1)
        self.mean, self.n = self.mean + shift * (n / (self.n + n)), self.n + n

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance, float64 (D, D); raises UserError on under two samples."""
        if self.n < 2:
            raise UserError(f"There are {self.n} samples; a covariance needs at least 2.")
        upper = torch.from_numpy(self._sums) / (self.n - 1)
        return upper + upper.triu(1).T

    def to_arrays(self) -> dict[str, np.ndarray]:
        """n, mean and sums of products, to be sent or stored; `from_arrays` reads them."""
        if self.n == 0:
            raise UserError("There are no samples yet: update the moments before you send or store them.")
        return {"n": np.array([self.n]), "mean": self.mean.numpy(), "sums": np.ascontiguousarray(self._sums)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Moments:
        moments = cls()
        moments.n, moments.mean = int(arrays["n"][0]), torch.from_numpy(np.array(arrays["mean"]))
        moments._sums = np.array(arrays["sums"], order="F")
        return moments


@dataclass(frozen=True)
class RealMoments:
    """The real side of the Frechet distance: `n`, `mean` (D,), `trace` of Sigma_r, `factor` L (D, r); float64.

    Sigma_r = L L' is the unbiased covariance. From features, L is computed by a QR of the centred rows, not from
    Sigma_r, so that it is accurate for singular covariances too; r = min(n - 1, D).
    """

    n: int
    mean: Tensor
    trace: float
    factor: Tensor

    @classmethod
    def of(cls, features) -> RealMoments:
        """The moments of real features (N, D), or of streamed `Moments`; raises UserError on under two samples, wrong
        shape, NaN, infinity."""
        if isinstance(features, Moments):
            cov = features.covariance
            return cls(features.n, features.mean, float(cov.trace()), _root(cov))
        x = as_features(features, "real")
        mean = mean_of(x)
        return cls(len(x), mean, variance_of(x, mean), _factor(x, mean))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Four float64 or int64 arrays for the cache; `from_arrays` reads them."""
        return {
            "n": np.array([self.n]),
            "mean": self.mean.numpy(),
            "trace": np.array([self.trace]),
            "factor": self.factor.numpy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> RealMoments:
        mean, factor = (torch.from_numpy(np.array(arrays[key])) for key in ("mean", "factor"))
        return cls(int(arrays["n"][0]), mean, float(arrays["trace"][0]), factor)


def frechet_distance(real, generated) -> float:
    """|mu_r - mu_g|^2 + tr(Sigma_r + Sigma_g - 2 (Sigma_r Sigma_g)^(1/2)), in squared units of the features.

    `real` is features (N, D), `Moments` or a `RealMoments`, `generated` features (M, D) or `Moments`; covariances are
    unbiased, moments float64. With Sigma_r = L L' the trace term is the sum of sqrt(eigvalsh(L' Sigma_g L)), or, if
    M <= D, of sqrt(eigvalsh(Y Sigma_r Y')), Sigma_g = Y'Y; if either is close to singular it is the nuclear norm of
    L'Y', which avoids squaring. Finite samples bias the distance upwards, by about a constant times 1/N + 1/M:
    compare at equal sizes. Raises UserError on too few samples, different widths, wrong shape, NaN or infinity.
    Source: Heusel et al. 2017, eq. 6; Dowson and Landau 1982.
    """
    r = real if isinstance(real, RealMoments) else RealMoments.of(real)
    if isinstance(generated, Moments):
        cov, mean = generated.covariance, generated.mean
        if len(mean) != len(r.mean):
            raise UserError(f"The generated features are {len(mean)} wide and the real ones {len(r.mean)}.")
        traces = r.trace + float(cov.trace())
        return _total(r.mean - mean, traces, _trace_of_root(r.factor, cov, traces, lambda: _root(cov)))
    y = as_features(generated, "generated", width=len(r.mean))
    mean = mean_of(y)
    if len(y) <= y.shape[1]:
        traces = r.trace + variance_of(y, mean)
        cross = _trace_of_few(r.factor, _factor(y, mean), traces)
    else:
        cov = covariance_of(y, mean)
        traces = r.trace + float(cov.trace())
        cross = _trace_of_root(r.factor, cov, traces, lambda: _factor(y, mean))
    return _total(r.mean - mean, traces, cross)


def frechet_infinity(real, generated, *, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> float:
    """The Frechet distance extrapolated to infinitely many generated samples, in squared units of the features.

    `real` as for `frechet_distance`, `generated` features (M, D). It is the intercept of a line fitted in 1/m to the
    distances of random subsets of m samples, m from M/2 to M in nine equal steps of 1/m. It may be slightly negative if
    both sides have one distribution, and keeps the bias due to the size of the real side. Smaller subsets, as in the
    source, bend the line unless m is much larger than D. `progress(done, total)` counts subsets. Raises UserError under
    20 samples, and as `frechet_distance`.
    Source: Chong and Forsyth 2020, section 3.
    """
    r = real if isinstance(real, RealMoments) else RealMoments.of(real)
    y = as_features(generated, "generated", at_least=20, width=len(r.mean))
    parts = np.round(1 / np.linspace(2 / len(y), 1 / len(y), 9)).astype(int)
    sizes = np.append(np.repeat(parts[:-1], 3), len(y))
    rng, distances = np.random.default_rng(seed), []
    for m in sizes:
        distances.append(frechet_distance(r, y[np.sort(rng.permutation(len(y))[:m])]))
        if progress:
            progress(len(distances), len(sizes))
    return float(np.polyfit(1 / sizes, distances, 1)[1])


def frechet_from_moments(mean_r, cov_r, mean_g, cov_g) -> float:
    """The Frechet distance of two Gaussians from means (D,) and covariances (D, D), in squared units of the features.

    Raises UserError if shapes differ, a value is not finite, or a covariance is not symmetric and positive
    semi-definite.
    """
    mean_r, mean_g = (torch.as_tensor(np.asarray(m), dtype=torch.float64) for m in (mean_r, mean_g))
    cov_r, cov_g = (as_features(c, "covariance", at_least=1).double() for c in (cov_r, cov_g))
    shapes = [tuple(a.shape) for a in (mean_r, cov_r, mean_g, cov_g)]
    if shapes != [(d := cov_r.shape[0],), (d, d)] * 2:
        raise UserError(f"Means and covariances have shapes {shapes}; expected (D,), (D, D), (D,), (D, D).")
    if not (mean_r.isfinite().all() and mean_g.isfinite().all()):
        raise UserError("A mean contains NaN or infinity.")
    scale, factor_r, factor_g = float(cov_r.trace() + cov_g.trace()), _root(cov_r), _root(cov_g)
    return _total(mean_r - mean_g, scale, _trace_of_root(factor_r, cov_g, scale, lambda: factor_g))


def _total(shift: Tensor, traces: float, cross: float) -> float:
    value, size = float(shift @ shift) + traces - 2 * cross, float(shift @ shift) + traces
    if value < -1e-7 * size:
        raise FloatingPointError(f"the Frechet distance is {value}, negative beyond rounding at traces of {size}")
    return max(value, 0.0)  # for equal distributions, rounding can make it negative


def _factor(x: Tensor, mean: Tensor) -> Tensor:
    """L (D, min(N - 1, D)) with L L' the unbiased covariance of `x` (N, D), by a QR in blocks of rows."""
    if len(x) <= x.shape[1]:  # a Householder reflection that maps the mean of the rows, zero, to a row
        centred = x.double() - mean
        triangle = centred[1:].sub_(centred[:1] / (1 + len(x) ** 0.5))
    else:
        triangle = torch.zeros(0, x.shape[1], dtype=torch.float64)
        for block in x.split(2 * ROWS):
            triangle = torch.linalg.qr(torch.cat([triangle, block.double() - mean]), mode="r").R
    return triangle.T / (len(x) - 1) ** 0.5


def _root(cov: Tensor) -> Tensor:
    """L with L L' = `cov`."""
    if (cov - cov.T).abs().max() > 1e-8 * cov.abs().max():
        raise UserError("A covariance is not symmetric.")
    triangle, failed = torch.linalg.cholesky_ex(cov)
    if not failed and triangle.diagonal().min() ** 2 > 1e-6 * cov.diagonal().max():  # fast, and far from singular
        return triangle
    values, vectors = torch.linalg.eigh(cov)
    if values[0] < -1e-10 * values.abs().max():
        raise UserError(
            f"A covariance has the negative eigenvalue {float(values[0]):.3g}; expected a positive "
            "semi-definite matrix."
        )
    return vectors * values.where(values > len(cov) * EPS * values[-1], 0).sqrt()  # smaller ones are rounding


def _nuclear_norm(factor_r: Tensor, factor_g: Tensor) -> float:
    return float(torch.linalg.svdvals(factor_r.T @ factor_g).sum())


def _trace_of_few(factor: Tensor, few: Tensor, traces: float) -> float:
    """The nuclear norm of L'Y (r, M), Y = `few`, from the eigenvalues of its smaller Gram matrix if they are precise
    enough, else from its singular values."""
    if _triangular(factor):
        product = dtrmm(1.0, factor.contiguous().numpy().T, few.T.contiguous().numpy().T)
    else:
        product = (few.numpy().T @ factor.numpy()).T
    values = torch.linalg.eigvalsh(
        torch.from_numpy(dsyrk(1.0, product, trans=int(product.shape[0] >= product.shape[1]))), UPLO="U"
    )
    rounding = 8 * EPS * float(values.clamp(min=0).sum())
    if int((values < rounding).sum()) * rounding**0.5 > 1e-9 * traces:
        return float(torch.linalg.svdvals(torch.from_numpy(product)).sum())
    return float(values.clamp(min=0).sqrt().sum())


def _triangular(factor: Tensor) -> bool:
    return factor.shape[0] == factor.shape[1] and not factor.triu(1).any()


def _trace_of_root(factor: Tensor, cov: Tensor, traces: float, other_factor) -> float:
    """tr (L' Sigma L)^(1/2); from singular values if rounding of small eigenvalues would show in the sum."""
    if _triangular(factor):  # takes a third of the time of the general product
        product, _ = dsygst(cov.numpy().T, factor.numpy().T, itype=2, lower=0)  # .T for Fortran order
        values = torch.linalg.eigvalsh(torch.from_numpy(product), UPLO="U")
    else:
        values = torch.linalg.eigvalsh(factor.T @ cov @ factor)
    rounding = 8 * EPS * float(factor.square().sum() * torch.linalg.matrix_norm(cov))
    if values[0] < -len(values) * rounding:
        raise FloatingPointError(f"a positive semi-definite matrix has the eigenvalue {float(values[0])}")
    if int((values < rounding).sum()) * rounding**0.5 > 1e-9 * traces:
        return _nuclear_norm(factor, other_factor())
    return float(values.clamp(min=0).sqrt().sum())
