"""Files and texts from strangers: no code in files is run, and no text is read as markup.

Reading damaged files is `test_fuzz`; wrong ones, `test_bad_input`.
"""

import ast
import csv
import inspect
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import families
import pytest
import torch
from browser import needs_browser, visit

from circuits import Circuit, Roles, picture_roles, save
from circuits.drawing.latex import escaped
from circuits.explorer import explore
from circuits.export import load, tikz, to_neuronpedia, write_submission
from circuits.paper.notebook import notebook
from circuits.reporting.report import settings_table
from patching import Model
from patching.files.parsing import parse_json, parse_literal, read_table
from patching.files.tensors import read_npz, read_pt, read_tensor_file
from patching.files.visible import in_markdown, visible
from patching.files.whole import MOST_BYTES, inside, read_bytes, read_text, write_text
from patching.graph import Graph
from patching.views import attention_view, lens_view

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(
    path for name in ("circuits", "patching", "benchmarks") for path in (ROOT / name).rglob("*.py")
)
RUNS_CODE = {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle", "xmlrpc"}
PLAIN_YAML = {"yaml.safe_load", "yaml.YAMLError"}
GRAPH = Graph(2, 2, 2)
NASTY = (
    "</script><img src=x onerror=document.title=1>",
    "</style><script>document.title=1</script>",
    '"; }\n\\input{/etc/passwd} $x^2$ #1 %comment & {open',
    "\\write18{ls} \\end{document} _a^b~",
    'quote " and \' and \\ and \\" end',
    "<!-- --><![CDATA[ ]]> &amp; &#x0;",
    "\u2028\u2029\u202e\x00\x07\x1b[31m\x7f",
    "]]>--></svg><svg onload=x>",
    "$\\frac{1}{$",
)


# No code in files.


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    found = [
        ast.literal_eval(k.value)
        for k in call.keywords
        if k.arg == name and isinstance(k.value, ast.Constant)
    ]
    return found[0] if found else None


def imports(tree: ast.Module) -> Iterator[str]:
    """Imports of what runs code in files; of YAML's reader, all but that of plain values."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        whole = [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        for name in (*names, *whole):
            if name.split(".")[0] in RUNS_CODE or name.startswith("yaml."):
                yield f"import {name}"
        if "yaml" in whole:
            yield "from yaml import: write yaml.safe_load"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "yaml":
            yield from {ast.unparse(node)} - PLAIN_YAML


def dangers(source: str) -> list[str]:
    """What could run code from a file or a text."""
    tree = ast.parse(source)
    found = list(imports(tree))
    for name, call in calls(tree):
        if name == "torch.load" and keyword(call, "weights_only") is not True:
            found.append("torch.load without weights_only=True")
        if name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") is not False:
            found.append("np.load without allow_pickle=False")
        if name in ("eval", "exec", "os.system", "os.popen", "builtins.eval", "compile"):
            found.append(name)
        if name.endswith(("read_pickle", "to_pickle", "import_from_pickle")):
            found.append(name)
        if keyword(call, "shell") is True:
            found.append("shell=True")
    return found


def test_no_module_runs_what_a_file_says():
    found = {path.relative_to(ROOT).as_posix(): dangers(path.read_text()) for path in CODE}
    assert {name: some for name, some in found.items() if some} == {}


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from dill import load", "yaml.load(t)", "eval('1')", "exec(text)"),
        *("torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)", "os.system('ls')"),
        *("np.load(p, allow_pickle=True)", "subprocess.run(c, shell=True)", "pd.read_pickle(p)"),
        *(
            "import yaml.constructor as c",
            "from yaml import load",
            "yaml.safe_load(t, yaml.Loader)",
        ),
    ],
)
def test_the_search_for_such_code_finds_it(source):
    assert dangers(source)


class Malice:
    def __reduce__(self):
        return os.system, ("touch /tmp/was-run-by-a-file",)


def test_code_in_files_of_tensors_is_not_run(tmp_path):
    import numpy as np

    torch.save({"cfg": Malice()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="x.pt is no whole .pt file of plain tensors"):
        read_pt(tmp_path / "x.pt")
    np.savez(tmp_path / "x.npz", W_U=np.array([Malice()], dtype=object))
    with pytest.raises(ValueError, match="x.npz is no .npz file of plain arrays"):
        read_npz(tmp_path / "x.npz")
    torch.save({}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="old.pt is no whole .pt .*: it is no zip archive"):
        read_pt(tmp_path / "old.pt")
    assert not Path("/tmp/was-run-by-a-file").exists()


class Planted:
    """What a pickle calls when it is read: here, to leave a trace."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self):
        return Path.touch, (self._trace,)


def test_code_in_the_pickled_weights_of_a_model_is_not_run(tmp_path):
    module, folder, trace = families.module("gpt2", torch.float32), tmp_path / "m", tmp_path / "ran"
    module.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    weights = {**module.state_dict(), "transformer.planted": Planted(trace)}
    torch.save(weights, folder / "pytorch_model.bin")
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert trace.exists(), "reading it without care runs it"
    trace.unlink()
    with pytest.raises(ValueError, match="the model in .* cannot be read: "):
        Model.load(folder)
    assert not trace.exists()


def test_code_of_model_folders_is_off_unless_asked_for():
    assert inspect.signature(Model.load).parameters["trust_remote_code"].default is False


# Names, links, sizes.


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc/passwd", "", ".", "..", ".hidden", "a\0b", "a b", "é", "x" * 101]
)
def test_names_that_are_no_plain_ones_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="is no name for a file in"):
        inside(tmp_path, name)


