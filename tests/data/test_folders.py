"""Files that systems and programs keep beside videos, and previews, are no clips; a note names them."""

from pathlib import Path

import pytest

from vidact.data.clip_list import load_clips
from vidact.prediction import find_videos
from vidact.prepare.sources import find_sources
from vidact.video.folders import walk_videos

CLIPS = [f"{label}/{i}.mp4" for label in ("jump", "run") for i in range(3)]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


# files beside jump/0.mp4, and the program that writes them
LITTER = [
    "jump/@eaDir/0.mp4/SYNOVIDEO_VIDEO_SCREENSHOT.jpg",  # Synology's index
    "jump/@eaDir/0.mp4/SYNOPHOTO_THUMB_M.jpg",
    "jump/@eaDir/0.mp4",  # a folder's name, here of a file
    "jump/#recycle/9.mp4",  # Synology's bin
    "jump/@Recycle/9.mp4",  # QNAP's
    "jump/.@__thumb/s8000.mp4",  # QNAP's previews
    "jump/.AppleDouble/0.mp4",  # netatalk
    "jump/._0.mp4",  # a Mac on another's disk
    "__MACOSX/jump/._0.mp4",  # a Mac's zip
    "__MACOSX/jump/0.mp4",
    ".Trashes/501/9.mp4",
    ".Trash-1000/files/9.mp4",
    "$RECYCLE.BIN/S-1-5/$R1.mp4",
    "System Volume Information/x.mp4",
    "lost+found/#12345.mp4",
    "jump/.thumbnails/0001.jpg",  # Android
    "jump/.ipynb_checkpoints/0-checkpoint.mp4",
    "jump/.syncthing.0.mp4.tmp",
    ".stversions/jump/9.mp4",
    ".git/x.mp4",
    "jump/GX010001.THM",  # GoPro's preview
    "jump/GL010001.LRV",  # and its small copy
    "jump/0-poster.jpg",
    "jump/0.srt",
    "jump/Thumbs.db",
    "jump/thumbs/0.jpg",  # previews of the videos beside them
    "jump/thumbs/0001.jpg",
    "jump/0.trickplay/320 - 10x10/0.jpg",  # Jellyfin's
    "jump/previews/0/0001.jpg",
    "jump/M4ROOT/THMBNL/C0001T01.JPG",  # Sony's
    "thumbs/0001.jpg",
    "thumbnails/jump/0001.jpg",
    "@eaDir/jump/SYNOPHOTO_THUMB_M.jpg",
    "~snapshot/hourly.0/jump/0.mp4",  # NetApp
    "jump/trashbox/9.mp4",  # Buffalo's bin
    "@SynoDrive/0.mp4",
    "jump/M4ROOT/SUB/C0001S03.MP4",  # Sony's small copies
    "jump/XDROOT/Sub/C0001S01.MP4",
    "jump/Plex Versions/Optimized for TV/0.mp4",
    "jump/Adobe Premiere Pro Video Previews/seq.PRV/Rendered - 1.mpeg",
    "jump/Media Cache Files/0.mp4",
    "jump/CacheClip/0/1.mov",  # DaVinci Resolve
    "jump/Render Files/High Quality Media/0.mov",  # Final Cut Pro
    "jump/BL_proxy/0.mp4/proxy_25.avi",  # Blender
    "FOUND.002/FILE0001.MP4",  # Windows' repairs
    "node_modules/player/sample.mp4",
    "lightning_logs/version_0/0.mp4",
    "wandb/run/media/videos/0.mp4",
]


@pytest.mark.parametrize("name", LITTER)
def test_what_lies_beside_videos_is_no_clip(tmp_path, name):
    root = touch(tmp_path, *CLIPS, name)
    clips = load_clips(root)
    assert [clip.id for clip in clips] == [path.removesuffix(".mp4") for path in CLIPS]
    assert clips.classes == ["jump", "run"]
    assert clips.notes, "what was passed over is told"
    for below in (1, 2):
        assert walk_videos(root, images_below=below) == CLIPS
    assert [path.relative_to(root).as_posix() for path in find_videos(root)] == CLIPS
    assert list(find_sources(root).videos) == CLIPS


