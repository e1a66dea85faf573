"""Stored flow: folders that ``vidact extract flow`` wrote, and folders that other programs wrote in the usual layouts.

``flow.json`` of a folder records how its flow was made. Field i, counted from 0, carries frame i to frame i + 1, so a
video of N frames has N - 1 fields; in the names of files they count from 1, as in all these layouts. Pixels hold x and
y rounded to 0 … 255 (``flow.quantise``), each as a grey picture:

``packed``        one file a video, ``<video>.flow.zip``: the pictures of ``tsn`` in a plain zip archive
``tsn``           ``<video>/flow_x_00001.jpg`` and ``flow_y_…``: dense_flow, TSN, TSM, MMAction2
``mmaction``      ``<video>/x_00001.jpg`` and ``y_…``: MMAction2 0.x
``something_v1``  ``000123/000123-x_00001.jpg`` and ``…-y_…``: TSM's Something-Something V1
``colour``        ``<video>/00001.jpg``: x and y are red and green of one picture, blue is empty: TRN's, TSM's Jester
``uv``            ``u/<video>/frame000001.jpg`` and ``v/…``: Feichtenhofer's

Shapes: N frames, n requested fields, H x W pixels.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidact.files import write_json
from vidact.records import parse
from vidact.text.names import Finder
from vidact.video.decode import VideoError
from vidact.video.flow import dequantise, quantise
from vidact.video.flow_record import BOUND, FORMAT, FlowRecord

RECORD = "flow.json"
PACK = ".flow.zip"
MOST_BYTES = 64 << 20  # in the file of one picture
MOST_PIXELS = 64_000_000  # in one picture; 8K video has 33 million


def read_record(root: str | Path) -> FlowRecord:
    """Return the record in the folder's ``flow.json``; raises ValueError where it cannot be read."""
    path = Path(root) / RECORD
    if not path.is_file():
        raise FileNotFoundError(
            f"{root} has no {RECORD}, so it does not say what its flow is. Write flow with `vidact extract flow`; for "
            "flow that another program made, say what it is with `vidact extract flow --adopt --out FOLDER --layout … "
            "--method …`"
        )
    try:
        content = parse(path.read_text(encoding="utf-8"), path)
        version = content.pop("format")
        if version > FORMAT:
            raise ValueError(f"format {version} is newer than this vidact's {FORMAT}")
        return FlowRecord(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no record of flow: {error}") from error


def write_record(root: str | Path, record: FlowRecord) -> None:
    """Write the record of a folder; raises ValueError for a folder that holds other flow."""
    root = Path(root)
    if (root / RECORD).exists():
        stored = read_record(root)
        differ = [
            f"{field.name} {getattr(stored, field.name)!r} there and {getattr(record, field.name)!r} asked"
            for field in dataclasses.fields(FlowRecord)
            if getattr(stored, field.name) != getattr(record, field.name)
        ]
        if differ:
            raise ValueError(f"{root} holds other flow: {'; '.join(differ)}. Choose another --out")
        return
    write_json(root / RECORD, record.as_dict())


# ---------------------------------------------------------------------------------------------- names


def _names(video: str) -> dict[str, str]:
    parent, slash, name = video.rpartition("/")
    return {"video": video, "parent": parent + slash, "name": name}


def _pack_of(root: Path, video: str) -> Path:
    return root / f"{video}{PACK}"


def folders_of(root: Path, video: str, record: FlowRecord) -> list[Path]:
    """Return the folders of one video's pictures: one, or those of x and of y."""
    paths = [root / Path(template.format(**_names(video), index=1)).parent for template in record.templates]
    return list(dict.fromkeys(paths))


def _as_stored(root: Path, video: str, record: FlowRecord) -> str:
    """Return the id as the store spells it, which may differ from ``video`` invisibly (see ``text.names.Finder``)."""
    first = _pack_of(root, video) if record.layout == "packed" else folders_of(root, video, record)[0]
    path = Finder(root).find(first.relative_to(root).as_posix())
    if path == first:
        return video
    id_parts = path.with_name(path.name.removesuffix(PACK)).parts[-len(video.split("/")) :]
    return "/".join(id_parts)


def _decoded(picture: bytes, mode: str) -> np.ndarray:
    """Return a picture (H, W) or (H, W, 3) uint8; raises ValueError, before decoding, for more than MOST_PIXELS."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"it has {image.width}x{image.height} pixels, and at most {MOST_PIXELS:,} are read")
        return np.asarray(image.convert(mode))


def _count(folder: Path, template: str, video: str) -> int:
    """Return the number of fields in a folder; raises VideoError unless they are numbered from 1 without a gap."""
    name = template.rpartition("/")[2]
    prefix, suffix = (re.escape(part.format(**_names(video))) for part in re.split(r"\{index[^}]*\}", name))
    matches = [re.fullmatch(rf"{prefix}(\d+){suffix}", file) for file in os.listdir(folder)]
    numbers = {int(match[1]) for match in matches if match}
    if numbers != set(range(1, len(numbers) + 1)):
        gap = min(set(range(1, len(numbers) + 1)) - numbers)
        raise VideoError(
            f"{folder} has {len(numbers)} fields of flow, and number {gap} is not among them; extract it again"
        )
    return len(numbers)


# ---------------------------------------------------------------------------------------------- reading


class FlowStore:
    """A folder of flow. It can be pickled and so sent to loading workers.

    Args:
        root: the folder with ``flow.json``.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder; write flow into it with `vidact extract flow`")
        self.record = read_record(self.root)

    def open(self, video: str) -> StoredFlow:
        """Return the flow of a video by its id: its path below the folder of videos, without the suffix."""
        return StoredFlow(self.root, video, self.record)

    def is_whole(self, video: str, num_fields: int) -> bool:
        """Whether the folder holds exactly ``num_fields`` fields of a video."""
        try:
            with self.open(video) as flow:
                return len(flow) == num_fields
        except VideoError:
            return False


class StoredFlow:
    """The fields of one video; its length is their number. Raises VideoError where they are missing or damaged."""

    def __init__(self, root: Path, video: str, record: FlowRecord) -> None:
        video = _as_stored(root, video, record)
        self.root, self.video, self.record = root, video, record
        self._archive: zipfile.ZipFile | None = None
        x, y = record.templates
        if record.layout == "packed":
            path = _pack_of(root, video)
            if not path.is_file():
                raise self._absent(path)
            try:
                self._archive = zipfile.ZipFile(path)
                names = self._archive.namelist()
            except (zipfile.BadZipFile, OSError) as error:
                raise VideoError(f"{path} cannot be read ({error}); extract it again") from error
            self._length = self._checked_length(len(names) // 2)
            if set(names[-2:]) != {name.format(index=self._length) for name in (x, y)}:
                self.close()
                raise VideoError(f"{path} does not hold {self._length} numbered fields of x and y; extract it again")
            return
        folders = folders_of(root, video, record)
        for folder in folders:
            if not folder.is_dir():
                raise self._absent(folder)
        counts = [_count(folders[i % len(folders)], template, video) for i, template in enumerate((x, y))]
        if counts[0] != counts[1]:
            raise VideoError(f"{folders[0]} has {counts[0]} fields of x and {counts[1]} of y; extract it again")
        self._length = self._checked_length(counts[0])

    def _checked_length(self, num_fields: int) -> int:
        if not num_fields:
            self.close()
            raise VideoError(f"the flow of {self.video!r} in {self.root} has no field; extract it again")
        return num_fields

    def _absent(self, path: Path) -> VideoError:
        return VideoError(
            f"there is no flow of {self.video!r}: {path} does not exist. Extract it with `vidact extract flow`, or "
            "let it be computed while loading (data.flow null)"
        )

    def __len__(self) -> int:
        return self._length

    def fields_at(self, indices: Sequence[int] | np.ndarray, bound: float = BOUND) -> Tensor:
        """Return fields by number (n, 2, H, W) uint8, in levels that end at ``bound`` pixels a frame."""
        requested = np.asarray(indices, dtype=np.int64)
        outside = requested[(requested < 0) | (requested >= len(self))]
        if outside.size:
            raise IndexError(f"field {outside[0]} of {self.video} does not exist: it has {len(self)}")
        numbers, slots = np.unique(requested, return_inverse=True)
        pictures = [self._field(int(number)) for number in numbers]
        if len({picture.shape for picture in pictures}) > 1:
            raise VideoError(f"the fields of {self.video} in {self.root} differ in size; extract them again")
        fields = torch.from_numpy(np.stack(pictures)[slots])
        if self.record.bound != bound:
            fields = quantise(dequantise(fields, self.record.bound), bound)
        return fields

    def _field(self, number: int) -> np.ndarray:
        """Return one field (2, H, W) uint8."""
        names = [template.format(**_names(self.video), index=number + 1) for template in self.record.templates]
        parts = []
        for name in dict.fromkeys(names):
            try:
                parts.append(_decoded(self._read(name), "RGB" if self.record.layout == "colour" else "L"))
            except Exception as error:  # Pillow and zipfile raise various errors for damaged bytes
                raise VideoError(f"{name} of {self.root} cannot be read ({error}); extract it again") from error
        if self.record.layout == "colour":
            return np.moveaxis(parts[0][..., :2], 2, 0)
        if parts[0].shape != parts[1].shape:
            raise VideoError(f"{names[0]} and {names[1]} of {self.root} differ in size; extract them again")
        return np.stack(parts)

    def _read(self, name: str) -> bytes:
        """Return the bytes of a picture; raises ValueError where they are more than a field of flow needs."""
        archive, path = self._archive, self.root / name
        size = path.stat().st_size if archive is None else archive.getinfo(name).file_size
        if size > MOST_BYTES:
            raise ValueError(f"it would take {size:,} bytes, and a picture of flow takes at most {MOST_BYTES:,}")
        return path.read_bytes() if archive is None else archive.read(name)

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()

    def __enter__(self) -> StoredFlow:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


# ---------------------------------------------------------------------------------------------- writing


class FlowWriter:
    """A writer of one video's fields. They get their names when the block ends without an error, all of them or none.

    >>> with FlowWriter(Path("flow"), "walking/ann", FlowRecord()) as writer:  # doctest: +SKIP
    ...     writer.write(levels)  # (2, H, W) uint8, field after field
    """

    def __init__(self, root: Path, video: str, record: FlowRecord) -> None:
        self.root, self.video, self.record = Path(root), video, record
        self.num_fields = 0
        if record.layout == "packed":
            self.targets = [_pack_of(self.root, video)]
        else:
            self.targets = folders_of(self.root, video, record)
        self.halves = [target.with_name(f".{os.getpid()}.{target.name}") for target in self.targets]
        self._archive: zipfile.ZipFile | None = None

    def __enter__(self) -> FlowWriter:
        self._clean()
        for half in self.halves:
            half.parent.mkdir(parents=True, exist_ok=True)
            if self.record.layout == "packed":
                self._archive = zipfile.ZipFile(half, "w")  # stored as they are, since pictures are compressed already
            else:
                half.mkdir()
        return self

    def write(self, levels: Tensor) -> None:
        """Write the next field, (2, H, W) uint8."""
        self.num_fields += 1
        array = levels.numpy()
        if self.record.layout == "colour":
            parts = [np.stack([*array, np.zeros_like(array[0])], axis=-1)]
        else:
            parts = [array[0], array[1]]
        for i, part in enumerate(parts):
            name = self.record.templates[i].format(**_names(self.video), index=self.num_fields)
            content = self._encoded(part)
            if self._archive is not None:
                # a fixed date, so that the same flow gives the same bytes
                self._archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
            else:
                (self.halves[i % len(self.halves)] / Path(name).name).write_bytes(content)

    def _encoded(self, picture: np.ndarray) -> bytes:
        from PIL import Image

        out = io.BytesIO()
        if self.record.image == "png":
            Image.fromarray(picture).save(out, "PNG")
        else:  # x and y in one picture keep their full resolution, since they are no colours
            options = {"subsampling": 0} if picture.ndim == 3 else {}
            Image.fromarray(picture).save(out, "JPEG", quality=self.record.quality, **options)
        return out.getvalue()

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._archive is not None:
            self._archive.close()
        if kind is None:
            for half, target in zip(self.halves, self.targets, strict=True):
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(half, target)
        self._clean()

    def _clean(self) -> None:
        """Remove the hidden files and folders of this video that this or a killed process left."""
        for target in self.targets:
            if not target.parent.is_dir():
                continue
            for path in target.parent.iterdir():
                if re.fullmatch(rf"\.\d+\.{re.escape(target.name)}", path.name):
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)
