"""Writing and reading results: atomic files, hashes, locks, formats. Only this file of the package writes results."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from imgloop.errors import UserError

DTYPES = {
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "BOOL": np.bool_,
}


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: written under a temporary name beside it, synced, then renamed."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path):
    """Turn an OSError that the user can fix while writing `path` (full disk, no permission) into UserError."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from e
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise UserError(
                f"{path} cannot be written ({e.strerror}): give another out=FOLDER, or fix its permissions.", "out"
            ) from e
        raise


def disk_full(path: Path) -> UserError:
    """The error for a full disk at `path`."""
    return UserError(
        f"The disk is full: {path} could not be written ({shutil.disk_usage(existing(path)).free >> 20} MiB free). "
        "Finished results are kept; free some space and run the same command again."
    )


def existing(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return path


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=False, allow_nan=False) + "\n")


def read_json(path: Path):
    """The value of a JSON file; raises UserError, naming the file, where it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as e:
        raise damaged(path, "is missing") from e
    except (ValueError, RecursionError, OSError) as e:
        raise damaged(path, f"cannot be read ({e})") from e


def damaged(path: Path, what: str, instead: str | None = None) -> UserError:
    """The error for a damaged file; `instead`: how to fix it without restoring the file."""
    instead = instead or "delete the generation's folder and all later ones to compute them again"
    return UserError(
        f"{path} {what}: the run folder is damaged. Restore the file, or {instead}, or start again with overwrite=true."
    )


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Named arrays as one safetensors file (no code, memory-mappable)."""
    from safetensors.numpy import save

    write_bytes(
        path,
        save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata=dict(metadata) if metadata else None),
    )


def open_arrays(path: Path) -> dict[str, np.ndarray]:
    """Memory-mapped arrays of a safetensors file; raises UserError, naming the file, where it is missing or damaged."""
    path = Path(path)
    try:
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


def once(folder: Path, make: Callable[[Path], None], waiting: Callable[[], None] | None = None) -> Path:
    """`folder`, made by `make(temporary folder)` if it does not exist; safe when two processes need it at once.

    The folder's name contains the hash of everything that its content depends on, so that an existing one can be used.
    """
    folder = Path(folder)
    if not folder.exists():
        with lock(folder.with_name(f".{folder.name}.lock"), waiting=waiting):
            if not folder.exists():
                commit_folder(folder, make)
    return folder


def commit_folder(folder: Path, make: Callable[[Path], None]) -> None:
    """Let `make` fill a temporary folder, then rename it to `folder`: it exists completely or not at all."""
    part = folder.with_name(f".{folder.name}.part")
    remove(part)
    with writing(folder):
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
        raise
    with writing(folder):
        os.replace(part, folder)


def remove(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink(missing_ok=True)


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
