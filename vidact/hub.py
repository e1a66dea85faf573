"""Published networks by name: the address of each file, the record of its network, and the cache of the files.

A name of ``PUBLISHED`` can be used wherever a checkpoint can; ``vidact.models.weights`` builds its network from the
file that ``fetch`` returns. Files are kept in one folder, ``folder()``. A download is continued where it was cut, and
a file is either whole, with the published hash, or absent. Where no hash is published, that of the first download is
written to a file beside it and compared from then on.

Environment: ``VIDACT_HOME`` names the cache folder, ``VIDACT_OFFLINE=1`` forbids downloads, and ``VIDACT_MIRROR``, an
address such as ``https://mirror.example.org``, replaces the scheme and the host of every address. Proxies are those of
``https_proxy`` and its like.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import http.client
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vidact.files import make_folder, replacing, try_lock
from vidact.records import text_in_place_of_weights
from vidact.text.addresses import public
from vidact.text.layouts import CLIPS

TIMEOUT_S = 30.0  # without a byte from the server
BLOCK = 1 << 20  # bytes that are read and written at once
WAIT_S = 0.2  # from one check to the next whether another process has finished its download

# ---------------------------------------------------------------------------------------------- the table

CLASS_LISTS = {
    "kinetics400": "Kinetics-400",
    "kinetics600": "Kinetics-600",
    "kinetics700": "Kinetics-700",
    "something_v2": "Something-Something V2",
    "diving48": "Diving48",
}


@cache
def class_names(name: str) -> tuple[str, ...]:
    """Return the classes of a list of ``CLASS_LISTS``, in the order of the outputs of published networks."""
    if name not in CLASS_LISTS:
        raise ValueError(f"there is no class list {name!r}; the lists are {', '.join(CLASS_LISTS)}")
    text = (Path(__file__).parent / "text" / "classes" / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def dense(frames: int, stride: int) -> dict[str, Any]:
    """Return the record of a sampler of ``frames`` consecutive frames, each ``stride`` after the one before."""
    return {"name": "DenseSampler", "arguments": {"num_frames": frames, "stride": stride, "short": "repeat"}}


def spread(frames: int) -> dict[str, Any]:
    """Return the record of a sampler of ``frames`` frames over the whole video."""
    return {"name": "SegmentSampler", "arguments": {"num_segments": frames, "segment_length": 1}}


@dataclass(frozen=True)
class Published:
    """A network with published weights.

    Args:
        name: its name wherever a checkpoint is.
        network: the function of ``vidact.models`` that builds it.
        origin: the layout of its file, one of ``vidact.text.layouts.REFERENCES``.
        address: the address of its file.
        megabytes: the size of the file in millions of bytes, approximately.
        classes: the list of its classes, one of ``CLASS_LISTS``.
        licence: the licence of the weights.
        source: the page that the figure comes from.
        figure: top-1 accuracy in percent as published, and the clips x crops that it is a mean of; "" where unknown.
        sampling: the record of its sampler; None is the rule of ``vidact.text.layouts.CLIPS``.
        sha256: the first digits of the file's SHA-256, as far as published.
        options: arguments of the layout's function besides the tensors and ``num_classes``.
        streams: whether it answers frame by frame.
    """

    name: str
    network: str
    origin: str
    address: str
    megabytes: float
    classes: str
    licence: str
    source: str
    figure: str = ""
    sampling: Mapping[str, Any] | None = None
    sha256: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    streams: bool = False

    @property
    def sampler(self) -> dict[str, Any]:
        """The record of the sampler of its frames."""
        return dense(*CLIPS[self.network]) if self.sampling is None else dict(self.sampling)

    @property
    def is_for_research(self) -> bool:
        """Whether the licence excludes commercial use."""
        return "NC" in self.licence

    @property
    def path(self) -> Path:
        """The file in the cache, which may be absent."""
        return folder() / f"{self.name}{Path(urlsplit(self.address).path).suffix}"


def _of_torchvision(name: str, file: str, megabytes: float, figure: str) -> Published:
    """Return a network of torchvision, whose file names end in the first digits of the file's SHA-256."""
    return Published(
        name,
        name,
        "torchvision",
        f"https://download.pytorch.org/models/{file}.pth",
        megabytes,
        "kinetics400",
        "BSD-3-Clause (torchvision)",
        "https://docs.pytorch.org/vision/stable/models.html",
        figure,
        sha256=file.rpartition("-")[2],
        options={"network": name},
    )


