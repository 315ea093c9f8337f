"""Real data: each source is a dataclass with `load(cache) -> RealData`, found by Hydra's `_target_`."""

from imgloop.data.real import RealData

__all__ = ["RealData"]