def test_the_notes_say_what_was_passed_over(tmp_path):
    root = touch(tmp_path, *CLIPS, *(f"jump/@eaDir/{i}.mp4/SYNOVIDEO_VIDEO_SCREENSHOT.jpg" for i in range(3)))
    touch(root, "run/@eaDir/x.jpg", "jump/thumbs/1.jpg", "jump/thumbs/2.jpg", "run/notes.txt", "jump/._0.mp4")
    notes = load_clips(root).notes
    assert f"ignored 1 hidden file or folder in {root}" in notes
    assert f"ignored 2 folders in {root} that a system or a program keeps for itself: jump/@eaDir, run/@eaDir" in notes
    assert f"ignored 1 folder of images that is no clip in {root}: jump/thumbs (videos lie beside it)" in notes


def test_folders_of_numbered_images_are_clips(tmp_path):
    frames = [f"jump/one/frame_{i:05d}.jpg" for i in range(1, 4)] + [f"jump/two/{i}.png" for i in range(9, 12)]
    frames += ["run/deep/three/img1.jpg", "run/four/x 2020-01-01 10.00.01.jpg", "run/four/x 2020-01-01 10.00.02.jpg"]
    root = touch(tmp_path, *frames, "run/five.mp4.txt", "jump/one/._frame_00001.jpg", "jump/one/Thumbs.db")
    assert [clip.id for clip in load_clips(root)] == ["jump/one", "jump/two", "run/deep/three", "run/four"]
    assert walk_videos(root, images_below=2) == ["jump/one", "jump/two", "run/deep/three", "run/four"]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["cover.jpg"], "'cover.jpg' has no number"),
        (["0001.jpg", "0002.jpg", "folder.jpg"], "'folder.jpg' has no number"),
        (["left_1.jpg", "left_2.jpg", "right_1.jpg"], "'left_1.jpg' and 'right_1.jpg' are of two rows"),
        (["flow_x_00001.jpg", "flow_y_00001.jpg", "img_00001.jpg"], "are of two rows"),
    ],
)
def test_other_folders_of_images_are_told(tmp_path, names, why):
    root = touch(tmp_path, "jump/one/1.jpg", "jump/one/2.jpg", "run/two/1.jpg", *(f"run/odd/{name}" for name in names))
    clips = load_clips(root)
    assert [clip.id for clip in clips] == ["jump/one", "run/two"]
    (note,) = [note for note in clips.notes if "of images" in note]
    assert why in note
    touch(root, *(f"walk/odd/{name}" for name in names))
    with pytest.raises(ValueError, match=r"empty class walk: .*walk/odd"):
        load_clips(root)


def test_images_right_in_a_class_folder_are_no_clip_in_any_layout(tmp_path):
    names = ["0001.jpg", "0002.jpg"]
    root = touch(tmp_path / "a", *(f"{side}/run/{name}" for side in ("train", "test") for name in names))
    touch(root, "train/jump/one/1.jpg", "test/jump/two/1.jpg")
    with pytest.raises(ValueError, match=r"empty class run: .*train/run \(it is a class's folder"):
        load_clips(root)
    assert [clip.id for clip in load_clips(root, empty_classes="allow")] == ["test/jump/two", "train/jump/one"]


def test_links_that_lead_to_each_other(tmp_path):
    root = touch(tmp_path, "jump/0.mp4", "run/1.mp4")
    (root / "jump/more").symlink_to(root / "run")
    (root / "run/more").symlink_to(root / "jump")
    assert walk_videos(root) == ["jump/0.mp4", "jump/more/1.mp4", "run/1.mp4", "run/more/0.mp4"]


