"""imgloop: what happens to image generators that are trained on their own output, generation after generation."""

from __future__ import annotations

from imgloop.lazy import attached

_PUBLIC = {
    "run": "imgloop.api",
    "sweep": "imgloop.api",
    "load_study": "imgloop.study.tables",
    "Study": "imgloop.study.study",
    "collapse_profile": "imgloop.collapse.profile",
    "Pool": "imgloop.pool",
    "Mix": "imgloop.pool",
    "TrainingSet": "imgloop.pool",
    "Task": "imgloop.training.tasks",
    "Schedule": "imgloop.config.schedule",
    "UserError": "imgloop.errors",
    # for users' own parts (docs/extending.md)
    "Paradigm": "imgloop.paradigm",
    "Curation": "imgloop.contracts",
    "Correction": "imgloop.contracts",
    "Source": "imgloop.contracts",
    "Model": "imgloop.contracts",
    "Generator": "imgloop.contracts",
    "Measure": "imgloop.contracts",
    "MeasureInfo": "imgloop.measures",
    "Context": "imgloop.contracts",
    "Given": "imgloop.contracts",
    "Release": "imgloop.contracts",
    "RealData": "imgloop.data.real",
    "Facts": "imgloop.data.real",
}
__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = attached(__name__, _PUBLIC)
