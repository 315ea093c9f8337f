"""The hook of mkdocs.yml: pages made at each build (API, settings, measures, notebook), and links to other files.

In docs/ a link to a file of the repository is written as for a forge, `../scripts/table.py`. On the site such a file
has a page of its own under repository/, which shows its text, and every link to it leads there.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))  # describe this checkout, whatever is installed

from imgloop.collapse.subjects import ROLE_OF
from imgloop.config import help as conf
from imgloop.measures import MEASURES, MeasureInfo

DOCS = REPO / "docs"
SHOWN = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")  # files of the repository that have a place in the navigation
OUTSIDE = PurePosixPath("repository")  # folder of the pages that show files outside docs/
NOTEBOOK = "tour.ipynb"
CODE = re.compile(r"(^ *(`{3,}|~{3,}).*?^ *\2`*|`+[^`\n]+`+)", re.S | re.M)  # fenced blocks and code within a line
LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".css": "css", ".js": "js"}
SWEPT = "hydra.sweeper.params."  # settings of which an experiment gives several values
QUOTES = "\"'"
KINDS = {
    "size": "Sizes",
    "score": "Scores of samples",
    "time": "Times",
    "system": "Solvable systems",
    "command": "Scores of `python -m imgloop.metrics` only",
    "table": "Columns of other programs' tables",
}


# -- Events of MkDocs -------------------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    from pymdownx.slugs import slugify

    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")  # headings are named as on a forge
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    pages = {
        "reference/imgloop.md": api_page("imgloop"),
        "reference/metrics.md": api_page("imgloop.metrics"),
        "reference/collapse.md": api_page("imgloop.collapse"),
        "reference/settings.md": settings_page(),
        "reference/measures.md": measures_page(),
        **notebook_pages(DOCS / NOTEBOOK),
        **{place_of(path): file_page(path) for path in outside_files()},
    }
    for place, content in pages.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    place = PurePosixPath(page.file.src_uri)
    if place.is_relative_to(OUTSIDE):
        source = PurePosixPath(str(place.relative_to(OUTSIDE)))
    elif page.file.generated_by and place.name != "tour.md":
        return markdown
    else:
        source = PurePosixPath("docs") / place
    return relinked(markdown, source, place)


# -- Links ------------------------------------------------------------------------------------------------------------


def outside_text(text: str, change: Callable[[str], str]) -> str:
    """Markdown of which everything but code is changed."""
    parts, start = [], 0
    for code in CODE.finditer(text):
        parts += [change(text[start : code.start()]), code[0]]
        start = code.end()
    return "".join([*parts, change(text[start:])])


def target_of(link: str, source: PurePosixPath) -> tuple[str, str] | None:
    """The file of the repository that a link of the file `source` leads to, and the heading in it; None for links to
    other sites and within a page, and for what cannot be shown: MkDocs then says that the target is not found."""
    path, _, heading = link.partition("#")
    if not path or ":" in path:
        return None
    target = os.path.normpath(source.parent / path)
    shown = not target.startswith("..") and (target.startswith("docs/") or is_text(REPO / target))
    return (target, heading) if shown and (REPO / target).is_file() else None


def is_text(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return True


def place_of(target: str) -> str:
    """The page of the site that shows a file of the repository."""
    if target == f"docs/{NOTEBOOK}":
        return "tour.md"
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return str(OUTSIDE / (target if target.endswith(".md") else f"{target}.md"))


def relinked(text: str, source: PurePosixPath, place: PurePosixPath) -> str:
    """The Markdown of the file `source` with the links that it needs as page `place` of the site."""

    def moved(match: re.Match[str]) -> str:
        found = target_of(match[0], source)
        if found is None:
            return match[0]
        target, heading = found
        return os.path.relpath(place_of(target), place.parent) + (f"#{heading}" if heading else "")

    return outside_text(text, lambda part: LINK.sub(moved, part))


def outside_files() -> list[str]:
    """Files outside docs/ that pages link to, directly or through others, and those of the navigation."""
    waiting = [*SHOWN, *(str(p.relative_to(REPO)) for p in sorted(DOCS.rglob("*.md")))]
    seen = set(waiting)
    while waiting:
        source = waiting.pop()
        links = (
            LINK.findall(CODE.sub("", (REPO / source).read_text(encoding="utf-8"))) if source.endswith(".md") else []
        )
        targets = {found[0] for link in links if (found := target_of(link, PurePosixPath(source)))}
        waiting += sorted(targets - seen)
        seen |= targets
    return sorted(path for path in seen if not path.startswith("docs/"))


def file_page(path: str) -> str:
    """A file of the repository as a page: Markdown as it is, other text as code."""
    text = (REPO / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    return f"# {path}\n\n``````{LANGUAGES.get(Path(path).suffix, 'text')}\n{text.rstrip()}\n``````\n"


# -- Generated pages --------------------------------------------------------------------------------------------------


def api_page(package: str) -> str:
    """The public names of a package, each with its docstring."""
    from importlib import import_module

    module = import_module(package)
    about = "\n\n".join(paragraph for paragraph in (module.__doc__ or "").split("\n\n"))
    parts = [f"# {package}", about]
    for name, home in module._PUBLIC.items():
        parts.append(f"::: {home}.{name}\n    options:\n      heading: {package}.{name}\n      toc_label: {name}")
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    """Every setting of conf/, with the comments that --help prints."""
    known, groups = conf.File.read(conf.CONF / "config.yaml"), conf.all_options()
    usual = {s.key: s for s in known.defaults}
    parts = [
        "# Every setting",
        "Written from the comments in `conf/`, as `python -m imgloop --help` prints them; `python -m imgloop "
        "model=gan --help` prints one option. Change a setting with `key=value`, choose an option with `group=option`.",
        "## Settings of every chain",
        *tables(s for s in known.settings if not s.key.startswith("hydra.")),
    ]
    for group, files in sorted(groups.items(), key=lambda item: item[0] == conf.WHOLE):  # experiments last
        comment = usual[group].comment if group in usual else conf.LAUNCHER_COMMENT
        default = usual[group].value if group in usual else "basic"
        parts += [f"## {group}", prose(f"{comment[:1].upper()}{comment[1:]}.")]
        parts += [f"The default is `{group}={default}`."] if default != "null" else []
        for option, path in files.items():
            file = conf.File.read(path)
            parts += [f"### {group}={option}", prose(file.description.removesuffix(".") + ".")]
            if file.defaults:
                parts.append("It chooses " + ", ".join(f"`{s.key}={s.value}`" for s in file.defaults) + ".")
            settings = conf.settings_of(group, file, known, groups)
            if swept := [s for s in settings if s.key.startswith(SWEPT)]:
                values = (f"`{s.key.removeprefix(SWEPT)}={s.value.strip(QUOTES)}`" for s in swept)
                each = "combination" if len(swept) > 1 else "value"
                parts.append(f"It runs a chain for each {each} of {', '.join(values)}.")
            if group == conf.WHOLE:
                settings = [s for s in settings if not s.key.startswith("hydra.")]
            parts += tables(settings, "value" if group == conf.WHOLE else "default") or ["It has no settings."]
    return "\n\n".join(parts) + "\n"


def tables(settings: Iterable[conf.Setting], values: str = "default") -> list[str]:
    """Settings as tables, whose second column is called `values`; comments above some settings divide them."""
    parts: list[str] = []
    rows: list[str] = []
    for s in settings:
        if s.above or not rows:
            rows = [f"| setting | {values} | meaning |", "|---|---|---|"]
            parts += [*([prose(s.above)] if s.above else []), ""]
        value = s.value.replace("|", r"\|")
        rows.append(f"| `{s.key}` | `{value}` | {prose(s.comment)} |")
        parts[-1] = "\n".join(rows)
    return parts


def prose(text: str) -> str:
    """A comment as Markdown: signs that Markdown reads are escaped, pages of docs/ are linked."""

    def escaped(part: str) -> str:
        part = re.sub(r"([\\*_|\[\]])", r"\\\1", part.replace("&", "&amp;").replace("<", "&lt;"))
        return re.sub(r"docs/(\w+)\.md", r"[\1.md](../\1.md)", part)

    return outside_text(text, escaped)


def measures_page() -> str:
    """Every measure of imgloop/measures.py."""
    parts = [
        "# Every measure",
        "Written from `imgloop/measures.py`: the columns of `metrics.csv`, then what other commands print. What each "
        "measure detects, and what it misses: [metrics.md](../metrics.md).",
    ]
    for kind, title in KINDS.items():
        parts.append(f"## {title}")
        parts += [measure_entry(info) for info in MEASURES.values() if info.kind == kind]
    return "\n\n".join(parts) + "\n"


def measure_entry(info: MeasureInfo) -> str:
    judged = [str(k) for k, role in ROLE_OF.items() if role == info.role]
    rules = f"[definition{'s' * (len(judged) > 1)}](../profile.md#the-rules) {', '.join(judged)}"
    places = [
        ("`comparison.csv`", info.compared),
        ("`curves.png` and `comparison.png`", info.plotted),
        ("the lines printed after a run", info.headline),
    ]
    facts = {
        "Unit": prose(info.unit),
        "Range": info.limits,
        "When a generator collapses": info.collapse or "",
        "Of a perfect generator": prose(info.perfect),
        "Judged by": rules if judged else "",
        "Also in": ", ".join(place for place, shown in places if shown),
    }
    rows = [f"- {name}: {value}" for name, value in facts.items() if value]
    return "\n".join([f"### `{info.name}`", "", f"**{info.label}**", "", *rows])


def notebook_pages(path: Path) -> dict[str, str | bytes]:
    """A notebook as a page, and its figures, by their places on the site."""
    from nbconvert import MarkdownExporter

    body, resources = MarkdownExporter().from_filename(str(path))
    body = re.sub(r"<style scoped>.*?</style>", "", body, flags=re.S)
    body = body.replace('<table border="1" class="dataframe">', "<table>")  # the site's own style
    title, _, rest = body.lstrip().partition("\n")
    download = f"This page is the notebook [{path.name}]({path.name}), with the outputs that it is stored with."
    figures = {}
    for name, image in resources["outputs"].items():
        figures[f"tour/{name}"] = image
        rest = rest.replace(f"({name})", f"(tour/{name})")
    return {"tour.md": f"{title}\n\n{download}\n{rest}", **figures}
