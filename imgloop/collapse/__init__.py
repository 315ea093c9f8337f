"""The collapse profile: eight definitions of model collapse, eight verdicts, from series of any chains.

`collapse_profile` judges a table of chains by the `Thresholds` of `conf/collapse`, and returns a `Profile`, a `Verdict`
for each condition and definition. `scaling_law` compares the risks of a loop and of its control at several sizes of the
real data. Each name is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module

_PUBLIC = {
    "collapse_profile": "imgloop.collapse.profile",
    "Profile": "imgloop.collapse.verdicts",
    "Verdict": "imgloop.collapse.verdicts",
    "Thresholds": "imgloop.thresholds",
    "scaling_law": "imgloop.collapse.scaling",
    "ScalingLaw": "imgloop.collapse.scaling",
}
__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'imgloop.collapse' has no attribute {name!r}; the public names are {', '.join(__all__)}"
        )
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__():
    return __all__
