"""The paragraph on methods, from the provenance: in Markdown and in LaTeX, with citations."""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from circuits.drawing.latex import escaped
from circuits.paper.references import (
    FAITHFULNESS,
    INTERVALS,
    REFERENCES,
    SELECTORS,
    SOFTWARE,
    of_method,
    of_task,
)
from circuits.paper.run import Run
from circuits.paper.wording import METHOD_NAMES, ablated, chosen
from circuits.reporting.report import percent, plain, readable, title
from circuits.scoring import METHODS
from patching.files.visible import in_markdown


@dataclass(frozen=True)
class Cited:
    """Papers named in the text, by their numbers."""

    numbers: tuple[str, ...]


@dataclass(frozen=True)
class Formula:
    """Mathematics, in plain text and in LaTeX."""

    plain: str
    latex: str


Piece = str | Cited | Formula
FAITHFULNESS_IS = Formula(
    "(circuit - empty) / (clean - empty)",
    r"$(m_\mathrm{circuit} - m_\mathrm{empty}) / (m_\mathrm{clean} - m_\mathrm{empty})$ for the "
    r"metric's means $m$",
)
_QUIET = ("rule", "path")  # options that a named method settles itself


def methods_markdown(run: Run) -> str:
    """The paragraph as Markdown; papers are named by author and year, with where they are."""

    def cite(numbers: Sequence[str]) -> str:
        papers = [REFERENCES[number] for number in numbers]
        return "; ".join(f"{p.short}, {p.source.replace('--', '–')}" for p in papers)

    written = _written(pieces(run), in_markdown, lambda f: f.plain, lambda ns: f"({cite(ns)})")
    return written + "\n"


def methods_latex(run: Run) -> str:
    r"""The paragraph as LaTeX, to be `\input`; papers are cited by the keys of `references.bib`."""

    def cite(numbers: Sequence[str]) -> str:
        return rf"\cite{{{','.join(REFERENCES[number].key for number in numbers)}}}"

    return _written(pieces(run), _in_latex, lambda formula: formula.latex, cite) + "\n"


def citations(run: Run) -> list[str]:
    """The numbers of all papers that the paragraph cites, each once."""
    found = [n for piece in pieces(run) if isinstance(piece, Cited) for n in piece.numbers]
    return list(dict.fromkeys(found))


def pieces(run: Run) -> list[Piece]:
    """The paragraph's sentences in pieces, citations apart."""
    return [*_search(run), *_scoring(run), *_judging(run), *_computing(run)]


def _written(
    parts: Sequence[Piece],
    text: Callable[[str], str],
    formula: Callable[[Formula], str],
    cite: Callable[[Sequence[str]], str],
) -> str:
    def said(part: Piece) -> str:
        if isinstance(part, Formula):
            return formula(part)
        return text(part) if isinstance(part, str) else f" {cite(part.numbers)}"

    return "".join(map(said, parts)).strip()


def _search(run: Run) -> list[Piece]:
    graph = run.circuit.graph
    revision = f" (revision {run.stated('revision')})" if run.stated("revision") else ""
    task = str(run.stated("task") or "unnamed")
    heads = f"{graph.n_layers} layers with {graph.n_heads} heads"
    shared = f" and {graph.n_kv_heads} key-value heads" if graph.n_kv_heads < graph.n_heads else ""
    return [
        f"We searched for a circuit of {run.stated('model') or 'the model'}{revision} on the task "
        f"{task}",
        *_cited(of_task(task)),
        f", with {run.stated('n_examples') or 'an unknown number of'} pairs of a clean and a "
        f"corrupt prompt. The computational graph joins the embedding, the attention heads and the "
        f"MLPs ({heads}{shared} each) to every later query, key, value and MLP input and to the "
        f"logits: {graph.n_edges:,} edges. ",
    ]


