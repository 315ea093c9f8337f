"""Settings from overrides as on the command line: what composes, which error refuses the rest; names of conditions;
schedules."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from conftest import thinned
from hypothesis import given, settings
from hypothesis import strategies as st

from imgloop.config import settings as config
from imgloop.config.compose import CONF, options
from imgloop.config.compose import GROUPS as ALL_GROUPS
from imgloop.config.settings import MIXING, Schedule, Settings
from imgloop.errors import UserError

GROUPS = {group: sorted(options(group)) for group in ALL_GROUPS if options(group)}  # measure has users' options alone
PARADIGMS = {  # the settings of each, besides n_initial
    "replace": {"real_fraction": 0.5, "real_weight": 3},
    "accumulate": {"real_weight": 3},
    "accumulate_subsample": {"budget": 100, "real_weight": 3},
    "stratified": {"budget": 100, "real_weight": 3},
    "real_only": {},
    "augment": {"n_synthetic": 100, "real_weight": 3},
    "fresh": {"n_real": 100, "n_synthetic": 100, "real_weight": 3},
    "edit": {"edit_fraction": 0.25, "real_weight": 3},
}

LONGEST = 120  # characters of a condition's name; file systems take 255 bytes


@cache
def parsed(*overrides: str) -> Settings:
    return config.parsed(overrides)


def refused(*overrides: str, parts: Path | None = None) -> UserError:
    """The error that refuses the overrides; its message is one sentence, with advice. parts: a folder of options."""
    with pytest.raises(UserError) as error:
        config.parsed(overrides, [] if parts is None else [parts])
    message = str(error.value)
    assert "\n" not in message and message.endswith((".", "...", "?")) and len(message) < 500, message
    assert not re.search("Traceback|Error|[oO]mega[cC]onf|https", message), message
    return error.value


def words(error: UserError | str) -> set[str]:
    return set(re.findall(r"[\w/]+", str(error)))


# What composes


@pytest.mark.parametrize("group, option", thinned([(g, o) for g, options in GROUPS.items() for o in options], 5))
def test_every_option_composes(group, option):
    more = ["data.root=images"] if option in ("folder", "ffhq") else []
    more += ["model=gaussian"] if (group, option) == ("data", "law") else []
    s = parsed(f"{group}={option}", *more)
    assert s.choices[group] == option and s.choices.keys() >= GROUPS.keys() - {"experiment"}
    assert s.config.keys() == s.defaults.keys() and "hydra" not in s.config


def test_the_groups_are_those_of_the_design():
    folders = {p.relative_to(CONF).parts[0] for p in CONF.rglob("*/*.yaml")} - {"hydra"}  # launchers
    assert GROUPS.keys() == folders == set(ALL_GROUPS) - {"measure"}
    assert GROUPS["paradigm"] == sorted(PARADIGMS)


def test_the_defaults():
    s = parsed()
    assert s.choices == {
        "paradigm": "accumulate",
        "curation": "none",
        "correction": "none",
        "data": "digits",
        "model": "diffusion",
        "features": "auto",
        "collapse": "default",
        "trainer": "cpu",
        "logger": "none",
    }
    assert s.n_samples is None and s.config["seed"] == 0 and s.config["start"] == "scratch"
    assert s.folder == Path("outputs/digits-diffusion/accumulate/seed0")


def test_a_setting_reaches_the_part_that_uses_it():
    s = parsed(
        "paradigm=fresh",
        "n_real=[0,10,20]",
        "n_initial=50",
        "train.images={start: 100, factor: 2, max: 300}",
        "n_samples=7",
        "seed=4",
        "model.ema=0.5",
    )
    assert s.config["paradigm"] == {
        "_target_": "imgloop.paradigm.Fresh",
        "n_initial": 50,
        "n_real": [0, 10, 20],
        "n_synthetic": None,
        "real_weight": None,
    }
    assert [s.images(t) for t in range(4)] == [100, 200, 300, 300]
    assert (
        s.n_samples is not None and s.n_samples(3) == 7 and s.config["model"]["ema"] == 0.5 and s.folder.name == "seed4"
    )
    rule = s.build("paradigm")
    assert type(rule).__name__ == "Fresh" and rule.n_real(2) == 20 and rule.n_initial(0) == 50


@pytest.mark.parametrize("paradigm, own", PARADIGMS.items())
def test_every_paradigm_takes_its_own_settings(paradigm, own):
    s = parsed(f"paradigm={paradigm}", "n_initial=500", *(f"{k}={v}" for k, v in own.items()))
    rule = s.build("paradigm")
    assert rule.n_initial(1) == 500 and all(getattr(rule, k)(1) == v for k, v in own.items())


def test_the_trainer_is_an_option_and_its_settings():
    assert parsed().config["trainer"]["accelerator"] == "cpu"
    gpu = parsed("trainer=gpu", "trainer.resident_gib=1")
    assert gpu.config["trainer"]["accelerator"] == "gpu" and gpu.config["trainer"]["resident_gib"] == 1
    for value in (True, False, "graphs"):
        assert parsed("trainer=gpu", f"trainer.compile={value}").config["trainer"]["compile"] == value


def test_composing_leaves_no_trace():
    """Settings do not leak from one composition to the next."""
    config.parsed(["seed=5", "paradigm=replace", "real_fraction=0.5"])
    assert config.parsed([]).config == parsed().config


def test_composing_restores_the_hydra_that_runs_us():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(CONF), version_base="1.3"):
        ours = GlobalHydra.instance().hydra
        config.parsed(["seed=1"])
        refused("seed=x")
        assert ours is not None and GlobalHydra.instance().hydra is ours


# What is refused: one sentence names the setting and what is allowed


@pytest.mark.parametrize("group", GROUPS)
def test_an_unknown_option_names_the_options(group):
    error = refused(f"{group}=nonsense")
    variants = {n for n in GROUPS[group] if any(n.startswith(f"{o}/") for o in GROUPS[group])}
    names = {part for n in {*GROUPS[group]} - variants for part in n.split("/")}  # options of one folder share its name
    assert error.setting == group and set(re.findall(r"\w+", str(error))) >= {"nonsense", *names}
    for variant in variants:
        option, _, name = variant.rpartition("/")
        assert {option.rpartition("/")[2], name} <= set(re.findall(r"\w+", str(refused(f"{group}={option}/nonsense"))))


def test_options_in_a_folder_named_as_an_option_stand_after_it():
    from imgloop.config.messages import by_folder

    assert by_folder(["b", "a/x", "a/x/y", "a/x/y/z", "a/w", "c/d"]) == "a/(w, x[/y[/z]]), b, c/(d)"
    assert by_folder(["a/x", "a/x/y", "a/w"], variants=False) == "a/(w, x[/...])"


@pytest.mark.parametrize("override", ["nonsense=1", "+nonsense=1", "++nonsense=1", "+nonsense.deep=1"])
def test_an_unknown_key_names_the_keys(override):
    error = refused(override)
    assert error.setting in ("nonsense", "nonsense.deep")
    assert words(error) >= {
        "paradigm",
        "data",
        "model",
        "seed",
        "generations",
        "n_samples",
        "n_initial",
        "train",
        "out",
    }


@pytest.mark.parametrize("removed", ["tier=gpu", "+tier=gpu", "trainer.chunk=1", "+trainer.chunk=1"])
def test_a_removed_setting_is_unknown(removed):
    error = refused(removed)
    assert error.setting == removed.strip("+").split("=")[0] and words(error) >= {
        "trainer" if "tier" in removed else "precision"
    }


@pytest.mark.parametrize(
    "override, near",
    [
        ("data.held=1", {"heldout", "size", "n"}),
        ("+data.held=1", {"heldout", "size", "n"}),
        ("model.em=1", {"ema", "lr", "batch"}),
        ("+model.em=1", {"ema", "lr", "batch"}),
        ("trainer.chunks=1", {"precision", "checkpoint_seconds"}),
        ("+trainer.chunks=1", {"precision", "checkpoint_seconds"}),
        ("train.image=1", {"images"}),
        ("+features.image=1", {"images"}),
        ("+paradigm.real=1", {"n_initial"}),
        ("+collapse.alpa=1", {"alpha"}),
        ("+logger.project=1", {"none"}),
    ],
)
def test_an_unknown_key_of_a_part_names_its_keys(override, near):
    error = refused(override)
    assert error.setting == override.lstrip("+").split("=")[0]
    assert words(error) >= near and "_target_" not in str(error)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A folder with an option `own` of curation, correction and measure, each with one setting."""
    folder = tmp_path_factory.mktemp("parts")
    for group in ("curation", "correction", "measure"):
        (folder / group).mkdir()
        header = "# @package measure.own\n" if group == "measure" else ""
        (folder / group / "own.yaml").write_text(f"{header}_target_: own.Own\nstrength: 0.5\n")
    return folder


