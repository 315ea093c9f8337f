"""Curation by a reward: of each K samples one is chosen, as users choose among images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgloop.config.fields import check_settings, setting
from imgloop.contracts import Context, Given, Release
from imgloop.curation import BY_CLASS, check_classifier, log_probabilities, logits_of
from imgloop.errors import UserError
from imgloop.pool import Pool


@dataclass(frozen=True)
class Choice:
    """Releases one of each `k` samples, chosen with probability exp(reward) / sum of exp(rewards) of the k.

    The reward is `scale` times the probability that the features' classifier gives to the class `of_class`, or to the
    most probable class. Source: Ferbach et al. 2024 (arXiv 2407.09499), section 2.1, the discrete K-choice model.
    """

    k: int = setting(4, low=2, why="since one of several is chosen")
    scale: float = setting(10.0, low=0)
    of_class: int | None = setting(None, kind=int, low=0)

    def __post_init__(self):
        check_settings(self, "curation")

    def check(self, given: Given) -> None:
        check_classifier("choice", given)
        assert given.classes is not None  # by check_classifier
        if self.of_class is not None and self.of_class >= given.classes:
            raise UserError(
                f"curation.of_class={self.of_class}: the data have {given.classes} classes; give a number from 0 to "
                f"{given.classes - 1}, or null for the most probable class.",
                "curation.of_class",
            )

    def released(self, n: int, t: int) -> int:
        if n < self.k:
            raise UserError(
                f"curation.k={self.k} chooses one of {self.k} samples, and a generation draws {n}: raise n_samples or "
                "lower curation.k.",
                "curation.k",
            )
        return n // self.k

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        reward = self.scale * np.exp(log_probabilities(logits_of(drawn.x, context, "choice"), self.of_class))
        n, count = len(drawn), self.released(len(drawn), context.t)
        groups = rng.permutation(n)[: count * self.k].reshape(count, self.k)
        best = (reward[groups] + rng.gumbel(size=groups.shape)).argmax(1)  # a draw from the softmax
        rows = np.sort(groups[np.arange(count), best])
        facts = {
            "looked_at": BY_CLASS,
            "mean_reward": float(reward.mean()),
            "released_reward": float(reward[rows].mean()),
        }
        return Release(rows, facts=facts)
