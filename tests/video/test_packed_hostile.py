"""A store may come from anybody: whatever stands in a ``.packed`` file is frames, or a VideoError with its name."""

import json
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidact.data.synthetic import write_video
from vidact.prepare.pack import PackSettings
from vidact.prepare.sets import pack_set
from vidact.video.decode import VideoError, open_video

HUGE = 10**12
WRONG: list[Any] = [None, True, "12", [], {}, [[1]], -1, 0, 0.5, 1e12, HUGE, 10**400, float("nan"), float("inf")]
NUMBERS, LISTS, TEXTS = ["height", "width", "fps", "end_s"], ["offsets", "sizes", "times_s"], ["store", "shard"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    pictures = np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), dtype=np.uint8)
    write_video(root / "set" / "a" / "one.mp4", pictures, 10)
    pack_set(root / "set", root / "store", PackSettings(fps=None), progress=False)
    return root / "store"


def refused_or_read(path: Path, entry: Any) -> bool:
    """Whether it was read; what is neither raises."""
    path.write_text(entry if isinstance(entry, str) else json.dumps(entry))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with open_video(path) as video:
            frames = video.frames_at(range(len(video)))
            assert frames.images.shape == (4, 3, 48, 64)
            assert np.isfinite(frames.times_s).all()
            assert np.isfinite([video.fps, video.end_s]).all()
            return True
    except VideoError as error:
        assert path.name in str(error)  # noqa: PT017
        assert len(str(error)) < 600  # noqa: PT017
        return False
    finally:
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("word", [*NUMBERS, *LISTS, *TEXTS])
def test_wrong_values(word: str, store: Path) -> None:
    path = store / "a" / f"wrong_{word}.packed"
    entry = json.loads((store / "a" / "one.packed").read_text())
    assert refused_or_read(path, entry)
    for value in WRONG:
        is_read = refused_or_read(path, entry | {word: value})
        assert not is_read or (word in ("fps", "end_s") and isinstance(value, int | float)), (word, value)
    if word in LISTS:
        for value in WRONG:
            changed = [*entry[word][:-1], value]
            is_read = refused_or_read(path, entry | {word: changed})
            assert not is_read or (word == "times_s" and isinstance(value, int | float)), (word, value)
    if word != "end_s":  # what older stores lack
        assert not refused_or_read(path, {key: value for key, value in entry.items() if key != word})


@pytest.mark.parametrize("content", ["", "null", "[]", "7", '"text"', "{", "[" * 100_000, '{"a":' * 50_000, "\0" * 99],
                         ids=lambda content: content[:8])  # fmt: skip
def test_what_is_no_record(content: str, store: Path) -> None:
    assert not refused_or_read(store / "a" / "none.packed", content)


def test_times_ascend(store: Path) -> None:
    entry = json.loads((store / "a" / "one.packed").read_text())
    assert not refused_or_read(store / "a" / "back.packed", entry | {"times_s": entry["times_s"][::-1]})


@pytest.mark.parametrize("kind", ["large", "png", "cut", "noise"])
def test_pictures_that_are_not_what_was_promised(kind: str, store: Path) -> None:
    """A JPEG of 30,000 x 30,000 in a few bytes, other formats, and what is none: known before anything is decoded."""
    entry = json.loads((store / "a" / "one.packed").read_text())
    shard = bytearray((store / "shards" / entry["shard"]).read_bytes())
    at, size = entry["offsets"][2], entry["sizes"][2]
    jpeg = bytes(shard[at : at + size])
    if kind == "large":
        frame = jpeg.index(b"\xff\xc0")
        jpeg = jpeg[: frame + 5] + b"\x75\x30\x75\x30" + jpeg[frame + 9 :]
    elif kind == "png":
        head = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
        jpeg = (b"\x89PNG\r\n\x1a\n" + chunk).ljust(size, b"\0")[:size]
    elif kind == "cut":
        jpeg = jpeg[:20].ljust(size, b"\0")
    else:
        jpeg = b"\xff\xd8" + np.random.default_rng(0).bytes(size - 2)
    shard[at : at + size] = jpeg
    (store / "shards" / f"{kind}.tar").write_bytes(shard)
    assert not refused_or_read(store / "a" / f"{kind}.packed", entry | {"shard": f"{kind}.tar"})


@pytest.mark.parametrize(("height", "width"), [(65_535, 65_535), (40_000, 40_000), (16_384, 16_384)])
def test_sizes_that_are_only_promised(height: int, width: int, store: Path) -> None:
    """Nothing is reserved for pictures before one of them came: all four would be 3 GiB at least."""
    entry = json.loads((store / "a" / "one.packed").read_text())
    assert not refused_or_read(store / "a" / "promised.packed", entry | {"height": height, "width": width})


@pytest.mark.parametrize("shard", ["a" * 300 + ".tar", "\u0430" * 150 + ".tar", "a\0.tar", "000000.tar\n"])
def test_names_that_no_shard_has(shard: str, store: Path) -> None:
    entry = json.loads((store / "a" / "one.packed").read_text())
    assert not refused_or_read(store / "a" / "named.packed", entry | {"shard": shard})


@pytest.mark.parametrize(
    "place", ["a\0b", "a" * 300, "a/one.packed", "file://[::1/x", "file:///a%00b", "http://[::1/x", "memory://x"]
)
def test_places_that_cannot_be(place: str, store: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    for name in ("packed.json", "a/one.packed"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((store / name).read_bytes())
    record = json.loads((tmp_path / "packed.json").read_text())
    (tmp_path / "packed.json").write_text(json.dumps(record | {"shards": place}))
    with (
        pytest.raises(VideoError, match=r"packed\.json names|one\.packed"),
        open_video(tmp_path / "a" / "one.packed") as video,
    ):
        video.frames_at([0])


def test_a_store_that_an_editor_of_windows_wrote(store: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.packed").write_bytes((store / "a" / "one.packed").read_bytes())
    record = json.loads((store / "packed.json").read_text()) | {"shards": str(store / "shards")}
    (tmp_path / "packed.json").write_text(json.dumps(record), encoding="utf-8-sig")
    with open_video(tmp_path / "a" / "one.packed") as video:
        assert len(video.frames_at(range(4)).images) == 4