def _of_pytorchvideo(name: str, file: str, megabytes: float, figure: str) -> Published:
    return Published(
        name,
        name,
        "pytorchvideo",
        f"https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/{file}.pyth",
        megabytes,
        "kinetics400",
        "Apache-2.0 (pytorchvideo)",
        "https://github.com/facebookresearch/pytorchvideo/blob/main/docs/source/model_zoo.md",
        figure,
        options={"network": name},
    )


def _of_videomae(
    name: str, repository: str, revision: str, file: str, megabytes: float, classes: str, figure: str
) -> Published:
    return Published(
        name,
        name.removesuffix("_something_v2"),
        "videomae",
        f"https://huggingface.co/MCG-NJU/{repository}/resolve/{revision}/{file}",
        megabytes,
        classes,
        "CC-BY-NC-4.0",
        "https://github.com/MCG-NJU/VideoMAE/blob/main/MODEL_ZOO.md",
        figure,
        spread(16) if classes == "something_v2" else None,
    )


def _of_vjepa2(
    name: str, repository: str, revision: str, megabytes: float, classes: str, figure: str, clip: tuple[int, int]
) -> Published:
    return Published(
        name,
        name.removesuffix("_diving48"),
        "vjepa2",
        f"https://huggingface.co/facebook/{repository}/resolve/{revision}/model.safetensors",
        megabytes,
        classes,
        "MIT",
        "https://github.com/facebookresearch/vjepa2",
        figure,
        dense(*clip),
    )


def _of_movinet(name: str, file: str, megabytes: float, frames: int, figure: str) -> Published:
    return Published(
        name,
        name,
        "movinet",
        f"https://github.com/Atze00/MoViNet-pytorch/raw/c2d1edf48fc6c5259707f9d833f22171b4f63493/weights/{file}",
        megabytes,
        "kinetics600",
        "MIT (MoViNet-pytorch)",
        "https://github.com/Atze00/MoViNet-pytorch",
        figure,
        {"name": "UniformSampler", "arguments": {"num_frames": frames}},
        options={"size": name.split("_")[1], "stream": name.endswith("_stream")},
        streams=name.endswith("_stream"),
    )


