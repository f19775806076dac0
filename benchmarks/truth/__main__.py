"""`python -m benchmarks.truth`: which method finds true circuits, and at what cost?

Every method on every known circuit and trained model. Finished cells are kept in runs/truth and
not measured again, also after an interruption; `--fresh` measures them all, as you should after a
change to how a method works. Then docs/truth.md, docs/truth.csv and two pictures are written anew.
"""

import argparse
import os
import warnings
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure what is missing, and write or print the tables.

    Raises:
        SystemExit: if there is no method of a name.
    """
    args = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")
    from benchmarks.truth import contenders, running, subjects  # so that --help does not wait
    from benchmarks.truth.cells import from_csv

    if args.redraw:
        running.publish(from_csv((args.docs / "truth.csv").read_text(encoding="utf-8")), args.docs)
        return
    chosen = subjects.quick_subjects() if args.quick else subjects.subjects()
    if args.model:
        chosen = subjects.tasks_of(args.model, args.tasks)
    table = contenders.contenders() | (contenders.learned() if args.learned else {})
    table |= contenders.combinations() if args.combinations else {}
    unknown = [name for name in args.methods if name not in table]
    if unknown:
        raise SystemExit(f"no method {unknown[0]!r}; there are {', '.join(table)}")
    plan = running.Plan(
        tuple(args.methods or (contenders.QUICK if args.quick else table)),
        subjects.QUICK if args.quick else subjects.FULL,
        args.out / ("quick" if args.quick else "full"),
        fresh=args.fresh,
    )
    cells = running.run(plan, chosen, jobs=args.jobs)
    if (args.model and not args.add) or args.methods or args.combinations:
        print(running.summary(cells))  # a part of the table, or more: not the page of the docs
    else:
        running.publish(cells, args.docs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two tiny subjects, three methods")
    parser.add_argument("--redraw", action="store_true", help="page and pictures from the CSV")
    parser.add_argument("--fresh", action="store_true", help="measure finished cells again")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once; 1: this one")
    parser.add_argument("--out", type=Path, default=Path("runs/truth"), help="finished cells")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the page goes")
    parser.add_argument("--methods", nargs="*", default=[], help="only these, printed")
    parser.add_argument(
        "--combinations", action="store_true", help="every rule on every path too, printed"
    )
    parser.add_argument(
        "--learned", action="store_true", help="learned masks too: some 20 minutes more"
    )
    parser.add_argument("--model", help="this model alone, printed: an embedded one, a folder ...")
    parser.add_argument(
        "--add", action="store_true", help="put the tables of --model onto the page of the docs"
    )
    parser.add_argument("--tasks", nargs="*", default=[], help="its tasks: JSON files, or names")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models, and one process for each core
    main()
