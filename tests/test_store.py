"""Files on a real disk: complete or absent, errors for damage and full disks, locks between processes, hashes."""

import builtins
import errno
import json
import multiprocessing
import os
import shutil
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from imgloop import store
from imgloop.errors import UserError

spawn = multiprocessing.get_context("spawn")


def listing(folder: Path) -> list[str]:
    """Every name below the folder, hidden ones included."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def fails(number: int):
    """A function that raises an OSError of the operating system."""

    def call(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return call


# Complete or absent


def test_written_content_is_read_back_and_no_other_file_remains(tmp_path):
    store.write_bytes(tmp_path / "a" / "b" / "file", b"one")  # folders are created
    store.write_bytes(tmp_path / "a" / "b" / "file", b"two")  # and files are replaced
    store.write_text(tmp_path / "text", "größer\n")
    store.write_json(tmp_path / "json", {"b": [1, 2.5, None], "a": "ü"})
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"two"
    assert (tmp_path / "text").read_text(encoding="utf-8") == "größer\n"
    assert store.read_json(tmp_path / "json") == {"b": [1, 2.5, None], "a": "ü"}
    assert listing(tmp_path) == ["a", "a/b", "a/b/file", "json", "text"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch, step, number):
    store.write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os, step, fails(number))
    with pytest.raises((OSError, UserError)):
        store.write_bytes(tmp_path / "file", b"new" * 1000)
    assert (tmp_path / "file").read_bytes() == b"old" and listing(tmp_path) == ["file"]


def test_an_interruption_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    store.write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_file_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    """A crash after the rename must not find the name without the content."""
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (done.append(("fsync", os.fstat(f).st_size)), fsync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(("replace", Path(b).name)), replace(a, b)))
    store.write_bytes(tmp_path / "file", b"12345")
    assert done[:2] == [("fsync", 5), ("replace", "file")]


def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path):
    store.write_json(tmp_path / "file", {"old": 1})
    for value in (float("nan"), {"x": {1, 2}}):  # neither is JSON
        with pytest.raises((ValueError, TypeError)):
            store.write_json(tmp_path / "file", value)
    with pytest.raises(Exception, match=r"complex|object"):
        store.write_arrays(tmp_path / "file", {"x": np.zeros(3, np.complex128)})
    assert store.read_json(tmp_path / "file") == {"old": 1} and listing(tmp_path) == ["file"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, contents = tmp_path / "file", [bytes([i]) * 300_000 for i in range(4)]
    store.write_bytes(path, contents[0])
    over, seen = threading.Event(), set()

    def read():
        while not over.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(120):
        store.write_bytes(path, contents[i % 4])
    over.set()
    reader.join()
    assert seen <= set(contents) and len(seen) > 1


# Arrays


def round_trip(path: Path, made: dict) -> dict:
    store.write_arrays(path, made)
    read = store.open_arrays(path)
    assert read.keys() == made.keys()
    for name, a in made.items():
        assert read[name].dtype == a.dtype.newbyteorder("=") and read[name].shape == a.shape
        assert np.array_equal(read[name], a, equal_nan=a.dtype.kind == "f")
    return read


DTYPES = list(store.DTYPES.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (4, 3, 8, 8), (0,), (0, 3, 8, 8), (3, 0)])
def test_every_dtype_is_read_as_written(tmp_path, dtype, shape):
    a = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    round_trip(tmp_path / "file", {"x": a})


some_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays(dtype, array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
)


some_name = st.text(max_size=8).filter(lambda name: name != "__metadata__")  # the format's own entry


@given(st.dictionaries(some_name, some_array, min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_any_arrays_are_read_as_written(tmp_path_factory, made):
    round_trip(tmp_path_factory.getbasetemp() / "any.safetensors", made)


def test_arrays_in_any_layout(tmp_path):
    a = np.arange(24, dtype=np.int32).reshape(4, 6)
    round_trip(
        tmp_path / "file",
        {
            "plain": a,
            "fortran": np.asfortranarray(a),
            "transposed": a.T,
            "stepped": a[::2, ::-3],
            "broadcast": np.broadcast_to(a[:, :1], (4, 6)),
            "swapped": a.astype(">i4"),
        },
    )


def test_arrays_are_memory_mapped_and_read_only(tmp_path):
    read = round_trip(tmp_path / "file", {"x": np.arange(10), "y": np.zeros((3, 2), np.uint8)})
    for a in read.values():
        assert isinstance(a, np.memmap) and Path(str(a.filename)) == tmp_path / "file" and not a.flags.writeable
    with pytest.raises(ValueError):
        read["x"][0] = 1


def test_the_file_is_safetensors(tmp_path):
    """Others read what we write, and we read what others write."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    made = {"x": np.arange(6, dtype=np.uint8).reshape(2, 3), "weight": np.ones(4, np.float32)}
    round_trip(tmp_path / "ours", made)
    with safe_open(tmp_path / "ours", "numpy") as f:
        assert all((f.get_tensor(k) == v).all() for k, v in made.items())
    save_file(made, tmp_path / "theirs", {"some": "metadata"})
    assert all((store.open_arrays(tmp_path / "theirs")[k] == v).all() for k, v in made.items())


