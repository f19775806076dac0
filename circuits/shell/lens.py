"""The command `lens`: prompts read as predictions at every layer. Heavy imports when needed."""

import argparse
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_model, open_task
from circuits.shell.options import Parser
from circuits.shell.printing import print_columns
from circuits.shell.values import positive

if TYPE_CHECKING:
    from patching.lens import Lens

WIDEST = 12  # columns of tokens that a table on the screen shows


def add_options(parser: Parser) -> None:
    """What is read, where and how."""
    prompts = parser.add_argument_group("prompts")
    source = prompts.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", metavar="TEXT", help="read this text")
    source.add_argument("--task", metavar="TASK", help="a generator or a .json/.csv file")
    prompts.add_argument(
        "--n", type=positive, default=128, help="number of prompts to generate (128)"
    )
    prompts.add_argument("--limit", type=positive, metavar="N", help="use only the first N prompts")
    prompts.add_argument("--seed", type=int, default=0, help="seed of all random choices (0)")
    prompts.add_argument(
        "--first-token", action="store_true", help="of an answer with several tokens, the first"
    )
    lens = parser.add_argument_group("lens")
    lens.add_argument(
        "--nodes",
        default="resid_post",
        metavar="NAME,...",
        help="resid_pre, resid_mid, resid_post, attn_out, mlp_out, heads, or places such as "
        "r0.post,a0.h1,m0.n7 (resid_post)",
    )
    lens.add_argument(
        "--position",
        type=_positions,
        metavar="N,...",
        help="positions from the start, or from the end (-1) (all of a prompt; a task's last)",
    )
    lens.add_argument("--top", type=positive, default=5, metavar="K", help="tokens shown (5)")
    lens.add_argument("--tuned", metavar="FILE", help="a tuned lens, as `TunedLens.save` writes it")
    lens.add_argument(
        "--scale",
        choices=("recompute", "frozen"),
        default="recompute",
        help="the final norm's denominator: of each vector, or of the last stream (recompute)",
    )
    lens.add_argument("--no-softcap", action="store_true", help="leave the logits' cap out")
    parser.add_argument("--out", metavar="DIR", help="write lens.csv, lens.png and lens.svg there")


def lens(args: Namespace) -> None:
    """Read residual states and writes as predictions of the next token.

    Raises:
        ValueError: if a name is unknown, or model, prompts, nodes and tuned lens do not fit.
    """
    from patching.lens import load_tuned_lens, logit_lens

    if args.out is not None and Path(args.out).is_file():
        raise ValueError(f"--out {args.out} is a file; name a folder")
    model = open_model(args)
    is_text = args.prompt is not None
    prompts = args.prompt if is_text else open_task(args.task, model, args, seed=args.seed)
    read = logit_lens(
        model,
        prompts,
        args.nodes.split(","),
        positions=args.position,
        scale=args.scale,
        softcap=not args.no_softcap,
        tuned=None if args.tuned is None else load_tuned_lens(args.tuned, model),
    )
    print(f"{_kind(read)} of {model.name} on {read.prompts.name}")
    _print_prompt(read, args.top) if is_text else _print_task(read)
    if args.out is not None:
        _write(read, Path(args.out), args.top, is_text=is_text)
        print(f"written to {args.out}: lens.csv, lens.png, lens.svg")


def _print_prompt(read: "Lens", k: int) -> None:
    """The most likely token at every node and position, then the last position in numbers."""
    facts, rows = read.facts(min(k, len(read.vocabulary))), range(len(read.nodes))
    shown = range(max(0, len(read.positions) - WIDEST), len(read.positions))
    tokens = read.texts(read.prompts.rows[0])
    head = [f"{i} {_visible(tokens[i])}" for i in read.places[0, shown.start :].tolist()]
    if len(shown) > 1:
        cells = [read.texts(facts.ids[n, 0, shown.start :, 0].tolist()) for n in rows]
        body = [(read.nodes[n], *map(_visible, cells[n])) for n in reversed(rows)]
        hidden = f" (the last {WIDEST} positions)" if shown.start else ""
        print(f"\nmost likely next token{hidden}:")
        print_columns(("node", *head), body)
    print(f"\nafter position {head[-1]}, by probability:")
    best = [
        (
            read.nodes[n],
            f"{float(facts.entropy[n, 0, -1]):.2f}",
            f"{float(facts.kl[n, 0, -1]):.2f}",
            "  ".join(
                f"{_visible(text)} {float(p):.3f}"
                for text, p in zip(
                    read.texts(facts.ids[n, 0, -1].tolist()),
                    facts.probabilities[n, 0, -1],
                    strict=True,
                )
            ),
        )
        for n in reversed(rows)
    ]
    print_columns(("node", "entropy", "KL", "tokens"), best)
    print("Entropy, and KL from the model's own prediction, in nats.")


def _print_task(read: "Lens") -> None:
    """How each node does on the answers, in the mean over prompts at the last position."""
    probability, rank = read.probability().mean[:, -1], read.rank().mean[:, -1]
    entropy, kl = read.entropy().mean[:, -1], read.kl().mean[:, -1]
    rows = [
        (name, f"{p:.3f}", f"{r:.1f}", f"{e:.2f}", f"{d:.2f}")
        for name, p, r, e, d in zip(
            read.nodes, *(x.tolist() for x in (probability, rank, entropy, kl)), strict=True
        )
    ]
    print_columns(("node", "answers", "rank", "entropy", "KL"), rows[::-1])
    print(
        "\nProbability of the answers, rank of the best (1: most likely), entropy, and KL from\n"
        f"the model's own prediction (nats), at position {read.positions[-1]}: means over "
        f"{len(read.prompts)} prompts."
    )


def _write(read: "Lens", folder: Path, k: int, *, is_text: bool) -> None:
    from circuits.drawing.plots import render
    from patching.files.whole import write_bytes, write_text
    from patching.lens.plots import plot_nodes

    table = read.to_dataframe(min(k, len(read.vocabulary)))
    write_text(folder / "lens.csv", table.to_csv(index=False))
    title = f"{read.model.name}, {_kind(read)}"
    figure = read.plot(title=title) if is_text else plot_nodes(read.probability(), title=title)
    for suffix in ("png", "svg"):
        write_bytes(folder / f"lens.{suffix}", render(figure, suffix))


def _kind(read: "Lens") -> str:
    return "tuned lens" if read.tuned else "logit lens"


def _visible(text: str) -> str:
    """A token as it can be printed in a column: no white space, no control characters."""
    shown = text.replace(" ", "·").replace("\n", "↵")
    return "".join(sign if sign.isprintable() else f"U+{ord(sign):04X}" for sign in shown)


def _positions(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between.

    Raises:
        ArgumentTypeError: for anything else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"positions such as -1 or 0,3,-1 are needed, got {text!r}"
        ) from None
