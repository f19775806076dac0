"""What `features effects` and `features circuit` write and print. Heavy imports when needed."""

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from circuits.shell.printing import print_columns

if TYPE_CHECKING:
    from circuits.features import FeatureCircuit
    from circuits.judging.feature_curves import FeatureCurve
    from patching.attribution.features import FeatureEffects


def write_effects(found: "FeatureEffects", args: Namespace) -> None:
    """Write effects to where `--out` says, if it does."""
    if args.effects_out is None:
        return
    if args.effects_out.lower().endswith(".csv"):
        from circuits.shell.results import write_csv

        draws = 1000 if len(found.values) > 1 else 0
        write_csv(found.to_dataframe(n=draws), args.effects_out)
    else:
        found.save(args.effects_out)


def say_effects(
    found: "FeatureEffects",
    exact: "FeatureEffects | None",
    pearson: float | None,
    args: Namespace,
) -> None:
    """Print the strongest nodes, those that were patched exactly beside it."""
    known = {} if exact is None else dict(zip(exact.names, exact.mean.tolist(), strict=True))
    top = found.top(args.top)
    if args.json:
        rows = [{"node": name, "effect": x, "exact": known.get(name)} for name, x in top]
        said = {"nodes": len(found), "pearson": pearson, "top": rows}
        print(json.dumps({**said, "provenance": dict(found.provenance)}, indent=1))
        return
    _say_runs(found)
    rows = [
        (name, f"{x:+.4f}", *([f"{known[name]:+.4f}" if name in known else ""] if known else []))
        for name, x in top
    ]
    print_columns(("node", "effect", *(["exact"] if known else [])), rows)
    if pearson is not None:
        print(f"\nPearson's r with exact patching of the {args.exact} strongest: {pearson:.3f}")
    _say_written(args, "effects_out")


def _say_runs(found: "FeatureEffects") -> None:
    """How many nodes there are, of what, and the metric of both runs."""
    said, corrupt = found.provenance, float(found.corrupt.mean())
    ends = f"clean {float(found.clean.mean()):.4g}"
    ends += "" if corrupt != corrupt else f", corrupt {corrupt:.4g}"
    print(
        f"{len(found):,} nodes of {said['features']} differ on {len(found.clean)} prompts of "
        f"{said['task']} ({said['metric']}: {ends}):\n"
    )


def say_circuit(
    found: "FeatureCircuit", kept: float | None, curve: "FeatureCurve | None", args: Namespace
) -> None:
    """Print what a circuit holds and keeps, and the curve where there is one."""
    if args.json:
        print(json.dumps(_content(found, kept, curve, args.top), indent=1))
        return
    does = "" if kept is None else f" keep {kept:.3f} of the gap"
    nodes = f"{len(found):,} of {found.provenance.get('of', len(found)):,} nodes"
    print(f"{nodes} and {found.n_edges:,} edges{does} (errors: {found.errors})\n")
    print_columns(("node", "effect"), [(name, f"{x:+.4f}") for name, x in found.top(args.top)])
    strongest = _strongest(found, args.top)
    if strongest:
        print()
        print_columns(("from", "to", "weight"), [(s, t, f"{w:+.4f}") for s, t, w in strongest])
    if curve is not None:
        print("\nthe strongest nodes alone, and the model without them:")
        print_columns(
            ("nodes", "faithfulness", "95 %", "completeness", "random"),
            [
                (
                    f"{p.nodes:,}",
                    f"{p.faithfulness:.3f}",
                    f"{p.low:.3f} to {p.high:.3f}",
                    f"{p.completeness:.3f}",
                    f"{p.uniform_median:.3f}",
                )
                for p in curve.points
            ],
        )
    _say_written(args, "circuit_out", "plot")


def say_saved(args: Namespace) -> bool:
    """Print what a file of effects or of a feature circuit holds; false if it holds neither.

    Raises:
        ValueError: if it is damaged.
    """
    if not args.file.lower().endswith(".safetensors"):
        return False
    from circuits.features import load_feature_circuit
    from patching.attribution.features import load_effects
    from patching.files.tensors import read_tensor_file

    kind = read_tensor_file(args.file)[1].get("format", "")
    if kind.startswith("feature effects"):
        say_effects(load_effects(args.file), None, None, args)
    elif kind.startswith("feature circuit"):
        say_circuit(load_feature_circuit(args.file), None, None, args)
    return kind.startswith(("feature effects", "feature circuit"))


def _say_written(args: Namespace, *options: str) -> None:
    for option in options:
        out = getattr(args, option, None)
        if out is not None:
            print(f"written to {out}")


def _content(
    found: "FeatureCircuit", kept: float | None, curve: "FeatureCurve | None", top: int
) -> dict[str, object]:
    edges = [{"source": s, "target": t, "weight": w} for s, t, w in _strongest(found, top)]
    return {
        "nodes": len(found),
        "edges": found.n_edges,
        "faithfulness": kept,
        "top": [{"node": name, "effect": effect} for name, effect in found.top(top)],
        "top_edges": edges,
        **({} if curve is None else {"curve": json.loads(curve.to_json())["points"]}),
        "provenance": dict(found.provenance),
    }


def _strongest(found: "FeatureCircuit", k: int) -> list[tuple[str, str, float]]:
    return sorted(found.edges, key=lambda edge: -abs(edge[2]))[:k]
