"""The strongest edges of a task's circuit, with the roles of heads that tests bear out."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.real.facts import Fact
from circuits.circuit import load_circuit
from circuits.drawing.plots import draw, render
from circuits.drawing.roles import Roles
from patching.files.whole import write_bytes

MOST = 50
"""Edges that are drawn."""


def draw_circuits(facts: Sequence[Fact], cells: Path, docs: Path) -> list[Fact]:
    """A picture for each task whose circuit is there; the facts that say so."""
    found = []
    for task in dict.fromkeys(fact.task for fact in facts if fact.part == "circuit"):
        slug = task.replace(":", "-")
        file = cells / f"circuit-{slug}.json"
        if not file.exists():
            continue
        roles = _roles(fact for fact in facts if (fact.part, fact.task) == ("head", task))
        figure = draw(load_circuit(file), most_edges=MOST, roles=roles, width=6.5)
        write_bytes(docs / "pictures" / f"real-{slug}.svg", render(figure, "svg"))
        found.append(Fact("circuit", task, "auto", 0, "picture", MOST))
    return found


def _roles(facts: Iterable[Fact]) -> Roles:
    """Heads by the names of roles that hold."""
    said: dict[str, dict[str, str]] = {}
    for fact in facts:
        said.setdefault(fact.of, {})[fact.name] = fact.said
    members: dict[str, list[str]] = {}
    for head, one in said.items():
        if one.get("test") == "holds":
            members.setdefault(one["role"], []).append(head)
    return Roles({role: tuple(heads) for role, heads in members.items()})