@pytest.mark.parametrize("group", thinned(["curation", "correction", "measure"], 3))
@pytest.mark.parametrize(
    "override, sentence",
    [
        ("+KEY.strenth=1", "KEY.strenth is not a setting of GROUP=own; it has strength."),
        ("KEY.strength=high", "KEY.strength=high: give a number, for example 0.5."),
        ("KEY.strength=true", "KEY.strength=True: give a number, for example 0.5."),
        ("KEY._target_=a.b", "KEY._target_ cannot be overridden: choose an option of GROUP."),
        ("KEY.strenth=1", None),
    ],
)
def test_settings_of_all_parts_are_checked_with_the_same_sentences(parts, group, override, sentence):
    key = "measure.own" if group == "measure" else group
    error = refused(f"{group}=own", override.replace("KEY", key), parts=parts)
    assert error.setting == override.lstrip("+").split("=")[0].replace("KEY", key)
    if sentence is None:
        assert words(error) >= {"not", "strength"}
    else:
        assert str(error) == sentence.replace("KEY", key).replace("GROUP", group)


@pytest.mark.parametrize(
    "override, setting",
    [
        ("measure=own", "measure"),
        ("measure=[own,other]", "measure"),
        ("measure=null", "measure"),
        ("measure.own=1", "measure.own"),
        ("+measure.own=1", "measure.own"),
        ("+measure.own.strength=1", "measure.own"),
    ],
)
def test_without_a_folder_of_options_there_is_no_measure(override, setting):
    error = refused(override)
    assert error.setting == setting and "measure" in words(error)


