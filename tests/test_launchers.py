"""Many chains: the order in which a sweep starts them, what it refuses, what it says of them; each launcher nightly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import REPO
from launchers import SMALL, commands, results

import imgloop
from imgloop import store
from imgloop.config.compose import compose
from imgloop.errors import UserError
from imgloop.launch import jobs as launch_jobs
from imgloop.launch import ray_tasks, site
from imgloop.launch.check import check, note
from imgloop.launch.jobs import Job, gpus, job_of, slots
from imgloop.launch.outcome import Outcome
from imgloop.launch.scheduler import Sweep
from imgloop.report.__main__ import main as report
from imgloop.study import progress

SOLVED = ["model=gaussian", "data.n=9", "model.replicates=3", "generations=2", "display=none"]


def job(tmp_path, number, *arguments) -> Job:
    cfg = compose([f"out={tmp_path}", *arguments])
    cfg.hydra.overrides.task = list(arguments)
    cfg.hydra.sweep.dir = str(tmp_path / ".multirun" / "sweep")
    return job_of(cfg, number)


class Engine:
    """An engine whose jobs the test ends by hand."""

    def __init__(self, slots):
        self.slots, self.started, self.over, self.stopped = slots, [], [], None

    @property
    def free(self):
        return self.slots

    def start(self, jobs):
        self.started += jobs
        self.slots -= len(jobs)

    def end(self, job, lost=None, failed=None):
        if lost is None:
            job.write(Outcome(failed))
        self.over.append((job, lost))
        self.slots += 1

    def ended(self):
        over, self.over = self.over, []
        return over

    def output(self):
        return []

    def stop(self, number):
        self.stopped = number


@pytest.fixture
def sweep(tmp_path):
    """Two seeds of two paradigms on an engine with three slots."""
    jobs = [
        job(tmp_path, i, f"paradigm={p}", f"seed={s}", "generations=2")
        for i, (p, s) in enumerate([("replace", 0), ("accumulate", 0), ("replace", 1), ("accumulate", 1)])
    ]
    sweep = Sweep(jobs, Engine(3))
    sweep.lock.parent.mkdir(parents=True)
    sweep.lock.touch()
    return sweep


def numbers(sweep):
    return [j.number for j in sweep.engine.started]


def test_chains_that_wait_for_a_generation_0_start_last_and_hold_no_slot(sweep):
    sweep.step()
    assert numbers(sweep) == [0, 2]  # one chain of each seed; a slot stays free
    sweep.step()
    assert numbers(sweep) == [0, 2]
    (sweep.jobs[2].settings.folder / "gen000").mkdir(parents=True)
    sweep.step()
    assert numbers(sweep) == [0, 2, 3]
    sweep.engine.end(sweep.jobs[0], failed="no luck")  # its generation 0 was not made: the next of its seed makes it
    sweep.step()
    sweep.step()
    assert numbers(sweep) == [0, 2, 3, 1]


def test_a_chain_that_fails_or_dies_stops_no_other(sweep, capsys):
    sweep.step()
    sweep.engine.end(sweep.jobs[0], lost="its process was ended by SIGKILL")
    sweep.engine.end(sweep.jobs[2])
    for _ in range(3):
        sweep.step()
    for i in (1, 3):
        sweep.engine.end(sweep.jobs[i])
    sweep.step()
    assert [o.failed for o in (sweep.outcomes[i] for i in range(4))] == [
        "its process was ended by SIGKILL", None, None, None,
    ]  # fmt: skip
    assert not sweep.waiting and not sweep.running
    out = capsys.readouterr().out
    assert "replace/seed0: failed: its process" in out
    assert "sweep: 3 of 4 chains done, 0 running, 0 waiting, 1 failed" in out


def test_chains_that_run_elsewhere_are_seen_while_their_sweep_is_alive(sweep):
    store.write_text(sweep.jobs[0].settings.folder / "config.yaml", "config: {generations: 2}")
    sweep.step()
    study, path = sweep.jobs[0].settings.study, sweep.lock.with_name(progress.RUNNING)
    assert {p.chain.name: p.state for p in progress.progress(study)}["seed0"] == "running"
    os.utime(path, (0, time.time() - 2 * progress.FRESH))  # the sweep was killed
    assert {p.chain.name: p.state for p in progress.progress(study)}["seed0"] == "interrupted"


# -- devices -----------------------------------------------------------------------------------------------------------


def gpu_job(tmp_path, number):
    return job(tmp_path, number, "trainer=gpu", f"seed={number}")


def test_each_chain_has_its_own_gpu(tmp_path, monkeypatch):
    jobs = [gpu_job(tmp_path, i) for i in range(4)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,3")
    assert gpus() == ["GPU-a", "3"] and slots(jobs, None, 1) == ["GPU-a", "3"]
    assert slots(jobs, None, 2) == ["GPU-a", "3", "GPU-a", "3"] and slots(jobs, 1, 1) == ["GPU-a"]
    with pytest.raises(UserError, match="2 GPUs"):
        slots(jobs, 3, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="no GPU"):
        slots(jobs, None, 1)


def test_as_many_chains_as_cores_divided_by_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(launch_jobs, "cores", lambda: 9)
    assert slots([job(tmp_path, 0)], None, 1) == [None] * 9 and slots([job(tmp_path, 0)], 2, 1) == [None] * 2
    monkeypatch.setattr("os.cpu_count", lambda: 9)
    assert len(slots([job(tmp_path, 0, "threads=2")], None, 1)) == 4
    with pytest.raises(UserError, match="jobs=0"):
        slots([job(tmp_path, 0)], 0, 1)


# -- the contract of a sweep -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["seed=0,-1"], "at least 0"),
        (["generations=1,2"], "one chain"),
        (["model.lr=0.001,-1"], "This is of model.lr=-1"),
        (["data=folder", "data.root=/nowhere/x", "seed=0,1"], "data.root=/nowhere/x does not exist"),
        (["start=scratch,/nowhere/x"], "there is no folder /nowhere/x"),
        (["model=gaussian,poisson", "study=s", "data=law", "generations=1,1"], "one chain"),
        (["hydra/launcher=slurm", "seed=0,1"], "submitit_slurm"),
        (["hydra/launcher=submitit_slurm", "seed=0,1"], "hydra.launcher.partition=NAME"),
        (["hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:9", "seed=0,1"], "no Ray cluster answers"),
        (["hydra/launcher=parallel", "+hydra.launcher.gpus=3", "seed=0,1"], "gpus"),
    ],
)
def test_a_sweep_is_refused_in_one_sentence_before_any_work(tmp_path, command, arguments, word):
    done = command("-m", *arguments, f"out={tmp_path}", "display=none")
    assert done.returncode == 1 and word in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("imgloop: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("config.yaml")) and not list(tmp_path.glob("[!.]*"))  # no chain, no plan


def test_a_planned_chain_that_has_not_begun_can_be_forgotten(tmp_path, capsys):
    jobs = [job(tmp_path, 0, *SOLVED, "study=s", f"seed={seed}") for seed in (0, 1)]
    note(jobs)
    study, names = jobs[0].settings.study, list(progress.planned(jobs[0].settings.study))
    imgloop.run([*SOLVED, f"out={tmp_path}", "study=s"])
    for name, words in (("nonsense", "no planned chain nonsense"), (names[0], "has begun")):
        assert report([str(study), "--forget", name]) == 1 and words in capsys.readouterr().err
    assert report([str(study), "--forget", names[1]]) == 0 and list(progress.planned(study)) == names[:1]
    assert [c["seed"] for c in store.read_json(study / "study.json")["chains"]] == [0]


def test_what_a_study_holds_refuses_a_sweep_by_name(tmp_path):
    imgloop.run([*SOLVED, f"out={tmp_path}", "study=s"])
    with pytest.raises(UserError, match="not compared in one study"):
        check([job(tmp_path, 0, "study=s")])
    held = job(tmp_path, 0, *SOLVED, "study=s")
    path = held.settings.folder / "config.yaml"
    content = store.read_yaml(path)
    content.pop(store.SEAL)
    content["identity"]["data.n"] = 10
    path.write_text(json.dumps(store.sealed(content)))
    with pytest.raises(UserError, match=r"data\.n \(there 10, now 9\)"):
        check([held])


@pytest.mark.nightly
def test_states_and_missing_chains_are_shown_everywhere(tmp_path, command, capsys):
    """A sweep of four chains of which one fails, one is not begun: list, study.json, table, plot, report, verdicts."""
    study = tmp_path / "gaussian"
    done = command("-m", "paradigm=replace,real_only", "seed=0,1", *SOLVED, f"out={tmp_path}")
    assert done.returncode == 0, done.stderr
    whole = (study / "comparison.csv").read_bytes()
    assert b"missing" not in whole and "incomplete" not in (study / "report.html").read_text()
    assert [c["state"] for c in store.read_json(study / "study.json")["chains"]] == ["finished"] * 4
    condition = next(p.name for p in study.iterdir() if p.name.startswith("replace"))
    progress.plan(study, {f"{condition}/seed2": 2, f"{condition}/seed3": 2})
    progress.note_failure(study / condition / "seed3", "the disk was full")
    assert report(["--list", str(study)]) == 0
    listed = capsys.readouterr().out
    assert "waiting" in listed and "failed" in listed and "the disk was full" in listed
    states = {(c["condition"], c["seed"]): c["state"] for c in store.read_json(study / "study.json")["chains"]}
    assert (states[condition, 2], states[condition, 3], states[condition, 1]) == ("waiting", "failed", "finished")
    done = command("-m", "paradigm=replace,real_only", "seed=0", *SOLVED, f"out={tmp_path}")
    assert done.returncode == 0 and "incomplete: 2 of 6 chains are not finished" in done.stdout, done.stdout
    assert b"2 3" in (study / "comparison.csv").read_bytes()
    assert "incomplete: 2 of 6" in (study / "report.html").read_text()
    profile = store.read_json(study / "report" / "profile.json")
    assert "seed3 (failed" in profile["incomplete"]
    assert profile["profile"] is None or "incomplete" in json.dumps(profile["profile"]["notes"])
    done = command("-m", "paradigm=replace", "seed=0,1,2,3", *SOLVED, f"out={tmp_path}")  # the sweep goes on
    assert done.returncode == 0 and "incomplete" not in (study / "report.html").read_text()


# -- nodes -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path):
    """A job and the site that it was started at, whose lock this process holds."""
    work = job(tmp_path, 0, *SOLVED)
    work.record.parent.mkdir(parents=True)
    here = site.Site.here([work])
    with store.lock(here.lock):
        yield work, here


def test_a_node_like_this_one_has_nothing_to_say(node, monkeypatch):
    work, here = node
    monkeypatch.setattr(site, "held", lambda path: True)  # of this process itself, filelock says no
    assert here.check(work) == []


def test_locks_that_do_not_work_between_machines_are_refused(node, monkeypatch):
    work, here = node
    monkeypatch.setattr(site, "held", lambda path: False)
    with pytest.raises(UserError, match="File locks do not work"):
        here.check(work)


def test_the_lock_is_held_for_other_processes(node):
    _, here = node
    code = f"from pathlib import Path; from imgloop.launch.site import held; print(held(Path({str(here.lock)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.stdout.strip() == "True", done.stderr


def test_a_node_without_the_data_versions_or_file_system_is_named(node, monkeypatch, tmp_path):
    work, here = node
    monkeypatch.setattr(site, "held", lambda path: True)
    work.settings.config["data"]["root"] = "/nowhere/images"
    with pytest.raises(UserError, match=r"does not have data\.root=/nowhere/images"):
        here.check(work)
    del work.settings.config["data"]["root"]
    other = site.Site(here.folder, "login", {**here.versions, "torch": "1.0"}, here.lock)
    assert "torch" in here.versions and "(there 1.0)" in other.check(work)[0] and "login" in other.check(work)[0]
    monkeypatch.setattr(site.time, "time", lambda: here.lock.stat().st_mtime + 300)
    assert any("clock" in note for note in here.check(work))
    apart = site.Site(here.folder, "login", here.versions, tmp_path / "elsewhere" / ".sweep.lock")
    with pytest.raises(UserError, match="does not see"):
        apart.check(work)


@pytest.mark.parametrize(
    "launcher, engine, options, words",
    [
        ("parallel", "Parallel", ["jobs", "chains_per_gpu"], None),
        ("site", "Parallel", ["jobs", "chains_per_gpu"], None),
        ("parallel", "Parallel", ["jobs", "cores"], "cores is not a setting of hydra/launcher=parallel; it has chains"),
        ("site", "Parallel", ["jobs"], "hydra/launcher=site lacks chains_per_gpu: begin .* defaults: .parallel"),
        ("site", "Submitit", ["partition", "qos"], "lacks .* defaults: .submitit_slurm"),
    ],
)
def test_options_of_a_launcher_of_the_users_own_are_those_of_a_preset(launcher, engine, options, words):
    with pytest.raises(UserError, match=words) if words else nullcontext():
        launch_jobs.check_options(launcher, engine, options)


def test_a_launcher_whose_package_is_missing_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"extra ray: pip install 'imgloop\[ray\]'"):
        ray_tasks.RayTasks([job(tmp_path, 0)], None, None, 1, None, 3, {})
    monkeypatch.setitem(sys.modules, "submitit", None)
    from imgloop.launch.queues import Queue

    with pytest.raises(UserError, match=r"extra slurm"):
        Queue([job(tmp_path, 0)], "local", 2, 3, {"gpus_per_node": None})


# -- each launcher, nightly: equal to the last bit -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    out = tmp_path_factory.mktemp("basic")
    subprocess.run(commands(out, "basic"), cwd=REPO, check=True, capture_output=True)
    return results(out)


@pytest.mark.nightly
@pytest.mark.parametrize("launcher", ["parallel", "submitit_local", "ray"])
def test_a_study_is_the_same_by_every_launcher(tmp_path, expected, launcher):
    done = subprocess.run(commands(tmp_path, launcher), cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(tmp_path) == expected and len(expected) == 4 * 2 * 3


@pytest.mark.nightly
@pytest.mark.parametrize("what", ["worker", "node"])
def test_ray_survives_the_loss_of_a_worker_and_of_a_node(tmp_path, expected, what):
    done = subprocess.run(
        [sys.executable, "scripts/launchers.py", "--only", f"ray-{what}", "--out", str(tmp_path)],
        cwd=REPO, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and f"{what} killed" in done.stdout, done.stdout + done.stderr
    assert results(tmp_path / f"ray-{what}") == expected


@pytest.mark.nightly
def test_parallel_stops_at_sigterm_with_a_checkpoint_and_continues(tmp_path):
    long = [a for a in SMALL if not a.startswith("train.")] + ["train.images=200000", "trainer.checkpoint_seconds=0.5"]
    argv = [sys.executable, "-m", "imgloop", "-m", "seed=0,1", *long, f"out={tmp_path}", "hydra/launcher=parallel"]
    started = subprocess.Popen([*argv, "hydra.launcher.jobs=2"], cwd=REPO, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while len(list(tmp_path.rglob("checkpoint.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    started.send_signal(signal.SIGTERM)
    assert started.wait(120) == 128 + signal.SIGTERM
    for lock in Path(tmp_path).glob("*/*/seed*/.lock"):
        with store.lock(lock, busy="a chain still runs"):
            pass
    assert len(list(tmp_path.rglob("checkpoint.pt"))) == 2
