"""Uploads to the Hugging Face hub, by ``huggingface_hub`` with its token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidact.hub.cache import is_offline
from vidact.hub.huggingface import TIMEOUT_S, Address, refusal


def upload(
    folder: Path,
    address: Address,
    files: Sequence[str],
    is_private: bool = False,
    marks: Mapping[str, str] | None = None,
) -> tuple[str, list[str], bool]:
    """Upload files of a folder in one commit, to a repository that is made where it does not exist.

    Args:
        folder: the folder of the files.
        address: the repository; a revision is a branch, which is made where it does not exist.
        files: names in the folder. Nothing else in it is uploaded, and other files of the repository stay.
        is_private: whether a new repository is private.
        marks: name of a file → text; where the repository has the file without the text, it is kept.

    Returns:
        The address of the commit, the names of the files that were uploaded, and whether the repository has other
        ``.safetensors`` files.

    Raises:
        OSError: where the repository may not be written, or the hub cannot be reached.
        ValueError: where a private repository is asked for and it is public.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    from vidact import __version__

    if is_offline() or constants.HF_HUB_OFFLINE:
        raise OSError(f"{address} cannot be written: --offline, VIDACT_OFFLINE or HF_HUB_OFFLINE forbids the network")
    api = huggingface_hub.HfApi(library_name="vidact", library_version=__version__)
    try:
        api.create_repo(address.repository, private=True if is_private else None, exist_ok=True)
        if is_private and not api.model_info(address.repository, timeout=TIMEOUT_S).private:
            raise ValueError(
                f"{address.repository} exists and is public; leave --private out, or make it private at "
                f"{api.endpoint}/{address.repository}/settings"
            )
        if address.revision is not None:
            api.create_branch(address.repository, branch=address.revision, exist_ok=True)
        files = [name for name in files if not _is_edited(api, address, name, (marks or {}).get(name))]
        info = api.model_info(address.repository, revision=address.revision, timeout=TIMEOUT_S)
        has_others = any(
            entry.rfilename.endswith(".safetensors") and entry.rfilename not in files for entry in info.siblings or []
        )
        operations = [huggingface_hub.CommitOperationAdd(name, folder / name) for name in files]
        commit: Any = api.create_commit(
            address.repository,
            operations,
            commit_message="Weights, figures and model card by vidact",
            revision=address.revision,
        )
    except HfHubHTTPError as error:
        raise OSError(refusal(error, address, api.endpoint, writes=True)) from None
    except HTTPError as error:
        raise OSError(f"{address}: {api.endpoint} cannot be reached ({str(error) or type(error).__name__})") from None
    except RuntimeError as error:  # how the client wraps the failure of one file's upload
        raise OSError(f"{address} could not be written ({error.__cause__ or error}); nothing of it is there") from None
    return str(commit.commit_url), files, has_others


def _is_edited(api: Any, address: Address, name: str, mark: str | None) -> bool:
    """Return whether a file of a repository has a text without this mark; False without a mark."""
    from huggingface_hub.errors import EntryNotFoundError

    if mark is None:
        return False
    try:
        path = api.hf_hub_download(address.repository, name, revision=address.revision)
    except EntryNotFoundError:
        return False
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return bool(text) and mark not in text
