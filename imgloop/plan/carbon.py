"""Energy and CO2 of a computation: its hours, the power of its processors, and the carbon intensity of electricity."""

from __future__ import annotations

from dataclasses import dataclass

from imgloop.errors import UserError

WORLD = 475.0  # g CO2-equivalent a kWh, world average of 2018: IEA, Global Energy & CO2 Status Report 2019


@dataclass(frozen=True)
class Intensity:
    """Grams of CO2-equivalent a kWh, and where the number stands."""

    grams: float
    source: str


def intensity(country: str | None) -> Intensity:
    """The carbon intensity of a country's electricity (three letters, ISO 3166), from codecarbon's tables, which come
    with the package; the world average without one. Raises UserError without codecarbon, and for other countries."""
    if country is None:
        return Intensity(WORLD, "world average, IEA 2019, as in codecarbon")
    try:
        from codecarbon.input import DataSource  # an extra
    except ImportError as e:
        raise UserError(
            "--country needs codecarbon: pip install 'imgloop[carbon]', or leave it out for the world average.",
            "country",
        ) from e
    mix = DataSource().get_global_energy_mix_data()
    if country not in mix or mix[country].get("carbon_intensity") is None:
        raise UserError(
            f"--country {country}: give three letters, such as DEU or USA, that codecarbon knows.", "country"
        )
    return Intensity(float(mix[country]["carbon_intensity"]), f"codecarbon, {mix[country]['country_name']}")