def test_measures_are_chosen_from_their_folder(parts, tmp_path):
    assert config.parsed(["measure=[own]", "measure.own.strength=2"], [parts]).choices["measure"] == "own"
    error = refused("measure=[own,other]", parts=parts)
    assert error.setting == "measure" and "own" in words(error)
    assert refused("measure=own", "+measure.other=1", parts=parts).setting == "measure.other"
    (tmp_path / "measure").mkdir()
    (tmp_path / "measure" / "flat.yaml").write_text("_target_: own.Own\n")
    assert config.parsed(["measure=flat"], [tmp_path]).choices["measure"] == "flat"
    assert "package" in words(refused("measure=[flat]", parts=tmp_path))


def test_a_misspelt_key_is_recognised():
    for override, meant in (
        ("generation=3", "generations"),
        ("n_sample=3", "n_samples"),
        ("model.netwrk=x", "network"),
    ):
        assert f"did you mean {meant}?" in str(refused(override))


def test_a_setting_of_another_model_is_no_misspelling():
    for model, setting, owner in (("gan", "precondition", "diffusion"), ("diffusion", "gamma", "gan")):
        said = str(refused(f"model={model}", f"model.{setting}=1"))
        assert said.endswith(f"It is a setting of model={owner}.") and "did you mean" not in said


def test_a_setting_of_another_paradigm_is_refused_by_name():
    for paradigm, own in PARADIGMS.items():
        s = parsed(f"paradigm={paradigm}")
        for name in set(MIXING) - {"n_initial"} - own.keys():
            with pytest.raises(UserError, match=f"paradigm={paradigm}") as error:
                replace(s, config={**s.config, name: 1}).check()
            users = {p for p, names in PARADIGMS.items() if name in names}
            assert error.value.setting == name
            assert words(str(error.value).split(";")[1]) & PARADIGMS.keys() == users


