"""What is measured on: a random-weight GPT-2 of a given shape, and random pairs of prompts."""

from dataclasses import dataclass

import torch
import transformers
from torch import Tensor

from patching.model import Model
from patching.tasks import Prompt, Task

RIGHT, WRONG = 5, 6


@dataclass(frozen=True)
class Shape:
    """A model shape and a batch."""

    name: str
    n_layers: int
    n_heads: int
    d_model: int
    vocab: int
    batch: int
    pos: int


GPT2_SMALL = Shape("GPT-2 small", 12, 12, 768, 50257, batch=8, pos=16)
TINY = Shape("2 layers x 4 heads", 2, 4, 64, 512, batch=2, pos=6)


@dataclass(frozen=True)
class Subject:
    """The plain model, the same model wrapped, and the same prompts for both."""

    plain: transformers.GPT2LMHeadModel
    model: Model
    task: Task
    clean: Tensor
    corrupt: Tensor

    def forward(self) -> None:
        """One forward of the plain model, full logits."""
        with torch.no_grad():
            self.plain(self.clean, use_cache=False)

    def forward_backward(self) -> None:
        """One forward and one backward of the plain model, down to its embeddings."""
        embedding = self.plain.transformer.wte(self.clean).detach().requires_grad_()
        logits = self.plain(inputs_embeds=embedding, use_cache=False).logits
        (logits[:, -1, RIGHT] - logits[:, -1, WRONG]).sum().backward()

    def unit(self) -> None:
        """The unit of time: two forwards and one backward of the plain model."""
        self.forward()
        self.forward_backward()


def make(shape: Shape, device: str) -> Subject:
    """Two equal models (the wrapped one is changed in place) and random prompts."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = (
        torch.randint(10, shape.vocab, (shape.batch, shape.pos), generator=generator)
        for _ in range(2)
    )
    rows = zip(clean.tolist(), corrupt.tolist(), strict=True)
    prompts = tuple(Prompt(tuple(a), tuple(b), (RIGHT,), (WRONG,)) for a, b in rows)
    return Subject(
        plain=_on(_plain(shape), device),
        model=Model.load(_plain(shape), device=device),
        task=Task("random", prompts),
        clean=clean.to(device),
        corrupt=corrupt.to(device),
    )


def _on(model: transformers.GPT2LMHeadModel, device: str) -> transformers.GPT2LMHeadModel:
    torch.nn.Module.to(model, device)  # in place; the class's own `to` is not typed
    return model


def _plain(shape: Shape) -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=shape.vocab,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_embd=shape.d_model,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model.eval().requires_grad_(False)
