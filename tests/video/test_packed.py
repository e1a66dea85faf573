"""A packed video is a reader of the frames that were kept, from a folder, a URL, or through WebDataset."""

import json
import pickle
import shutil

import fsspec
import numpy as np
import pytest

from vidact.data.synthetic import write_video
from vidact.prepare.pack import PackSettings, kept_frames
from vidact.prepare.sets import pack_set
from vidact.video.decode import VideoError, open_video
from vidact.video.packed import PackedReader


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("films")
    random = np.random.default_rng(0)
    for name, frames in (("a/one.mp4", 30), ("a/two.mp4", 21), ("b/three.mp4", 12)):
        walls = np.repeat(random.integers(20, 235, (6, 8, 1), dtype=np.uint8), 3, 2)  # 4:2:0 would blur colours
        wall = np.kron(walls, np.ones((8, 8, 1), np.uint8))
        write_video(root / name, np.stack([np.roll(wall, t, 0) for t in range(frames)]), 30, keyframe_every=10)
    return root


@pytest.fixture
def store(films, tmp_path):
    pack_set(films, tmp_path / "store", PackSettings(fps=None, quality=95, shard_mib=0.001), progress=False)
    return tmp_path / "store"


def test_it_reads_like_any_video(films, store):
    for name in ("a/one", "a/two", "b/three"):
        with open_video(films / f"{name}.mp4", cache=False) as source, PackedReader(store / f"{name}.packed") as video:
            assert len(video) == len(source)
            assert video.fps == pytest.approx(source.fps)
            assert (video.height, video.width) == (48, 64)
            np.testing.assert_allclose(video.times_s, source.times_s, atol=1e-6)
            order = [len(video) - 1, 0, 5, 5, 2]
            got, want = video.frames_at(order), source.frames_at(order)
            np.testing.assert_allclose(got.times_s, want.times_s, atol=1e-6)
            assert (got.images.double() - want.images.double()).pow(2).mean() < 30
            one = video.frames_at([5]).images[0]
            assert (got.images[2] == one).all()
            assert (got.images[3] == one).all()
            with pytest.raises(IndexError, match=f"it has {len(video)} frames"):
                video.frames_at([len(video)])


def read_fourth(path):
    with PackedReader(path) as video:
        video.frames_at([3])


def test_a_reader_travels_to_a_worker(store):
    with PackedReader(store / "a/one.packed") as video:
        before = video.frames_at([3]).images
        with pickle.loads(pickle.dumps(video)) as copy:
            assert (copy.frames_at([3]).images == before).all()
        video.close()
        assert (video.frames_at([3]).images == before).all()


def test_shards_may_lie_behind_a_url(store):
    with PackedReader(store / "a/one.packed") as video:
        local = video.frames_at([0, 7, 29]).images
    memory = fsspec.filesystem("memory")
    for shard in (store / "shards").iterdir():
        memory.pipe(f"/bucket/set/{shard.name}", shard.read_bytes())
    shutil.rmtree(store / "shards")
    record = json.loads((store / "packed.json").read_text())
    (store / "packed.json").write_text(json.dumps(record | {"shards": "memory://bucket/set"}))
    with PackedReader(store / "a/one.packed") as video:
        assert (video.frames_at([0, 7, 29]).images == local).all()
    memory.rm("/bucket/set", recursive=True)
    with pytest.raises(VideoError, match=r"cannot be fetched from memory://bucket/set/0"):
        PackedReader(store / "a/one.packed").frames_at([0])


def test_a_file_url_is_read_as_the_folder(store):
    with PackedReader(store / "a/one.packed") as video:
        local = video.frames_at([0, 7, 29]).images
    moved = store.parent / "another disk"
    shutil.move(store / "shards", moved)
    record = json.loads((store / "packed.json").read_text())
    (store / "packed.json").write_text(json.dumps(record | {"shards": f"file://{moved}"}))
    with open_video(store / "a/one.packed") as video:
        assert (video.frames_at([0, 7, 29]).images == local).all()


def test_what_a_packed_video_cannot_do_is_refused(store):
    for asked in ({"short_side": 24}, {"fps": 5.0}):
        with pytest.raises(ValueError, match="are not for packed videos: pack again"):
            open_video(store / "a/one.packed", **asked)


def test_webdataset_reads_the_shards(store):
    import webdataset

    shards = sorted(str(path) for path in (store / "shards").iterdir())
    assert len(shards) == 3
    seen = {}
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        told = json.loads(sample["json"])
        seen[told["video"]] = [sample[name] for name in sorted(sample) if name.endswith("jpg")]
        assert len(told["times_s"]) == len(seen[told["video"]])
    assert sorted(seen) == ["a/one.packed", "a/two.packed", "b/three.packed"]
    with PackedReader(store / "a/two.packed") as video:
        assert video._read(range(len(video))) == seen["a/two.packed"]


@pytest.mark.parametrize(
    ("rate", "fps", "every"),
    [(30, 15, 2), (30, 30, 1), (25, 24, 1), (25, 15, 2), (30, 10, 3), (12, 15, 1), (60, 15, 4)],
)
def test_which_frames_are_kept(rate, fps, every):
    times_s = np.round(np.arange(100) / rate, 3)  # as rounded as some containers' times
    assert kept_frames(times_s, fps).tolist() == list(range(0, 100, every))
    assert kept_frames(times_s, None).tolist() == list(range(100))
    assert kept_frames(times_s[:1], fps).tolist() == [0]


def test_what_is_wrong_is_said(store, tmp_path):
    path = store / "a/one.packed"
    entry = json.loads(path.read_text())
    with pytest.raises(FileNotFoundError, match=r"ending in .packed"):
        PackedReader(store / "a/none.packed")
    path.write_text("{}")
    with pytest.raises(VideoError, match="is no packed video"):
        PackedReader(path)
    path.write_text(json.dumps(entry | {"sizes": entry["sizes"][1:]}))
    with pytest.raises(VideoError, match="lists are of different lengths"):
        PackedReader(path)
    path.write_text(json.dumps(entry | {"offsets": [offset + 7 for offset in entry["offsets"]]}))
    with pytest.raises(VideoError, match=r"frame 3 of .* is not in .* where it should be"):
        read_fourth(path)
    path.write_text(json.dumps(entry | {"shard": "000077.tar"}))
    with pytest.raises(VideoError, match=r"shards/000077.tar, which does not exist"):
        read_fourth(path)
    shutil.copy(path, tmp_path / "lost.packed")
    with pytest.raises(VideoError, match=r"belongs to a store whose .*packed.json is missing"):
        PackedReader(tmp_path / "lost.packed")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quality": 0}, "quality is 0"),
        ({"fps": 0.0}, "fps is 0.0; it is above 0"),
        ({"short_side": 3}, "short_side is 3 pixels"),
        ({"shard_mib": 0}, "shard_mib is 0"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        PackSettings(**settings)
