"""Every notebook runs from top to bottom on the embedded models, and is kept with its outputs.

One kernel serves all, emptied before each: what takes longest is importing the libraries.
"""

import ast
import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from notebooks.run import execute, notebooks, small, start_kernel

NOTEBOOKS = notebooks()
LONGEST_FUNCTION = 5  # lines
LARGEST = 400  # KB
MACHINE = re.compile(r"/(work|home|root|tmp|Users|usr)/|[A-Z]:\\\\| at 0x[0-9a-f]{6,}")

MANY = re.compile(r"\b(n|steps)=(\d{2,})\b|\bn_random=[1-9]\d*")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def kernel():
    # a folder of a real model is for people; the notebooks fall back to `toy` without one
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CIRCUITS_MODEL_FOLDER", raising=False)
        kernel = start_kernel()
    yield kernel
    kernel.shutdown_kernel(now=True)


def code(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def lighter(source):
    """With half of the prompts and of training, and two random circuits where there are many."""
    return MANY.sub(lambda m: f"{m[1]}={int(m[2]) // 2}" if m[1] else "n_random=2", source)


def kinds(cell):
    """What a cell shows: the media types of its outputs, or the name of its stream."""
    return {kind for out in cell.outputs for kind in out.get("data", {out.get("name"): 0})}


def test_a_smaller_picture_keeps_a_rare_colour():
    # shades of blue, far more than 256, and one vermillion pixel: it says that an edge hurts
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[..., 1:] = np.random.default_rng(0).integers(256, size=(100, 100, 2))
    pixels[50, 50] = 213, 94, 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    again = base64.b64decode(small(base64.b64encode(file.getvalue()).decode()))
    assert Image.open(io.BytesIO(again)).convert("RGB").getpixel((50, 50))[0] > 200
    assert len(again) < len(file.getvalue()) / 2


def test_a_lighter_cell_does_the_same_with_less():
    code = "t = ioi(n=96, seed=10); curve(t, eap_ig(t, steps=5), n_random=20); learn(steps=120)"
    less = "t = ioi(n=48, seed=10); curve(t, eap_ig(t, steps=5), n_random=2); learn(steps=60)"
    assert lighter(code) == less


def test_all_nine_are_there():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{i:02}" for i in range(1, 10)]


@each
@pytest.mark.filterwarnings("default")  # the kernel's own libraries warn
def test_it_runs_and_shows_what_it_is_kept_with(path, kernel):
    ran = execute(path, kernel, lighter)
    kept, again = code(path), [cell for cell in ran.cells if cell.cell_type == "code"]
    for old, new in zip(kept, again, strict=True):
        assert ("image/png" in kinds(old)) == ("image/png" in kinds(new)), new.source
        assert "stderr" not in kinds(new), new.source


@each
def test_it_is_kept_as_it_ran(path):
    cells = code(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in kinds(cell) for cell in cells) >= 3
    assert not {kind for cell in cells for kind in kinds(cell)} & {"stderr", "text/latex"}
    assert not any(out.output_type == "error" for cell in cells for out in cell.outputs)


@each
def test_it_is_small_and_names_no_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < LARGEST * 1000
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not MACHINE.search(without_pictures)


@each
def test_its_functions_are_short(path):
    for cell in code(path):
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


@each
def test_its_links_lead_somewhere(path):
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells)
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (Path(path).parent / link).exists(), link
