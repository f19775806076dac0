"""What is measured on: a random-weight GPT-2 of a given shape, and random pairs of prompts."""

from dataclasses import dataclass

import torch
import transformers
from torch import Tensor

from patching.model import Model
from patching.tasks import Prompt, Task, ioi
from patching.tasks.random_tokens import random_tokens

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
    n_kv_heads: int | None = None
    d_mlp: int | None = None


SMALL = Shape("6 layers, d_model 384", 6, 6, 384, 50257, batch=8, pos=16)
GPT2_SMALL = Shape("GPT-2 small", 12, 12, 768, 50257, batch=8, pos=16)
TINY = Shape("2 layers x 4 heads", 2, 4, 64, 512, batch=2, pos=6)


LLAMA_8B_WIDTHS = Shape(
    "2 layers of Llama 8B's widths",
    n_layers=2,
    n_heads=32,
    d_model=4096,
    vocab=32000,
    batch=4,
    pos=32,
    n_kv_heads=8,
    d_mlp=14336,
)


SHAPES = {"gpt2": GPT2_SMALL, "small": SMALL, "wide": LLAMA_8B_WIDTHS}


@dataclass(frozen=True)
class Subject:
    """The plain model, the same model wrapped, and the same prompts for both."""

    plain: transformers.PreTrainedModel
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
        embedding = self.plain.get_input_embeddings()(self.clean).detach().requires_grad_()
        logits = self.plain(inputs_embeds=embedding, use_cache=False).logits
        (logits[:, -1, RIGHT] - logits[:, -1, WRONG]).sum().backward()

    def unit(self) -> None:
        """The unit of time: two forwards and one backward of the plain model."""
        self.forward()
        self.forward_backward()


def make(shape: Shape, device: str, dtype: torch.dtype = torch.float32) -> Subject:
    """Two equal models (the wrapped one is changed in place) and random prompts."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = (
        torch.randint(10, shape.vocab, (shape.batch, shape.pos), generator=generator)
        for _ in range(2)
    )
    rows = zip(clean.tolist(), corrupt.tolist(), strict=True)
    prompts = tuple(Prompt(tuple(a), tuple(b), (RIGHT,), (WRONG,)) for a, b in rows)
    plain = _plain(shape, dtype)
    torch.nn.Module.to(plain, device)  # in place; the class's own `to` is not typed
    return Subject(
        plain=plain,
        model=Model.load(_plain(shape, dtype), dtype=dtype, device=device),
        task=Task("random", prompts),
        clean=clean.to(device),
        corrupt=corrupt.to(device),
    )


def open_named(name: str, device: str) -> Subject:
    """One of `SHAPES`, or the model in a folder."""
    return make(SHAPES[name], device) if name in SHAPES else open_subject(name, device)


def open_subject(folder: str, device: str, n: int = 16) -> Subject:
    """A model on disk, and prompts that it can read: indirect objects, or random tokens.

    The plain model is of the same type, whatever its file is of: bfloat16 is slow on a CPU.
    """
    model = Model.load(folder, device=device)
    dtype = next(model.bridge.parameters()).dtype
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=dtype
    )
    torch.nn.Module.to(plain.eval().requires_grad_(False), device)
    vocab = int(model.bridge.cfg.d_vocab)
    task = random_tokens(vocab, 16) if model.tokenizer is None else ioi(model.tokenizer, n, seed=0)
    (batch,) = task.batches(len(task), model.device)
    return Subject(plain, model, task, batch.clean, batch.corrupt)


def _plain(shape: Shape, dtype: torch.dtype) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = _gpt2(shape) if shape.n_kv_heads is None else _llama(shape)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model.to(dtype).eval().requires_grad_(False)


def _gpt2(shape: Shape) -> transformers.GPT2Config:
    return transformers.GPT2Config(
        vocab_size=shape.vocab,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_embd=shape.d_model,
    )


def _llama(shape: Shape) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=shape.vocab,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp or 4 * shape.d_model,
    )