@pytest.mark.parametrize(
    "override, wanted",
    thinned(
        [
            ("seed=x", "whole number"),
            ("seed=1.5", "whole number"),
            ("seed=-1", "at least 0"),
            ("seed=", "whole number"),
            ("generations=0", "at least 1"),
            ("generations=-3", "at least 1"),
            ("generations=two", "whole number"),
            ("generations=1.5", "whole number"),
            ("threads=0", "at least 1"),
            ("threads=many", "whole number, or null"),
            ("trainer.compile=maybe", "true, false or graphs"),
            ("keep_models=-1", "at least 0"),
            ("overwrite=maybe", "true or false"),
            ("display=loud", "auto, live, lines"),
            ("n_samples=0", "at least 1"),
            ("n_samples=2.5", "whole number"),
            ("n_samples=lots", "whole number"),
            ("n_samples=[]", "one value a generation"),
            ("n_samples=[5,0]", "at least 1"),
            ("n_samples={factor: 2}", "start"),
            ("n_samples={start: 5, speed: 2}", "speed"),
            ("n_samples={start: 5, max: big}", "above 0"),
            ("train.images=-1", "at least 0"),
            ("train.images=null", "at least 0"),
            ("train.images=[100,-1]", "at least 0"),
            ("study=../elsewhere", "letters"),
            ("study=a/b", "letters"),
            ("study=.hidden", "letters"),
            ("study=..", "letters"),
            ("study='a b'", "letters"),
            ("seed=1,2", "-m"),
            ("paradigm=replace,fresh", "-m"),
            ("seed", "key=value"),
            ("replace", "key=value"),
            ("~seed", "default"),
            ("~paradigm", "options"),
            ("train=5", "cannot"),
            ("paradigm=", "replace"),
        ],
        2,
    ),
)
def test_a_wrong_value_is_refused_with_what_is_wanted(override, wanted):
    error = refused(override)
    assert wanted in str(error) and error.setting == override.strip("~").split("=")[0]


@pytest.mark.parametrize(
    "override, wanted",
    [("data=null", "--help"), ("model=5", "--help"), ("out=~/runs", "quotes"), ("n_samples={a", "quotes")],
)
def test_what_hydra_cannot_read_is_one_sentence_too(override, wanted):
    assert wanted in str(refused(override))


def test_a_required_setting_without_a_value_is_named():
    assert refused("data=folder").setting == "data.root"


@pytest.mark.parametrize(
    "paradigm, override, wanted",
    [
        ("replace", "real_fraction=2", "0 to 1"),
        ("replace", "real_fraction=half", "0 to 1"),
        ("accumulate", "n_initial=0", "at least 1"),
        ("fresh", "n_real=-1", "at least 0"),
        ("augment", "n_synthetic=[1,-1]", "at least 0"),
        ("accumulate_subsample", "budget=0", "at least 1"),
    ],
)
def test_a_wrong_setting_of_a_paradigm_is_one_sentence_when_it_is_built(paradigm, override, wanted):
    with pytest.raises(UserError, match=wanted) as error:
        parsed(f"paradigm={paradigm}", override).build("paradigm")
    assert error.value.setting == override.split("=")[0] and "\n" not in str(error.value)


# Names of conditions


@pytest.mark.parametrize(
    "overrides, name",
    [
        ([], "accumulate"),
        (["paradigm=replace"], "replace"),
        (["paradigm=replace", "real_fraction=0.1"], "replace,real_fraction=0.1"),
        (["real_fraction=0.10", "paradigm=replace"], "replace,real_fraction=0.1"),
        (["paradigm=fresh", "n_initial=50", "n_real=10"], "fresh,n_initial=50,n_real=10"),
        (["paradigm=fresh", "n_real=10", "n_initial=50"], "fresh,n_initial=50,n_real=10"),  # whatever their order
        (["n_samples=100"], "accumulate,n_samples=100"),
        (["train.images=1000"], "accumulate,train.images=1000"),
        (["start=weights"], "accumulate,start=weights"),
        (["model.conditional=true", "data.n=500"], "accumulate,data.n=500,model.conditional=true"),
        (["model.widths=[8,16]"], "accumulate,model.widths=8,16"),
    ],
)
def test_a_condition_is_named_by_what_is_not_the_default(overrides, name):
    assert parsed(*overrides).condition == name


def test_a_setting_equal_to_its_default_is_not_in_the_name():
    images = parsed().config["train"]["images"]
    assert (
        parsed(
            f"train.images={images}",
            "start=scratch",
            "n_samples=null",
            "data.heldout=400",
            "model.ema=null",
            "paradigm=accumulate",
            "n_initial=null",
        ).condition
        == "accumulate"
    )