def test_links_in_folders_of_ours_are_refused_and_never_written_through(tmp_path):
    target = tmp_path / "precious"
    write_text(target, "kept")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ValueError, match="link is a link, which could lead anywhere"):
        inside(tmp_path, "link")
    write_text(tmp_path / "link", "new")
    assert target.read_text() == "kept"
    with pytest.raises(ValueError, match="no task and model named '../../x'"):
        write_submission([Circuit.empty(GRAPH)] * 9, tmp_path, "../../x", d_model=4)


def test_what_is_no_plain_file_or_too_large_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path, says in ((tmp_path, "is a folder"), (tmp_path / "pipe", "a device or a pipe")):
        with pytest.raises(ValueError, match=says):
            read_bytes(path)
        with pytest.raises(ValueError, match=says):
            read_tensor_file(path)
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(ValueError, match="round cannot be read: Too many levels"):
        read_bytes(tmp_path / "round")
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "gone")
    (tmp_path / "text").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="text is no text in UTF-8: byte 0 is 0xff"):
        read_text(tmp_path / "text")
    assert MOST_BYTES == 2**30
    monkeypatch.setattr("patching.files.whole.MOST_BYTES", 10)
    write_text(tmp_path / "long", "x" * 11)
    with pytest.raises(ValueError, match="long has more than 10 bytes, the most that is read"):
        read_bytes(tmp_path / "long")


def test_archives_that_unpack_to_gigabytes_are_refused(tmp_path, monkeypatch):
    import numpy as np

    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(100_000))
    monkeypatch.setattr("patching.files.tensors.MOST_BYTES", 10_000)
    with pytest.raises(ValueError, match="bomb.npz .*: it unpacks to 800,.* bytes; 10,000 are the"):
        read_npz(tmp_path / "bomb.npz")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "a": 2}', "it has the key 'a' twice"),
        ("[NaN]", "it holds NaN; numbers are finite"),
        ("[-Infinity]", "it holds -Infinity; numbers are finite"),
        ("1e999", "it holds 1e999, more than any number here"),
        ("[" * 100_000, "it is nested too deeply"),
        ('"\\ud800"', "half of a surrogate pair"),
        ("{", "line 1 column 2"),
        ("1" * 5000, "4300 digits"),
    ],
)
def test_json_is_read_strictly(text, says):
    with pytest.raises(ValueError, match=says) as caught:
        parse_json(text)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("(" * 100_000, "it is nested too deeply: '\\(\\("),
        ("-" * 100_000 + "1", "it is nested too deeply"),
        ("__import__('os')", "it is no list or number: .__import__"),
        ("[1", "it is no list or number: '\\[1'"),
    ],
)
def test_literals_are_values_and_no_code(text, says):
    with pytest.raises(ValueError, match=says):
        parse_literal(text)


