"""`python -m patching.dictionaries [--model NAME] [--out FOLDER]`: the embedded transcoders."""

from patching.dictionaries.embedded import run

if __name__ == "__main__":
    run()
