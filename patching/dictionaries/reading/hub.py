"""Dictionaries from the Hugging Face hub: only the files that readers read."""

import re
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

_NAME = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.=-]+)*)/?")
_FILES = ("*.json", "*.yaml", "*.safetensors", "params.npz", "ae.pt")


def download(name: str, revision: str | None) -> Path:
    """The folder that a hub name, `owner/name` or `owner/name/folder`, is stored in here.

    Raises:
        ValueError: if it is no such name, or the hub does not have it or cannot be reached.
    """
    found = _NAME.fullmatch(name)
    if found is None or ".." in name:
        raise ValueError(
            f"there is no folder {name!r}, and it is no hub name such as owner/name or "
            "owner/name/folder"
        )
    within = found[2].strip("/")
    patterns = [f"{within}/{kind}" if within else kind for kind in _FILES]
    try:
        root = snapshot_download(found[1], revision=revision, allow_patterns=patterns)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ValueError(
            f"there is no folder {name!r}, and the hub gave none of this name: {reason}"
        ) from None
    folder = Path(root) / within
    if not folder.is_dir():
        raise ValueError(f"{found[1]} on the hub has no folder {within!r} of dictionaries")
    return folder


def download_file(uri: str) -> Path:
    """The file behind `hf://owner/name/path?revision=...`.

    Raises:
        ValueError: if it is no such address, or the hub does not have it or cannot be reached.
    """
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)/([\w./=-]+)(?:\?revision=([\w.-]+))?", uri)
    if found is None or ".." in uri:
        raise ValueError(f"{uri!r} is no address such as hf://owner/name/file?revision=main")
    try:
        return Path(hf_hub_download(found[1], found[2], revision=found[3]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ValueError(f"the hub gave no {uri}: {reason}") from None
