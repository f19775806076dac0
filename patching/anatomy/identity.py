"""What a model is, in parts: hashes that are equal for models that compute the same.

Those of configuration and weights are the same on every machine. `Identity.inside` is None for a
model that is as its files say. For one that was made or changed in memory it holds the answer to a
probe (`standing`), whose bits hang on device, libraries and threads: such a model is the same only
to machines that compute alike.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedConfig

_PLAIN = (bool, int, float, str, type(None))
_SAYS_NOTHING = frozenset(
    ("name_or_path", "model_name", "tokenizer_name", "max_seq_len_cached", "device", "n_devices")
)
_NOT_OF_THE_MODEL = (
    *("transformers_version", "_name_or_path", "architectures", "use_cache"),
    *("dtype", "torch_dtype", "_attn_implementation", "attn_implementation"),
)
"""What configurations say that changes no number: who wrote them, and how they were loaded."""

COMPUTES = ("config", "weights", "inside")
"""The parts that decide what a model computes, but for rounding."""

PARTS = (*COMPUTES, "tokenizer", "dtype")


@dataclass(frozen=True)
class Identity:
    """What a model is: short hashes, equal for models that compute the same.

    `config` is of its configuration, `weights` of its weights as they are stored, `tokenizer` of
    its tokenizer (None without one), `dtype` the type it computes in. `inside` is None for a model
    that is as its files say, otherwise a hash of what was made or changed in memory.
    """

    config: str
    weights: str
    tokenizer: str | None
    dtype: str
    inside: str | None

    @property
    def facts(self) -> dict[str, str | None]:
        """For provenance; `inside` only where there is something."""
        facts = {name: getattr(self, name) for name in ("config", "weights", "tokenizer", "dtype")}
        return facts if self.inside is None else {**facts, "inside": self.inside}

    def differences(
        self, said: Mapping[str, object], parts: Sequence[str] = PARTS
    ) -> tuple[str, ...]:
        """Which of some parts are not as a provenance says they were.

        What it does not name (an older file) is taken to be the same; `inside` it names only where
        the model was not as its files say.

        >>> model = Identity("c1", "w1", None, "float32", None)
        >>> model.differences({"config": "c2", "weights": "w1"})
        ('config',)
        >>> model.differences(model.facts | {"inside": "i1"})
        ('inside',)
        """
        now = {"inside": None, **self.facts}
        then = {"inside": None, **said} if "config" in said else said
        return tuple(name for name in parts if name in then and then[name] != now[name])

    def require_sent(self, identity: "Identity", source: str) -> None:
        """Refuse what was loaded here if it is not what was sent from elsewhere.

        Raises:
            ValueError: naming the parts that differ.
        """
        differ = self.differences(identity.facts, COMPUTES)
        if differ:
            raise ValueError(
                f"{source} holds other {' and '.join(differ)} here than where it was sent from; "
                "give all machines the same folder or revision"
            )


def hash_config(bridge: TransformerBridge) -> str:
    """A short hash of a model's configuration, without what changes no number.

    Hugging Face's as it would be saved, without defaults; the model library's for its own models.
    """
    config = getattr(bridge.original_model, "config", None)
    if isinstance(config, PreTrainedConfig):
        said = cast(dict[str, object], config.to_diff_dict())
    else:
        said = dict[str, object](attributes_of(vars(bridge.cfg)))
    counted = {key: said[key] for key in said if key not in _NOT_OF_THE_MODEL}
    return short_hash(json.dumps(counted, sort_keys=True, default=str))


def hash_tokenizer(tokenizer: object) -> str | None:
    """A short hash of a tokenizer as it would be saved; of a slow one, of its vocabulary.

    None for none, and for one of another kind.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return short_hash(str(backend.to_str()))
    vocab = getattr(tokenizer, "get_vocab", None)
    return None if vocab is None else short_hash(json.dumps(sorted(vocab().items())))


def attributes_of(of: Mapping[str, object]) -> dict[str, object]:
    """Plain values and functions, by the names of attributes that say something of a model."""
    named = {key: of[key] for key in of if not key.startswith("_") and key not in _SAYS_NOTHING}
    said: dict[str, object] = {
        key: value for key, value in named.items() if isinstance(value, _PLAIN)
    }
    functions = {
        key: name_of(value)
        for key, value in named.items()
        if callable(value) and not isinstance(value, nn.Module | Tensor | type)
    }
    return said | functions


def name_of(function: object) -> str:
    """The name of a function, or of the class of what is called like one."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', '')}"


def short_hash(content: str) -> str:
    """Sixteen hexadecimal digits that tell texts apart."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]