def test_a_class_of_videos_and_a_class_of_images(tmp_path):
    """A stray video beside the class folders does not turn a class of images into previews."""
    root = touch(tmp_path, "jump/0.mp4", "run/a/1.jpg", "run/a/2.jpg", "stray.mp4")
    assert [clip.id for clip in load_clips(root)] == ["jump/0", "run/a"]
    assert walk_videos(root, images_below=2) == ["jump/0.mp4", "run/a", "stray.mp4"]


def test_a_class_may_be_called_sub_or_proxy(tmp_path):
    root = touch(tmp_path, "sub/0.mp4", "proxy/1.mp4", "recycle/2.mp4", "found/3.mp4")
    assert load_clips(root).classes == ["found", "proxy", "recycle", "sub"]


def test_a_class_may_be_called_thumbs(tmp_path):
    root = touch(tmp_path, "thumbs/0.mp4", "preview/1.mp4", "@home/2.mp4")
    assert load_clips(root).classes == ["@home", "preview", "thumbs"]


def test_a_class_of_images_may_be_called_thumb(tmp_path):
    """A folder of that name holds previews only if the other classes hold files."""
    root = touch(tmp_path / "images", "thumb/one/1.jpg", "thumb/two/1.jpg", "fist/three/1.jpg", "fist/previews/1.jpg")
    assert [clip.id for clip in load_clips(root)] == ["fist/three", "thumb/one", "thumb/two"]
    root = touch(tmp_path / "splits", "train/thumb/one/1.jpg", "train/fist/two/1.jpg", "test/thumb/three/1.jpg")
    assert load_clips(root).classes == ["fist", "thumb"]
    root = touch(tmp_path / "files", "jump/1.mp4", "run/2.mp4", "recycled/3.mp4", "RECYCLER/4.mp4")
    assert load_clips(root).classes == ["jump", "recycled", "run"]


def test_other_commands_tell_it_too(tmp_path, capsys):
    from vidact.features.files import find_videos as find_untrimmed
    from vidact.features.flow import find_sources as find_flow

    root = touch(tmp_path, *CLIPS, "jump/@eaDir/0.mp4/x.jpg", "__MACOSX/0.mp4", "lost+found/1.mp4", "jump/._0.mp4")
    assert list(find_untrimmed(root)) == [name.removesuffix(".mp4") for name in CLIPS]
    assert list(find_flow(root)) == [name.removesuffix(".mp4") for name in CLIPS]
    notes: list[str] = []
    walk_videos(root, notes=notes)
    assert any("jump/@eaDir" in note and "lost+found" in note for note in notes)


def test_a_folder_that_is_streamed_or_examined_has_no_litter(tmp_path):
    from vidact.doctor import videos_below
    from vidact.stream.sources import files_of

    root = touch(tmp_path, "1.mp4", "2.mp4", "10.mp4", "._1.mp4", "@eaDir/1.mp4/x.jpg", ".hidden.mp4", "._x.jpg")
    assert [path.name for path in files_of(root)[0]] == ["1.mp4", "2.mp4", "10.mp4"]
    assert files_of(root)[1] == []
    touch(root, "@eaDir/3.mp4", "deep/4.mp4")
    assert [path.name for path in videos_below(root)] == ["1.mp4", "10.mp4", "2.mp4", "4.mp4"]


@pytest.mark.parametrize("names", [["videos/a.mp4"], ["videos/a.mp4", "features/a.npy"], ["a.mp4"]])
def test_untrimmed_videos_are_no_class_folders(names: list[str], tmp_path: Path) -> None:
    """The error of a recogniser's loader names the networks that such videos are for."""
    touch(tmp_path, "events.csv", *names)
    with pytest.raises((ValueError, FileNotFoundError), match=r"events\.csv.*untrimmed.*--config online/fir/miniroad"):
        load_clips(tmp_path)
