"""The pictures of the pages, made by the project itself: `python docs/pictures.py` makes them anew.

They are committed, since drawing them takes longer than building the site and their bytes depend
on the version of matplotlib.
"""

from pathlib import Path

from matplotlib.figure import Figure

from circuits import Sweep, curve, eap, eap_ig, plot_curves, save, top_n
from circuits.drawing.plots import render
from patching import Model, activation_patching, logit_diff, logit_lens, tasks

FOLDER = Path(__file__).parent / "pictures"


def main() -> None:
    """Make all of them."""
    model = Model.load("toy")
    found, held_out = tasks.ioi(model.tokenizer, n=64, seed=0).split(0.7, seed=0)
    scores = eap_ig(model, found, logit_diff, steps=5)
    save(top_n(scores, 60, ranking="absolute", prune=True), FOLDER / "circuit.svg")
    sweep = Sweep(ranking="absolute", n_random=20)
    judged = {
        name: curve(model, held_out, made, logit_diff, sweep)
        for name, made in {"EAP-IG": scores, "EAP": eap(model, found, logit_diff)}.items()
    }
    _write("curve", plot_curves(judged))
    heads = activation_patching(model, found, logit_diff, "z", ("layer", "head"))
    _write("heads", heads.plot())
    _write("lens", logit_lens(model, "The capital of France is").plot())


def _write(name: str, figure: Figure) -> None:
    (FOLDER / f"{name}.svg").write_bytes(render(figure, "svg"))


if __name__ == "__main__":
    main()
