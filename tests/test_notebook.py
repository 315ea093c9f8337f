"""docs/tour.ipynb runs from top to bottom and produces the outputs that it is stored with."""

import pytest
from conftest import REPO

NOTEBOOK = REPO / "docs" / "tour.ipynb"


@pytest.mark.nightly
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra test)")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed (extra test)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra test)")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel shows its own figures
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings, tiny = notebook.cells[1]["source"], ("train.images=640", "model.widths=[8,16]", "model.sampler_steps=2")
    notebook.cells[1]["source"] = settings.replace('"train.images=8000"', ", ".join(f'"{s}"' for s in tiny))
    assert notebook.cells[1]["source"] != settings
    stored_texts = [text(cell) for cell in notebook.cells if cell.cell_type == "code"]
    for cell in notebook.cells:
        cell.update({"outputs": []} if cell.cell_type == "code" else {})
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    new_texts = [text(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert len(new_texts) == len(stored_texts) >= 7
    assert "no verdict" in "".join(new_texts) and "profile.json" in new_texts[-1]
    assert sum("image/png" in str(cell.get("outputs")) for cell in notebook.cells) == 2
    # the same cells print something in the stored notebook
    assert [bool(s) for s in new_texts] == [bool(s) for s in stored_texts]


@pytest.mark.nightly
def test_a_sweep_a_profile_and_a_result_show_in_a_notebook(tmp_path, monkeypatch):
    """In a kernel, where matplotlib draws inline."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra test)")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed (extra test)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra test)")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    solved = 'model="gaussian", generations=2, data={"n": 20}'
    sources = [
        f'import imgloop\nimgloop.run(paradigm="replace", {solved})',
        f'imgloop.sweep(paradigm=["replace", "real_only"], seed=range(2), {solved})',
        "from imgloop.study.plain import read_table\nimgloop.collapse_profile(read_table('outputs/gaussian'))",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    results = [next(o["data"] for o in c.outputs if o.output_type == "execute_result") for c in notebook.cells]
    pages = [data["text/html"] for data in results]
    assert ["<table" in page for page in pages] == [True] * 3
    assert ["image/png;base64" in page for page in pages] == [True, True, False]
    assert "replace" in pages[1] and "collapsing variance" in pages[2]


def text(cell) -> str:
    """Text that a cell printed or returned."""
    outputs = cell.get("outputs", [])
    return "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)
