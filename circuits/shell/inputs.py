"""From options to a model, a task, a metric, a method. Heavy imports are made when needed."""

import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.names import check_task_name, choose, generators, is_file
from circuits.shell.spans import keep_apart

if TYPE_CHECKING:
    from circuits.circuit import Circuit
    from circuits.judging.smallest import Selector
    from circuits.scores import Scores
    from patching.metrics import Metric
    from patching.model import Model
    from patching.tasks import Task, Tokenizer


TOP_N = "top-n"
"""The selector where none is named."""


def open_model(args: Namespace) -> "Model":
    """The model of `--model`, loaded as the other options say.

    Raises:
        ValueError: if the device is unknown or the model cannot be loaded.
    """
    import torch

    from patching.anatomy.ungrouping import Ungrouped
    from patching.model import Model

    device = device_of_worker(args.device)
    if device is not None:
        _require_device(device)
    with _quiet_loading(args.model):
        return Model.load(
            Ungrouped(args.model) if args.ungroup else args.model,
            dtype=getattr(torch, args.dtype),
            device=device,
            revision=args.revision,
            trust_remote_code=args.trust_remote_code,
            device_map=_device_map(args.device_map),
            n_devices=args.n_devices,
        )


def _device_map(given: str | None) -> str | dict[str, str | int] | None:
    """A word that accelerate knows, or what a file of parts and devices holds.

    Raises:
        ValueError: if the file holds something else.
    """
    if given is None or not given.endswith(".json"):
        return given
    from patching.files.parsing import read_json

    found = read_json(given)
    if not isinstance(found, dict) or not all(isinstance(x, str | int) for x in found.values()):
        raise ValueError(f"{given} is no device map: it holds {{part: device}}, as 0 or 'cuda:1'")
    return found


def device_of_worker(
    device: str | None,
    environment: Mapping[str, str] = environ,
    n_gpus: Callable[[], int] = lambda: _gpus_in_sight(),
) -> str | None:
    """The device of `--device`; for one of several workers on a machine, `cuda` is its own.

    torchrun and Slurm number the workers of a machine. Where Slurm shows each worker one GPU only,
    that is the one.

    >>> device_of_worker("cuda", {"LOCAL_RANK": "2"}, lambda: 4)
    'cuda:2'
    """
    local = environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID"))
    if device != "cuda" or local is None:
        return device
    return f"cuda:{int(local) % max(1, n_gpus())}"


def _gpus_in_sight() -> int:
    import torch

    return torch.cuda.device_count()


def open_task(name: str, model: "Model", args: Namespace, *, seed: int) -> "Task":
    """A generated task, or one from a file, cut to `--limit`, with `--spans` apart.

    Raises:
        ValueError: if there is no such generator or file, or the prompts do not fit the model.
    """
    task = _read_task(name, model, args) if is_file(name) else _make_task(name, model, args, seed)
    task = task if args.limit is None else task.take(args.limit)
    task = keep_apart(task, getattr(args, "spans", None))
    if getattr(args, "ablation", None) == "random":
        task = task.with_random_corrupt(seed)
    model.check(task)
    return task


def warn_of_other_weights(path: str, said: Mapping[str, object], model: "Model") -> None:
    """Say that what a file holds, by its provenance, was found in another model than this.

    That is allowed, for models that were trained on; it is also what a mistyped name looks like.
    """
    from patching.anatomy.identity import COMPUTES

    told = {name: value for name, value in said.items() if value is not None}
    differ = model.identity.differences(told, COMPUTES)
    if differ:
        theirs = ", ".join(f"{name} {told.get(name, 'as stored')}" for name in differ)
        now = {"inside": "as stored", **model.identity.facts}
        ours = ", ".join(f"{name} {now[name]}" for name in differ)
        warnings.warn(
            f"{path} is of {said.get('model', 'a model')} with the {theirs}; here it is used on "
            f"{model.name}, with the {ours}",
            stacklevel=1,
        )


