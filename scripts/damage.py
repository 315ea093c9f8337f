"""python scripts/damage.py [STUDY ...] [--every K]: every file of a small study x damage x command.

Each file is flipped (one bit), truncated, zeroed, emptied, removed, swapped with another of its kind, or replaced by a
file of the wrong kind. Then each command runs: resume, extend, measure, report, list, load_study, check, fork, archive.
Allowed are: a sentence that names the file or its folder; or the result that the undamaged study gives. A traceback, a
silent difference and a destroyed undamaged file are faults. Prints a table of what happened, and each fault.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torture

DAMAGES = ("flip", "truncate", "zero", "empty", "remove", "swap", "kind")
STUDIES = {
    "diffusion": (f"{torture.DIFFUSION} generations=2", "digits-diffusion"),
    "analytic": (f"{torture.SOLVED} generations=3", "gaussian"),
}


def commands(kind: str, study: str, chain: str) -> dict[str, str]:
    """The commands that meet the damage, by name."""
    make = STUDIES[kind][0]
    last = int(make.rpartition("=")[2])
    found = {
        "resume": make,
        "extend": make.replace(f"generations={last}", f"generations={last + 1}"),
        "report": f"imgloop.report {study}",
        "list": "imgloop.report . --list",
        "check": f"imgloop.report {study} --check",
        "archive": f"imgloop.report {study} --archive",
        "load": f"load {study}",
    }
    if kind == "diffusion":
        found["measure"] = f"imgloop.measure {study} features=random"
        found["fork"] = f'{make} paradigm=replace fork="{chain}@0"'
    return found


def spoil(path: Path, damage: str, others: list[Path]) -> bool:
    """Damage a file; False where the damage does not apply."""
    data = path.read_bytes()
    if damage in ("flip", "truncate", "zero") and not data:
        return False
    if damage == "remove":
        path.unlink()
        return True
    if damage == "swap":
        other = next((o for o in others if o.suffix == path.suffix and o.read_bytes() != data), None)
        if other is None:
            return False
        content = other.read_bytes()
    else:
        middle = len(data) // 2
        content = {
            "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else b"",
            "truncate": data[:middle],
            "zero": bytes(len(data)),
            "empty": b"",
            "kind": b"[]" if path.suffix in (".json", ".yaml") else b"\x89PNG\r\n\x1a\n" + bytes(40),
        }[damage]
    path.write_bytes(content)
    return content != data


def outcome(expected: dict, found: dict, spoilt: str, status: int, output: str) -> str:
    """named; harmless: the file is whole again; unused: the command gave its usual result without it; or the fault."""
    if "Traceback" in output or status < 0 or status == 99:
        return f"FAULT: ends with {status}: {output[-400:]}"
    place = Path(spoilt)
    words = [place.name, *(p.name for p in place.parents if p.name)]
    told = place.name in output or "damaged" in output or "cannot be read" in output
    if status != 0:
        return "named" if any(w in output for w in words) else f"FAULT: not named: {output[-300:]}"
    emptied = f"left over {place.parent.as_posix()}"  # the folder of a file that was removed
    wrong = [d for d in torture.differences(expected, found) if spoilt not in d and d != emptied]
    lost = [d for d in wrong if not any(k in d for k in (".derived.json", "report", "comparison", "study.json"))]
    if lost:
        return f"FAULT: {lost[:3]}"
    if expected.get(spoilt) == found.get(spoilt):
        return "named" if told else "harmless"
    return "named" if told else "unused"


def trial(base: Path, command: str) -> tuple[int, str, dict]:
    with torture.copied(base, "work") as work:
        status, output, _ = torture.run(command, work)
        return status, output, torture.tree(work) if status == 0 else {}


def printed(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str] | None = None, say: Callable[[str], None] = printed) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="*", help=", ".join(STUDIES))
    parser.add_argument("--every", type=int, default=1, metavar="K", help="only each K-th case")
    a = parser.parse_args(arguments)
    torture.preload()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["IMGLOOP_CACHE"] = f"{tmp}/cache"
        for kind in a.study or STUDIES:
            base = Path(tmp) / kind / "study"
            base.mkdir(parents=True)
            make, study = STUDIES[kind]
            status, output, _ = torture.run(make, base)
            assert status == 0, output
            chain = next(base.glob("*/*/seed0")).relative_to(base).as_posix()
            listed = commands(kind, study, chain)
            quiet = {name: trial(base, command) for name, command in listed.items()}
            assert all(q[0] == 0 for q in quiet.values()), {n: q[1] for n, q in quiet.items() if q[0]}
            files = [p for p in sorted(base.rglob("*")) if p.is_file() and p.name not in (".lock", "run.log")]
            files = [p for p in files if not p.name.endswith(".lock")]
            table: dict[str, Counter[str]] = {name: Counter() for name in listed}
            cases = [(p, d, n) for p in files for d in DAMAGES for n in listed]
            for path, damage, name in cases[:: a.every]:
                with torture.copied(base, "work") as work:
                    spoilt = path.relative_to(base).as_posix()
                    if not spoil(work / spoilt, damage, [work / p.relative_to(base) for p in files]):
                        continue
                    status, output, _ = torture.run(listed[name], work)
                    found = torture.tree(work, tolerant=True)
                    result = outcome(quiet[name][2], found, spoilt, status, output)
                if result == "unused" and name == "load" and output != quiet[name][1]:
                    result = "FAULT: another table, without a word"
                table[name][result.split(":")[0]] += 1
                if result.startswith("FAULT"):
                    faults.append(f"{kind}: {spoilt} {damage}, {name}: {result}")
                    say(f"  {faults[-1]}"[:700].replace("\n", " / "))
            for name, counts in table.items():
                say(f"{kind}, {name}: " + ", ".join(f"{n} {word}" for word, n in sorted(counts.items())))
    say(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
