"""A file that somebody else wrote chooses no file system, no other file, no code and no size: it is read, or refused by
name."""

import json
import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from vidact.data.synthetic import write_video
from vidact.prepare import pack_set
from vidact.stream.sources import open_source
from vidact.video.decode import VideoError, open_video
from vidact.video.packed import PackedReader, PackSettings


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    write_video(root / "films/a/one.mp4", np.zeros((4, 48, 64, 3), np.uint8), 10)
    pack_set(root / "films", root / "store", PackSettings(fps=None), progress=False)
    return root / "store"


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "store"))


def rewrite(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# ---------------------------------------------------------------------------------------------- packed.json


@pytest.mark.parametrize(
    "shards",
    [
        "reference://x::file:///store", "simplecache::s3://bucket/set", "filecache::https://host/set", "blockcache::s3://b",
        "zip://*.tar::https://host/set.zip", "tar://x::file:///x.tar", "s3://bucket::x/set", "reference:///ref.json",
        "sftp://host/set", "ssh://host/set", "github://o:r@/set", "git://x", "dask://x", "local:///store", "smb://host/set",
        "webhdfs://host/set", "hdfs://host/set", "jlab://x", "dbfs://x", "libarchive://x", "dir://x", "data://x", "REFERENCE://x",
        "generic://x", "ftp://host/set", "reference::x",
    ],
)  # fmt: skip
def test_a_store_names_no_file_system_but_those_of_a_list(
    shards: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda *_, **__: pytest.fail("it was asked for"))
    rewrite(store / "packed.json", shards=shards)
    with pytest.raises(VideoError, match=r"packed\.json names .* shards are a folder or begin with .*https://.*s3://"):
        PackedReader(store / "a/one.packed").frames_at([0])


def test_a_store_runs_no_template(store: Path, tmp_path: Path) -> None:
    """References hold templates, which fsspec from 2025.3 to 2026.4 evaluated as programs."""
    mark = tmp_path / "ran"
    program = f"{{{{ ().__class__.__base__.__subclasses__()[0] or '{mark}' }}}}"
    reference = {"version": 1, "templates": {}, "refs": {}, "gen": [{"key": program, "url": program, "dimensions": {}}]}
    (store / "ref.json").write_text(json.dumps(reference))
    for shards in (f"reference://x::file://{store}", f"reference://{store}/ref.json", "reference:///ref.json"):
        rewrite(store / "packed.json", shards=shards)
        with pytest.raises(VideoError, match=r"packed\.json names"):
            PackedReader(store / "a/one.packed").frames_at([0])


@pytest.mark.parametrize("shards", [5, None, ["shards"], {"a": 1}, True, ""])
def test_the_place_of_the_shards_is_a_text(shards: object, store: Path) -> None:
    rewrite(store / "packed.json", shards=shards)
    with pytest.raises(VideoError, match=r"packed\.json"):
        PackedReader(store / "a/one.packed").frames_at([0])


@pytest.mark.parametrize(
    "shard",
    ["../shards/000000.tar", "/etc/passwd", "a/b.tar", "..\\x.tar", "", ".", "..", "x.tar?versionId=1", "x.tar#y",
     "a::b", "c:.tar", "x\n.tar", "%2e%2e%2fx.tar", "~/x.tar", "*.tar", 5, None, ["000000.tar"], {"a": 1}],
)  # fmt: skip
def test_a_shard_is_a_plain_name(shard: object, store: Path) -> None:
    rewrite(store / "a/one.packed", shard=shard)
    with pytest.raises(VideoError, match=r"one\.packed .*shard"):
        PackedReader(store / "a/one.packed").frames_at([0])


@pytest.mark.parametrize("place", ["/etc", "../../elsewhere", "a/..", "../..x", "", 5, None, ["."], "..\\.."])
def test_a_store_lies_above_its_videos(place: object, store: Path) -> None:
    rewrite(store / "a/one.packed", store=place)
    with pytest.raises(VideoError, match=r"one\.packed .*store"):
        PackedReader(store / "a/one.packed").frames_at([0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_shard_that_is_a_pipe_is_not_waited_for(store: Path) -> None:
    (store / "shards/000000.tar").unlink()
    os.mkfifo(store / "shards/000000.tar")
    with pytest.raises(VideoError, match=r"shards/000000\.tar, which is no file"):
        PackedReader(store / "a/one.packed").frames_at([0])


def test_errors_of_a_store_hold_no_secrets(store: Path) -> None:
    rewrite(store / "packed.json", shards="memory://key:secret/word@bucket/set?signature=abcdef")
    with pytest.raises(VideoError, match="cannot be fetched from memory://bucket/set") as error:
        PackedReader(store / "a/one.packed").frames_at([0])
    for word in ("secret", "word@", "abcdef"):
        assert word not in str(error.value)


def test_a_folder_by_its_address_is_read(store: Path) -> None:
    (moved := store.parent / "else where").mkdir()
    shutil.move(store / "shards", moved / "shards")
    rewrite(store / "packed.json", shards=(moved / "shards").as_uri())
    assert PackedReader(store / "a/one.packed").frames_at([0]).images.shape == (1, 3, 48, 64)


# ---------------------------------------------------------------------------------------------- videos


LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
    "hls of a file": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{other}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {name}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv", ".avi"])
@pytest.mark.parametrize("kind", LISTS)
def test_a_video_that_only_names_others_is_none(kind: str, suffix: str, tmp_path: Path) -> None:
    write_video(tmp_path / "other.ts", np.zeros((8, 48, 64, 3), np.uint8), 8)
    path = tmp_path / f"clip{suffix}"
    path.write_text(LISTS[kind].format(other=tmp_path / "other.ts", name="other.ts"))
    for read in (open_video, open_source):
        with pytest.raises(VideoError, match=rf"clip{suffix} .*names other files"):
            read(path)


def test_a_checked_set_reads_no_list(tmp_path: Path) -> None:
    from vidact.video.check import examine

    write_video(tmp_path / "other.ts", np.zeros((8, 48, 64, 3), np.uint8), 8)
    (tmp_path / "clip.mp4").write_text(LISTS["concat"].format(name="other.ts"))
    assert "names other files" in str(examine(tmp_path / "clip.mp4"))