# The addresses are those of torchvision's and pytorchvideo's own tables, and of files of the hub at a fixed revision.
PUBLISHED: dict[str, Published] = {
    entry.name: entry
    for entry in (
        _of_pytorchvideo("x3d_xs", "X3D_XS", 31, "69.12 (10x3)"),
        _of_pytorchvideo("x3d_s", "X3D_S", 31, "73.33 (10x3)"),
        _of_pytorchvideo("x3d_m", "X3D_M", 31, "75.94 (10x3)"),
        _of_pytorchvideo("x3d_l", "X3D_L", 50, "77.44 (10x3)"),
        _of_pytorchvideo("slow_r50", "SLOW_8x8_R50", 260, "74.58 (10x3)"),
        _of_pytorchvideo("c2d_r50", "C2D_8x8_R50", 195, "71.46 (10x3)"),
        _of_pytorchvideo("i3d_r50", "I3D_8x8_R50", 225, "73.27 (10x3)"),
        _of_pytorchvideo("csn_r101", "CSN_32x2_R101", 178, "77.00 (10x3)"),
        _of_pytorchvideo("r2plus1d_r50", "R2PLUS1D_16x4_R50", 225, "76.01 (10x3)"),
        _of_pytorchvideo("slowfast_r50", "SLOWFAST_8x8_R50", 277, "76.94 (10x3)"),
        _of_pytorchvideo("slowfast_r101", "SLOWFAST_8x8_R101", 503, "77.90 (10x3)"),
        _of_torchvision("r3d_18", "r3d_18-b3b3357e", 134, "63.20 (5x1)"),
        _of_torchvision("mc3_18", "mc3_18-a90a0ba3", 47, "63.96 (5x1)"),
        _of_torchvision("r2plus1d_18", "r2plus1d_18-91a641e6", 126, "67.46 (5x1)"),
        _of_torchvision("s3d", "s3d-d76dad2f", 34, "68.37 (1x1)"),
        _of_torchvision("mvit_v1_b", "mvit_v1_b-dbeb1030", 147, "78.48 (5x1)"),
        _of_torchvision("mvit_v2_s", "mvit_v2_s-ae3be167", 138, "80.76 (5x1)"),
        _of_torchvision("swin3d_t", "swin3d_t-7615ae03", 127, "77.72 (4x3)"),
        _of_torchvision("swin3d_s", "swin3d_s-da41c237", 229, "79.52 (4x3)"),
        _of_torchvision("swin3d_b", "swin3d_b_1k-24f7c7c6", 382, "79.43 (4x3)"),
        _of_movinet("movinet_a0_stream", "modelA0_stream_statedict_v3", 15, 50, "72.05"),
        _of_movinet("movinet_a1_stream", "modelA1_stream_statedict_v3", 26, 50, "76.45"),
        _of_movinet("movinet_a2_stream", "modelA2_stream_statedict_v3", 30, 50, "78.40"),
        _of_movinet("movinet_a0_base", "modelA0_statedict_v3", 13, 50, "72.28"),
        _of_movinet("movinet_a1_base", "modelA1_statedict_v3", 19, 50, "76.69"),
        _of_movinet("movinet_a2_base", "modelA2_statedict_v3", 21, 50, "78.62"),
        _of_movinet("movinet_a3_base", "modelA3_statedict_v3", 30, 120, "81.79"),
        _of_movinet("movinet_a4_base", "modelA4_statedict_v3", 46, 80, "83.48"),
        _of_movinet("movinet_a5_base", "modelA5_statedict_v3", 75, 120, "84.27"),
        _of_videomae(
            "videomae_small",
            "videomae-small-finetuned-kinetics",
            "1bf2b82c809609f5df1ea7648aee577e2e486b63",
            "pytorch_model.bin",
            88,
            "kinetics400",
            "79.0 (5x3)",
        ),
        _of_videomae(
            "videomae_base",
            "videomae-base-finetuned-kinetics",
            "422e706f9bc75d3d20e9722cb81f8c8d1da76224",
            "pytorch_model.bin",
            346,
            "kinetics400",
            "80.9 (5x3)",
        ),
        _of_videomae(
            "videomae_large",
            "videomae-large-finetuned-kinetics",
            "0f6adcd5f6902900aa0281f9daacfe52bb3c4ad4",
            "model.safetensors",
            1217,
            "kinetics400",
            "84.7 (5x3)",
        ),
        _of_videomae(
            "videomae_huge",
            "videomae-huge-finetuned-kinetics",
            "fb1e058bba7d50fb2be1a6823721ec35d6740834",
            "pytorch_model.bin",
            2528,
            "kinetics400",
            "",
        ),
        _of_videomae(
            "videomae_base_something_v2",
            "videomae-base-finetuned-ssv2",
            "873e7dfcd91479c8e10d75f7e402573dbdb6f98e",
            "pytorch_model.bin",
            346,
            "something_v2",
            "70.6 (2x3)",
        ),
        _of_vjepa2(
            "vjepa2_large",
            "vjepa2-vitl-fpc16-256-ssv2",
            "4aa02df83918538fc21cfaf576382fa20e489a80",
            1502,
            "something_v2",
            "73.7 (2x3)",
            (16, 4),
        ),
        _of_vjepa2(
            "vjepa2_giant",
            "vjepa2-vitg-fpc64-384-ssv2",
            "9f5fd615cb6f79065a28edcf1cc3ef25010dddfa",
            4512,
            "something_v2",
            "77.3 (2x3)",
            (64, 2),
        ),
        _of_vjepa2(
            "vjepa2_large_diving48",
            "vjepa2-vitl-fpc32-256-diving48",
            "71ae2a8b1ff5a297aeeaae9b5e64c7a2e5e6a633",
            1501,
            "diving48",
            "89.0 (4x3)",
            (32, 2),
        ),
        _of_vjepa2(
            "vjepa2_giant_diving48",
            "vjepa2-vitg-fpc32-384-diving48",
            "0b48243375319bd8e03e3cd5560d957095429189",
            4511,
            "diving48",
            "90.2 (4x3)",
            (32, 2),
        ),
    )
}