def test_an_open_array_outlives_the_replacement_of_its_file(tmp_path):
    read = round_trip(tmp_path / "file", {"x": np.arange(1000)})["x"]
    round_trip(tmp_path / "file", {"x": np.zeros(1000, int)})
    assert (read == np.arange(1000)).all()


# Errors for damage name the file


def damage(path: Path, read=store.open_arrays):
    with pytest.raises(UserError) as e:
        read(path)
    text = str(e.value)
    assert str(path) in text and "damaged" in text and "overwrite=true" in text and "\n" not in text


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("healthy") / "file"
    store.write_arrays(path, {"x": np.arange(12, dtype=np.int16).reshape(3, 4), "y": np.ones(5, np.uint8)})
    return path.read_bytes()


def test_missing_files(tmp_path):
    for read in (store.open_arrays, store.read_json):
        damage(tmp_path / "nothing", read)
        damage(tmp_path / "no" / "such" / "folder", read)
        damage(tmp_path, read)  # a folder where a file should be


def test_arrays_cut_short_anywhere(tmp_path, healthy):
    for length in range(len(healthy)):
        (tmp_path / "file").write_bytes(healthy[:length])
        damage(tmp_path / "file")


def test_files_with_other_content(tmp_path):
    for content in (
        b"\0" * 100,
        b"\xff" * 100,
        b"PK\x03\x04 not this either" * 9,
        b"\x89PNG\r\n\x1a\n" * 9,
        struct.pack("<Q", 8) + b"not json" * 4,
        struct.pack("<Q", 1 << 62) + b"{}",
    ):
        (tmp_path / "file").write_bytes(content)
        damage(tmp_path / "file")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "U8", "shape": [4]},
        {"dtype": "Q7", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [5], "data_offsets": [0, 4]},
        {"dtype": "I16", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [200], "data_offsets": [0, 200]},
        {"dtype": "U8", "shape": [-2, -2], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": "4", "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [4], "data_offsets": [0, 2, 4]},
        {"dtype": "U8", "shape": [0], "data_offsets": [999, 999]},
        {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]},
        {"dtype": ["U8"], "shape": [4], "data_offsets": [0, 4]},
        5,
        "text",
        None,
        [],
    ],
)
def test_impossible_headers(tmp_path, entry):
    header = json.dumps({"x": entry}).encode()
    (tmp_path / "file").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)
    damage(tmp_path / "file")


