"""python -m imgloop.report --check STUDY: every hash of a study, what is damaged, and how to get it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.config.earlier import identity_of
from imgloop.errors import UserError
from imgloop.study import derived, frozen, generation, progress, solved, tables
from imgloop.study.real import read_real, real_folder


@dataclass(frozen=True)
class Checked:
    """How many files of a study were compared with their hashes, and a sentence for each that is damaged."""

    files: int
    faults: tuple[str, ...]


def check(study: Path) -> Checked:
    """Compare every file of a study that has a hash with it, and read every other. Raises UserError for a path that is
    no study."""
    study = Path(study)
    folders = [p for p in study.glob("*/seed*") if p.is_dir() and p.parent.name != "shared"]
    named = [p for p in folders if generation.is_seed(p.name)]
    chains = sorted(
        p for p in named if (p / "config.yaml").exists() or generation.generations(p) or tables.is_solved(p)
    )
    if not chains:
        raise UserError(f"{study} contains no chain (CONDITION/seedK): give a study's folder.")
    files, faults = 0, []
    strange = [p for p in folders if p not in named]
    strange += [p for c in chains for p in c.glob("gen*") if not generation.is_generation(p.name)]
    for path in strange:
        faults.append(f"{path} has a name that no chain or generation has, and is left out: move it out of the study.")
    for test in _tests(study, chains):
        try:
            files += test()
        except UserError as e:
            faults.append(str(e))
        except Exception as e:  # other contents of valid files can cause any error
            faults.append(f"{study} cannot be read ({type(e).__name__}: {e})")
    return Checked(files, tuple(dict.fromkeys(faults)))


def _tests(study: Path, chains: list[Path]) -> Iterator[Callable[[], int]]:
    """Functions that check some files each, and return how many."""
    for folder in sorted(p for p in (study / "shared").glob("*-*") if p.is_dir() and not p.name.startswith(".")):
        yield lambda f=folder: len(store.file_hashes(store.verified(f)))
        if folder.name.startswith("real-"):
            yield lambda f=folder: len([read_real(f)])
    yield lambda: _states(study)
    if (study / frozen.FILE).exists():
        yield lambda: len([frozen.read(study / frozen.FILE)])
    for chain in chains:
        yield lambda c=chain: len([identity_of(generation.read_config(c))])
        if tables.is_solved(chain):
            yield lambda c=chain: len([solved.intact(c, name) for name in solved.FILES])
            continue
        yield lambda c=chain: generation.check_numbers(c) or 0
        for folder in generation.generations(chain):
            yield lambda f=folder: _record(f, study)
            for name in generation.HASHED:
                yield lambda f=folder, n=name: _file(f, n)
            for path in sorted((folder / "scores").glob("*.json")):
                yield lambda p=path, f=folder: len([generation.read_scores(p, _known(f))])
    for folder in (study, *chains):
        yield lambda f=folder: _derived(f)


def _record(folder: Path, study: Path) -> int:
    record = generation.read_record(folder)
    if not real_folder(study / "shared", record["real"]).is_dir():
        raise store.damaged(study / "shared" / f"real-{record['real']}", "is missing", "run the chain again")
    return 1


def _known(folder: Path) -> dict[str, Any] | None:
    """The record of a generation; None where it is damaged, which a test of its own says."""
    try:
        return generation.read_record(folder)
    except UserError:
        return None


def _states(study: Path) -> int:
    """What sweeps have planned, and the states of the chains."""
    progress.planned(study)
    path = study / progress.FILE
    if path.exists():
        store.read_json(path, "delete it, or run any command of the study, which writes it anew")
    return path.exists() + (study / progress.PLAN).exists()


def _file(folder: Path, name: str) -> int:
    """One file of a generation, or its model; nothing where the record, which has a test of its own, is damaged."""
    record = _known(folder)
    if record is None:
        return 0
    generation.check_files(folder, record, (name,))
    if name == "pool.safetensors":
        generation.read_pool(folder / name)
    return int(generation.HASHED[name] in record and (folder / name).exists())


def _derived(folder: Path) -> int:
    """Tables and pictures: where they are damaged, the same command writes them again."""
    changed = derived.changed(folder)
    if changed:
        raise UserError(
            f"{changed[0]} is not what was written: it follows from the generations; run any command of the chain or "
            "study again, which writes it anew."
        )
    return derived.count(folder)
