"""Tasks: pairs of prompts, read from files or generated for a tokenizer."""

from patching.tasks.files import from_csv, from_json, to_json
from patching.tasks.task import Batch, Prompt, Task
from patching.tasks.tokens import TextPrompt, Tokenizer, to_prompt

__all__ = [
    "Batch",
    "Prompt",
    "Task",
    "TextPrompt",
    "Tokenizer",
    "from_csv",
    "from_json",
    "to_json",
    "to_prompt",
]