def _scoring(run: Run) -> list[Piece]:
    options = run.stated("options")
    options = dict(options) if isinstance(options, Mapping) else {}
    method = str(run.stated("method") or "unknown")
    rule, path = str(options.get("rule", "plain")), str(options.get("path", "clean"))
    said = {k: v for k, v in options.items() if not (method in METHODS and k in _QUIET)}
    settings = f"; {plain(said)}" if said else ""
    selection = run.stated("selection")
    selection = dict(selection) if isinstance(selection, Mapping) else {}
    selector = str(selection.get("selector", "unknown")).replace("_", "-")
    size, asked = run.circuit.size, selection.get("requested", run.circuit.size)
    taken = asked if selection.get("pruned") and isinstance(asked, int) else size
    pruned = (
        f", then pruned those on no path from the embedding to the logits, which left {size:,}"
        if selection.get("pruned")
        else ""
    )
    return [
        f"Edges were scored by {METHOD_NAMES.get(method, method)}{_meaning(method)}{settings}",
        *_cited(of_method(method, rule, path)),
        f", on the metric {_metric(run)}, summed over all tokens up to the answer and averaged "
        "over prompts; a positive score means that the edge helps the metric in the clean run. "
        + chosen(selector, taken, str(selection.get("ranking", "unknown"))),
        *_cited(SELECTORS.get(selector, ())),
        f"{pruned}. ",
    ]


def _judging(run: Run) -> list[Piece]:
    measured, found = run.measurements, run.found()
    clean, corrupt = float(measured.clean.mean()), float(measured.corrupt.mean())
    kept = [row.faithfulness for row in measured.rows(n_bootstrap=0) if row.kind == "random"]
    interval: list[Piece] = [f"{percent(_number(found.faithfulness))}"]
    if not math.isnan(found.low):
        ends = f"{percent(found.low)} to {percent(found.high)}"
        interval += [
            f" (95% interval {ends}, percentile bootstrap over prompts with 1,000 draws",
            *_cited(INTERVALS),
            ")",
        ]
    ends = (
        " to ".join(dict.fromkeys(percent(_number(k)) for k in (min(kept), max(kept))))
        if kept
        else ""
    )
    chance = (
        f"; {len(kept)} circuits of that size, drawn as random paths, kept {ends}" if kept else ""
    )
    return [
        f"We judged the circuit on {measured.prompts}, ablating every edge outside it "
        f"{ablated(str(run.stated('ablation') or 'an unknown ablation'))}. The mean "
        f"{_metric(run)} was "
        f"{readable(measured.metric, found.metric)}, against "
        f"{readable(measured.metric, clean)} of the whole model and "
        f"{readable(measured.metric, corrupt)} without any edge: a faithfulness, ",
        FAITHFULNESS_IS,
        *_cited(FAITHFULNESS),
        ", of ",
        *interval,
        f"{chance}. {measured.verdict} ",
    ]


def _computing(run: Run) -> list[Piece]:
    dtype, device = run.stated("dtype"), run.stated("device")
    if dtype is None or device is None:
        return []
    versions = run.stated("versions")
    with_versions = f", with {plain(versions)}" if isinstance(versions, Mapping) else ""
    stated = [
        f"{key} {run.stated(key)}"
        for key in ("seed", "weights", "tokens")
        if run.stated(key) is not None
    ]
    exactly = f" ({', '.join(stated)})" if stated else ""
    computed = f"Computed in {dtype} on {device}{with_versions}"
    return [computed, *_cited(SOFTWARE), f"{exactly}."]


def _cited(numbers: Sequence[str]) -> list[Piece]:
    return [Cited(tuple(numbers))] if numbers else []


def _meaning(method: str) -> str:
    """The first line of a named method's own description."""
    if method not in METHODS:
        return ""
    line = (inspect.getdoc(METHODS[method].function) or "").split("\n")[0].rstrip(".")
    line = line.partition(": ")[2] or line  # its name is said already
    return f": {line[0].lower() if line[1:2].islower() else line[0]}{line[1:]}"


def _metric(run: Run) -> str:
    return title(run.measurements.metric).split(" (")[0]


def _in_latex(text: str) -> str:
    """Prose for LaTeX: signed numbers and differences as mathematics, so that a minus is one."""
    text = escaped(text).replace(r"\textquotesingle{}", "'").replace(" - ", " $-$ ")
    return re.sub(r"(?<![\w$])[+-]\d[\d.]*(?<=\d)", lambda found: f"${found.group()}$", text)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