@pytest.mark.parametrize(
    "override",
    [
        "seed=7",
        "generations=9",
        "out=elsewhere",
        "study=other",
        "display=none",
        "features=pixels",
        "features.images=5",
        "threads=2",
        "overwrite=true",
        "keep_models=1",
        "trainer.checkpoint_seconds=5",
        "trainer.resident_gib=1",
    ],
)
def test_what_changes_no_sample_is_not_in_the_name(override):
    s = parsed("paradigm=replace", "real_fraction=0.1", override)
    same = parsed("paradigm=replace", "real_fraction=0.1")
    assert s.condition == same.condition and s.identity == same.identity


@pytest.mark.parametrize(
    "override",
    [
        "n_samples=5",
        "n_initial=5",
        "n_initial=[5,6]",
        "start=weights",
        "start=models/a",
        "train.images=5",
        "data.seed=1",
        "data.n=5",
        "data.heldout=300",
        "model.lr=0.1",
        "model.network=unet2d",
        "model.sampler_steps=9",
        "model.labels=real",
        "trainer.precision=bf16-mixed",
        "paradigm=replace",
    ],
)
def test_what_changes_samples_changes_the_name_and_the_identity(override):
    s, default = parsed(override), parsed()
    assert s.condition != default.condition and s.identity != default.identity
    assert s.folder.parent.parent == default.folder.parent.parent  # in the same study, to be compared


def test_long_names_are_shortened_and_stay_distinct():
    mixing = ["paradigm=fresh", "n_initial=100", "n_real=50", "n_synthetic=25"]
    base = [*mixing, "model.lr=0.00123", "model.batch=16", "model.sampler=euler", "model.sampler_steps=12"]
    many = [parsed(*base, f"train.images={i}").condition for i in (1000, 1001, 2000)]
    assert len(set(many)) == 3 and all(len(name) <= LONGEST for name in many)
    assert all(re.fullmatch(r"fresh,n_initial=100,n_real=50,n_synthetic=25,.*-[0-9a-f]{8}", name) for name in many)
    assert many[0] == parsed(base[0], "train.images=1000", *base[:0:-1]).condition
    assert parsed(*mixing).condition == "fresh,n_initial=100,n_real=50,n_synthetic=25"


@pytest.mark.parametrize(
    "override",
    [
        "start=/some/folder/model",
        "start=../../up",
        "start='a b'",
        "start='x;rm -rf *'",
        "start='C:\\models'",
        "start='ünïcode'",
        "n_samples=[1,2,3]",
        "n_samples={start: 5, factor: 1.5, max: 20}",
        f"start={'long' * 100}",
        "model.lr=1e-30",
    ],
)
def test_names_are_safe_as_folders(override):
    name = parsed(override).condition
    assert re.fullmatch(r"accumulate,[A-Za-z0-9_.,=+-]+", name) and len(name) <= LONGEST
    assert parsed(override).folder == Path("outputs/digits-diffusion") / name / "seed0"


def test_the_folder_of_a_chain():
    s = parsed("study=mine", "out=somewhere", "seed=3", "paradigm=replace", "n_samples=9")
    assert s.folder == Path("somewhere/mine/replace,n_samples=9/seed3") and s.study == Path("somewhere/mine")
    assert parsed("data=folder", "data.root=some/x.zip").study == Path("outputs/folder-x-diffusion")
    assert parsed("out='~/runs'").study == Path.home() / "runs" / "digits-diffusion"


# Schedules


def schedule(value, low=1, high=None, whole=True) -> Schedule:
    return Schedule.of("knob", value, low, high, whole)


