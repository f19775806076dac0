"""TikZ: what it says, that LaTeX takes it, and that special characters are text."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from circuits.circuit import Circuit
from circuits.drawing.canvas import Key, Picture
from circuits.drawing.latex import escaped
from circuits.drawing.pictures import picture, picture_difference
from circuits.drawing.role_pictures import picture_roles
from circuits.drawing.roles import Roles
from circuits.drawing.tikz import tikz, tikz_document
from circuits.select import random_circuit
from patching.graph import Graph

NASTY = "50% of {a_1} & b^2 ~ #3 $x$ \\ <\"'`|> ü 中 → ·\n\x00"
latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
STANDALONE = r"""\ProvidesClass{standalone}\DeclareOption*{}\ProcessOptions\LoadClass{article}
\RequirePackage{tikz}\pagestyle{empty}"""


def scored(n: int = 20, graph: Graph | None = None) -> Circuit:
    graph = graph or Graph(3, 4, 2)
    mask = random_circuit(graph, n, seed=0).mask
    noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).double()
    return Circuit(mask, graph, noise * graph.exists)


def compiled(source: str, folder: Path) -> Path:
    (folder / "p.tex").write_text(source)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "p.tex"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout[-2000:]
    assert "Overfull" not in said.stdout
    assert "Output written on p.pdf (1 page" in said.stdout
    return folder / "p.pdf"


def test_a_text_is_escaped():
    assert escaped("a_b%") == r"a\_b\%"
    assert escaped("\\{}") == r"\textbackslash{}\{\}"
    assert escaped("ü中\x00") == "ü[U+4E2D][U+0000]"
    assert escaped("a\nb") == "a b"


def test_every_box_stroke_and_text_is_there():
    drawn = picture(scored(), title="the title", width="column")
    text = tikz(drawn)
    assert text.count(r"\draw[") == len(drawn.strokes) + len(drawn.legend)
    assert text.count(r"\filldraw[") == len(drawn.boxes)
    for said in [*(box.label for box in drawn.boxes), drawn.caption, "the title"]:
        assert f"{escaped(said)}}};" in text
    assert "rectangle (3.25," in text
    colours = set(re.findall(r"\\definecolor\{(\w+)\}", text))
    assert set(re.findall(r"\bc[0-9A-F]{6}\b", text)) == colours


def test_negative_edges_are_dashed_and_links_dotted():
    drawn = picture(scored())
    text = tikz(drawn)
    assert text.count("on 4pt off 2pt") == sum(s.dashed for s in drawn.strokes) > 0
    assert text.count("on 1pt off 1pt") == sum(s.faint for s in drawn.strokes) + 1 > 1  # legend


@latex
def test_a_page_of_all_that_is_special_compiles(tmp_path):
    circuit = scored()
    roles = Roles({"a & b_1 {%}": ("a2.h0", "a2.h1")}, {"a & b_1 {%}": "#203040"})
    drawn = picture(
        circuit, title=NASTY, width="page", roles=roles, labels={circuit.nodes[0]: "50% of $x_1$"}
    )
    path = compiled(tikz_document(drawn), tmp_path)
    if shutil.which("pdftotext"):
        command = ["pdftotext", path.name, "-"]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        text = said.stdout.replace("ˆ", "^").replace("_", " ")  # a bar may be drawn as a rule
        assert "50% of {a 1} & b^2" in text
        assert "a & b 1 {%}" in text


@latex
def test_the_page_is_as_large_as_the_picture(tmp_path):
    drawn = Picture(2.0, 1.5, (), (), (), (Key("k", "#000000", square=True),), "only a caption")
    path = compiled(tikz_document(drawn), tmp_path)
    size = re.search(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", path.read_bytes())
    if size is None and shutil.which("pdfinfo"):  # inside a compressed stream
        command = ["pdfinfo", path.name]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
        size = re.search(rb"([\d.]+) x ([\d.]+) pts", said)
    assert size is not None
    # TeX's points are 1/72.27 inch, PDF's 1/72; rounding of either is below 0.1
    assert [float(value) for value in size.groups()] == pytest.approx([144, 108], abs=0.1)


@latex
@pytest.mark.parametrize("kind", ["roles", "difference"])
def test_the_other_pictures_go_into_a_paper(kind, tmp_path):
    circuit = scored()
    roles = Roles({"movers": ("a2.h0", "a2.h1")}).with_rest(circuit)
    made = {
        "roles": picture_roles(circuit, roles, width="page"),
        "difference": picture_difference(circuit, random_circuit(circuit.graph, 20, seed=3)),
    }
    (tmp_path / "f.tikz").write_text(tikz(made[kind]))
    paper = r"\documentclass{article}\usepackage{tikz}\textwidth=7in\hoffset=-1in"
    compiled(paper + r"\begin{document}\noindent\input{f.tikz}\end{document}", tmp_path)


@latex
def test_the_class_standalone_is_used_where_there_is_one(tmp_path):
    (tmp_path / "standalone.cls").write_text(STANDALONE)
    compiled(tikz_document(picture(scored(5))), tmp_path)
    assert "standalone.cls" in (tmp_path / "p.log").read_text()
