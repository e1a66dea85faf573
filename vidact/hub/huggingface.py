"""Repositories of the Hugging Face hub: ``hf://owner/name[@revision][/file]`` wherever a checkpoint is.

Files are downloaded by ``huggingface_hub``, into its cache, with its token and by its variables: ``HF_ENDPOINT``,
``HF_HOME``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``; ``VIDACT_OFFLINE`` forbids downloads, too. Only the one file of weights
is downloaded, and nothing of a repository is executed. https://huggingface.co/docs/huggingface_hub/guides/manage-cache
describes the cache.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote, unquote

from vidact.files import file_digest, replacing
from vidact.hub.cache import is_offline, refuse_full, say, writable
from vidact.hub.published import PUBLISHED

TIMEOUT_S = 30.0  # of a question about a repository
GRAMMAR = "hf://owner/name, hf://owner/name/file or hf://owner/name@revision/file"
TOKEN = "log in with `hf auth login`, or set HF_TOKEN (https://huggingface.co/settings/tokens makes a token)"
# Other kinds of repositories, by the first part of their addresses.
OTHER_KINDS = {"datasets": "a data set", "spaces": "a space", "kernels": "a kernel", "buckets": "a bucket"}
WEIGHTS = (".safetensors", ".ckpt", ".pth", ".pt", ".bin", ".pyth", ".tar", ".onnx")


@dataclass(frozen=True)
class Address:
    """The address of a repository of the hub, or of a file in it.

    Args:
        repository: "owner/name".
        revision: a branch, a tag or a commit; None is the main branch.
        file: the path of a file in the repository, with ``/``; None where none is named.
    """

    repository: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        is_special = self.revision is not None and re.match(r"refs/(pr|convert)/", self.revision)
        revision = "" if self.revision is None else f"@{quote(self.revision, safe='/' if is_special else '')}"
        return f"hf://{self.repository}{revision}{'' if self.file is None else f'/{self.file}'}"


# ---------------------------------------------------------------------------------------------- addresses


def is_address(path: str | Path) -> bool:
    """Return whether a path is an address of the hub, ``hf:…``."""
    return str(path).startswith("hf:")


def text_of(path: str | Path) -> str:
    """Return a path as text; an address of the hub has its two slashes, which ``Path`` makes one."""
    return str(parse(path)) if is_address(path) else str(path)


def parse(path: str | Path) -> Address:
    """Return the parts of ``hf://owner/name[@revision][/file]``.

    A slash in a revision is written ``%2F``, except in ``refs/pr/1`` and ``refs/convert/x``, as ``huggingface_hub``
    reads its addresses.

    Raises:
        ValueError: for another kind of address, and for a file outside of the repository.
    """
    text = path.as_posix() if isinstance(path, PurePath) else path
    rest = re.sub(r"^hf:/{0,2}", "", text)
    first, _, after = rest.partition("/")
    if first in OTHER_KINDS and after:
        raise ValueError(
            f"{text} is {OTHER_KINDS[first]} of the hub; a checkpoint is in a model's repository: {GRAMMAR}"
        )
    if first == "models" and after.count("/"):
        rest = after
    name = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"  # as huggingface_hub allows them
    match = re.fullmatch(rf"({name}/{name})(?:@(refs/pr/\d+|refs/convert/[\w.-]+|[^/]+))?(?:/(.*))?", rest, re.DOTALL)
    if match is None or re.search(r"--|\.\.|\.git$", match[1]):
        raise ValueError(f"{text} is no address of a repository of the hub; write {GRAMMAR}")
    revision = None if match[2] is None else unquote(match[2])
    if revision is not None:
        _refuse_unsafe(revision, f"{text} has the revision")
    file = match[3] or None
    if file is not None:
        _refuse_unsafe(file, f"{text} names the file")
    return Address(match[1], revision, file)


def _refuse_unsafe(name: str, whose: str) -> None:
    """Raise ValueError for a path that could lead out of a folder, on any system."""
    parts = name.split("/")
    is_unsafe = "\\" in name or ":" in name or not name.isprintable() or any(part in ("", ".", "..") for part in parts)
    if is_unsafe:
        raise ValueError(f"{whose} {name!r}, which leads out of the repository or is no name; it is not opened")


# ---------------------------------------------------------------------------------------------- download


def local(path: str | Path) -> str | Path:
    """Return the local file of an address of the hub, downloaded if need be; any other path is returned as it is."""
    return fetch_file(path) if is_address(path) else path


def fetch_file(path: str | Path, preferred: Sequence[str] = ()) -> Path:
    """Return the local path of a file of the hub, which is downloaded unless the hub's cache holds it.

    Without a file in the address, it is the first of ``preferred`` that the repository has, or else its only
    ``.safetensors`` file. What is downloaded is announced on the standard error. Where the hub cannot be reached, the
    cached file is used and announced.

    Raises:
        ValueError: for an address that is none, several files to choose from, or a wrong SHA-256.
        OSError: where there is no such repository, revision or file, or it cannot be downloaded or written.
    """
    import huggingface_hub  # takes a fifth of a second
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    from vidact import __version__

    address = parse(path)
    if is_offline() or constants.HF_HUB_OFFLINE:
        return _cached(address, preferred, "downloads are forbidden")
    api = huggingface_hub.HfApi(library_name="vidact", library_version=__version__)
    try:
        info = api.model_info(address.repository, revision=address.revision, timeout=TIMEOUT_S, files_metadata=True)
    except HfHubHTTPError as error:
        if error.response.status_code >= 500 or error.response.status_code == 429:
            reason = f"{api.endpoint} answered with {error.response.status_code}"
            return _cached(address, preferred, reason, is_announced=True)
        advice = ""
        with contextlib.suppress(ValueError):  # several files in the cache to choose from, which is not what is wrong
            if _newest(address, preferred) is not None:
                advice = ". The file in the cache can be used with --offline"
        raise OSError(f"{refusal(error, address, api.endpoint)}{advice}") from None
    except HTTPError as error:
        reason = f"{api.endpoint} cannot be reached ({str(error) or type(error).__name__})"
        return _cached(address, preferred, reason, is_announced=True)
    except (ValueError, TypeError, KeyError, AttributeError):  # a web page, or other JSON than the hub's
        raise OSError(
            f"{address}: {api.endpoint} did not answer as a hub does; a proxy may have, or HF_ENDPOINT is wrong"
        ) from None
    sizes = {entry.rfilename: entry.size for entry in info.siblings or []}
    file = choose(address, list(sizes), preferred)
    commit, revision = info.sha or "", address.revision or constants.DEFAULT_REVISION
    if re.fullmatch(r"[0-9a-f]{40}", commit) is None:
        raise OSError(f"{address}: {api.endpoint} names no commit; it is no hub, or HF_ENDPOINT is wrong")
    if stored := stored_file(address.repository, commit, file):
        _keep_commit(_storage(address.repository), revision, commit)
        return stored
    folder = Path(constants.HF_HUB_CACHE)
    size = sizes[file]
    named = replace(address, file=file)
    with writable(folder, "HF_HOME"):
        refuse_full(folder, size or 0)
        about = "" if size is None else f"{size / 1e6:,.1f} MB "
        licence = getattr(info.card_data, "license", None)
        say(f"{named}: downloading {about}from {api.endpoint} to {folder} (licence {licence or 'not stated'})")
        try:
            path = Path(
                huggingface_hub.hf_hub_download(
                    address.repository,
                    file,
                    revision=revision,
                    endpoint=api.endpoint,
                    library_name="vidact",
                    library_version=__version__,
                )
            )
        except HfHubHTTPError as error:
            raise OSError(refusal(error, named, api.endpoint)) from None
        except (HTTPError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise OSError(f"{named} could not be downloaded ({reason}); nothing of it was kept, try again") from None
    _refuse_damaged(path, named)
    say(f"{named}: {path}")
    return path


def choose(address: Address, files: Sequence[str], preferred: Sequence[str] = ()) -> str:
    """Return the file of an address among those of its repository; see ``fetch_file``.

    Raises:
        FileNotFoundError: where there is no such file, or none of weights.
        ValueError: for several files to choose from, and for a name that leads out of the repository.
    """
    weights = sorted(name for name in files if name.endswith(WEIGHTS))
    for name in weights:
        _refuse_unsafe(name, f"{address} has a file")
    listing = ", ".join(weights[:8]) + (f" and {len(weights) - 8} more" if len(weights) > 8 else "")
    revision = f" at the revision {address.revision}" if address.revision else ""
    if address.file is not None:
        if address.file in files:
            return address.file
        close = difflib.get_close_matches(address.file, files, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise FileNotFoundError(
            f"{address.repository} has no file {address.file}{revision}; {hint}Its weights: {listing or 'none'}"
        )
    if named := [name for name in preferred if name in files]:
        return named[0]
    safe = [name for name in weights if name.endswith(".safetensors")]
    if len(safe) == 1:
        return safe[0]
    if any(re.search(r"-\d{5}-of-\d{5}\.safetensors$", name) for name in safe):
        raise ValueError(f"{address} has its weights in several parts ({listing}); vidact opens one file")
    if safe:
        raise ValueError(
            f"{address} has several files of weights: {listing}. Name one: {replace(address, file=safe[0])}"
        )
    if weights:
        raise ValueError(
            f"{address} has no .safetensors file; its weights: {listing}. Name one: {replace(address, file=weights[0])}"
        )
    raise FileNotFoundError(
        f"{address.repository} has no weights{revision}; its files: {', '.join(sorted(files)[:8]) or 'none'}"
    )


def published_in(path: str | Path) -> str | None:
    """Return the name of the published network whose file is in the repository of an address; None for others."""
    if not is_address(path):
        return None
    beginning = f"https://huggingface.co/{parse(path).repository}/"
    return next((name for name, entry in PUBLISHED.items() if entry.address.startswith(beginning)), None)


def refusal(error: Any, address: Address, endpoint: str, writes: bool = False) -> str:
    """Return what a hub's refusal means, and what to do; ``error`` is huggingface_hub's HfHubHTTPError.

    Reasons that only the hub knows (a full quota, a role in an organisation, a card that it does not accept) are in its
    own words, which are quoted.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RevisionNotFoundError

    code, repository = error.response.status_code, address.repository
    if isinstance(error, RevisionNotFoundError):
        slash = "; a slash in a revision is written %2F" if address.file and "/" in address.file else ""
        return f"{repository} has no revision {address.revision or 'main'}{slash}"
    if isinstance(error, EntryNotFoundError):
        return f"{repository} has no file {address.file}"
    token = "the token that was sent may not do this" if get_token() else "no token was sent"
    quoted = first_line(getattr(error, "server_message", None))
    if writes and code in (401, 403, 404):
        reason = f". {endpoint} says: {quoted}" if quoted else ""
        return f"{address} may not be written ({code}; {token}). With a token that may write to it: {TOKEN}{reason}"
    if isinstance(error, GatedRepoError):
        page = f"{endpoint}/{repository}"
        return f"{address} is gated ({code}; {token}): accept its terms at {page}, and {TOKEN}"
    if code in (401, 403):
        expired = ", or the token has expired" if code == 401 and get_token() else ""
        return (
            f"{address} was refused ({code}; {token}): it is private, or does not exist{expired}. With a token: {TOKEN}"
        )
    if code == 404:
        return (
            f"there is no repository {repository} at {endpoint} (404; {token}). Check the spelling; if it is private, "
            f"{TOKEN}"
        )
    return f"{address}: {endpoint} answered with {code} ({quoted or first_line(str(error))})"


