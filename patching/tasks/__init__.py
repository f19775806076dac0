"""Tasks: pairs of prompts, read from files or generated for a tokenizer."""

from patching.tasks.files import from_csv, from_json, to_json
from patching.tasks.formats import FORMATS, from_file
from patching.tasks.generators import FAMILIES, GENERATORS, Family, generate
from patching.tasks.numbers import addition, greater_than, subtraction
from patching.tasks.people import gendered_pronouns, ioi, name_completion
from patching.tasks.recall import facts, languages, opposites
from patching.tasks.repeats import docstring, induction, repeated_tokens
from patching.tasks.sampling import Generator
from patching.tasks.sentences import coloured_objects, sentiment, subject_verb_agreement
from patching.tasks.span_rules import each_position, from_end
from patching.tasks.spans import Span
from patching.tasks.task import Batch, Prompt, Task
from patching.tasks.texts import from_text
from patching.tasks.tokens import TextPrompt, Tokenizer, to_prompt

__all__ = [
    "FAMILIES",
    "FORMATS",
    "GENERATORS",
    "Batch",
    "Family",
    "Generator",
    "Prompt",
    "Span",
    "Task",
    "TextPrompt",
    "Tokenizer",
    "addition",
    "coloured_objects",
    "docstring",
    "each_position",
    "facts",
    "from_csv",
    "from_end",
    "from_file",
    "from_json",
    "from_text",
    "gendered_pronouns",
    "generate",
    "greater_than",
    "induction",
    "ioi",
    "languages",
    "name_completion",
    "opposites",
    "repeated_tokens",
    "sentiment",
    "subject_verb_agreement",
    "subtraction",
    "to_json",
    "to_prompt",
]
