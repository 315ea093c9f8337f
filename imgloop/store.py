"""Writing and reading results: atomic files, hashes, locks, formats. Only this file of the package writes results."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from imgloop.errors import UserError, disk_full, refused

DTYPES = {  # in the order in which safetensors stores them, from last to first
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "U16": np.uint16, "F16": np.float16,
    "I32": np.int32, "U32": np.uint32, "F32": np.float32, "F64": np.float64, "I64": np.int64, "U64": np.uint64,
}  # fmt: skip
BLOCK = 1 << 24  # bytes that are written at a time
SEAL = "sealed"  # of a JSON file: the key of a hash of its other values
HASHES = "hashes.json"  # of a folder that `once` made: the hash of each file
HOST = re.sub(r"\W", "_", platform.node())  # this machine, in the names of temporary files


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: written under a temporary name beside it, synced, then renamed."""

    def write(part: Path) -> None:
        with open(part, "wb") as f:
            f.write(data)

    write_file(Path(path), write)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary path)` write a file, then rename it to `path`: it exists whole or not at all, also after a
    power cut."""
    part = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(part)
            sync(part)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a power cut, where the file system can."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(handle)


def remove_parts(*folders: Path) -> None:
    """Remove temporary files and folders of processes that have ended: on this machine those that do not run,
    on another those of more than a day."""
    for path in (p for folder in folders for p in folder.glob(".*.part")):
        owner = re.fullmatch(r"\..+?\.(?:(\w*)-)?(\d+)\.part", path.name)
        if owner is not None:
            ended = owner[1] == HOST and not alive(int(owner[2]))
            with suppress(FileNotFoundError):
                if ended or time.time() - path.stat().st_mtime > 86_400:
                    remove(path)


def alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


@contextmanager
def writing(path: Path):
    """Turn an OSError that the user can fix while writing `path` (full disk, no permission) into UserError."""
    try:
        yield
    except OSError as e:
        if (error := refused(e, path)) is not None:
            raise error from e
        raise


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=False, allow_nan=False) + "\n")


def write_sealed(path: Path, value: Mapping) -> None:
    """Write named values with a hash of them, which `read_json` checks."""
    write_json(path, sealed(value))


def _plain(value):
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value))


def read_json(path: Path, instead: str | None = None) -> Any:
    """The value of a JSON file; raises UserError, naming the file, where it is missing, damaged, or of more than 64
    MiB. instead: how to fix a file that belongs to no chain without restoring it."""
    overwrite = instead is None
    try:
        regular(path)
        with open(path, encoding="utf-8") as f:
            text = f.read(MOST_JSON + 1)
        if len(text) > MOST_JSON:
            raise ValueError(f"more than {MOST_JSON:,} characters")
        value = json.loads(text)
    except FileNotFoundError as e:
        raise damaged(path, "is missing", instead, overwrite) from e
    except (ValueError, RecursionError, OSError) as e:
        raise damaged(path, f"cannot be read ({e})", instead, overwrite) from e
    if not intact(value):
        raise damaged(path, "is not what was written (its hash differs)", instead, overwrite)
    return value


def regular(path: Path) -> None:
    """Raise ValueError for what is no regular file, such as a pipe, whose reading could wait for ever."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise ValueError("it is not a regular file")


def sealed(value: Mapping) -> dict[str, Any]:
    """Named values with a hash of them."""
    return {**value, SEAL: content_key(_plain(value))}


def intact(value: Any) -> bool:
    """Whether a value has the hash that it holds, which is taken out; true of one without."""
    seal = value.pop(SEAL, None) if isinstance(value, dict) else None
    return seal is None or seal == content_key(_plain(value))


LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML has it
MOST_JSON = 64 << 20  # characters of a JSON file
MOST_BYTES, MOST_VALUES = 1 << 20, 100_000  # of a YAML file, and of its values with every alias written out


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def yaml_text(content: Any) -> str:
    """YAML in the order given, without aliases: a value that stands twice is written twice."""
    return yaml.dump(content, Dumper=_Plain, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> Any:
    """The value of a YAML file; raises UserError, naming the file, where it is missing, damaged, or too large, such as
    one whose aliases stand for more than 100,000 values."""
    try:
        regular(path)
        with open(path, encoding="utf-8") as f:
            text = f.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} characters")
        loader = LOADER(text)
        node = loader.get_single_node()
        if node is not None and _values(node, {}) > MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
        return None if node is None else loader.construct_document(node)
    except FileNotFoundError as e:
        raise damaged(path, "is missing", "run the chain again") from e
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        raise damaged(path, f"cannot be read ({' '.join(str(e).split())})", "run the chain again") from e


def _values(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of values below a YAML node, those of an alias as often as it is used."""
    if id(node) not in sizes:
        sizes[id(node)] = MOST_VALUES + 1  # of a node that holds itself
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = (n for pair in inner for n in (pair if isinstance(pair, tuple) else (pair,)))
        sizes[id(node)] = 1 + sum(_values(n, sizes) for n in flat)
    return sizes[id(node)]


def damaged(path: Path, what: str, instead: str | None = None, overwrite: bool = True) -> UserError:
    """The error for a damaged file; `instead`: how to fix it without restoring the file. overwrite: whether starting
    again fixes it, too, as it does what belongs to one chain."""
    instead = instead or "delete the generation's folder and all later ones to compute them again"
    again = ", or start again with overwrite=true" if overwrite else ""
    return UserError(f"{path} {what}: the run folder is damaged. Restore the file, or {instead}{again}.")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], least: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Named arrays as one safetensors file (no code, memory-mappable): byte for byte what its `save` gives, in blocks.
    least: dtypes by name that narrower arrays are stored as."""
    arrays = {k: np.atleast_1d(v) for k, v in arrays.items()}
    types = {k: np.promote_types(v.dtype, least.get(k, v.dtype)) for k, v in arrays.items()}
    names = {np.dtype(v): (rank, k) for rank, (k, v) in enumerate(DTYPES.items())}
    order, header, end = sorted(arrays, key=lambda k: (-names[types[k]][0], k)), {}, 0
    for k in order:
        begin, end = end, end + arrays[k].size * types[k].itemsize
        header[k] = {"dtype": names[types[k]][1], "shape": list(arrays[k].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write(part: Path) -> None:
        with open(part, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            for k in order:
                rows = max(1, BLOCK * len(arrays[k]) // max(1, arrays[k].size * types[k].itemsize))
                for first in range(0, len(arrays[k]), rows):
                    f.write(np.ascontiguousarray(arrays[k][first : first + rows], types[k]).data)

    write_file(Path(path), write)


def open_arrays(path: Path) -> dict[str, np.ndarray]:
    """Memory-mapped arrays of a safetensors file; raises UserError, naming the file, where it is missing or damaged."""
    path = Path(path)
    try:
        regular(path)
        size = path.stat().st_size
        with open(path, "rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            if length > min(size, 100 << 20):
                raise ValueError("its header is not safetensors")
            header = json.loads(f.read(length))
        header.pop("__metadata__", None)
        arrays = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
            if begin < 0 or 8 + length + end > size or end - begin != dtype.itemsize * int(np.prod(shape)):
                raise ValueError("it is shorter than its header says")
            arrays[name] = (
                np.memmap(path, dtype, "r", 8 + length + begin, shape) if end > begin else np.empty(shape, dtype)
            )
        return arrays
    except FileNotFoundError as e:
        raise damaged(path, "is missing") from e
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, OSError, struct.error) as e:
        raise damaged(path, f"cannot be read ({e})") from e


def file_hash(path: Path) -> str:
    """A hash of a file, or of a folder's files with their names, in hex: SHA-256 of the SHA-256 of each."""
    path, digest = Path(path), hashlib.sha256()
    if path.exists() and not path.is_dir() and not path.is_file():
        raise damaged(path, "is not a regular file")
    for part in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(part.relative_to(path).as_posix().encode())
        with open(part, "rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()


def array_hash(*arrays: np.ndarray | None) -> str:
    """SHA-256 of arrays with their dtypes and shapes, in hex."""
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(b"none" if a is None else f"{a.dtype}{a.shape}".encode())
        if a is not None:
            digest.update(np.ascontiguousarray(a).data)
    return digest.hexdigest()


def content_key(value) -> str:
    """A hash of a JSON-able value, sixteen hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def seed_of(*parts) -> int:
    """A seed below 2**63 from a hash of its parts, such as (seed, generation, purpose); equal on every machine."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1


@contextmanager
def lock(path: Path, busy: str | None = None, waiting: Callable[[], None] | None = None):
    """Hold the lock file `path`. If another process holds it: raise UserError(`busy`) where given, else call `waiting`
    once and wait."""
    path = Path(path)
    held = FileLock(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            held.acquire(timeout=0)
    except Timeout:
        if busy is not None:
            raise UserError(busy) from None
        if waiting is not None:
            waiting()
        held.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        held.release()


def once(
    folder: Path, make: Callable[[Path], None], waiting: Callable[[], None] | None = None, sealed: bool = True
) -> Path:
    """`folder`, made by `make(temporary folder)` if it does not exist; safe when two processes need it at once.

    The folder's name contains the hash of everything that its content depends on, so that an existing one can be used.
    sealed: whether the hash of each file is stored, and checked by later calls; not of a folder that gets more files.
    """
    folder = Path(folder)

    def hashed(part: Path) -> None:
        make(part)
        if sealed:
            write_json(part / HASHES, file_hashes(part))

    if not folder.exists():
        with lock(folder.with_name(f".{folder.name}.lock"), waiting=waiting):
            if not folder.exists():
                commit_folder(folder, hashed)
                return folder
    return verified(folder) if sealed else folder


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its path in it; without the list of hashes itself and hidden files."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = {p: p.relative_to(folder).as_posix() for p in files}
    return {n: file_hash(p) for p, n in names.items() if n != HASHES and not p.name.startswith(".")}


def verified(folder: Path) -> Path:
    """`folder`, whose files are those that `once` wrote; raises UserError, naming the first that is not. A folder of
    before 0.2.0 has no list of hashes."""
    if (folder / HASHES).exists():
        wanted, found = read_json(folder / HASHES), file_hashes(folder)
        if not isinstance(wanted, dict):
            raise damaged(folder / HASHES, "holds no hashes", f"delete the folder {folder}: it is made again")
        wrong = [n for n in {**wanted, **found} if wanted.get(n) != found.get(n)]
        if wrong:
            what = "is missing" if wrong[0] not in found else "is not what was written (its hash differs)"
            raise damaged(folder / wrong[0], what, f"delete the folder {folder}: it is made again")
    return folder


def commit_folder(folder: Path, make: Callable[[Path], None]) -> None:
    """Let `make` fill a temporary folder, then rename it to `folder`: it exists completely or not at all, also after a
    power cut."""
    part = folder.with_name(f".{folder.name}.part")
    with writing(folder):
        remove(part)
        part.mkdir(parents=True)
    try:
        make(part)
    except UserError:
        raise
    except Exception as e:
        full = isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(e) or "file write failed" in str(e):  # errors of safetensors and torch
            remove(part)
            raise disk_full(folder) from e
        if isinstance(e, OSError):
            with writing(folder):
                raise
        raise
    with writing(folder):
        for inside in (*part.rglob("*"), part):
            sync(inside)
        os.replace(part, folder)
        sync(folder.parent)


def remove(*paths: Path) -> None:
    """Remove files and folders; a folder is renamed first, so that it is never seen in part."""
    for path in map(Path, paths):
        with writing(path):
            if path.is_dir() and not path.is_symlink():
                gone = path
                if not path.name.endswith(".part"):
                    gone = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.part")
                    os.replace(path, gone)
                shutil.rmtree(gone)
            else:
                path.unlink(missing_ok=True)


def remove_unused(folder: Path, below: Path) -> None:
    """Remove a folder that contains only a lock and a log, and its parents up to `below` where they are empty."""
    if folder.exists() and all(p.name in (".lock", "run.log") for p in folder.iterdir()):
        remove(folder)
        for parent in folder.parents:
            if parent == below or any(parent.iterdir()):
                break
            parent.rmdir()


def cache_folder() -> Path:
    """The folder for decoded images, downloads and features of all studies: IMGLOOP_CACHE, or ~/.cache/imgloop."""
    return Path(os.environ.get("IMGLOOP_CACHE") or Path.home() / ".cache" / "imgloop")


def folder_size(paths: Iterable[Path]) -> int:
    """Bytes of all files in the folders."""
    return sum(p.stat().st_size for path in paths for p in Path(path).rglob("*") if p.is_file())