def test_tables_with_open_quotes_or_equal_columns_are_refused(tmp_path):
    for content, says in (
        ('a,b\n"x,1\n', "x.csv is no whole table, line 1"),
        ("a,a\n1,2\n", "x.csv has two columns named 'a'"),
        ("a\n" + "x" * 200_000, "field larger than field limit"),
    ):
        write_text(tmp_path / "x.csv", content)
        with pytest.raises(ValueError, match=says):
            read_table(tmp_path / "x.csv")


def test_entities_of_xml_are_refused(tmp_path):
    text = '<!DOCTYPE x [<!ENTITY a "b">]><graphml>&a;</graphml>'
    for suffix in (".graphml", ".gexf"):
        write_text(tmp_path / f"c{suffix}", text)
        with pytest.raises(ValueError, match="it has a document type, which could define entities"):
            load(tmp_path / f"c{suffix}", GRAPH)


# Text from anywhere in files of ours.


class Seen(HTMLParser):
    """The elements, handlers and addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]


def pages(text: str) -> dict[str, str]:
    circuit = named(text)
    tokens = [text, text]
    weights = torch.eye(2).expand(1, 1, 2, 2)
    shown = lens_view(tokens, [text], [[[text], [text]]], torch.ones(1, 2, 1), title=text)
    return {
        "explorer": explore(circuit, title=text).content,
        "attention": attention_view(weights, tokens, title=text).content,
        "lens": shown.content,
    }


def named(text: str) -> Circuit:
    edges = [("embed", "m0"), ("m0", "a1.h0.q"), ("a1.h0", "logits")]
    provenance = {"model": text, "task": text, text: [text]}
    return replace(Circuit.from_edges(GRAPH, edges), provenance=provenance)


@pytest.mark.parametrize("text", NASTY)
def test_pages_show_text_as_text_under_a_policy_of_hashes(text):
    for page in pages(text).values():
        seen = Seen(page)
        assert seen.tags.count("script") == 2
        assert not {"img", "b"} & {*seen.tags}
        assert seen.handlers == []
        policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
        assert len(policy) == 1
        assert "default-src 'none'" in policy[0]
        assert "unsafe" not in policy[0]
        data = page.split('id="data">')[1].split("</script>")[0]
        assert not re.search("[<>&\u2028\u2029]", data)
        assert json.loads(data)


@needs_browser
def test_a_browser_runs_none_of_it_and_blocks_what_is_no_part_of_the_page(tmp_path):
    page = pages(NASTY[0])["attention"].replace(
        "</body>", "<script>document.title=2</script></body>"
    )
    seen = visit(page, "said.title = document.title; said.images = $$('img').length;", tmp_path)
    assert seen.said == {"title": NASTY[0], "images": 0}
    assert any("Content Security Policy" in line for line in seen.console)


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize(
    "suffix", [".json", ".graphml", ".gexf", ".gml", ".nodelink.json", ".neuronpedia.json"]
)
def test_names_survive_in_files_for_other_programs(text, suffix, tmp_path):
    circuit = named(text)
    save(circuit, tmp_path / f"c{suffix}")
    if suffix == ".neuronpedia.json":
        content = parse_json(to_neuronpedia(circuit).decode())
        assert content["metadata"]["scan"] == text
        assert re.fullmatch("[A-Za-z0-9-]*", content["metadata"]["slug"])
        return
    back = load(tmp_path / f"c{suffix}")
    assert back == circuit
    assert back.provenance == circuit.provenance


@pytest.mark.parametrize("text", ["<b>&\"'", "$x^2$", "\\end{x}", "_a^b~#%", "]]>", "$\\frac{1}"])
def test_pictures_hold_text_as_text(text, tmp_path):
    """Names that people choose: those of roles and titles."""
    shown = picture_roles(named("m"), Roles({text: ("a1.h0",)}), title=text)
    assert_only_known_commands(tikz(shown))
    save(shown, tmp_path / "r.svg")
    drawn = ElementTree.parse(tmp_path / "r.svg")
    assert not {"script", "img", "b"} & {tag.tag.rpartition("}")[2] for tag in drawn.iter()}
    assert text in "".join(drawn.getroot().itertext())


def assert_only_known_commands(drawn: str) -> None:
    known = {"begin", "end", "definecolor", "useasboundingbox", "draw", "filldraw", "node"}
    known |= {"fontsize", "selectfont", "sffamily", "ensuremath", "rightarrow"}
    found = {*re.findall(r"\\([A-Za-z]+)", drawn)} - known
    assert all(name.startswith("text") for name in found), found
    assert drawn.count("{") - drawn.count("\\{") == drawn.count("}") - drawn.count("\\}")


@pytest.mark.parametrize("text", NASTY)
def test_latex_is_told_every_special_character(text):
    plain = re.sub(r"\\(?:text\w+|ensuremath|rightarrow)\{?|\\[#$%&_{}]|[{}]", "", escaped(text))
    assert not re.search(r"[\\#$%&_{}~^<>\x00-\x1f\u2028]", plain)


def test_tables_and_dot_hold_names_of_nodes_only(tmp_path):
    for text in NASTY:
        for suffix in (".csv", ".dot"):
            save(named(text), tmp_path / f"c{suffix}")
            content = (tmp_path / f"c{suffix}").read_text()
            assert text not in content
    rows = [*csv.reader(io.StringIO((tmp_path / "c.csv").read_text()))]
    assert rows[1:] == [["embed", "m0", ""], ["m0", "a1.h0.q", ""], ["a1.h0", "logits", ""]]


# Text from anywhere in Markdown and on terminals.

MARKUP = (
    *NASTY,
    "[a](javascript:alert(1))",
    "![x](http://evil/pixel.png)",
    "[x][y]\n\n[y]: javascript:alert(1)",
    "a\n\n# not a title\n\n```\ncode\n```\n<b>",
    "<http://evil>",
    "a | b \\| c `d` **e** $\\href{javascript:alert(1)}{f}$",
    "&lt;script&gt;",
)


@pytest.mark.parametrize("text", MARKUP)
def test_markdown_shows_text_as_text(text):
    """By a parser that lets HTML through, in titles, cells and notebooks."""
    import mistune

    to_html = mistune.create_markdown(escape=False, plugins=["table"])
    about = json.loads(notebook(text, text, width="column", top=3))["cells"][0]
    title, *more = "".join(about["source"]).splitlines()
    assert title == f"# {in_markdown(text)}"
    assert len(more) == 3
    for source in ("\n".join([title, *more]), settings_table({text: text, "x": [text]})):
        seen = Seen(str(to_html(source)))
        allowed = {"h1", "p", "table", "thead", "tbody", "tr", "th", "td"}
        assert {*seen.tags} <= allowed, (source, seen.tags)
        assert seen.tags.count("h1") <= 1
        assert seen.tags.count("tr") in (0, 3)


@pytest.mark.parametrize("text", NASTY)
def test_code_in_notebooks_holds_paths_as_values(text):
    for cell in json.loads(notebook("t", text, width="column", top=3))["cells"][1:]:
        code = "".join(cell["source"])
        constants = [n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant)]
        assert (cell["id"] == "setup") == (text in constants)


@pytest.mark.parametrize("text", NASTY)
def test_a_terminal_shows_text_as_text(text):
    shown = visible(text)
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", shown
    )
    assert (
        visible("naïve 中 \n\t می\u200cخواهم 👩\u200d🔬")
        == "naïve 中 \n\t می\u200cخواهم 👩\u200d🔬"
    )