@given(st.integers(1, 10**9), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_a_number_is_the_same_for_every_generation(value, t):
    assert schedule(value)(t) == value and type(schedule(value)(t)) is int
    assert schedule(float(value))(t) == value and type(schedule(float(value))(t)) is int


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_a_list_has_one_value_a_generation_and_no_more(values):
    assert [schedule(values)(t) for t in range(len(values))] == values
    with pytest.raises(UserError, match=f"generation {len(values)}") as error:
        schedule(values)(len(values))
    assert error.value.setting == "knob"


eighths = st.integers(1, 32).map(lambda k: Fraction(k, 8))  # exact as floats, and so are their powers here


limits = st.none() | st.integers(1, 5000)


@given(st.integers(1, 1000), eighths, limits, limits, st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_start_factor_max_min(start, factor, most, least, t):
    least = least if most is None or least is None else min(least, most)
    bounds = {k: v for k, v in (("max", most), ("min", least)) if v is not None}
    given_ = {"start": start, "factor": float(factor)} | bounds
    expected = math.floor(sorted([least or -math.inf, start * factor**t, most or math.inf])[1])
    if expected < 1:
        with pytest.raises(UserError, match=r"knob(=0| is 0 at generation)"):
            schedule(given_)(t)
    else:
        assert schedule(given_)(t) == expected and type(schedule(given_)(t)) is int


def test_schedules_worked_by_hand():
    assert [schedule({"start": 500, "factor": 2, "max": 4000})(t) for t in range(5)] == [500, 1000, 2000, 4000, 4000]
    assert [schedule({"start": 7})(t) for t in (0, 9)] == [7, 7]
    assert [schedule({"start": 1000, "factor": 0.7})(t) for t in range(3)] == [1000, 700, 490]  # not 489
    assert [schedule({"start": 0.8, "factor": 0.5}, 0, 1, False)(t) for t in range(3)] == pytest.approx([0.8, 0.4, 0.2])
    assert schedule((3, 4))(1) == 4 and schedule(0.25, 0, 1, False)(5) == 0.25
    assert schedule(schedule(5))(0) == 5


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        1.5,
        True,
        False,
        None,
        "5",
        "abc",
        float("nan"),
        float("inf"),
        [],
        [1, 0],
        [1, "2"],
        [1, None],
        [[1]],
        {},
        {"factor": 2},
        {"start": 0},
        {"start": "5"},
        {"start": None},
        {"start": True},
        {"start": 5, "speed": 1},
        {"start": 5, "factor": 0},
        {"start": 5, "factor": -1},
        {"start": 5, "factor": "2"},
        {"start": 5, "factor": True},
        {"start": 5, "max": 0},
        {"start": 5, "max": None},
        {"start": 5, "factor": float("nan")},
        {"start": 5, "min": "2"},
        {"start": 5, "min": True},
        {"start": 5, "min": float("nan")},
        {"start": 5, "min": float("inf")},
        {"start": 5, "max": 4, "min": 6},
    ],
)
def test_bad_values_are_refused_by_name(value):
    with pytest.raises(UserError, match=r"^knob\b.*\.$") as error:
        schedule(value)
    assert error.value.setting == "knob"


@pytest.mark.parametrize("value", [1.1, -0.1, [0.5, 1.1], {"start": 2}])
def test_a_share_lies_between_0_and_1(value):
    with pytest.raises(UserError, match="from 0 to 1"):
        schedule(value, 0, 1, False)


def test_a_share_that_grows_beyond_1_is_refused_where_it_does():
    share = schedule({"start": 0.5, "factor": 2}, 0, 1, False)
    assert share(1) == 1
    with pytest.raises(UserError, match=r"knob is 2 at generation 2, .*it must be a number from 0 to 1: .*set max"):
        share(2)
    with pytest.raises(
        UserError, match=r"knob is 0 at generation 3, .*it must be a whole number of at least 1"
    ) as error:
        schedule({"start": 5, "factor": 0.5})(3)
    assert "set max" not in str(error.value) and "set min" in str(error.value)
    assert schedule({"start": 5, "factor": 0.5, "min": 2})(30) == 2
    assert schedule({"start": 0.5, "factor": 2, "max": 1}, 0, 1, False)(9) == 1


@pytest.mark.parametrize(
    "given_, first, answer",
    [
        ({"start": 1}, 0, True),
        ({"start": 4, "factor": 0.5, "max": 1}, 0, False),  # 1, 1, 1, 0.5
        ({"start": 1, "factor": 0.5, "min": 1}, 0, True),
        ({"start": 0.5, "factor": 2, "max": 1}, 0, False),
        ({"start": 0.5, "factor": 2, "max": 1}, 1, True),
        ([0.5, 1, 1], 1, True),
        ([1, 0.5], 0, False),
    ],
)
def test_whether_a_schedule_is_always_one(given_, first, answer):
    assert schedule(given_, 0, 5, False).always(1, first) is answer


