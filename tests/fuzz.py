"""Damaged files for every reader: `make fuzz`. Each is refused in words, or read and still sound.

`python -m tests.fuzz [inputs] [seed] [hostile]`. A reader may raise `ValueError`, with a message
that names the file and fits into a terminal, or say that there is no such file; anything else is a
crash. What it reads instead has to be sound; if its format carries a checksum, it has to be what
was written. Hostile files are whole, with checksums that fit, and hold something else.
"""

import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from file_readers import Reader, readers
from hostile import FORMS, mutate
from mutations import DAMAGES

WRONG = ("nameless", "silent", "crashed")
OUTCOMES = ("refused", "equal", "other, sound", *WRONG)
LONGEST_MESSAGE = 1500
SLOWEST = 20.0  # seconds for one file of some hundred bytes: more is a way to stop a machine


def run(
    inputs: int, seed: int, home: Path, *, hostile: bool = False
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Counts of outcomes by reader, and what went wrong, in words."""
    signal.signal(signal.SIGALRM, _too_slow)
    known = readers(home)
    originals = {reader.name: _original(reader, home) for reader in known}
    if hostile:
        known = [r for r in known if Path(originals[r.name][0]).suffix in FORMS]
    turns = [reader for i in range(10) for reader in known if i % reader.cost == 0]
    counts = {reader.name: Counter() for reader in known}
    wrong: list[str] = []
    for i in range(inputs):
        reader = turns[i % len(turns)]
        rng = random.Random(f"{seed} {i}")
        name, content, value = originals[reader.name]
        path = home / name
        path.unlink(missing_ok=True)
        how, sealed = (_hostile if hostile else _place)(path, content, rng, reader)
        outcome, said = _try(reader, path, value, sealed=sealed)
        counts[reader.name][outcome] += 1
        if outcome in WRONG:
            wrong.append(f"{reader.name}, input {i} ({how}): {outcome}: {said}")
    return counts, wrong


def table(counts: dict[str, Counter[str]]) -> str:
    """One line for each reader."""
    rows = [("reader", "inputs", *OUTCOMES)]
    rows += [
        (name, str(found.total()), *(str(found[outcome]) for outcome in OUTCOMES))
        for name, found in counts.items()
    ]
    whole = sum(counts.values(), Counter())
    rows.append(("all", str(whole.total()), *(str(whole[outcome]) for outcome in OUTCOMES)))
    return "\n".join(f"{row[0]:24}" + "".join(f"{cell:>14}" for cell in row[1:]) for row in rows)


def _original(reader: Reader, home: Path) -> tuple[str, bytes, object]:
    folder = home / "sound"
    folder.mkdir(exist_ok=True)
    path = reader.make(folder)
    name, content = path.name, path.read_bytes()
    return name, content, reader.read(path)


def _place(path: Path, content: bytes, rng: random.Random, reader: Reader) -> tuple[str, bool]:
    """Put a damaged file there, or something that is no file."""
    if rng.random() < 0.02:
        target = rng.choice(("/dev/zero", "/nowhere", path.parent, path, "/dev/null", "a pipe"))
        if target == "a pipe":
            os.mkfifo(path)
            return target, reader.sealed
        path.symlink_to(target)
        return f"link to {target}", reader.sealed
    damage = rng.choice(DAMAGES)
    path.write_bytes(damage(content, rng))
    return damage.__name__, reader.sealed


def _hostile(path: Path, content: bytes, rng: random.Random, reader: Reader) -> tuple[str, bool]:
    """Put a well-formed file of other content there; whether it must be refused."""
    changed, what, wrong = mutate(content, path.name, rng)
    path.write_bytes(changed)
    return what, wrong and reader.exact


def _try(reader: Reader, path: Path, value: object, *, sealed: bool) -> tuple[str, str]:
    signal.setitimer(signal.ITIMER_REAL, SLOWEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = reader.read(path)
    except Exception as error:  # the point of it all
        if isinstance(error, FileNotFoundError):
            return "refused", ""
        said = str(error)
        if type(error) is ValueError and len(said) <= LONGEST_MESSAGE:
            return ("refused", said) if _names(said, path, reader) else ("nameless", said)
        return "crashed", "".join(traceback.format_exception(error, limit=-4))[-1500:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if found == value:
        return "equal", ""
    return ("silent", repr(found)[:300]) if sealed else ("other, sound", "")


def _names(said: str, path: Path, reader: Reader) -> bool:
    return (reader.named or path.name) in said


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SLOWEST} seconds")


def main() -> int:
    """Run, print the table and what went wrong; 1 if anything did."""
    hostile = "hostile" in sys.argv[1:]
    given = [word for word in sys.argv[1:] if word != "hostile"]
    inputs, seed = map(int, [*given, *["10000", "0"][len(given) :]])
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        counts, wrong = run(inputs, seed, Path(home), hostile=hostile)
    print(table(counts))
    print("\n".join(wrong[:40]))
    print(f"{len(wrong)} wrong of {inputs} in {time.perf_counter() - start:.0f} s")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
