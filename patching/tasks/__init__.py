"""Tasks: pairs of prompts, read from files or generated for a tokenizer."""

from patching.tasks.files import from_csv, from_json, to_json
from patching.tasks.generators import GENERATORS, greater_than, ioi, subject_verb_agreement
from patching.tasks.task import Batch, Prompt, Task
from patching.tasks.tokens import TextPrompt, Tokenizer, to_prompt

__all__ = [
    "GENERATORS",
    "Batch",
    "Prompt",
    "Task",
    "TextPrompt",
    "Tokenizer",
    "from_csv",
    "from_json",
    "greater_than",
    "ioi",
    "subject_verb_agreement",
    "to_json",
    "to_prompt",
]
