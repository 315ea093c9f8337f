"""Multirun: Hydra's basic sweeper, after which the study's comparison is printed and failures set the exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class StudySweeper(BasicSweeper):
    """Each job returns {"study": folder, "failed": sentence or None}; one that failed lets the others finish."""

    def sweep(self, arguments: list[str]) -> Sequence:
        from imgloop.study import comparison_lines

        batches = super().sweep(arguments)
        returned = [job.return_value for batch in batches for job in batch]
        for study in dict.fromkeys(r["study"] for r in returned if r["study"]):
            if (Path(study) / "comparison.csv").exists():
                print("\n".join(["", str(study), *comparison_lines(study), f"look at {Path(study) / 'comparison.png'}"]), flush=True)
        failed = [r for r in returned if r["failed"]]
        if failed:
            print(f"\n{len(failed)} of {len(returned)} runs failed:", file=sys.stderr)
            for r in failed:
                print(f"  {r['name']}: {r['failed']}", file=sys.stderr)
            sys.exit(1)
        return batches