# ---------------------------------------------------------------------------------------------- names


def named(path: str | Path) -> Published | None:
    """Return the published network of this name; None for a path, also where a file has a network's name."""
    entry = PUBLISHED.get(str(path))
    return None if entry is None or Path(path).is_file() else entry


def advice(path: str | Path, networks: Collection[str] = ()) -> str:
    """Return the end of the sentence "there is no file …" where the path may be a misspelt name; else "".

    Args:
        networks: the functions of ``vidact.models``.
    """
    name = str(path)
    if re.fullmatch(r"[A-Za-z][\w-]*", name) is None:
        return ""
    listing = "`vidact networks --published` lists the names that have weights"
    if name in networks:
        return (
            f". {name} is a network of vidact, but no weights are published under its name: train it, or convert a "
            f"file (vidact convert). {listing}"
        )
    plain = name.lower().replace("-", "_")
    close = difflib.get_close_matches(plain, PUBLISHED, 3, cutoff=0.6)
    question = f"; did you mean {' or '.join(close)}?" if close else "."
    return f" and no published network of this name{question} {listing}"


# ---------------------------------------------------------------------------------------------- the cache


def folder() -> Path:
    """Return the folder of downloaded weights: below ``VIDACT_HOME``, else the user's cache folder."""
    if home := os.environ.get("VIDACT_HOME"):
        return Path(home).expanduser() / "weights"
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "vidact" / "weights"
    except RuntimeError as error:  # raised for example in a container whose user has a number and no name
        raise OSError("the user has no home folder; VIDACT_HOME names the folder of downloaded weights") from error


def is_offline() -> bool:
    """Return whether downloads are forbidden, by ``VIDACT_OFFLINE`` or ``--offline``."""
    return os.environ.get("VIDACT_OFFLINE", "") not in ("", "0")


def address_of(entry: Published) -> str:
    """Return the address of a network's file, at the mirror where ``VIDACT_MIRROR`` names one."""
    mirror = os.environ.get("VIDACT_MIRROR", "")
    if not mirror:
        return entry.address
    if re.match(r"https?://[^/\s]", mirror) is None:
        raise ValueError(f"VIDACT_MIRROR is {public(mirror)}; give an address such as https://mirror.example.org")
    return mirror.rstrip("/") + urlsplit(entry.address).path


def fetch(entry: Published) -> Path:
    """Return the path of a network's file in the cache, which is downloaded if it is absent.

    What is downloaded is announced on the standard error, and so is a licence that excludes commercial use.

    Raises:
        OSError: where the file cannot be downloaded or written; the message says where to put it by hand.
        ValueError: where its SHA-256 is not the published one, or not that of the first download.
    """
    path = entry.path
    if not path.is_file():
        copy = in_pytorch_cache(entry)
        if copy is None and is_offline():
            raise FileNotFoundError(f"{entry.name} is not in the cache and downloads are forbidden: {by_hand(entry)}")
        with _writable(path):
            make_folder(path.parent)
            with alone(path.with_name(f".{path.name}.lock"), entry.name):
                if path.is_file():
                    pass  # another process has fetched it meanwhile
                elif copy is not None:
                    _take_over(copy, path)
                    _say(f"{entry.name}: {path}, as in {copy}")
                else:
                    _download(entry, path)
                    _say(f"{entry.name}: {path}")
    _check(entry, path)
    if entry.is_for_research:
        _say(f"{entry.name}: the licence of its weights, {entry.licence}, allows no commercial use")
    return path


