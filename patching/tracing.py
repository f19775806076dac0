"""Causal tracing: which hidden states, restored, bring an answer back from under noise.

The clean prompt is run with Gaussian noise on its subject's token embeddings; then once more for
every layer and position, with the clean activation put back there and the noise left as it is.

    total effect     metric(clean) - metric(noised)
    indirect effect  metric(noised, one place restored) - metric(noised)

Each is a mean over draws of noise, the same draws for all places. Meng et al. 2022,
arXiv:2202.05262.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.blocks import EMBEDDING
from patching.anatomy.kept import Keeper
from patching.anatomy.places import Place, of_kind
from patching.grid import Grid
from patching.intervene import embedding_sigma
from patching.metrics import Metric
from patching.model import Model
from patching.modes import without_gradients
from patching.provenance import describe
from patching.runs.batches import Doing, Found, Keeping, all_rows
from patching.runs.pairs import BothRuns, at_hook, measured
from patching.runs.patches import Patching
from patching.runs.recorded import record
from patching.runs.spots import Reach, by_position
from patching.runs.ticks import position_ticks
from patching.tasks.task import Batch, Task
from patching.work import Parts, Run

RESTORED = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")

Subject = range | Sequence[range]


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on token embeddings; `sigma` None is three times their standard deviation.

    `samples` draws, made from `seed` afresh for each prompt.
    """

    sigma: float | None = None
    samples: int = 10
    seed: int = 0


@without_gradients
def causal_tracing(
    model: Model,
    task: Task,
    metric: Metric,
    subject: Subject,
    *,
    what: str = "resid_post",
    window: int = 1,
    noise: Noise = Noise(),  # noqa: B008 - frozen
    run: Run | None = None,
) -> Grid:
    """The indirect effect of restoring each layer and position, `[example layer pos]`.

    Only the clean prompts are run. The grid's `corrupt` is the metric under noise, so that
    `clean - corrupt` is the total effect and `as_share` gives shares of it. Take `prob_diff` on a
    task without wrong answers for the answer's probability, which ROME measures.

    >>> from patching import Model, prob_diff, tasks
    >>> model = Model.load("toy")
    >>> task = tasks.ioi(model.tokenizer, n=2, seed=0)
    >>> grid = causal_tracing(model, task, prob_diff, range(1, 3), noise=Noise(samples=2))
    >>> list(grid.axes)
    ['layer', 'pos']

    Args:
        model: whose hidden states.
        task: whose clean prompts and answers; corrupt prompts are not used.
        metric: of the answer.
        subject: the positions to disturb, counted from the first real token: one range for all
            prompts, or one for each.
        what: `resid_post` is ROME's hidden state; or the output of attention or MLP.
        window: how many layers are restored together, around each (10 in ROME for MLPs and
            attention); fewer at the ends of the model.
        noise: how strong, how often, from which seed.
        run: where what is done is kept, prompt by prompt, and who does it.

    Raises:
        Interrupted: with the effects in the prompts so far, if somebody interrupts.
        ValueError: if the noise, the window or what is restored makes no sense, the subject is
            not within a prompt, or the model cannot read the task.
    """
    places = of_kind(model, what)
    _check(model, task, places, window, noise)
    spans = _spans(task, subject)
    sigma = embedding_sigma(model) if noise.sigma is None else noise.sigma
    tracer = _Tracer(model, metric, places, window, noise, sigma, task.max_length)
    facts = {
        "what": what,
        "window": window,
        "sigma": sigma,
        "samples": noise.samples,
        "seed": noise.seed,
        "direction": "denoising",
    }
    described = describe(model, task, metric, "causal tracing", {}, facts=facts)

    def finish(rows: Found[Parts]) -> Grid:
        values = rows.total["effects"]
        layers, positions = (tuple(map(str, range(n))) for n in values.shape[1:])
        axes = {"layer": layers, "pos": positions}
        ends = rows.total["clean"], rows.total["noised"]
        shown = position_ticks(model, task)
        return Grid("indirect effect", values, axes, *ends, rows.provenance(described), shown)

    keeping = Keeping("tracing", described, (metric, spans), Doing(1, run))
    measures = [partial(tracer.trace, span=span) for span in spans]
    return all_rows(model, task.aligned, measures, keeping, finish)


