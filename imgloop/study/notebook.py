"""Results in a notebook, as HTML: tables by pandas, and the figures that a study already has."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

from imgloop.study.trained import DataFrame


def html(title: str, frame: DataFrame, figures: Iterable[Path] = ()) -> str:
    """A title, a table and those of the PNG files that exist, inside the page."""
    table = frame.to_html(index=False, na_rep="-", float_format="{:.3g}".format, border=0)
    pictures = [
        f'<p><img alt="{escape(path.name)}" style="max-width:100%" '
        f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"></p>'
        for path in figures
        if path.is_file() and path.stat().st_size
    ]
    return "\n".join([f"<p><b>{escape(title)}</b></p>", table, *pictures])
