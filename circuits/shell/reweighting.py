"""What `circuits neurons --apply` does: answer with neurons of a file reweighted, or write them.

Heavy imports when needed.
"""

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_model, warn_of_other_weights

if TYPE_CHECKING:
    from patching.model import Model
    from patching.neurons import Neurons


def apply(args: Namespace) -> None:
    """Continue `--prompt` with and without the neurons of `--apply` reweighted; or `--export`.

    Raises:
        ValueError: if options are missing, or the neurons are not the model's.
    """
    from circuits.reporting.neuron_report import count
    from patching.neurons import Neurons, export_edited, scale_neurons

    if args.prompt is None and args.export is None:
        raise ValueError("--apply needs --prompt TEXT to continue, or --export DIR to write to")
    chosen = Neurons.load(args.apply)
    beta = _beta(args, chosen)
    args.model = args.model or chosen.provenance.get("source")
    if args.model is None:
        raise ValueError(f"{args.apply} does not say which model it is of; give --model")
    model = open_model(args)
    scores = chosen.provenance.get("scores")  # those they were chosen by
    warn_of_other_weights(args.apply, scores if isinstance(scores, dict) else {}, model)
    if args.export is not None:
        folder = export_edited(model, chosen, beta, args.export)
        print(f"written to {folder}: the model with {count(len(chosen))} times {beta:g}")
    if args.prompt is None:
        return
    before = _continue(model, args)
    with scale_neurons(model, chosen, beta):
        after = _continue(model, args)
    if args.json:
        print(json.dumps({"prompt": args.prompt, "beta": beta, "without": before, "with": after}))
        return
    print(f"as it is:   {args.prompt}{before}")
    print(f"reweighted: {args.prompt}{after}")
    print(f"({count(len(chosen))} of {model.name} times {beta:g})")


def _beta(args: Namespace, chosen: "Neurons") -> float:
    beta = chosen.provenance.get("beta") if args.beta is None else args.beta
    if not isinstance(beta, float):
        raise ValueError(f"{args.apply} does not say which beta is best; give --beta")
    return beta


def _continue(model: "Model", args: Namespace) -> str:
    """The likeliest continuation, as it follows the prompt."""
    from patching.decoding import continue_greedily, text_of

    return text_of(model, args.prompt, continue_greedily(model, args.prompt, n=args.tokens))