def in_pytorch_cache(entry: Published) -> Path | None:
    """Return the network's file in PyTorch's own cache, to which earlier versions downloaded; None where it is absent.

    A file whose SHA-256 is not the published one counts as absent. Only files of torchvision and pytorchvideo are taken
    from there, since those of the hub have the same name in each repository.
    """
    if entry.origin not in ("torchvision", "pytorchvideo"):
        return None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        home = os.environ.get("TORCH_HOME") or (Path(base) if base else Path.home() / ".cache") / "torch"
    except RuntimeError:
        return None
    path = Path(home).expanduser() / "hub" / "checkpoints" / Path(urlsplit(entry.address).path).name
    return path if path.is_file() and (not entry.sha256 or hash_of(path).startswith(entry.sha256)) else None


def _take_over(source: Path, path: Path) -> None:
    """Make ``path`` the same file as ``source``, or a copy of it where the file systems differ."""
    with replacing(path) as half:
        try:
            os.link(source.resolve(), half)
        except OSError:
            shutil.copyfile(source, half)


def by_hand(entry: Published) -> str:
    """Return the end of a sentence: what to fetch, and where to put it."""
    file = f"{public(entry.address)} ({entry.megabytes:,.0f} MB)"
    return f"fetch {file} where there is a network, and put it at {entry.path}"


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(
                f"{error.strerror} in {path.parent}; VIDACT_HOME chooses another folder for downloaded weights"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) or isinstance(
            error, PermissionError | NotADirectoryError | FileExistsError
        ):
            raise type(error)(
                f"the cache {path.parent} cannot be written ({error.strerror or error}); VIDACT_HOME chooses another "
                "folder for downloaded weights"
            ) from error
        raise


@contextlib.contextmanager
def alone(lock: Path, name: str) -> Iterator[None]:
    """Run the block in one process at a time; others wait. The lock is a file, which is removed afterwards."""
    is_announced = False
    while True:
        file = lock.open("ab")
        try:
            # The process that had the lock may have removed the file between the opening and the locking of it.
            if try_lock(file.fileno()) and lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                break
        except FileNotFoundError:  # removed between the two checks
            pass
        except BaseException:
            file.close()
            raise
        file.close()
        if not is_announced:
            _say(f"{name}: another process is downloading it")
            is_announced = True
        time.sleep(WAIT_S)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        file.close()


def _check(entry: Published, path: Path) -> None:
    """Raise ValueError where the file's SHA-256 is another than published, or than that of its first use."""
    if text := text_in_place_of_weights(path):
        raise ValueError(f"{path} is {text}, not the weights of {entry.name}. Delete it, and they are fetched again")
    digest = hash_of(path)
    pin = pin_of(path)
    expected = pin.read_text(encoding="utf-8").split()[:1] if pin.is_file() else []
    for first, described in ((entry.sha256, "as published"), (expected[0] if expected else "", f"by {pin.name}")):
        if not digest.startswith(first):
            raise ValueError(
                f"{path} has the SHA-256 {digest[:16]}… and should have {first[:16]}…, {described}: it is damaged or "
                f"another file. Delete {'both' if described != 'as published' else 'it'}, and {entry.name} is fetched "
                "again"
            )
    if not expected:
        with contextlib.suppress(OSError), replacing(pin) as half:  # a cache that only others write is read, too
            half.write_text(f"{digest}  {path.name}\n", encoding="utf-8")  # as sha256sum writes and checks it


