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


def text(cell) -> str:
    """Text that a cell printed or returned."""
    outputs = cell.get("outputs", [])
    return "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)
