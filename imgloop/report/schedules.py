"""Schedules: panels of what each generation of a condition was given, where that changes over generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from imgloop.config.schedule import Schedule
from imgloop.config.settings import flat
from imgloop.errors import UserError
from imgloop.figures import looks
from imgloop.measures import MeasureInfo
from imgloop.report.panels import Line, Panel, scheduled
from imgloop.study.study import Study

GIVEN = ("train_images", "n_train", "real_share", "n_drawn", "n_pool")  # measures that schedules set
SETTINGS = {  # schedules that no measure above shows as they are: name, unit, first generation that they act on
    "paradigm.real_fraction": ("Real fraction", "share of the training set drawn from R", 1),
    "paradigm.n_real": ("Real images in the training set", "images a generation", 1),
    "paradigm.n_synthetic": ("Samples in the training set", "images a generation", 1),
    "paradigm.budget": ("Budget", "images a generation", 1),
    "paradigm.edit_fraction": ("Edited", "share of the data set that a generation overwrites", 1),
    "paradigm.real_weight": ("Loss weight of real images", "a synthetic image has 1", 1),
    "model.bias": ("Sampling bias", "factor of the latents' variance", 0),
    "model.extrapolate": ("Extrapolation", "weight of the step away from own samples", 0),
}


def given(study: Study, names: Mapping[str, str], whole: Sequence[Panel]) -> list[Panel]:
    """The panels of what each generation was given, where a schedule changes it; none elsewhere. `names` of conditions
    to print, `whole`: all panels of measures."""
    measured = [p for p in whole if p.info.name in GIVEN] if scheduled(study) else []
    return [*measured, *settings(study, names)]


def settings(study: Study, names: Mapping[str, str]) -> list[Panel]:
    """A panel of each of SETTINGS that is a schedule in a condition, from the configurations of the first chains."""
    if study.is_csv or study.solvable or study.imported:
        return []
    found, styles = [], looks(list(names))
    configs = {c: config for c in names if (config := configured(study, c))}
    for key, (label, unit, first) in SETTINGS.items():
        values = {c: config[key] for c, config in configs.items() if config.get(key) is not None}
        if all(isinstance(v, int | float) for v in values.values()):
            continue
        lines = []
        for condition, value in values.items():
            rows = study.table[(study.table["condition"] == condition) & (study.table["generation"] >= first)]
            seeds = rows.groupby("generation")["seed"].nunique()
            x = seeds.index.to_numpy(float)
            schedule = Schedule.of(key, value, whole=False)
            mean = np.array([schedule(int(t)) for t in x])
            lines.append(Line(condition, names[condition], styles[condition], x, mean, mean, mean, seeds.to_numpy()))
        found.append(Panel(MeasureInfo(key, label, unit, kind="size"), tuple(lines), "as configured"))
    return found


def configured(study: Study, condition: str) -> dict[str, object]:
    """The settings of a condition's first chain, by dotted key; empty where they cannot be read."""
    try:
        return flat(dict(study.config(study.chain(condition, study.seeds(condition)[0]))["config"]))
    except UserError:
        return {}