def first_line(text: str | None) -> str:
    """Return the first line of a text with at most 300 characters; "" without one."""
    return next(iter((text or "").strip().splitlines()), "")[:300]


# ---------------------------------------------------------------------------------------------- the cache of the hub


def _cached(address: Address, preferred: Sequence[str], reason: str, is_announced: bool = False) -> Path:
    """Return the file of an address in the hub's cache; ``reason`` says why it is not looked up at the hub."""
    path = _newest(address, preferred)
    if path is not None:
        if is_announced:
            say(f"{address}: {reason}; the cached file is used: {path}")
        return path
    storage = _storage(address.repository)
    raise FileNotFoundError(
        f"{address} is not in the hub's cache, and {reason}: run this once where there is a network, or copy "
        f"{storage.name} from the cache there to {storage.parent}"
    )


def _newest(address: Address, preferred: Sequence[str]) -> Path | None:
    """Return the file of an address in the hub's cache, at the newest commit that was downloaded; None without one."""
    from huggingface_hub import constants

    storage = _storage(address.repository)
    snapshot = storage / "snapshots" / _commit_of(storage, address.revision or constants.DEFAULT_REVISION)
    if not snapshot.is_dir():
        return None
    files = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    if address.file in files or (address.file is None and any(name.endswith(WEIGHTS) for name in files)):
        return snapshot / choose(address, files, preferred)
    return None


def _commit_of(storage: Path, revision: str) -> str:
    """Return the commit of a revision when it was last downloaded; "absent" where it never was."""
    reference = storage / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else "absent"


def _keep_commit(storage: Path, revision: str, commit: str) -> None:
    """Write the commit of a revision, as a download does: its file may have been downloaded at another revision."""
    if _commit_of(storage, revision) != commit:
        with contextlib.suppress(OSError), replacing(storage / "refs" / revision) as half:  # others may own the cache
            half.write_text(commit, encoding="utf-8")


def stored_file(repository: str, revision: str, file: str) -> Path | None:
    """Return a file in the hub's cache; None where it is absent."""
    storage = _storage(repository)
    path = storage / "snapshots" / _commit_of(storage, revision) / file
    return path if path.is_file() else None


def _storage(repository: str) -> Path:
    """Return the folder of a repository in the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _refuse_damaged(path: Path, address: Address) -> None:
    """Remove a file and raise ValueError where its SHA-256 is not its name in the cache, as large files are named."""
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name) is None:
        return
    digest = file_digest(blob)
    if digest != blob.name:
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise ValueError(
            f"{address}: what was sent has the SHA-256 {digest[:16]}… and should have {blob.name[:16]}…, so it was "
            "removed; try again"
        )
