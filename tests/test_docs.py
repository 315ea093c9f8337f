"""The documentation site: every page has its place, generated pages are complete, links exist, commands compose."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import PurePosixPath

import docs_site
import pytest
import yaml
from conftest import REPO
from test_readme import jobs

from imgloop.config import help as conf
from imgloop.measures import MEASURES

DOCS = REPO / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
SITE = yaml.safe_load((REPO / "mkdocs.yml").read_text())
PART = re.compile(r"^```(?:python|yaml)\n# my_parts/(\S+)\n(.*?)^```", re.M | re.S)


def leaves(nav):
    """The pages of a navigation."""
    for entry in nav:
        for value in entry.values():
            yield from leaves(value) if isinstance(value, list) else [value]


def names(path):
    return path.relative_to(REPO).as_posix()


def test_every_page_is_in_the_navigation_once():
    places = list(leaves(SITE["nav"]))
    assert len(places) == len(set(places))
    assert not {p.relative_to(DOCS).as_posix() for p in PAGES} - set(places)
    titles = [next(iter(group)) for group in SITE["nav"]]
    assert titles == ["Start", "Tutorials", "How-to", "Reference", "Contributing"]


def test_the_first_page_is_short():
    assert len((DOCS / "README.md").read_text().split()) < 1000


def test_every_setting_has_an_entry():
    """Each key of each file of conf/, but for those of Hydra and of Python (_target_), in a row with a meaning."""
    page = docs_site.settings_page()
    rows = re.findall(r"^\| `([^`]+)` \| `.*?` \| (.*) \|$", page, re.M)
    meanings = {}
    for key, meaning in rows:
        meanings.setdefault(key, set()).add(meaning)
    expected = set()
    for path in conf.CONF.rglob("*.yaml"):
        group = path.relative_to(conf.CONF).parent.as_posix()
        prefix = "" if group == "." or group.startswith("experiment") else f"{group.replace('/', '.')}."
        for key, value in flattened(yaml.safe_load(path.read_text()) or {}):
            if not any(word.startswith("_") for word in key.split(".")) and not (
                not prefix and key.startswith("hydra.")
            ):
                through = re.fullmatch(r"\$\{(\w+)\}", str(value))
                expected.add(through[1] if through and through[1] in meanings else prefix + key)
    assert len(expected) > 100
    assert not expected - set(meanings)
    options = {f"{g}={o}" for g, files in conf.all_options().items() for o in files}
    assert not options - set(re.findall(r"^### (\S+)$", page, re.M))


def flattened(values, prefix=""):
    """Dotted keys of YAML with their values, but for defaults lists and what the experiments tell Hydra."""
    for key, value in values.items():
        if key == "defaults" or (not prefix and key == "hydra"):
            continue
        if isinstance(value, dict) and value and not set(value) & {"start", "factor"}:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_every_measure_has_an_entry():
    page = docs_site.measures_page()
    entries = dict(re.findall(r"^### `(\w+)`\n\n\*\*(.*?)\*\*", page, re.M))
    assert entries == {name: info.label for name, info in MEASURES.items()}
    assert (
        "- When a generator collapses: rises\n" in page and "[definitions](../profile.md#the-rules) 1, 2, 3, 5" in page
    )


@pytest.mark.parametrize("package", ["imgloop", "imgloop.metrics", "imgloop.collapse"])
def test_every_public_name_is_in_the_reference(package):
    """With a docstring; read without importing, which takes seconds."""
    from importlib import import_module

    page = docs_site.api_page(package)
    for name, home in import_module(package)._PUBLIC.items():
        assert f"::: {home}.{name}\n    options:\n      heading: {package}.{name}\n" in page
        tree = ast.parse((REPO / f"{home.replace('.', '/')}.py").read_text())
        (defined,) = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name]
        assert ast.get_docstring(defined), name


def test_public_names_of_collapse_are_imported_at_first_use():
    from imgloop import collapse

    assert collapse.Verdict.__module__ == "imgloop.collapse.verdicts" and "scaling_law" in dir(collapse)
    with pytest.raises(AttributeError, match="the public names are Profile, ScalingLaw"):
        _ = collapse.profil


def test_links_to_files_of_the_repository_have_pages():
    """In docs/, in a file outside and back; code, other sites and missing files stay as they are."""
    text = "[a](../scripts/table.py) [b](data.md#x) [w](../imgloop/weights/digits.safetensors) `[c](../README.md)` [d](https://x.org) [e](../no.py)\n```\n[f](../README.md)\n```\n"
    moved = docs_site.relinked(text, PurePosixPath("docs/page.md"), PurePosixPath("page.md"))
    assert moved == text.replace("../scripts/table.py", "repository/scripts/table.py.md")
    readme = "[a](docs/data.md) ![b](docs/figures/evolution.png) [c](LICENSE) [d](docs/tour.ipynb) [e](CHANGELOG.md)"
    moved = docs_site.relinked(readme, PurePosixPath("README.md"), PurePosixPath("repository/README.md"))
    assert moved == "[a](../data.md) ![b](../figures/evolution.png) [c](LICENSE.md) [d](../tour.md) [e](CHANGELOG.md)"
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "imgloop/loop.py"} <= set(docs_site.outside_files())


@pytest.mark.parametrize("page", [*PAGES, *(REPO / name for name in docs_site.SHOWN)], ids=names)
def test_links_and_pictures_exist(page):
    """As they are written, so that they work where docs/ is read without the site."""
    for target in docs_site.LINK.findall(docs_site.CODE.sub("", page.read_text())):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
            assert heading in [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles], target


@pytest.mark.parametrize("page", TUTORIALS, ids=names)
def test_settings_of_tutorials_are_valid(page, tmp_path, monkeypatch):
    """Each command of a tutorial composes; the part that a tutorial writes is found."""
    from imgloop.config.settings import parsed

    text = page.read_text()
    for name, content in PART.findall(text):
        (tmp_path / "my_parts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "my_parts" / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    commands = [
        line for block in blocks for line in block.splitlines() if re.match(r"python -m imgloop(\.plan)? ", line)
    ]
    assert commands or page.stem in ("report", "score")
    for command in commands:
        words = [w for w in shlex.split(command, comments=True)[3:] if w not in ("--help", "--device", "h100")]
        folders = [w for i, w in enumerate(words) if i and words[i - 1] == "--config-dir"]
        overrides = [w for w in words if "=" in w and not w.startswith("hydra")]
        every = jobs(overrides)
        for job in every[:: max(len(every) - 1, 1)]:
            assert parsed(job, [tmp_path / f for f in folders]).build("paradigm")


def test_the_paradigm_of_the_tutorial_mixes_as_it_says(tmp_path):
    import numpy as np

    from imgloop.config.settings import parsed

    for name, content in PART.findall((DOCS / "tutorials" / "paradigm.md").read_text()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    paradigm = parsed(["paradigm=refresh"], [tmp_path]).build("paradigm")
    sizes = {-1: 30, 0: 20, 1: 20, 2: 20, 3: 20}
    origins = [np.unique(paradigm(sizes, t, np.random.default_rng(0)).origin).tolist() for t in range(5)]
    assert origins == [[-1], [0], [1], [-1], [3]]


def test_the_version_is_in_one_place():
    import tomllib

    version = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## {version}\n" in (REPO / "CHANGELOG.md").read_text()
    others = [p for p in (REPO / "imgloop").rglob("*.py") if f'"{version}"' in p.read_text()]
    assert not others and "version:" not in (REPO / "CITATION.cff").read_text().replace("cff-version:", "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `mkdocs build --strict` makes it."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    folder = tmp_path_factory.mktemp("site")
    built = build(REPO, folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def build(repo, folder):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=repo,
        env={**os.environ, "PYTHONPATH": str(repo), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.nightly  # 5 s
def test_the_site_builds_without_a_warning(site):
    index = (site / "index.html").read_text()
    assert "<h1" in index and "fonts.googleapis" not in index
    for place, word in {
        "reference/imgloop": 'id="imgloop.api.run"',
        "reference/metrics": "imgloop.metrics.frechet_distance",
        "reference/collapse": "imgloop.collapse.Verdict",
        "reference/settings": "model.guidance_interval",
        "reference/measures": "variance_ratio",
        "tour": "<img",
        "repository/imgloop/loop.py": "advance",
        "repository/CHANGELOG": "Keep a Changelog",
        "repository": "eight definitions",
    }.items():
        assert word in (site / place / "index.html").read_text(), place
    assert next((site / "tour").glob("*.png")).read_bytes().startswith(b"\x89PNG")


@pytest.mark.nightly
def test_a_missing_page_heading_or_file_stops_the_build(tmp_path):
    """And a page without a place in the navigation."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    repo = tmp_path / "repo"
    ignored = shutil.ignore_patterns("outputs", ".git", "__pycache__", "*.safetensors")
    shutil.copytree(REPO, repo, ignore=ignored)
    missing = ("nowhere.md", "models.md#nothing", "../scripts/none.py")
    with (repo / "docs" / "data.md").open("a") as page:
        page.writelines(f"\n[x]({link})\n" for link in missing)
    (repo / "docs" / "new.md").write_text("# A page without a place\n")
    built = build(repo, tmp_path / "out")
    assert built.returncode == 1
    for name in (*missing, "new.md"):
        assert name in built.stderr, name
