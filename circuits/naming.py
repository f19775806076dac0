"""Names of nodes, readers and edges, as people, files and pictures have them. Knows no tensors."""

from patching.span_graph import AT


def node_of(reader: str) -> str:
    """The node a reader belongs to: `a3.h1.q` to `a3.h1`, `m3` to itself; a span stays.

    >>> node_of("a3.h1.gate"), node_of("a3.h1.q@IO")
    ('a3.h1', 'a3.h1@IO')
    """
    name, at, span = reader.partition(AT)
    node, _, letter = name.rpartition(".")
    return (node if letter in ("q", "k", "v", "gate") else name) + at + span


def kind_of(node: str) -> str:
    """What a node is: embed, head, group (a shared key-value head), mlp or logits."""
    name = plain_name(node)
    if name in ("embed", "logits"):
        return name
    return "mlp" if name[0] == "m" else "group" if ".g" in name else "head"


def plain_name(node: str) -> str:
    """A node's name without its span.

    >>> plain_name("a3.h1@IO"), plain_name("m0")
    ('a3.h1', 'm0')
    """
    return node.partition(AT)[0]


def nodes_of(source: str, dest: str) -> tuple[str, str]:
    """The two nodes of an edge: its writer's at the span of its reader, and its reader's.

    >>> nodes_of("a0.h0", "a1.h2.q@S2")
    ('a0.h0@S2', 'a1.h2@S2')
    """
    _, at, span = dest.partition(AT)
    return source + at + span, node_of(dest)
