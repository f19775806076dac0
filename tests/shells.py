"""What the tests of the shell work on: a tiny random model with a task, scores and a circuit."""

import json
import random
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from circuits.cli import main


def furnish(home: Path) -> Path:
    """Two models, a task of token ids, scores of all edges of the first and a circuit."""
    save_model(home / "model", n_layer=2)
    save_model(home / "deeper", n_layer=3)
    rng = random.Random(0)
    prompts = [[rng.randrange(40) for _ in range(5)] for _ in range(12)]
    changed = [[*ids[:2], 45, *ids[3:]] for ids in prompts]
    answers = {"answers": [41], "wrong_answers": [42]}
    rows = [{"clean": a, "corrupt": b, **answers} for a, b in zip(prompts, changed, strict=True)]
    write_task(home / "task.json", rows)
    scores, circuit = str(home / "scores.safetensors"), str(home / "circuit.json")
    assert main(["score", *on(home), "--out", scores]) == 0
    assert main(["select", scores, "--size", "20", "--out", circuit]) == 0
    return home


def save_model(folder: Path, n_layer: int) -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=n_layer, n_head=2, n_embd=16, vocab_size=50, n_positions=16, initializer_range=0.3
    )
    GPT2LMHeadModel(config).save_pretrained(folder)


def write_task(path: Path, prompts: Sequence[object]) -> None:
    path.write_text(json.dumps({"prompts": prompts}))


def here(words: Sequence[str]) -> str:
    """What a command prints, run in this process: without waiting for Python to start."""
    printed = StringIO()
    with redirect_stdout(printed):
        assert main(list(words)) == 0
    return printed.getvalue()


def on(home: Path) -> list[str]:
    """The options that name the model and the task of a furnished folder."""
    return ["--model", str(home / "model"), "--task", str(home / "task.json")]
