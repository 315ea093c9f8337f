"""The collapse profile: eight definitions of model collapse, eight verdicts, from series of any chains.

`collapse_profile` judges a table of chains by the `Thresholds` of `conf/collapse`, and returns a `Profile`, a `Verdict`
for each condition and definition. `scaling_law` compares the risks of a loop and of its control at several sizes of the
real data. Each name is imported at its first use.
"""

from __future__ import annotations

from imgloop.lazy import attached

_PUBLIC = {
    "collapse_profile": "imgloop.collapse.profile",
    "Profile": "imgloop.collapse.verdicts",
    "Verdict": "imgloop.collapse.verdicts",
    "Thresholds": "imgloop.thresholds",
    "scaling_law": "imgloop.collapse.scaling",
    "ScalingLaw": "imgloop.collapse.scaling",
}
__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = attached(__name__, _PUBLIC)
