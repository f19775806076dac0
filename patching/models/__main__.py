"""`python -m patching.models [--model NAME] [--out FOLDER]`: train the embedded models anew."""

from patching.models import context_training, toy_training
from patching.models.training import run

if __name__ == "__main__":
    run([*toy_training.TRAININGS, context_training.TRAINING])
