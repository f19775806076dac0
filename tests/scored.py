"""A scored run for tests that kill it: the embedded model, on a real task, by integrated gradients.

`python -m torch.distributed.run ... tests/scored.py FOLDER` scores it in FOLDER, as the worker that
RANK and WORLD_SIZE say, and prints a hash of the scores.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from circuits.scores import Scores
from circuits.scoring import eap_ig
from patching.metrics import logit_diff
from patching.model import Model
from patching.tasks import ioi
from patching.work import Ranks, Run, ranks

N = 24


def score(run: Run | None) -> str:
    """A hash of the scores, to the last bit, and of all that is said of them."""
    model = Model.load("toy")
    task = ioi(model.tokenizer, n=N, seed=0)
    return hash_of(eap_ig(model, task, logit_diff, steps=20, batch_size=1, run=run))


def as_one_of(folder: Path, rank: int, size: int) -> str:
    """The same as one of several workers that share a folder."""
    return score(Run(folder, Ranks(rank, size)))


def hash_of(scores: Scores) -> str:
    assert scores.completeness is not None
    digest = hashlib.sha256(scores.matrix.numpy().tobytes())
    digest.update(scores.completeness.numpy().tobytes())
    digest.update(json.dumps(dict(scores.provenance), sort_keys=True).encode())
    return digest.hexdigest()


def start(folder: Path, n_workers: int) -> subprocess.Popen[str]:
    """So many workers under torchrun, in a process group of their own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={n_workers}", __file__, str(folder)]
    return _start(command)


def on_ray(folder: Path, n: int) -> list[str]:
    """The hashes of so many runs on Ray, in each of which a worker is killed."""
    command = [sys.executable, str(Path(__file__).with_name("scored_on_ray.py")), str(folder)]
    run = _start([*command, str(n)])
    out, err = run.communicate(timeout=3600)
    assert run.returncode == 0, err
    return re.findall("^scores ([0-9a-f]{64})$", out, re.MULTILINE)  # Ray prints hashes too


def _start(command: list[str]) -> subprocess.Popen[str]:
    root = Path(__file__).parent.parent
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(run: subprocess.Popen[str]) -> set[str]:
    """What the workers printed; they must have ended well."""
    out, err = run.communicate(timeout=600)
    assert run.returncode == 0, err
    return set(out.split())


if __name__ == "__main__":
    sys.stdout.write(score(Run(sys.argv[1], ranks())) + "\n")
