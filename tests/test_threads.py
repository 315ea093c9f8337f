"""The choice of the number of CPU threads."""

import time

import numpy as np
import pytest
import torch
from conftest import TINY

import imgloop
from imgloop import store
from imgloop.chain import threads
from imgloop.errors import UserError

THREADED = [o for o in TINY if not o.startswith("threads")]


def test_more_threads_must_gain_more_than_noise():
    assert threads.fastest({1: 1.0, 2: 0.99}) == 1
    assert threads.fastest({1: 1.0, 2: 0.6}) == 2
    assert threads.fastest({1: 1.0, 2: 0.6, 4: 0.59, 8: 2.0}) == 2
    assert threads.fastest({1: 1.0, 2: 0.9, 4: 0.5}) == 4


class Timed:
    """A model whose steps take as long as a test says, by number of threads."""

    def __init__(self, seconds, reports=True):
        self.seconds, self.reports = seconds, reports

    def fit(self, data, task, previous):
        for k in range(40):
            duration = self.seconds(torch.get_num_threads(), k)
            time.sleep(duration)
            if self.reports:
                task.progress(k + 1, 40)
            if task.stop():
                raise imgloop.errors.Stopped


def chosen(monkeypatch, model, most=2):
    class Chain:
        done, trainer, stop = 0, None, staticmethod(lambda: False)
        display = type("Display", (), {"say": staticmethod(lambda text: None)})

        class settings:
            images = staticmethod(lambda t: 64)

    from imgloop.pool import Pool

    monkeypatch.setattr(threads, "MOST", most)
    monkeypatch.setattr(threads, "SECONDS", 0.02)
    before = torch.get_num_threads()
    real = type("Real", (), {"train": Pool(np.zeros((4, 1, 8, 8), np.uint8))})()
    try:
        return threads.fastest(threads.trial(model, real, Chain()))
    finally:
        torch.set_num_threads(before)


def test_the_trial_takes_the_faster_number_and_avoids_erratic_steps(monkeypatch):
    assert chosen(monkeypatch, Timed(lambda n, k: 0.004 / n)) == 2
    assert chosen(monkeypatch, Timed(lambda n, k: 0.002)) == 1
    # two threads are faster in most steps, and wait for each other in some
    assert chosen(monkeypatch, Timed(lambda n, k: 0.003 if n == 1 else 0.02 if k % 3 == 2 else 0.001)) == 1
    assert chosen(monkeypatch, Timed(lambda n, k: 0.0005 / n, reports=False)) == 2  # as a whole


def test_a_trial_that_would_not_end_is_given_up(monkeypatch):
    """A model that reports no steps, and whose fit takes far too long, is fitted once."""
    monkeypatch.setattr(threads, "TOO_LONG", 0.05)
    fits = []
    model = Timed(lambda n, k: fits.append(n) or 0.004, reports=False)
    assert chosen(monkeypatch, model, most=3) == 3 and fits == [3] * 40


def test_a_study_keeps_the_number_and_its_chains_share_generation_0(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "MOST", 2)
    monkeypatch.setattr(threads, "SECONDS", 0.01)
    tried = []
    monkeypatch.setattr(threads, "trial", lambda *a: tried.append(1) or {1: 1.0, 2: 0.5})
    before = torch.get_num_threads()
    try:
        for paradigm in ("replace", "accumulate"):
            result = imgloop.run([*THREADED, f"out={tmp_path}", "generations=1", f"paradigm={paradigm}"])
            assert store.read_json(result.folder / "gen000" / "record.json")["machine"]["threads"] == 2
    finally:
        torch.set_num_threads(before)
    assert len(tried) == 1 and len(list(tmp_path.glob("*/shared/generation0-*"))) == 1
    (kept,) = tmp_path.glob("*/shared/threads-*")
    (kept / "threads.json").write_text('{"threads": 1}')
    with pytest.raises(UserError, match=r"threads\.json"):
        imgloop.run([*THREADED, f"out={tmp_path}", "generations=1", "paradigm=real_only"])


def test_given_threads_are_taken_without_a_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "trial", lambda *a: pytest.fail("a trial"))
    imgloop.run([*TINY, f"out={tmp_path}", "generations=1"])
    assert not list(tmp_path.glob("*/shared/threads-*"))
