"""How a job ended: a small file in the sweep's folder, which workers of any launcher can write."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgloop import store
from imgloop.errors import Stopped, UserError
from imgloop.study.progress import note_failure


@dataclass(frozen=True)
class Outcome:
    """failed: why the job failed, in a sentence; None if it did not. notes: what the user is told besides."""

    failed: str | None = None
    notes: tuple[str, ...] = ()

    def write(self, path: Path, arguments: Sequence[str], chain: Path | None) -> None:
        """Record the outcome of a job that `python -m imgloop ARGUMENTS` runs alone. chain: its folder, where known."""
        content = {"arguments": list(arguments), "study": None if chain is None else str(chain.parents[1])}
        content["chain"] = None if chain is None else str(chain)
        store.write_json(path, {**content, "failed": self.failed, "notes": list(self.notes)})
        if chain is not None:
            note_failure(chain, self.failed)


def outcome_path(sweep: str | Path, number: int) -> Path:
    """Where the outcome of a job is written: inside the sweep's folder."""
    return Path(sweep) / f"job{number:04d}.json"


def attempted(work: Callable[[], object]) -> str | None:
    """Do a job's work; why it failed, in a sentence, which is printed too. Stopped is raised: the whole sweep ends."""
    try:
        work()
    except Stopped:
        raise
    except UserError as e:
        print(f"failed: {e}", file=sys.stderr, flush=True)
        return str(e)
    except Exception as e:  # a fault of imgloop: shown whole, and the sweep goes on
        traceback.print_exc()
        return f"{type(e).__name__}: {e}"
    return None
