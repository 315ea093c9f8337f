"""The official files of CIFAR-10 and CIFAR-100: find, download, check, and unpickle them without running code."""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgloop.errors import UserError
from imgloop.store import once

TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class Official:
    """The files of one data set, with their MD5 checksums from torchvision."""

    name: str
    url: str
    md5: str  # of the archive
    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    meta: tuple[str, str]
    labels: str  # the key of the labels in a batch
    names: str  # the key of the class names in the meta file
    classes: int

    @property
    def archive(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def files(self) -> dict[str, str]:
        return {**self.train, **self.test, self.meta[0]: self.meta[1]}


CIFAR10 = Official(
    "CIFAR-10",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    "cifar-10-batches-py",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    {"test_batch": "40351d587109b95175f43aff81a1287e"},
    ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
    "labels",
    "label_names",
    10,
)
CIFAR100 = Official(
    "CIFAR-100",
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-python",
    {"train": "16019d7e3df5f24257cddd939b257f8d"},
    {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    ("meta", "7973b15100ade9c7d40fb424638fde48"),
    "fine_labels",
    "fine_label_names",
    100,
)


def downloaded(official: Official, cache: Path) -> Path:
    """The official archive below `cache`, downloaded and checked by torchvision if it is not there yet.

    Raises UserError, with the address, if it cannot be downloaded.
    """

    def fetch(part: Path) -> None:
        before = socket.getdefaulttimeout()
        try:
            from torchvision.datasets.utils import download_url

            socket.setdefaulttimeout(TIMEOUT)  # otherwise a network that drops all packets blocks forever
            download_url(official.url, str(part), official.archive, official.md5)
        except Exception as e:  # no torchvision, no network, a wrong checksum: each has its own error class
            reason = str(getattr(e, "reason", None) or e or type(e).__name__).rstrip(".")
            raise UserError(
                f"{official.name} could not be downloaded ({reason}): get {official.url} elsewhere, and give "
                f"data.root=PATH/{official.archive}.",
                "data.root",
            ) from e
        finally:
            socket.setdefaulttimeout(before)

    return once(Path(cache) / official.folder, fetch, sealed=False) / official.archive


def find_files(official: Official, root: Path) -> Path | None:
    """The folder or .tar in `root` with official files; None if there is none."""
    if root.is_file():
        return root if root.suffix in (".gz", ".tgz", ".tar") or tarfile.is_tarfile(root) else None
    for folder in (root, root / official.folder):
        if any((folder / name).is_file() for name in official.files):
            return folder
    return root / official.archive if (root / official.archive).is_file() else None


def contents(official: Official, place: Path) -> dict[str, bytes]:
    """The official files by name, read from a .tar without unpacking. Raises UserError if one is missing or damaged."""
    files: dict[str, bytes] = {}
    try:
        if place.is_dir():
            files = {name: (place / name).read_bytes() for name in official.files if (place / name).exists()}
        else:
            with tarfile.open(place) as tar:
                for member in tar:
                    name = member.name.rsplit("/", 1)[-1]
                    if name in official.files and (file := tar.extractfile(member)) is not None:
                        files[name] = file.read()
    except Exception as e:  # permissions, gzip, zlib, lzma, tar: each has its own error class
        raise UserError(f"data.root={place} cannot be read ({e}); get {official.url} again.", "data.root") from e
    missing = [name for name in official.files if name not in files]
    if missing:
        raise UserError(
            f"data.root={place} lacks {', '.join(missing)} of {official.name}; get {official.url} again, or use "
            "data=folder for other images.",
            "data.root",
        )
    return files


def batch(official: Official, name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of one batch file; raises UserError for other content."""
    content = unpickled(official, name, data)
    try:
        x, y = content["data"].array, np.asarray(content[official.labels], np.int64)
        if y.ndim != 1 or x.shape != (len(y), 3072) or (len(y) and not 0 <= y.min() <= y.max() < official.classes):
            raise ValueError("images and labels do not have the right shapes or ranges")
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as e:
        raise _no_batch(official, name, e) from e
    return x.reshape(-1, 3, 32, 32), y


def class_names(official: Official, data: bytes) -> tuple[str, ...]:
    """The names of the classes in a meta file; raises UserError for other content."""
    name = official.meta[0]
    content = unpickled(official, name, data)
    names = content.get(official.names) if isinstance(content, dict) else None
    if not isinstance(names, list) or len(set(map(str, names))) != official.classes:
        raise _no_batch(official, name, f"it does not name {official.classes} classes")
    return tuple(map(str, names))


def unpickled(official: Official, name: str, data: bytes):
    """The content of a pickle of byte arrays, text, numbers, lists and dicts; other pickles are not run and raise."""
    try:
        return _Plain(io.BytesIO(data), encoding="latin1").load()
    except Exception as e:  # a damaged pickle can raise almost any exception
        raise _no_batch(official, name, e) from e


def _no_batch(official: Official, name: str, reason) -> UserError:
    return UserError(f"{name} is not a file of {official.name} ({reason}); get {official.url} again.", "data.root")


def is_official(official: Official, name: str, data: bytes) -> bool:
    """Whether a file is the published one, byte for byte."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == official.files[name]


class _Plain(pickle.Unpickler):
    """Unpickles plain values, and arrays of bytes as `_Bytes`; raises UnpicklingError for anything else.

    NumPy's own unpickling is not used: it trusts its input.
    """

    def find_class(self, module: str, name: str):
        allowed = {
            "numpy.ndarray": None,  # an argument of `_reconstruct`, which ignores it
            "numpy.dtype": _Kind,
            "numpy.core.multiarray._reconstruct": _Bytes,
            "numpy._core.multiarray._reconstruct": _Bytes,
            "numpy.core.numeric._frombuffer": _from_buffer,
            "numpy._core.numeric._frombuffer": _from_buffer,
            "_codecs.encode": _latin1,  # how Python 3 writes bytes for Python 2
        }
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not data")
        return allowed[f"{module}.{name}"]


class _Kind:
    """A pickled dtype."""

    def __init__(self, code: str, *more):
        self.code = code

    def __setstate__(self, state):
        pass


class _Bytes:
    """A pickled array, `array` uint8; other dtypes raise."""

    array: np.ndarray | None = None

    def __init__(self, *ignored):
        pass

    def __setstate__(self, state):
        _, shape, kind, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        self.array = _from_buffer(raw, kind, shape, "F" if fortran else "C").array


def _from_buffer(raw, kind: _Kind, shape, order) -> _Bytes:
    if kind.code != "u1":
        raise pickle.UnpicklingError("it contains an array of other numbers than bytes")
    result = _Bytes()
    result.array = np.frombuffer(raw, np.uint8).reshape(shape, order=order)
    return result


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")
