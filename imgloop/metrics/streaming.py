"""torchmetrics `Metric`s that are computed batch by batch, for training loops and several processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from imgloop.errors import UserError
from imgloop.metrics.frechet import Moments, RealMoments, frechet_distance


class _TwoSided(Metric):
    """Moments, in float64, of batches of real and of generated features (B, D).

    `features`, if given, maps a batch, such as uint8 images, to features (B, D). `width` is D.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, width: int, features: Callable[[Tensor], Tensor] | None = None, **kwargs):
        super().__init__(**kwargs)
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise UserError(f"width={width!r}: give the number of features, a whole number of at least 1.")
        self.width, self.features = width, features
        for side in ("real", "generated"):  # None: stacked over processes, and merged in compute
            self.add_state(f"{side}_n", torch.zeros(1, dtype=torch.int64), dist_reduce_fx=None)
            self.add_state(f"{side}_mean", torch.zeros(width, dtype=torch.float64), dist_reduce_fx=None)
            self.add_state(f"{side}_sums", torch.zeros(width, width, dtype=torch.float64), dist_reduce_fx=None)

    def update(self, batch: Tensor, real: bool) -> None:
        """Add a batch of real or generated features (B, D), or of inputs of `features`."""
        side = "real" if real else "generated"
        moments = self._side(side).update(batch if self.features is None else self.features(batch))
        if len(moments.mean) != self.width:
            raise UserError(f"The features are {len(moments.mean)} wide and width={self.width}.")
        for name, array in moments.to_arrays().items():
            state = getattr(self, f"{side}_{name}")
            setattr(self, f"{side}_{name}", torch.from_numpy(array).to(state.device, state.dtype))

    def forward(self, *args, **kwargs):
        """Raises UserError: a call would compute from a single batch, which has one side only. Added batches remain."""
        raise UserError(
            f"A call of {type(self).__name__} would compute from one batch, of one side: call update(batch, real=True "
            "or real=False) for each batch, and compute() at the end."
        )

    def _side(self, side: str) -> Moments:
        """The moments of one side, merged over processes."""
        n, mean, sums = (getattr(self, f"{side}_{name}").cpu().numpy() for name in ("n", "mean", "sums"))
        moments = Moments()
        for part in zip(n.reshape(-1, 1), mean.reshape(-1, self.width), sums.reshape(-1, self.width, self.width)):
            if part[0][0]:
                moments.merge(Moments.from_arrays(dict(zip(("n", "mean", "sums"), part))))
        return moments

    def _sides(self) -> tuple[Moments, Moments]:
        """Moments of the real and the generated side; raises UserError if one has fewer than two samples."""
        sides = self._side("real"), self._side("generated")
        for name, moments in zip(("real", "generated"), sides):
            if moments.n < 2:
                raise UserError(
                    f"{type(self).__name__} has {moments.n} {name} samples and needs 2: update both sides, real=True "
                    "and real=False, before compute."
                )
        return sides

    def set_dtype(self, dst_type) -> Metric:
        """Returns self: states stay in float64, whatever the precision of the surrounding model."""
        return self


class FrechetDistance(_TwoSided):
    """The Frechet distance of streamed features, equal to `frechet_distance` on all of them; a float64 tensor.

        distance = FrechetDistance(64)
        distance.update(real_features, real=True); distance.update(samples, real=False)
        distance.compute()

    Memory: two float64 matrices (D, D) per side. Raises UserError if a side has fewer than two samples.
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        real, generated = self._sides()
        return torch.tensor(frechet_distance(RealMoments.of(real), generated), dtype=torch.float64)


class VarianceRatio(_TwoSided):
    """tr Sigma_g / tr Sigma_r of streamed features, equal to `variance_ratio` on all of them; a float64 tensor."""

    higher_is_better = None

    def compute(self) -> Tensor:
        real, generated = (float(side.covariance.trace()) for side in self._sides())
        if not real > 0:
            raise UserError("The real features do not vary, so their variance cannot be compared.")
        return torch.tensor(generated / real, dtype=torch.float64)
