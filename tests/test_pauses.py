"""A pause of minutes inside a file: nothing is made of it, and what is behind it keeps its place in the file's time.

Behind a pause that is too long to be filled everything begins anew: the tokens, what a detector remembers, training
windows and scores. So the takes of a file give what they give as files of their own.
"""

import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import vidact.models
from vidact import cli
from vidact.data.event_list import Event
from vidact.data.official_lists import write_events_csv, write_videos_csv
from vidact.data.sequences import SequenceData, load_sequences
from vidact.data.takes import Take, read_takes, write_takes
from vidact.events import EventDetector, scores_to_events
from vidact.features.extractor import FeatureExtractor
from vidact.features.files import extract_features
from vidact.features.names import build_extractor, build_network
from vidact.features.record import other_features
from vidact.models.weights import save
from vidact.stream import load_model, run
from vidact.stream.grabs import Grab
from vidact.stream.model import StreamModel
from vidact.stream.sources import open_source
from vidact.video import Clock, open_video, takes
from vidact.video.numbered import write_numbered_video

pytestmark = pytest.mark.usefixtures("without_pages")

LENGTHS, BEGINS_S = (60, 90, 75), (0.0, 612.4, 1500.0)  # frames at 25 a second, and where they begin
TOKENS = (9, 14, 12)  # of six frames at 24 a second


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    torch.manual_seed(0)
    return FeatureExtractor(build_network("resnet_tiny", size=32), device="cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One recording with two pauses of many minutes, and an unbroken one."""
    folder = tmp_path_factory.mktemp("videos")
    times_ms = [round(1000 * b) + 40 * i for b, n in zip(BEGINS_S, LENGTHS, strict=True) for i in range(n)]
    write_numbered_video(folder / "paused.mp4", sum(LENGTHS), times_ms=times_ms)
    write_numbered_video(folder / "whole.mp4", 100)
    return folder


@pytest.fixture(scope="module")
def features(videos: Path, extractor: FeatureExtractor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("features")
    extract_features(videos, out, extractor, progress=False)
    return out


def parts_of(path: Path, extractor: FeatureExtractor) -> list[torch.Tensor]:
    """The tokens of each take, from nothing but its own frames."""
    first = np.cumsum([0, *LENGTHS])
    found = []
    with open_video(path) as video:
        for begin, end in itertools.pairwise(first):
            last_s = video.end_s if end == len(video) else None
            numbers = begin + Clock(24).indices(video.times_s[begin:end], last_s)
            chunks = numbers[: len(numbers) // 6 * 6].reshape(-1, 6)
            found.append(torch.stack([extractor.chunk(video.frames_at(chunk).images) for chunk in chunks]))
    return found


def test_takes_are_the_stretches_between_long_pauses() -> None:
    times_s = np.array([5.0, 5.1, 65.1, 130.0, 130.1])
    assert takes(times_s, 60.0) == [slice(0, 3), slice(3, 5)]  # as long as the longest is filled
    assert takes(times_s, 59.0) == [slice(0, 2), slice(2, 3), slice(3, 5)]
    assert takes(times_s, None) == takes(times_s, 100.0) == [slice(0, 5)]


def test_the_tokens_of_a_paused_file_are_those_of_its_takes(
    videos: Path, features: Path, extractor: FeatureExtractor
) -> None:
    """Half an hour of frozen pictures would be 6,000 tokens."""
    parts = parts_of(videos / "paused.mp4", extractor)
    assert tuple(map(len, parts)) == TOKENS
    array = np.load(features / "paused.npy")
    np.testing.assert_allclose(array, torch.cat(parts).numpy(), atol=1e-6)
    assert json.loads((features / "paused.takes.json").read_text()) == [
        {"token": token, "start_s": pytest.approx(start_s)} for token, start_s in zip((0, 9, 23), BEGINS_S, strict=True)
    ]
    assert not (features / "whole.takes.json").exists()
    assert json.loads((features / "features.json").read_text())["longest_gap_s"] == 60.0
    stream, times = extractor.stream(), []
    with open_video(videos / "paused.mp4") as video:
        for time_s, image in zip(video.times_s, video.frames_at(range(len(video))).images, strict=True):
            times += [s for s, _ in stream.push(float(time_s), image)]
        times += [s for s, _ in stream.finish(video.end_s)]
    expected = [b + t / 4 for b, n in zip(BEGINS_S, TOKENS, strict=True) for t in range(n)]
    assert times == pytest.approx(expected, abs=1e-6)


def test_a_longer_pause_may_be_filled(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def extract(out: str, *more: str) -> int:
        words = ["extract", "features", "--videos", str(videos), "--out", str(tmp_path / out), "--network",
                 "resnet_tiny", "--size", "32", "--device", "cpu", "--workers", "1", *more]  # fmt: skip
        try:
            cli.main(words)
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    assert extract("usual") == 0
    told = capsys.readouterr()
    assert "1 video pauses for more than 60 s between two frames: paused" in told.out
    assert "paused: 35 tokens, 3 takes" in told.err
    assert extract("usual") == 0  # nothing is made again
    assert "2 were there" in capsys.readouterr().out
    assert extract("long", "--longest-gap", "700") == 0
    assert "1 video pauses for more than 700 s" in capsys.readouterr().out
    assert len(np.load(tmp_path / "long" / "paused.npy")) == 616 * 4 + TOKENS[2]
    assert read_takes(tmp_path / "long" / "paused.npy", 3000) == (Take(0, 0.0), Take(2464, pytest.approx(1500.0)))
    assert extract("usual", "--longest-gap", "700") != 0
    assert "longest_gap_s 60.0 and 700.0 (there and asked)" in capsys.readouterr().err
    for value in ("0", "inf", "nan"):
        assert extract("none", "--longest-gap", value) != 0
        assert f"longest_gap_s is {value}; the longest gap that is filled is a number" in capsys.readouterr().err


def test_a_pause_at_the_begin_leaves_the_first_frames_out(extractor: FeatureExtractor, tmp_path: Path) -> None:
    """Three frames make no token; those that follow keep their time."""
    write_numbered_video(tmp_path / "late.mp4", 53, times_ms=[0, 40, 80, *range(300_000, 302_000, 40)])
    done = extract_features(tmp_path / "late.mp4", tmp_path / "out", extractor, progress=False)
    assert done.paused == ["late"]
    assert read_takes(tmp_path / "out" / "late.npy", 8) == (Take(0, pytest.approx(300.0)),)
    (tmp_path / "out" / "late.takes.json").unlink()
    assert extract_features(tmp_path / "late.mp4", tmp_path / "out", extractor, progress=False).written == ["late"]


# ---------------------------------------------------------------------------------------------- old records


def test_a_folder_of_before_goes_on_as_it_began(videos: Path, extractor: FeatureExtractor, tmp_path: Path) -> None:
    """Its record does not speak of pauses, and all of them were filled."""
    own = FeatureExtractor(build_network("resnet_tiny", size=32), device="cpu", longest_gap_s=None)
    record = own.record()
    assert "longest_gap_s" not in record
    out = tmp_path / "out"
    extract_features([videos / "whole.mp4"], out, own, progress=False)
    assert json.loads((out / "features.json").read_text()) == record
    fresh = FeatureExtractor(build_network("resnet_tiny", size=32), device="cpu")
    done = extract_features(sorted(videos.iterdir()), out, fresh, progress=False)
    assert (done.written, done.kept, done.paused) == (["paused"], ["whole"], [])
    assert len(np.load(out / "paused.npy")) == 1503 * 4
    assert json.loads((out / "features.json").read_text()) == record
    assert FeatureExtractor.open(out, device="cpu").longest_gap_s is None
    assert other_features(record, extractor.record()) == []  # a detector of those reads these


# ---------------------------------------------------------------------------------------------- labels


@pytest.fixture
def root(features: Path, tmp_path: Path) -> Path:
    """Labels in the seconds that a player shows."""
    events = [
        Event("paused.mp4", 1.0, 2.0, "jump"),
        Event("paused.mp4", 613.4, 614.4, "jump"),
        Event("paused.mp4", 615.4, 800.0, "run"),  # reaches into the pause
        Event("paused.mp4", 900.0, 950.0, "run"),  # nothing of it was recorded
        Event("paused.mp4", 1500.5, 1501.0, "run"),
        Event("whole.mp4", 0.0, 1.0, "jump"),
        Event("whole.mp4", 2.0, 3.0, "run"),
    ]
    write_events_csv(tmp_path / "events.csv", events)
    write_videos_csv(tmp_path / "videos.csv", {"paused.mp4": "train", "whole.mp4": "test"})
    return tmp_path


def test_labels_behind_a_pause_are_where_they_were_made(root: Path, features: Path) -> None:
    found = load_sequences(root, features, val_fraction=0)
    ids = ["paused@0s", "paused@612.4s", "paused@1500s", "whole"]
    assert [s.id for s in found] == ids
    assert [len(s) for s in found] == [*TOKENS, 16]
    assert [s.source for s in found] == ["paused"] * 3 + ["whole"]
    assert [s.start_s for s in found] == pytest.approx([*BEGINS_S, 0.0])
    jump, run_ = (found.classes.index(name) + 1 for name in ("jump", "run"))
    first, second, third, _ = found.sequences
    assert np.flatnonzero(first.multi_hot[:, jump]).tolist() == [4, 5, 6, 7]
    assert np.flatnonzero(second.multi_hot[:, jump]).tolist() == [4, 5, 6, 7]
    assert np.flatnonzero(second.multi_hot[:, run_]).tolist() == [12, 13]
    assert np.flatnonzero(third.multi_hot[:, run_]).tolist() == [2, 3]
    notes = " ".join(found.notes)
    assert "1 video pauses for longer than is filled" in notes
    assert "left out 1 event that lies in a pause: run at 900–950 s of paused" in notes
    write_events_csv(root / "events.csv", [Event("paused.mp4", 1500.5, 1520.0, "run")])
    with pytest.raises(ValueError, match=r"1 event reaches beyond the end .*1520 s of paused, which ends at 1503 s"):
        load_sequences(root, features, val_fraction=0)


def test_no_training_window_reaches_over_a_pause(root: Path, features: Path) -> None:
    data = SequenceData(str(root), str(features), window=8, history=4, val_fraction=0)
    data.setup("fit")
    train = data.sets["train"]
    assert {train[i].ids[0] for i in range(len(train))} == {"paused@0s", "paused@612.4s", "paused@1500s"}
    for i in range(len(train)):
        assert train[i].features.shape[1] == 12


def test_takes_of_one_video_stay_on_one_side(root: Path, features: Path) -> None:
    write_videos_csv(root / "videos.csv", {"paused.mp4": "train", "whole.mp4": "train"})
    for seed in range(5):
        found = load_sequences(root, features, val_fraction=0.5, seed=seed)
        assert len({s.split for s in found if s.source == "paused"}) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", "cannot be read"),
        ('[{"token": 0}]', "cannot be read"),
        ('[{"token": 3, "start_s": 0}]', "does not fit the 35 tokens"),
        ('[{"token": 0, "start_s": 0}, {"token": 40, "start_s": 90}]', "does not fit the 35 tokens"),
        ('[{"token": 0, "start_s": 0}, {"token": 9, "start_s": -1}]', "does not fit the 35 tokens"),
    ],
)
def test_takes_that_cannot_be_are_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.takes.json").write_text(content)
    with pytest.raises(ValueError, match=rf"a\.takes\.json {words}.*extract this video again"):
        read_takes(tmp_path / "a.npy", 35)
    write_takes(tmp_path / "a.npy", [Take(0, 0.0)])
    assert read_takes(tmp_path / "a.npy", 35) == (Take(0, 0.0),)
    assert not (tmp_path / "a.takes.json").exists()


# ---------------------------------------------------------------------------------------------- streams


def test_a_paused_file_played_is_its_takes_scored(
    videos: Path, features: Path, extractor: FeatureExtractor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Law 3, and events in the file's own seconds."""
    torch.manual_seed(0)
    network = vidact.models.miniroad_small(3, extractor.dim, embedding_dim=12, hidden_dim=8).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    network.extractor_state = extractor.state()
    array = torch.from_numpy(np.load(features / "paused.npy"))
    with torch.no_grad():
        scores = [network.scan(part[None]).logits[0].softmax(-1).numpy() for part in array.split(TOKENS)]
    on = [round(float(value), 4) for value in np.quantile(np.concatenate(scores)[:, 1:], 0.6, axis=0)]
    record = {
        "classes": ["a", "b"],
        "features": extractor.record(),
        "tokens_per_second": 4.0,
        "scores": "softmax",
        "events": {"on": on, "smoothing": 0.5, "min_seconds": 0.5, "merge_seconds": 0.25},
    }
    model = load_model(save(network, tmp_path / "detector.safetensors", record), device="cpu")
    with caplog.at_level(logging.WARNING, "vidact.stream"):
        updates = list(run(open_source(videos / "paused.mp4"), model))
    np.testing.assert_allclose(np.stack([u.scores for u in updates]), np.concatenate(scores), atol=1e-5)
    seconds = [b + t / 4 for b, n in zip(BEGINS_S, TOKENS, strict=True) for t in range(n)]
    assert [u.seconds for u in updates] == pytest.approx(seconds, abs=1e-6)
    expected = [
        (event.start_s + begin_s, event.end_s + begin_s, event.label)
        for begin_s, own in zip(BEGINS_S, scores, strict=True)
        for event in scores_to_events(own, "paused", model.detector)
    ]
    found = [(event.start_s, event.end_s, event.label) for u in updates for event in u.events]
    assert len(expected) > 2
    assert [label for *_, label in sorted(found)] == [label for *_, label in sorted(expected)]
    assert [times for *times, _ in sorted(found)] == [pytest.approx(times) for *times, _ in sorted(expected)]
    assert "nothing from 2.4 s to 612.4 s; it begins anew" in caplog.text
    assert caplog.text.count("begins anew") == 2

    filled = load_model(tmp_path / "detector.safetensors", device="cpu")
    filled.longest_gap_s = 700.0
    assert len(list(run(open_source(videos / "paused.mp4"), filled))) == 2464 + TOKENS[2]


@pytest.mark.parametrize("is_live", [True, False])
def test_a_source_of_any_kind_begins_anew_as_it_is_told(is_live: bool, extractor: FeatureExtractor) -> None:
    class Frames(list):
        name = "frames"

    source = Frames(
        Grab(s, np.full((36, 48, 3), i, np.uint8), 0.0, 0) for i, s in enumerate([*range(8), *range(20, 28)])
    )
    source.is_live = is_live
    model = StreamModel(
        vidact.models.miniroad_small(3, extractor.dim, embedding_dim=4, hidden_dim=4).eval(),
        ["a", "b"],
        4.0,
        EventDetector(["a", "b"], 4.0),
        extractor,
    )
    model.longest_gap_s = 10.0
    seconds = [update.seconds for update in run(source, model) if not update.is_last or not is_live]
    assert seconds == pytest.approx([*np.arange(0, 7, 0.25), *np.arange(20, 27, 0.25)])


def test_the_command_refuses_a_pause_of_no_length(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["stream", "--checkpoint", "x.ckpt", "--longest-gap", "0", "--no-window"])
    assert "--longest_gap is 0; give seconds above 0" in capsys.readouterr().err


def test_an_extractor_by_name_takes_the_length() -> None:
    assert build_extractor("resnet_tiny", size=32, device="cpu", longest_gap_s=5.0).record()["longest_gap_s"] == 5.0