def test_any_byte_of_the_header_changed(tmp_path, healthy):
    """A header with one changed byte gives arrays or an error for damage."""
    end, errors = 8 + struct.unpack("<Q", healthy[:8])[0], 0
    for at in range(end):
        for byte in (0, ord("9"), ord("}"), 255):
            (tmp_path / "file").write_bytes(healthy[:at] + bytes([byte]) + healthy[at + 1 :])
            try:
                store.open_arrays(tmp_path / "file")
            except UserError:
                errors += 1
    assert errors > 2 * end


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe", b"nonsense", b"[1,]"])
def test_damaged_json(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    damage(tmp_path / "record.json", store.read_json)


# Full disks


def full(e) -> bool:
    text = str(e.value)
    return "disk is full" in text and "MiB free" in text and "\n" not in text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_while_writing(tmp_path, monkeypatch):
    store.write_bytes(tmp_path / "file", b"old")
    written = []

    def onto_full(path, mode="r", *args, **kwargs):
        if "w" not in mode:
            return builtins.open(path, mode, *args, **kwargs)
        Path(path).touch()  # the name is created, but there is no space for content
        written.append(path)
        return builtins.open("/dev/full", mode, *args, **kwargs)

    monkeypatch.setattr(store, "open", onto_full, raising=False)
    for write in (
        lambda: store.write_bytes(tmp_path / "file", b"new"),
        lambda: store.write_json(tmp_path / "file", {"new": 1}),
        lambda: store.write_arrays(tmp_path / "file", {"new": np.zeros(100_000)}),
    ):
        with pytest.raises(UserError) as e:
            write()
        assert full(e) and str(tmp_path / "file") in str(e.value)
    assert len(written) == 3
    assert (tmp_path / "file").read_bytes() == b"old" and listing(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_or_quota_while_finishing(tmp_path, monkeypatch, step, number):
    monkeypatch.setattr(os, step, fails(number))
    with pytest.raises(UserError) as e:
        store.write_arrays(tmp_path / "deep" / "file", {"x": np.zeros(9)})
    assert full(e) and str(tmp_path / "deep" / "file") in str(e.value) and listing(tmp_path) == ["deep"]


def test_other_failures_of_the_disk_are_not_called_full(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fails(errno.EIO))
    with pytest.raises(UserError, match=os.strerror(errno.EIO)) as error:
        store.write_bytes(tmp_path / "file", b"new")
    assert "full" not in str(error.value) and listing(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Quota"),
        RuntimeError("file write failed"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_while_filling_a_folder(tmp_path, error):
    def make(part):
        (part / "half").write_bytes(b"half")
        raise error

    with pytest.raises(UserError) as e:
        store.commit_folder(tmp_path / "gen003", make)
    assert full(e) and str(tmp_path / "gen003") in str(e.value) and listing(tmp_path) == []


def test_the_error_for_a_full_disk_needs_no_folder(tmp_path):
    assert "MiB free" in str(store.disk_full(tmp_path / "not" / "yet" / "there"))


# Folders that are complete or absent


def test_a_folder_appears_when_it_is_complete(tmp_path):
    def make(part):
        assert part.is_dir() and not (tmp_path / "a" / "gen000").exists()
        (part / "model").mkdir()
        (part / "model" / "weights").write_text("w")
        assert not (tmp_path / "a" / "gen000").exists()

    store.commit_folder(tmp_path / "a" / "gen000", make)
    assert listing(tmp_path) == ["a", "a/gen000", "a/gen000/model", "a/gen000/model/weights"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.EBADF, "I/O")])
def test_a_failed_folder_does_not_exist_and_can_be_made_again(tmp_path, error):
    def fail(part):
        (part / "stale").write_text("half")
        raise error

    with pytest.raises(type(error)) as e:
        store.commit_folder(tmp_path / "gen000", fail)
    assert e.value is error and not (tmp_path / "gen000").exists()
    store.commit_folder(tmp_path / "gen000", lambda part: store.write_text(part / "good", "whole"))
    assert listing(tmp_path) == ["gen000", "gen000/good"]  # without files of the first attempt


# Locks between new processes


def until(happened, seconds=30):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def hold(folder: str):
    with store.lock(Path(folder) / ".lock"):
        (Path(folder) / "held").touch()
        until((Path(folder) / "release").exists)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock tmp_path / ".lock" until the file "release" exists."""
    process = spawn.Process(target=hold, args=(str(tmp_path),))
    process.start()
    until((tmp_path / "held").exists)
    yield process
    (tmp_path / "release").touch()
    process.join(30)


def test_a_lock_is_for_one_process_at_a_time(tmp_path, holder):
    with pytest.raises(UserError, match=r"^the chain is running$"):
        with store.lock(tmp_path / ".lock", busy="the chain is running"):
            raise AssertionError("two hold the lock")
    calls = []

    def waiting():
        calls.append(holder.is_alive())
        (tmp_path / "release").touch()

    with store.lock(tmp_path / ".lock", waiting=waiting):
        assert calls == [True]  # called once, before waiting
    holder.join(30)
    with store.lock(tmp_path / ".lock", busy="still held"):
        pass


def test_a_lock_ends_with_its_process(tmp_path, holder):
    holder.kill()
    holder.join(30)
    with store.lock(tmp_path / ".lock", busy="held by a dead process"):
        pass


def test_a_lock_is_released_after_an_error_and_creates_its_folder(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError), store.lock(tmp_path / "new" / ".lock", busy="still held"):
            raise RuntimeError


def make_one(folder: str, log: str, start, results):
    """One of two processes that need the folder at once; the one that makes it waits until the other is waiting."""
    waits = Path(log).with_name("waits")

    def make(part):
        with open(log, "a") as f:
            f.write(f"{os.getpid()}\n")
        (part / "first").write_text(str(os.getpid()))
        until(waits.exists)
        (part / "second").write_text(str(os.getpid()))

    start.wait(30)
    done = store.once(Path(folder), make, waiting=lambda: waits.open("x").close())
    results.put(((done / "first").read_text(), (done / "second").read_text()))


def test_two_processes_make_a_folder_once(tmp_path):
    start, results = spawn.Barrier(2), spawn.Queue()
    folder, log = tmp_path / "shared" / "generation0-abc", tmp_path / "log"
    both = [spawn.Process(target=make_one, args=(str(folder), str(log), start, results)) for _ in range(2)]
    for p in both:
        p.start()
    for p in both:
        p.join(60)
    makers = log.read_text().split()
    assert [p.exitcode for p in both] == [0, 0] and len(makers) == 1
    assert results.get(timeout=5) == results.get(timeout=5) == (makers[0], makers[0])
    assert listing(folder) == ["first", "hashes.json", "second"] and not list(folder.parent.glob("*.part"))


def die(folder: str):
    def make(part):
        (part / "half").write_text("half")
        os._exit(9)

    store.once(Path(folder), make)


def test_a_folder_is_made_again_after_its_process_died(tmp_path):
    process = spawn.Process(target=die, args=(str(tmp_path / "made"),))
    process.start()
    process.join(30)
    assert process.exitcode == 9 and not (tmp_path / "made").exists()
    assert store.once(tmp_path / "made", lambda part: store.write_text(part / "whole", "")) == tmp_path / "made"
    assert listing(tmp_path / "made") == ["hashes.json", "whole"]


def test_a_folder_that_exists_is_not_made_again(tmp_path):
    made = []
    for _ in range(3):
        store.once(tmp_path / "made", lambda part: made.append(part))
    assert len(made) == 1


# Hashes and seeds


@pytest.mark.parametrize(
    "parts, seed",
    [
        ((), 2858069222894195974),
        ((0, 0, "mix"), 5786416528967882810),
        ((0, 0, "sample"), 7891358431364734516),
        ((1, 0, "mix"), 7543215404276679452),
        ((0, 1, "mix"), 4452355018793568298),
        ((0, None, "evolution"), 4006862021048534003),
        ((7, 3, "batch", 1000), 3122227742275666013),
        (("1",), 2445205149161552448),
        ((2**63, "ä"), 8152248189119826791),
    ],
)
def test_seeds_never_change(parts, seed):
    """Chains are found, resumed and compared by these numbers: a different value is a different experiment."""
    assert store.seed_of(*parts) == seed


def test_seeds_of_different_parts_are_different():
    seeds = {
        store.seed_of(seed, t, purpose)
        for seed in range(100)
        for t in range(100)
        for purpose in ("mix", "sample", "batch", "epoch", "curate")
    }
    assert len(seeds) == 50_000 and all(0 <= s < 2**63 for s in seeds)
    assert np.log2(np.array(sorted(seeds), float)).max() > 62  # the whole range is used
    alike = [(1, 23), (12, 3), (1, 2, 3), (123,), ("1", 23), ("1,23",), (1, None, 23), ((1, 23),), (1, 23, "")]
    assert len({store.seed_of(*p) for p in alike}) == len(alike)


def test_a_key_does_not_depend_on_the_order_of_a_dict():
    value = {"model": {"lr": 0.1, "widths": [8, 16]}, "seed": 0, "start": None}
    reordered = {"start": None, "seed": 0, "model": {"widths": [8, 16], "lr": 0.1}}
    assert store.content_key(value) == store.content_key(reordered)
    for other in (
        {**value, "seed": 1},
        {**value, "start": "null"},
        {**value, "more": None},
        {**value, "model": {"lr": 0.1, "widths": [16, 8]}},
    ):
        assert store.content_key(other) != store.content_key(value)
    assert len(store.content_key(value)) == 16 and int(store.content_key(value), 16) >= 0


def test_keys_never_change():
    """Shared folders are found by these."""
    assert store.content_key({"b": [1, 2.5, None, True], "a": 1}) == "9b05df0b438679e9"


def test_the_hash_of_a_file_is_of_its_content(tmp_path):
    for name, content in (("a", b"x" * 3_000_000), ("b", b"x" * 3_000_000), ("c", b"x" * 2_999_999 + b"y")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (store.file_hash(tmp_path / name) for name in "abc")
    assert a == b != c and len(a) == 64


def folder_with(root: Path, files: dict[str, bytes]) -> str:
    shutil.rmtree(root, ignore_errors=True)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return store.file_hash(root)


def test_the_hash_of_a_folder_is_of_names_and_contents(tmp_path):
    files = {"config.json": b"{}", "unet/weights": b"12345", "unet/config.json": b"{}"}
    first = folder_with(tmp_path / "model", files)
    assert (
        folder_with(tmp_path / "elsewhere", dict(reversed(files.items()))) == first
    )  # independent of path, time and order
    others = [
        folder_with(tmp_path / "model", other)
        for other in (
            {**files, "unet/weights": b"12346"},  # a byte changed
            {**files, "unet/weights": b"1234"},  # a byte less
            {"config.json": b"{}", "unet/weights2": b"12345", "unet/config.json": b"{}"},  # a file renamed
            {"config.json": b"{}", "weights": b"12345", "unet/config.json": b"{}"},  # a file moved
            {**files, "empty": b""},  # a file more
            {**files, "config.json": b"12345", "unet/weights": b"{}"},  # contents exchanged
            {"config.json": b"{}", "unet/weights": b"12345"},  # a file less
        )
    ]
    assert len({first, *others}) == len(others) + 1


def test_the_hash_of_arrays_is_of_values_dtypes_and_shapes():
    a = np.arange(6)
    same = [a, a.copy(), np.arange(12)[::2] // 2, np.asfortranarray(a)]
    assert len({store.array_hash(x) for x in same}) == 1
    grid = a.reshape(2, 3)
    assert store.array_hash(np.asfortranarray(grid)) == store.array_hash(grid)
    other = [
        (a,),
        (a.astype(np.int32),),
        (a.view(np.uint64),),
        (grid,),
        (a.reshape(3, 2),),
        (a + 1,),
        (a[::-1],),
        (a[:0],),
        (a[:3], a[3:]),
        (a, None),
        (None, a),
        (None,),
        (),
    ]
    assert len({store.array_hash(*x) for x in other}) == len(other)


# Removing


def test_removing(tmp_path):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    store.remove(tmp_path / "folder", tmp_path / "file", tmp_path / "never there")
    assert listing(tmp_path) == []


def test_only_a_folder_without_results_is_unused(tmp_path):
    used, unused = tmp_path / "study" / "used" / "seed0", tmp_path / "study" / "unused" / "seed0"
    for folder in (used, unused):
        folder.mkdir(parents=True)
        (folder / ".lock").write_text("")
        (folder / "run.log").write_text("")
        (folder.parent.parent / "beside").write_text("")
    (used / "config.yaml").write_text("")
    store.remove_unused(used, below=tmp_path)
    store.remove_unused(unused, below=tmp_path)
    store.remove_unused(tmp_path / "never there", below=tmp_path)
    assert (used / "config.yaml").exists() and listing(tmp_path / "study") == [
        "beside",
        "used",
        "used/seed0",
        "used/seed0/.lock",
        "used/seed0/config.yaml",
        "used/seed0/run.log",
    ]
    (tmp_path / "study" / "beside").unlink()
    (used / "config.yaml").unlink()
    store.remove_unused(used, below=tmp_path)
    assert tmp_path.is_dir() and listing(tmp_path) == []  # the empty parents go too, up to `below`


def test_the_size_of_folders(tmp_path):
    folder_with(tmp_path / "a", {"x": b"123", "y/z": b"4567"})
    folder_with(tmp_path / "b", {"x": b"12"})
    assert store.folder_size([tmp_path / "a", tmp_path / "b"]) == 9 and store.folder_size([]) == 0


def test_the_error_for_a_folder_that_cannot_be_written_names_it(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file.*cannot be written.*out=FOLDER"):
        store.write_text(tmp_path / "file" / "deeper" / "x", "a")
    with pytest.raises(UserError, match="cannot be written"), store.lock(tmp_path / "file" / "deeper" / ".lock"):
        pass


def test_a_file_without_arrays_is_read_back(tmp_path):
    store.write_arrays(tmp_path / "x.safetensors", {})
    assert store.open_arrays(tmp_path / "x.safetensors") == {}


@pytest.mark.parametrize(
    "header",
    [
        b"5",
        b"null",
        b'"abc"',
        b'{"x":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}}',
        b'{"x":{"dtype":"U8","shape":[4],"data_offsets":[-4000,-3996]}}',
        b"[" * 20000,
    ],
)
def test_odd_headers_are_damage(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with pytest.raises(UserError, match=r"x\.safetensors"):
        store.open_arrays(path)


def test_yaml_is_written_without_aliases(tmp_path):
    shared = [1, 0.5]
    text = store.yaml_text({"z": shared, "a": shared, "name": "réal"})
    store.write_text(tmp_path / "c.yaml", text)
    assert "&" not in text and text.index("z:") < text.index("a:") and "réal" in text
    assert store.read_yaml(tmp_path / "c.yaml") == {"z": shared, "a": shared, "name": "réal"}