def test_a_schedule_object_takes_the_limits_of_its_setting():
    from imgloop.paradigm import Replace

    share = Replace(real_fraction=Schedule("anything", 0.5)).real_fraction  # whole by default, which a share is not
    assert isinstance(share, Schedule) and share(3) == 0.5
    with pytest.raises(UserError, match="0 to 1") as error:
        Replace(real_fraction=Schedule("x", 3.0, whole=False))
    assert error.value.setting == "real_fraction"


@pytest.mark.parametrize(
    "growing, t, value",
    [
        ({"start": 1000000, "factor": 1.4}, 5, 5378240),
        ({"start": 10_000_000, "factor": 1.2}, 3, 17280000),
        ({"start": 500, "factor": 1.5, "max": 4000}, 2000, 4000),
    ],
)
def test_a_growing_schedule_is_neither_one_short_nor_overflows(growing, t, value):
    assert schedule(growing)(t) == value


def test_numpy_numbers_are_numbers_and_a_maximum_below_the_minimum_is_refused():
    import numpy as np

    assert Schedule.of("n", np.int64(5), 1)(0) == 5
    with pytest.raises(UserError, match="n=0"):
        Schedule.of("n", {"start": 10, "max": 0.5}, 1)
    with pytest.raises(UserError, match="n is inf at generation 1100"):
        Schedule.of("n", {"start": 1, "factor": 2}, 1)(1100)


def test_the_keys_named_are_those_of_the_chosen_option():
    error = refused("data=folder", "data.root=x", "data.nonsense=1")
    assert error.setting == "data.nonsense" and words(error) >= {"root", "skip_broken"}


def test_conditions_that_differ_have_names_that_differ():
    def name(*overrides):
        return parsed(*overrides).condition

    assert name("trainer=cpu") == "accumulate" != name("model.network=unet2d")
    assert name("start=/a/b") != name("start=/ab")
    assert name("n_samples=1e3") == name("n_samples=1000")
    assert name("paradigm=replace", "real_fraction=null") == name("paradigm=replace", "real_fraction=0") == "replace"
    assert name("data=folder", "data.root=x", "study=both") != name("study=both")
    folders = [parsed("data=folder", f"data.root={r}").folder for r in ("a/cats", "a/dogs")]
    assert folders[0] != folders[1]


def test_an_experiment_that_extends_another_is_named_by_what_it_changes():
    name = lambda e, *more: parsed(f"experiment=study/{e}", *more).condition  # noqa: E731
    assert name("realistic") == "accumulate" and name("realistic/fixed_compute") == "accumulate,train.images=40000"
    assert name("realistic", "train.images=40_000") == name("realistic/fixed_compute")
    assert name("realistic/no_accumulation") == "augment"
    assert name("realistic/real_only") == "real_only,curation=none"
    assert name("realistic/no_filter") == "accumulate,curation=random"
    assert parsed("experiment=study/realistic/no_filter").config["curation"]["fraction"]["factor"] == 0.85
    settings = [parsed(f"experiment={o}") for o in options("experiment") if o.startswith("study/realistic")]
    assert len({s.folder for s in settings}) == 7 and len({s.study for s in settings}) == 1
    with pytest.raises(UserError, match="a list cannot replace") as error:
        parsed("experiment=study/realistic", "curation.fraction=[0.9,0.8]")
    assert error.value.setting == "curation.fraction"


def test_an_experiment_with_a_study_of_its_own_is_named_by_itself():
    """What it changes in the experiment that it extends goes without saying: that one's chains are in another study."""
    name = lambda *more: parsed("experiment=published/gillman/gpu", *more).condition  # noqa: E731
    assert name("paradigm=augment") == "augment" and name("n_initial=50_000") == "accumulate"
    assert name("paradigm=augment", "correction=centroid") == "augment,correction=centroid"
    assert name("n_initial=1000") == "accumulate,n_initial=1000"  # as published/gillman has it


def test_the_preset_for_cifar10_is_a_study_of_one_gpu():
    settings = parsed("experiment=study/cifar10")
    assert settings.choices["trainer"] == "gpu" and settings.choices["data"] == "cifar10"
    from imgloop.models.networks import build_network  # imports torch

    model = settings.build("model")
    recipe = model.recipe(32)
    assert (recipe.network, recipe.batch, recipe.optimizer, recipe.lr) == ("unet2d", 512, "adamw", 0.001)
    network = build_network(recipe.network, 32, 3, tuple(model.widths))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 16.7  # as the preset says
