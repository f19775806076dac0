"""What is fetched from the hub before anything is built of it, all of one commit."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers.utils.hub import cached_file

from patching.anatomy.checkpoint import WHOLE_OR_INDEX, names_in


def fetch_config(name: str, revision: str | None) -> Path:
    """The folder of the hub's cache with a model's configuration; named by its commit.

    A repository may change while it is downloaded: what comes after the configuration is of the
    commit that the configuration was of.

    Raises:
        OSError: in Hugging Face's words, if there is no such model, or it cannot be had.
    """
    config = cached_file(name, "config.json", revision=revision)
    assert config is not None, "it is raised where there is none"
    return Path(config).parent


def fetch_model(name: str, revision: str | None) -> Path:
    """The same folder, with the weights.

    Raises:
        OSError: as `fetch_config`.
        ValueError: if its index names files outside it.
    """
    folder = fetch_config(name, revision)
    for whole, index in WHOLE_OR_INDEX:
        if _fetched(name, whole, folder.name):
            break
        if _fetched(name, index, folder.name):
            for part in names_in(folder, index):
                hf_hub_download(name, part, revision=folder.name)
            break
    return folder


def fetch_those(name: str, files: Sequence[str], commit: str) -> list[str]:
    """Those of some files that a repository holds; they are fetched."""
    return [file for file in files if _fetched(name, file, commit)]


def _fetched(name: str, file: str, commit: str) -> bool:
    try:
        hf_hub_download(name, file, revision=commit)
    except EntryNotFoundError:
        return False
    return True
