"""What the doctor predicts a batch to take, beside the peak of a run: printed as JSON.

A script, run in a process of its own, so that nothing else is in its memory.
"""

import json
import re
import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from circuits.circuit import Circuit
from circuits.doctor.cost import GIB, memory
from circuits.running.evaluation import evaluate
from circuits.scoring import eap
from patching.metrics import logit_diff
from patching.model import Model
from patching.tasks import Prompt, Task

LENGTH = 48


def main() -> None:
    torch.set_num_threads(1)
    name, batch = sys.argv[1], int(sys.argv[2])
    model = Model.load(_six_layers() if name == "six-layers" else name)
    task = _prompts(int(model.bridge.cfg.d_vocab), batch)
    found = memory(model, task, logit_diff, batch)
    predicted = {one.name: (one.measured * GIB, dict(one.details)["fixed bytes"]) for one in found}
    half = Circuit(model.graph.exists & (torch.rand(model.graph.exists.shape) < 0.5), model.graph)
    runs = {
        "memory for scoring": lambda: eap(model, task, logit_diff, batch_size=batch),
        "memory for evaluating": lambda: evaluate(
            model, task, [half] * 4, logit_diff, batch_size=batch
        ),
    }
    sys.stdout.write(
        json.dumps({what: (*predicted[what], _peak(run)) for what, run in runs.items()})
    )


def _prompts(vocab: int, n: int) -> Task:
    """Pairs of one length that differ from the first token on, as costly as can be."""
    ids = torch.randint(3, vocab, (n, 2, LENGTH), generator=torch.Generator().manual_seed(0))
    pairs = [(tuple(clean), tuple(corrupt)) for clean, corrupt in ids.tolist()]
    return Task("random", tuple(Prompt(a, b, (3,), (4,)) for a, b in pairs))


def _six_layers() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=6, n_head=4, n_embd=128, vocab_size=500, n_positions=64)
    return GPT2LMHeadModel(config)


def _peak(run) -> int:
    """Bytes above what was there before, in the second of two runs (Linux)."""
    run()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"/proc/self/status has no {field}"
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