def pin_of(path: Path) -> Path:
    """Return the file that holds the SHA-256 of the first download."""
    return path.with_name(f"{path.name}.sha256")


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------- the download


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _download(entry: Published, path: Path) -> None:
    """Download a network's file; a part of it that an earlier try left is continued."""
    half, tag = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.etag")
    address = address_of(entry)
    _say(
        f"{entry.name}: downloading about {entry.megabytes:,.0f} MB from {public(address)} to {path.parent} "
        f"(licence {entry.licence})"
    )
    while True:
        before = _size(half)
        try:
            if _continue(address, half, tag):
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and before:  # the part is longer than the file is now
                half.unlink(missing_ok=True)
                continue
            raise OSError(f"{entry.name}: {_refusal(error, address)}: {by_hand(entry)}") from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                half.unlink(missing_ok=True)
                tag.unlink(missing_ok=True)
            raise
        if _size(half) > before:
            continue  # a connection that is cut after some bytes is made again at once
        share = f"; {_size(half) / 1e6:,.1f} MB are there, and the same command continues" if _size(half) else ""
        raise OSError(f"{entry.name} could not be downloaded ({reason}){share}: {by_hand(entry)}")
    digest = hash_of(half)
    if not digest.startswith(entry.sha256):
        half.unlink()
        tag.unlink(missing_ok=True)
        raise ValueError(
            f"{entry.name}: what {public(address)} sent has the SHA-256 {digest[:16]}… and should have "
            f"{entry.sha256}…, so it was removed: {by_hand(entry)}"
        )
    pin_of(path).unlink(missing_ok=True)  # of a file that was deleted since
    os.replace(half, path)
    tag.unlink(missing_ok=True)


def _continue(address: str, half: Path, tag: Path) -> bool:
    """Download the rest of a file to ``half``; return whether it is complete.

    ``tag`` holds the version of the file that ``half`` is a part of; the rest of another version is not appended.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "vidact"})
    start = _size(half)
    version = tag.read_text(encoding="latin1") if start and tag.is_file() else ""
    if version:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)
    # A new opener, since urlopen keeps the proxies that it has read once.
    with urllib.request.build_opener().open(request, timeout=TIMEOUT_S) as response:
        if response.headers.get_content_type() == "text/html":  # a page of a proxy or a hotel, in place of the file
            raise urllib.error.URLError("the server sent a page, not the file")
        part = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if response.status == 206 and (part is None or int(part[1]) != start):
            raise urllib.error.URLError("the server sent another part of the file than requested")
        if part is None or response.status != 206:
            start, total = 0, int(response.headers.get("Content-Length") or 0)
        else:
            total = int(part[2])
        free = shutil.disk_usage(half.parent).free
        if total - start > free:
            raise OSError(
                errno.ENOSPC,
                f"{(total - start) / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free",
            )
        etag = response.headers.get("ETag", "")
        tag.write_text("" if etag.startswith("W/") else etag, encoding="latin1")
        with half.open("ab" if start else "wb") as file:
            start = _copy(response, file, start, total)
    return not total or start >= total


def _copy(response: Any, file: Any, start: int, total: int) -> int:
    """Append a response to a file of ``start`` bytes, with progress on the standard error; return its new size."""
    is_terminal = sys.stderr.isatty()
    next_share = 0.1
    while block := response.read(BLOCK):
        file.write(block)
        start += len(block)
        share = start / total if total else 0.0
        if is_terminal:
            print(f"\r  {start / 1e6:,.1f} of {total / 1e6:,.1f} MB", end="", file=sys.stderr, flush=True)
        elif share >= next_share and total > 10 * BLOCK:
            _say(f"  {share:.0%} of {total / 1e6:,.0f} MB")
            next_share = share + 0.1
    if is_terminal:
        _say("")
    return start


def _refusal(error: urllib.error.HTTPError, address: str) -> str:
    if error.code in (401, 403):
        return f"{public(address)} was refused ({error.code}): the server asks for a token or other rights"
    if error.code in (404, 410):
        return f"there is no {public(address)} ({error.code})"
    return f"{public(address)} was answered with {error.code} {error.reason}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