def open_metric(args: Namespace) -> "Metric":
    """The metric of `--metric`.

    Raises:
        ValueError: if there is none of this name.
    """
    from patching.metrics import METRICS

    return choose("metric", args.metric, METRICS)


def open_selector(args: Namespace) -> "Callable[[Scores, int], Circuit]":
    """The selector of `--selector` with `--ranking`, `--prune` and `--no-prune` filled in.

    Without `--selector`, what `auto` kept with the scores, else the best edges.

    Raises:
        ValueError: if it does not take the ranking.
    """
    from circuits.select import OF_SIZES

    ranking, prune = args.ranking, args.prune or not args.no_prune
    if args.selector in OF_SIZES and ranking == "signed":
        raise ValueError(
            f"sizes have no sign: take --selector {args.selector} and --ranking absolute"
        )

    def choose(scores: "Scores", size: int) -> "Circuit":
        name = args.selector or (_kept_with(scores) if ranking == "absolute" else TOP_N)
        return find_selector(name)(scores, size, ranking=ranking, prune=prune)

    return choose


def find_selector(name: str) -> "Selector":
    """The selector of this name in the shell."""
    from circuits.select import SELECTORS

    if name != "program":
        return SELECTORS[name]
    from circuits.search.programming import program  # searches load the model library

    return lambda scores, n, *, ranking, prune: program(scores, n, ranking=ranking)


def _kept_with(scores: "Scores") -> str:
    """The selector that `auto` kept with its scores; of others, the best edges."""
    from circuits.select import SELECTORS

    options = scores.provenance.get("options")
    kept = options.get("selector") if isinstance(options, Mapping) else None
    return str(kept) if kept in SELECTORS else TOP_N


def open_tokenizer(args: Namespace) -> "Tokenizer":
    """The tokenizer of `--model`, without its weights.

    Raises:
        ValueError: if it has none, or cannot be loaded.
    """
    from typing import cast

    from patching.anatomy.stored import Wishes, tokenizer_of
    from patching.models import embedded

    with _quiet_loading(args.model):
        known = embedded(args.model)
    if known is not None:
        return cast("Tokenizer", known[1])
    wishes = Wishes(None, None, args.revision, args.trust_remote_code)
    found = tokenizer_of(args.model, wishes)
    if found is None:
        raise ValueError(f"{args.model} has no tokenizer: none of its files is there")
    return found


def _make_task(name: str, model: "Model", args: Namespace, seed: int) -> "Task":
    from patching.tasks import generate

    check_task_name(name)
    if model.tokenizer is None:
        raise ValueError(
            f"{model.name} has no tokenizer to write the task {name!r} with; "
            "give a .json file of token ids"
        )
    n = args.n if args.limit is None else min(args.n, args.limit)  # the first are the same
    return generate(name, model.tokenizer, n, seed, generators=generators())


def _read_task(name: str, model: "Model", args: Namespace) -> "Task":
    from patching.tasks import from_file, from_text
    from patching.tasks.texts import LENGTH

    if Path(name).suffix in (".csv", ".txt") and model.tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer to read the texts of {name} with")
    if Path(name).suffix == ".txt":
        assert model.tokenizer is not None, "refused above"
        longest = int(model.bridge.cfg.n_ctx)
        return from_text(name, model.tokenizer, length=min(LENGTH, longest), n=args.limit or args.n)
    return from_file(
        name, model.tokenizer, first_token=args.first_token, drop=getattr(args, "drop_rows", False)
    )


def _require_device(name: str) -> None:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"the device {name!r} cannot be used here: {reason}") from None


@contextmanager
def _quiet_loading(source: str) -> Iterator[None]:
    """No progress bars of the model library for what is on this disk; downloads keep theirs."""
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar

    if are_progress_bars_disabled() or not (Path(source).is_dir() or source in _embedded_names()):
        yield
        return
    disable_progress_bar()
    try:
        yield
    finally:
        enable_progress_bar()


def _embedded_names() -> tuple[str, ...]:
    from patching.models import embedded_names

    return tuple(embedded_names())
