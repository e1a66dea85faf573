"""``vidact predict``: files, folders and both together are answered in the order in which they are asked."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import vidact
from vidact import cli, hub, prediction
from vidact.batch import ClipInput
from vidact.data.synthetic import write_video
from vidact.models import frame_classifier, tsm_resnet_tiny
from vidact.models.weights import save
from vidact.records import Record
from vidact.video.sample import SegmentSampler

CLASSES = ["jump", "run", "wave"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = tsm_resnet_tiny(num_classes=3, weights=None, size=32)
    record = {"format": 1, "classes": CLASSES, "sampling": SegmentSampler(4).record(), "multi_label": False}
    return save(network, tmp_path_factory.mktemp("network") / "a.safetensors", record)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    noise = np.random.default_rng(0)
    for name in ("one.mp4", "folder/two.mp4", "folder/deep/three.mp4", "other/two.mp4"):
        write_video(root / name, noise.integers(0, 255, (8, 32, 32, 3), dtype=np.uint8), 25)
    return root


def test_several_paths_are_answered_in_their_order(checkpoint, videos, capsys):
    asked = [videos / "other/two.mp4", videos / "folder", videos / "one.mp4"]
    cli.main(["predict", "--checkpoint", str(checkpoint), *map(str, asked), "--json"])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    shown = [Path(answer["path"]).relative_to(videos).as_posix() for answer in answers]
    assert shown == ["other/two.mp4", "folder/deep/three.mp4", "folder/two.mp4", "one.mp4"]
    for answer in answers:
        (alone,) = vidact.predict(answer["path"], checkpoint)
        assert [[label, score] for label, score in alone.labels] == answer["labels"]
    assert [one.path for one in vidact.predict(asked, checkpoint)] == [answer["path"] for answer in answers]


def test_a_video_that_is_named_twice_is_answered_once(checkpoint, videos):
    asked = [videos / "folder/two.mp4", videos / "folder", videos / "folder/../one.mp4", videos / "one.mp4"]
    names = [Path(one.path).name for one in vidact.predict(asked, checkpoint)]
    assert names == ["two.mp4", "three.mp4", "one.mp4"]


def test_what_cannot_be_is_said_before_anything_is_answered(checkpoint, videos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path, words in (("gone.mp4", r"gone\.mp4 does not exist"), ("empty", r"empty holds no video; looked for")):
        with pytest.raises(SystemExit) as left:
            cli.main(["predict", "--checkpoint", str(checkpoint), str(videos / "one.mp4"), str(tmp_path / path)])
        assert left.value.code == 2
        said = capsys.readouterr()
        assert re.search(words, said.err)
        assert not said.out
    with pytest.raises(ValueError, match="no path was given"):
        vidact.predict([], checkpoint)


def test_one_bad_file_of_several_is_told_and_the_others_go_on(checkpoint, videos, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(SystemExit) as left:
        cli.main(["predict", "--checkpoint", str(checkpoint), str(tmp_path / "bad.mp4"), str(videos / "one.mp4")])
    assert left.value.code == 1
    said = capsys.readouterr()
    assert "one.mp4" in said.out
    assert "bad.mp4" in said.err


def test_links_in_a_loop_are_unreadable_videos(checkpoint, tmp_path, capsys):
    (tmp_path / "a.mp4").symlink_to(tmp_path / "b.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    with pytest.raises(SystemExit):
        cli.main(["predict", "--checkpoint", str(checkpoint), str(tmp_path)])
    error = capsys.readouterr().err
    assert "a.mp4" in error
    assert "b.mp4" in error


def test_several_paths_are_drawn_into_a_folder(checkpoint, videos, tmp_path, capsys):
    asked = [str(videos / "folder"), str(videos / "one.mp4")]
    cli.main(["predict", "--checkpoint", str(checkpoint), *asked, "--annotate", str(tmp_path / "drawn")])
    drawn = sorted(path.relative_to(tmp_path / "drawn").as_posix() for path in (tmp_path / "drawn").rglob("*.mp4"))
    assert drawn == ["deep/three.mp4", "one.mp4", "two.mp4"]
    for more, out, words in (
        ([str(videos / "other/two.mp4")], tmp_path / "again", r"two\.mp4 and .*two\.mp4 would both become"),
        ([], tmp_path / "again.mp4", r"for several paths give a folder"),
        ([], videos / "folder/drawn", r"lies in the folder of the videos"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["predict", "--checkpoint", str(checkpoint), *asked, *more, "--annotate", str(out)])
        assert re.search(words, capsys.readouterr().err)
        assert not out.exists()


def test_what_was_passed_over_is_told(checkpoint, videos, tmp_path, capsys):
    (tmp_path / "@eaDir/one.mp4").mkdir(parents=True)
    (tmp_path / "@eaDir/one.mp4/SYNOVIDEO_VIDEO_SCREENSHOT.jpg").touch()
    (tmp_path / "one.mp4").write_bytes((videos / "one.mp4").read_bytes())
    cli.main(["predict", "--checkpoint", str(checkpoint), str(tmp_path)])
    said = capsys.readouterr()
    assert "@eaDir" in said.err
    assert "@eaDir" not in said.out


def test_a_detector_is_refused_with_the_command_that_answers(videos, tmp_path):
    """Its words are a command line that the other command takes."""
    import shlex

    from vidact.commands.stream import parse

    network = frame_classifier(feature_dim=8, num_classes=4)
    record = {"format": 1, "classes": CLASSES, "tokens_per_second": 4.0, "features": {"dim": 8}, "scores": "softmax"}
    path = save(network, tmp_path / "my detector.safetensors", record)
    video = tmp_path / "a clip.mp4"
    video.write_bytes((videos / "one.mp4").read_bytes())
    with pytest.raises(ValueError, match="is an online detector, which answers every moment") as refused:
        vidact.predict(video, path)
    command = shlex.split(str(refused.value).split("\n")[-1].strip())
    assert command[:2] == ["vidact", "stream"]
    asked = parse(command[2:])
    assert (Path(asked.checkpoint), asked.source) == (path, [str(video)])


# ---------------------------------------------------------------------------------------------- published networks


class Recorded(torch.nn.Module):
    """A network in place of a published one, which keeps its clips and answers by their brightness."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.num_classes, self.input = 3, ClipInput(size=16, resize=16)
        self.record = Record.from_dict(
            {"classes": CLASSES, "sampling": hub.PUBLISHED[name].sampler, "input": self.input.as_dict()}, name
        )
        self.clips: list[torch.Tensor] = []

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        self.clips.append(clip)
        return clip.mean(dim=(1, 3, 4)) * torch.tensor([1.0, 2.0, -1.0])


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Videos of 3, 10 and 60 seconds at 10 frames a second, which become brighter."""
    root = tmp_path_factory.mktemp("long")
    for seconds in (3, 10, 60):
        levels = np.linspace(0, 255, 10 * seconds).astype(np.uint8)
        write_video(root / f"{seconds}.mp4", np.broadcast_to(levels[:, None, None, None], (len(levels), 32, 32, 3)), 10)
    return {seconds: root / f"{seconds}.mp4" for seconds in (3, 10, 60)}


@pytest.mark.parametrize(
    ("name", "seconds", "views", "clips", "frames", "span"),
    [
        ("movinet_a0_stream", 10, None, 1, 50, (0.0, 9.9)),
        ("movinet_a0_stream", 60, None, 6, 50, (0.0, 59.9)),
        ("movinet_a0_stream", 3, None, 1, 15, (0.0, 2.9)),  # no frame is repeated
        ("movinet_a3_base", 60, "2x1", 2, 120, (0.0, 59.9)),
        ("x3d_s", 10, None, 4, 13, (0.0, 9.9)),  # 13 frames at 5 a second are 2.6 s
        ("x3d_s", 60, None, 10, 13, (0.0, 59.9)),
        ("x3d_s", 60, "1x1", 1, 13, (28.7, 31.2)),
        ("slowfast_r50", 3, "1x3", 3, 32, (0.4, 2.5)),
        ("videomae_base_something_v2", 60, None, 1, 16, (1.9, 58.1)),  # spread over the clip, as in training
    ],
)
def test_a_published_network_gets_windows_at_the_rate_of_its_training(
    name, seconds, views, clips, frames, span, long_videos, monkeypatch
):
    network = Recorded(name)
    monkeypatch.setattr(prediction, "load", lambda checkpoint: network)
    (answer,) = vidact.predict(long_videos[seconds], name, top=3, views=views, device="cpu")
    assert [clip.shape[:2] for clip in network.clips] == [(1, frames)] * clips
    assert (answer.start_s, answer.end_s) == pytest.approx(span, abs=0.11)
    logits = torch.stack([network.eval()(clip)[0] for clip in list(network.clips)]).mean(0)
    scores = dict(answer.labels)
    np.testing.assert_allclose([scores[name] for name in CLASSES], logits.softmax(0), atol=1e-5)


def test_an_own_checkpoint_keeps_the_sampler_of_its_record(long_videos, monkeypatch):
    network = Recorded("x3d_s")
    monkeypatch.setattr(prediction, "load", lambda checkpoint: network)
    for views in (None, "1x1"):
        (answer,) = vidact.predict(long_videos[60], "runs/x/best.ckpt", views=views, device="cpu")
        # 13 frames, every sixth one of 600, in the middle
        assert (answer.start_s, answer.end_s) == pytest.approx((26.3, 33.5), abs=0.11)
    assert [clip.shape[:2] for clip in network.clips] == [(1, 13)] * 2
