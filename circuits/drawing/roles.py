"""Roles: named groups of heads and other nodes, as papers draw them, and circuits by role.

Wang et al. 2022 (arXiv:2211.00593) explain a circuit of 26 heads by seven roles: name movers,
S-inhibition heads and so on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.colors import to_hex

from circuits.circuit import Circuit, kind_of, node_of
from patching.files.parsing import read_json, shown
from patching.graph import Graph

TINTS = ("#DCECF7", "#6FBF9F", "#F5E98A", "#C58BB0", "#CFCFCF", "#8CC8EA", "#F2B48A")
"""Safe for colour-blind readers, and light and dark in turn for grey print; more start over."""


@dataclass(frozen=True)
class Roles:
    """Names of roles, each with its nodes (`a9.h9`, `m0`, ...), and colours for some of them.

    A colour is anything matplotlib knows; roles without one take the next of `TINTS`.

    >>> roles = Roles({"movers": ("a9.h9", "a9.h6"), "inhibitors": ("a7.h3",)})
    >>> roles.of("a9.h6"), roles.of("m0"), roles.colour("inhibitors")
    ('movers', None, '#6FBF9F')
    """

    members: Mapping[str, Sequence[str]]
    colours: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for role, nodes in self.members.items():
            if not role or isinstance(nodes, str) or not nodes:
                raise ValueError(
                    f"the role {shown(role)} has the nodes {shown(nodes)}; a name and a list "
                    "of nodes, say ['a9.h9', 'm0'], would be right"
                )
            for node in nodes:
                if node in seen:
                    raise ValueError(
                        f"{node[:40]} is in two roles: {seen[node][:40]} and {role[:40]}"
                    )
                seen[node] = role
        for role, colour in self.colours.items():
            if role not in self.members:
                raise ValueError(
                    f"a colour for {shown(role)}, which is no role; there are "
                    f"{', '.join(self.members)[:200]}"
                )
            _hex(role, colour)

    def of(self, node: str) -> str | None:
        """The role of a node, if it has one."""
        return next((role for role, nodes in self.members.items() if node in nodes), None)

    def colour(self, role: str) -> str:
        """A role's colour as `#RRGGBB`."""
        if role in self.colours:
            return _hex(role, self.colours[role])
        return TINTS[list(self.members).index(role) % len(TINTS)]

    def with_rest(self, circuit: Circuit, name: str = "other nodes") -> "Roles":
        """One role more, for all heads and MLPs of a circuit that have none."""
        rest = [node for node in circuit.nodes if kind_of(node) in ("head", "mlp")]
        found = tuple(node for node in rest if self.of(node) is None)
        return Roles({**self.members, name: found}, self.colours) if found else self

    def check(self, graph: Graph) -> None:
        """Check that a graph has all nodes, and none of the names of the roles.

        Raises:
            ValueError: if it has not.
        """
        known = {node_of(node.name) for node in graph.destinations}
        known |= {node.name for node in graph.sources}
        for role, nodes in self.members.items():
            unknown = [node for node in nodes if node not in known]
            if unknown:
                raise ValueError(
                    f"the role {shown(role)} names {shown(unknown[0])}; this graph has heads "
                    f"such as {graph.sources[1].name} to {graph.sources[-2].name}, and m0, "
                    "embed, logits"
                )
            if role in known:
                raise ValueError(f"{role!r} is the name of a node; call the role something else")


@dataclass(frozen=True)
class RoleEdge:
    """All edges from one role to another: how many, and the sum of their scores."""

    source: str
    dest: str
    score: float | None
    count: int


@dataclass(frozen=True)
class RoleGraph:
    """A circuit seen through roles.

    `boxes` maps every role, and every node without one, to its nodes in the circuit, in the order
    of the forward pass. `within` counts the edges inside one role, which `edges` leaves out.
    """

    boxes: Mapping[str, tuple[str, ...]]
    edges: tuple[RoleEdge, ...]
    within: int


def by_role(circuit: Circuit, roles: Roles) -> RoleGraph:
    """The circuit with each role as one node, and the edges between two roles as one.

    A shared key-value head goes to the role that all its heads in the circuit have, if they have
    one. Nodes without a role stay by themselves.

    Raises:
        ValueError: if the graph lacks a node of a role, or has one of a role's name.
    """
    roles.check(circuit.graph)
    present = circuit.nodes
    home = {node: _home(node, circuit.graph, {*present}, roles) for node in present}
    height = _heights(circuit)
    boxes: dict[str, list[str]] = {}
    for node, box in home.items():
        boxes.setdefault(box, []).append(node)
    means = {box: sum(height[n] for n in nodes) / len(nodes) for box, nodes in boxes.items()}
    found: dict[tuple[str, str], list[float | None]] = {}
    for source, dest, score in circuit.scored_edges():
        found.setdefault((home[source], home[node_of(dest)]), []).append(score)
    edges = [
        RoleEdge(*ends, _total(scores), len(scores))
        for ends, scores in found.items()
        if ends[0] != ends[1]
    ]
    within = sum(len(scores) for (source, dest), scores in found.items() if source == dest)
    ordered = {box: tuple(boxes[box]) for box in sorted(boxes, key=lambda box: means[box])}
    return RoleGraph(ordered, tuple(edges), within)


def load_roles(path: str | Path) -> Roles:
    """Read roles from JSON: `{"movers": ["a9.h9"], ...}`, or `{"members": ..., "colours": ...}`.

    Raises:
        ValueError: if the file is no such table.
    """
    content = read_json(path)
    table: dict = content if isinstance(content, dict) else {"": None}
    whole = isinstance(table.get("members"), dict)
    members, colours = (table["members"], table.get("colours", {})) if whole else (table, {})
    if not _is_table(members, list) or not _is_table(colours, str):
        raise ValueError(
            f'{path} holds no roles; {{"movers": ["a9.h9", "a9.h6"], ...}} would be right'
        )
    try:
        return Roles({role: tuple(nodes) for role, nodes in members.items()}, colours)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _is_table(value: object, kind: type) -> bool:
    """Whether a value is a table of texts, or of lists of texts."""
    if not isinstance(value, dict) or not all(isinstance(part, kind) for part in value.values()):
        return False
    return all(isinstance(entry, str) for part in value.values() for entry in part)


def _home(node: str, graph: Graph, used: set[str], roles: Roles) -> str:
    if kind_of(node) != "group" or roles.of(node) is not None:
        return roles.of(node) or node
    row = graph.feeds[graph.dest_index(f"{node}.k")]
    heads = [graph.sources[head].name for head in row.nonzero().flatten().tolist()]
    homes = {roles.of(head) for head in heads if head in used}
    return (homes.pop() or node) if len(homes) == 1 else node


def _heights(circuit: Circuit) -> dict[str, int]:
    height = {node_of(node.name): node.order for node in circuit.graph.destinations}
    return height | {node.name: node.order for node in circuit.graph.sources}


def _total(scores: Sequence[float | None]) -> float | None:
    numbers = [score for score in scores if score is not None]
    return sum(numbers) if numbers else None


def _hex(role: str, colour: str) -> str:
    try:
        return to_hex(colour).upper()
    except ValueError:
        raise ValueError(
            f"the colour {shown(colour)} of the role {shown(role)} is unknown; "
            "'#0072B2' or 'gold' would do"
        ) from None
