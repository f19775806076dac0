"""A picture of a feature circuit: places upwards, positions to the right, edges by weight."""

import numpy as np
from matplotlib.collections import LineCollection

from circuits.features.circuit import METRIC, FeatureCircuit
from patching.attribution.features.nodes import EVERYWHERE
from patching.figures import COLOURS, LABEL, SMALL, Figure, blank
from patching.files.visible import visible

_MOST_NODES, _MOST_EDGES = 120, 400
_WIDEST = 14.0  # inches
_LEAST_ALPHA = 0.1


def draw_feature_circuit(
    circuit: FeatureCircuit, *, tokens: tuple[str, ...] = (), title: str | None = None
) -> Figure:
    """The 120 strongest nodes and 400 strongest edges: blue helps, red hurts.

    `tokens` are written below the positions, where these are kept.

    Raises:
        ValueError: if there are no nodes.
    """
    if not len(circuit):
        raise ValueError("a circuit without nodes cannot be drawn")
    shown = circuit
    if len(circuit) > _MOST_NODES:
        shown = circuit.only([name for name, _ in circuit.top(_MOST_NODES)])
    x, y = _spots(shown)
    places = shown.nodes.places
    width = float(np.clip(0.35 * (x.max() - x.min()) + 2, 3.5, _WIDEST))
    figure, axes = blank(title=title, width=width, height=0.4 * (len(places) + 1) + 1)
    axes.add_collection(_lines(shown, x, y))
    colours = [COLOURS[0] if effect >= 0 else COLOURS[1] for effect in shown.effects.tolist()]
    sizes = _shares(shown.effects.abs().numpy())
    markers = shown.nodes.are_errors.numpy()
    for is_error, marker in ((False, "o"), (True, "s")):
        chosen = np.flatnonzero(markers == is_error)
        axes.scatter(
            x[chosen],
            y[chosen],
            s=10 + 70 * sizes[chosen],
            c=[colours[i] for i in chosen],
            marker=marker,
            zorder=2,
        )
    for i, name in enumerate(shown.names):
        said = name.removeprefix(f"{places[int(y[i])]}.").partition("@")[0]
        axes.annotate(said, (x[i], y[i]), fontsize=SMALL - 2, ha="center", va="bottom")
    axes.set_yticks(range(len(places) + 1), [*places, METRIC], fontsize=SMALL)
    axes.set_ylim(-0.6, len(places) + 0.4)
    axes.set_xlim(x.min() - 1, x.max() + 1)
    if shown.nodes.by_position:
        positions = sorted(set(shown.nodes.positions.tolist()))
        said = [visible(tokens[p]) if p < len(tokens) else str(p) for p in positions]
        axes.set_xticks([_PER_POSITION * p for p in positions], said, fontsize=SMALL, rotation=90)
        axes.set_xlabel("position", fontsize=LABEL)
    else:
        axes.set_xticks([])
    return figure


_PER_POSITION = 2.0


def _spots(circuit: FeatureCircuit) -> tuple[np.ndarray, np.ndarray]:
    """Where every node stands; those of one place and position side by side."""
    nodes = circuit.nodes
    y = nodes.sites.numpy().astype(float)
    x = np.empty_like(y)
    rows = list(zip(nodes.sites.tolist(), nodes.positions.tolist(), strict=True))
    for row in set(rows):
        mine = [i for i, other in enumerate(rows) if other == row]
        n, (_, position) = len(mine), row
        if position == EVERYWHERE:
            x[mine] = np.arange(n) - (n - 1) / 2
        else:
            x[mine] = _PER_POSITION * position + (np.arange(n) - (n - 1) / 2) * 1.6 / max(n, 2)
    return x, y


def _lines(circuit: FeatureCircuit, x: np.ndarray, y: np.ndarray) -> LineCollection:
    best = circuit.weights.abs().argsort(descending=True, stable=True)[:_MOST_EDGES].numpy()
    sources, targets = circuit.sources.numpy()[best], circuit.targets.numpy()[best]
    weights = circuit.weights.numpy()[best]
    end_x = np.append(x, x.mean())[targets]
    end_y = np.append(y, len(circuit.nodes.places))[targets]
    segments = np.stack(
        [np.stack([x[sources], y[sources]], axis=1), np.stack([end_x, end_y], axis=1)], axis=1
    )
    shares = _shares(np.abs(weights))
    colours = [
        (*_rgb(COLOURS[0] if weight >= 0 else COLOURS[1]), _LEAST_ALPHA + 0.8 * share)
        for weight, share in zip(weights.tolist(), shares.tolist(), strict=True)
    ]
    return LineCollection(list(segments), colors=colours, linewidths=0.3 + 1.7 * shares, zorder=1)


def _shares(sizes: np.ndarray) -> np.ndarray:
    """Each size as a share of the largest."""
    most = sizes.max(initial=0.0)
    return sizes / most if most > 0 else sizes


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