@dataclass(frozen=True)
class _Tracer:
    model: Model
    metric: Metric
    places: tuple[Place, ...]
    window: int
    noise: Noise
    sigma: float
    max_length: int

    def trace(self, batch: Batch, span: range) -> Parts:
        """Effects, clean metric and noised metric of one prompt, `[1 ...]` each."""
        both, n_layers = self._run(batch, span), len(self.places)
        spots = by_position(self.max_length).spots(both.reach)
        windows = [self.places[slice(*self._window(layer))] for layer in range(n_layers)]
        found = Patching(both, self.metric, windows).effects([spots] * n_layers)
        effects = torch.zeros(self.noise.samples, n_layers, self.max_length, dtype=torch.float64)
        for layer, values in enumerate(found):
            effects[spots.example, layer, spots.where] = values[:, 0]
        noised = both.corrupt.mean()[None]
        return {"effects": effects.mean(0)[None], "clean": both.clean[:1], "noised": noised}

    def _window(self, layer: int) -> tuple[int, int]:
        """The layers restored around one, as ROME counts them: [l - w // 2, l - w // 2 + w)."""
        start = layer - self.window // 2
        return max(0, start), min(len(self.places), start + self.window)

    def _run(self, batch: Batch, span: range) -> BothRuns:
        """The clean run, and the run under each draw of noise as an example of its own."""
        model = self.model
        keeper = Keeper({place.name: place for place in self.places})
        batch = replace(batch, clean_logits=model.answer_logits(batch.clean, batch, keeper.hooks))
        first = torch.zeros(self.noise.samples, dtype=torch.long, device=model.device)
        batch, rows = batch.at(first), batch.rows_of(first)
        add = self._draw(batch, span)
        noise = (EMBEDDING, lambda embedding: embedding + add.to(embedding))
        base = record(model, batch.clean, batch, [noise])
        sources = {
            place.name: at_hook(keeper.values[place.name][rows], place, base)
            for place in self.places
        }
        differs = ((batch.places >= min(span)) | batch.two_way) & batch.up_to_answer
        assert batch.clean_logits is not None, "filled in above"
        ends = measured(self.metric, (batch.clean_logits, base.logits), batch)
        return BothRuns(base, sources, Reach.of(batch, differs), "denoising", *ends)

    def _draw(self, batch: Batch, span: range) -> Float[Tensor, "sample pos d_model"]:
        generator = torch.Generator().manual_seed(self.noise.seed)
        width = self.model.blocks[0].w_o.shape[2]
        drawn = torch.randn(
            len(batch), len(span), width, generator=generator, dtype=torch.float64
        ).to(self.model.device)
        start = int(batch.is_token[0].int().argmax())
        out = drawn.new_zeros(*batch.clean.shape, width)
        out[:, [start + p for p in span]] = self.sigma * batch.by_row(drawn)
        return out


def _check(model: Model, task: Task, places: Sequence[Place], window: int, noise: Noise) -> None:
    kind, n = places[0].kind, len(places)
    if kind not in RESTORED:
        raise ValueError(f"causal tracing restores one of {', '.join(RESTORED)}; got {kind}")
    if not 1 <= window <= n:
        raise ValueError(f"a window is 1 to {n} layers of {model.name}, got {window}")
    if window > 1 and kind not in ("attn_out", "mlp_out"):
        raise ValueError(
            f"{kind} is restored one layer at a time, for it holds all that came before; a window "
            "is for attn_out or mlp_out"
        )
    if noise.samples < 1 or (noise.sigma is not None and noise.sigma <= 0):
        raise ValueError(
            f"noise has at least one sample and a positive sigma, got {noise.samples} and "
            f"{noise.sigma}"
        )
    model.check(task)


def _spans(task: Task, subject: Subject) -> list[range]:
    spans = [subject] * len(task) if isinstance(subject, range) else list(subject)
    if len(spans) != len(task):
        raise ValueError(
            f"got the subject of {len(spans)} prompts, and task {task.name!r} has {len(task)}"
        )
    for i, (span, prompt) in enumerate(zip(spans, task.prompts, strict=True)):
        if not len(span) or min(span) < 0 or max(span) >= len(prompt.clean):
            raise ValueError(
                f"the subject of row {i} is {span}; it holds at least one of the positions 0 to "
                f"{len(prompt.clean) - 1}"
            )
    return spans
