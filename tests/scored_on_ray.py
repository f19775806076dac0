"""Scored runs on Ray, in each of which one of two workers is killed at a random moment.

`python tests/scored_on_ray.py FOLDER N` does N of them, each in a folder of its own, and prints a
hash of the scores of each. In a process of its own, because what checks shapes in tests makes
functions that cannot be sent to workers.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import scored

from patching.work import Run
from patching.work.ray_engine import Ray


def workers_of(folder: Path) -> set[int]:
    """Processes that have done chunks, as the log says."""
    logs = list(folder.glob("*/log.jsonl"))
    facts = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return {int(one["worker"].rpartition(":")[2]) for one in facts if "worker" in one}


class Killer(threading.Thread):
    """Kills one of the workers at a random moment after so many chunks."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.rng, self.victim = folder, random.Random(seed), 0

    def run(self) -> None:
        first = self.rng.randint(1, scored.N // 2)
        while len(list(self.folder.glob("*/chunk-*"))) < first:
            time.sleep(0.005)
        time.sleep(self.rng.uniform(0, 0.1))
        victim = self.rng.choice(sorted(workers_of(self.folder)))
        os.kill(victim, signal.SIGKILL)
        self.victim = victim


def main(folder: Path, n: int) -> None:
    import ray  # an optional extra

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    for seed in range(n):
        place = folder / str(seed)
        killer = Killer(place, seed)
        killer.start()
        found = scored.score(Run(place, Ray(workers=2)))
        assert killer.victim, "the run was over before anybody was killed"
        sys.stdout.write(f"\nscores {found}\n")
        sys.stdout.flush()
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
