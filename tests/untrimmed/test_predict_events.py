"""``vidact predict`` with networks that find events: tables, pages, clips and drawn videos, whatever else happens."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.offline_networks import OFFLINE_NETWORKS
from torch import nn

import vidact
import vidact.models
from vidact import cli
from vidact.commands import predict
from vidact.data.event_list import load_events
from vidact.events import Detection
from vidact.features.extractor import FeatureExtractor
from vidact.models.weights import save
from vidact.untrimmed import VideoEvents, find_events, open_finder
from vidact.untrimmed.cuts import cut_events
from vidact.untrimmed.drawing import Timeline, annotate_events
from vidact.untrimmed.outputs import Outputs
from vidact.untrimmed.page import section, write_page
from vidact.video import open_video
from vidact.video.numbered import read_number, write_numbered_video

CLASSES = ["wave", "<b>jump</b> & run", "打开", "idle"]
LOCALISER = next(values for name, values in OFFLINE_NETWORKS if name == "actionformer_small")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, one of them in a folder below, at 25 and at uneven frames a second."""
    root = tmp_path_factory.mktemp("videos")
    write_numbered_video(root / "one.mp4", 100)
    (root / "deep").mkdir()
    gaps = np.random.default_rng(0).integers(20, 60, 100)
    write_numbered_video(root / "deep" / "two.mp4", 100, times_ms=(gaps.cumsum() - gaps[0]).tolist())
    return root


def facts(extractor, **others):
    record = {"classes": CLASSES, "features": extractor.record(), "tokens_per_second": extractor.tokens_per_second}
    return {**record, **others}


@pytest.fixture(scope="module")
def localiser(extractor, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    network = vidact.models.actionformer_small(num_classes=4, feature_dim=extractor.dim, **LOCALISER).eval()
    with torch.no_grad():
        network.class_head.output.bias.fill_(1.0)
        network.distance_head.output.bias.fill_(3.0)
        nn.init.normal_(network.embedding[0].conv.weight)
    network.extractor_state = extractor.state()
    decoding = {"max_events": 12}
    record = facts(extractor, kind="localiser", min_score=0.1, decoding=decoding)
    return save(network, tmp_path_factory.mktemp("run") / "localiser.safetensors", record)


@pytest.fixture(scope="module")
def detector(extractor, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    network = vidact.models.frame_classifier(feature_dim=extractor.dim, num_classes=5).eval()
    network.extractor_state = extractor.state()
    record = facts(extractor, scores="softmax", events={"on": 0.1, "smoothing": 0.3})
    return save(network, tmp_path_factory.mktemp("run") / "detector.safetensors", record)


def run(*words) -> int:
    """The exit status of a command."""
    try:
        cli.main(["predict", *map(str, words), "--device", "cpu", "--runtime", "torch"])
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def fails(words, capsys) -> str:
    assert run(*words) == 2
    return capsys.readouterr().err


def test_videos_become_a_table_of_events(localiser, videos, tmp_path, capsys):
    """One broken video does not lose the others' events; a second run gives the same table."""
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    table = tmp_path / "new" / "events.csv"
    words = ["--checkpoint", localiser, videos, tmp_path / "broken.mp4", "--events", table]
    assert run(*words) == 1
    printed = capsys.readouterr()
    assert "broken.mp4" in printed.err
    assert re.search(r"one\.mp4  \d+ events in 4\.0 s of video", printed.out)
    events = load_events(table)
    assert {event.video for event in events} == {"deep/two.mp4", "one.mp4"}
    assert {event.label for event in events} <= set(CLASSES)
    finder = open_finder(localiser, device="cpu", runtime="torch")
    assert finder.min_score == 0.1
    found = find_events(finder, videos / "one.mp4")
    expected = [(e.label, round(e.start_s, 4)) for e in found.events if e.score >= 0.1]
    assert [(e.label, e.start_s) for e in events if e.video == "one.mp4"] == expected
    assert len(expected) > 2
    first = table.read_bytes()
    assert run(*words) == 1
    assert table.read_bytes() == first


@pytest.mark.slow
def test_the_least_score_can_be_chosen(localiser, videos, capsys):
    counts = []
    for least in (0, 0.1, 0.9999):
        assert run("--checkpoint", localiser, videos / "one.mp4", "--json", "--min-score", least) == 0
        answer = json.loads(capsys.readouterr().out)
        assert all(event["score"] >= least for event in answer["events"])
        assert (answer["video"], answer["duration_s"], answer["error"]) == ("one.mp4", 4.0, "")
        counts.append(len(answer["events"]))
    assert counts[0] == 12 > counts[2]
    assert run("--checkpoint", localiser, videos / "one.mp4", "--min-score", 0.9999) == 0
    assert "of a score below 1 left out; --min_score 0 lists all" in capsys.readouterr().out


@pytest.mark.slow
def test_a_detector_finds_events_too(detector, videos, tmp_path, capsys):
    """The table is that of a stream of the file."""
    tables = tmp_path / "predicted.csv", tmp_path / "streamed.csv"
    assert run("--checkpoint", detector, videos / "one.mp4", "--events", tables[0]) == 0
    stream = ["--checkpoint", detector, "--source", videos / "one.mp4", "--events", tables[1], "--no_window", "--fast"]
    cli.main(["stream", *map(str, stream), "--device", "cpu", "--runtime", "torch"])
    capsys.readouterr()
    events = [sorted((e.start_s, e.end_s, e.label) for e in load_events(table)) for table in tables]
    assert events[0] == events[1]
    assert events[0]


def test_a_table_by_hand_is_not_replaced(localiser, videos, tmp_path, capsys):
    mine = tmp_path / "events.csv"
    mine.write_text("video,start_s,end_s,label\none.mp4,1,2,wave\n")
    error = fails(["--checkpoint", localiser, videos, "--events", mine], capsys)
    assert re.search(r"is there already .* begins with 'video,start_s,end_s,label'\. Nothing is overwritten", error)
    assert mine.read_text().count("\n") == 2


def test_ctrl_c_keeps_the_events_of_finished_videos(localiser, videos, tmp_path, monkeypatch, capsys):
    from vidact.untrimmed import finder

    whole = finder.find_events

    def interrupted(model, path, *rest):
        if Path(path).name == "one.mp4":
            raise KeyboardInterrupt
        return whole(model, path, *rest)

    monkeypatch.setattr(finder, "find_events", interrupted)
    table, page = tmp_path / "events.csv", tmp_path / "page.html"
    with pytest.raises(KeyboardInterrupt, match="the events of 1 video of 2 are written"):
        predict.main(["--checkpoint", str(localiser), str(videos), "--events", str(table), "--page", str(page)])
    assert {event.video for event in load_events(table)} == {"deep/two.mp4"}
    assert "deep/two.mp4" in page.read_text()


def test_what_does_not_fit_the_network_is_refused(localiser, videos, tmp_path, capsys, extractor):
    video = videos / "one.mp4"
    network = vidact.models.tsm_resnet_tiny(num_classes=4, weights=None, size=32)
    sampling = {"name": "SegmentSampler", "arguments": {"num_segments": 2}}
    recogniser = save(network, tmp_path / "recogniser.safetensors", {"classes": CLASSES, "sampling": sampling})
    lonely = vidact.models.ms_tcn(5, feature_dim=extractor.dim, dim=8, stages=2, layers=2)
    bare = save(lonely, tmp_path / "bare.safetensors", facts(extractor, kind="segmenter"))
    wrong = save(lonely, tmp_path / "wrong.safetensors", {**facts(extractor, kind="segmenter"), "classes": ["a"]})
    (tmp_path / "a_file").touch()
    for words, message in (
        (["--checkpoint", recogniser, video, "--events", "x.csv"], r"--events is for networks that find events"),
        (["--checkpoint", recogniser, video, "--min_score", "0.5"], r"--min_score is for networks that find events"),
        (["--checkpoint", localiser, video, "--top", "3"], r"--views and --top are for recognisers"),
        (["--checkpoint", localiser, video, "--views", "1x1"], r"--views and --top are for recognisers"),
        (["--checkpoint", localiser, video, "--min_score", "2"], r"--min_score is 2; scores lie from 0 to 1"),
        (["--checkpoint", localiser, video, "--decoder", "opencv"], r"were made with pyav; leave it out"),
        (["--checkpoint", bare, video], r"bare\.safetensors carries no extractor"),
        (["--checkpoint", wrong, video], r"has 5 outputs, and its 1 class need 2"),
        (["--checkpoint", localiser, video, "--page", "x.txt"], r"a page ends in \.html"),
        (["--checkpoint", localiser, video, "--events", tmp_path], r"which is a folder; name a file"),
        (["--checkpoint", localiser, video, "--events", video], r"which is one of the videos"),
        (["--checkpoint", localiser, video, "--cut", tmp_path / "a_file"], r"which is a file; name a folder"),
        (["--checkpoint", localiser, videos, "--cut", videos / "clips"], r"lies in the folder of the videos"),
        (["--checkpoint", localiser, tmp_path / "gone.mp4"], r"gone\.mp4 does not exist"),
    ):
        assert re.search(message, fails(words, capsys)), words
    with pytest.raises(ValueError, match=r"is an offline network \(ActionFormer\), which finds events in long videos"):
        vidact.predict(video, localiser)
    with pytest.raises(ValueError, match="is a TSM, which names whole clips and finds no events"):
        open_finder(recogniser)


@pytest.mark.slow
def test_an_extractor_can_be_given(videos, tmp_path, capsys, extractor):
    network = vidact.models.ms_tcn(5, feature_dim=extractor.dim, dim=8, stages=2, layers=2)
    bare = save(network, tmp_path / "bare.safetensors", facts(extractor, kind="segmenter"))
    extractor.save(tmp_path / "extractor.safetensors")
    words = ["--checkpoint", bare, videos / "one.mp4", "--extractor", tmp_path / "extractor.safetensors"]
    assert run(*words) == 0
    other = FeatureExtractor(vidact.models.tsn_resnet_tiny(num_classes=2, size=32, width=8), device="cpu")
    other.save(tmp_path / "extractor.safetensors")
    assert "was trained on other features than this extractor makes" in fails(words, capsys)


def test_a_page_of_many_videos_is_not_written_for_each(tmp_path, monkeypatch):
    """Its last state is, at the end; the first one at once."""
    sizes = []
    monkeypatch.setattr("vidact.untrimmed.page.write_page", lambda out, sections: sizes.append(len(sections)))
    with contextlib.closing(Outputs(CLASSES, "pyav", page=tmp_path / "page.html")) as outputs:
        for number in range(20):
            outputs.write(VideoEvents(Path(f"{number}.mp4"), f"{number}.mp4", error="broken"))
    assert sizes == [1, 20]


# ---------------------------------------------------------------------------------------------- page, clips, drawing


def answer_of(path: Path) -> VideoEvents:
    with open_video(path) as reader:
        length_s = reader.end_s - float(reader.times_s[0])
    events = [
        Detection(path.name, 0.5, 2.0, CLASSES[1], 0.9),
        Detection(path.name, 1.0, 1.02, CLASSES[2], 0.35),
        Detection(path.name, 3.0, 5.0, CLASSES[0], 0.7),
    ]
    return VideoEvents(path, path.name, events, length_s, 0.25, 16, 1.0)


@pytest.mark.parametrize("name", ["one.mp4", "deep/two.mp4"])
def test_clips_have_exactly_the_frames_of_their_events(name, videos, tmp_path):
    answer = answer_of(videos / name)
    paths = cut_events(answer, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        f"b_jump__b____run/{Path(name).stem}_0000.50s.mp4",
        f"打开/{Path(name).stem}_0001.00s.mp4",
        f"wave/{Path(name).stem}_0003.00s.mp4",
    ]
    with open_video(videos / name) as reader:
        times_s = reader.times_s - reader.times_s[0]
    for event, path in zip(answer.events, paths, strict=True):
        expected = [i for i, t in enumerate(times_s) if event.start_s - 1e-6 <= t < event.end_s - 1e-6]
        expected = expected or [int(np.searchsorted(times_s, event.start_s))]
        with open_video(path) as clip:
            numbers = [read_number(image.numpy()) for image in clip.frames_at(range(len(clip))).images]
            assert numbers == expected
            assert clip.times_s == pytest.approx(times_s[expected] - times_s[expected[0]], abs=1e-3)
            assert clip.end_s == pytest.approx(clip.times_s[-1] + 0.04, abs=0.03)
    assert cut_events(answer, tmp_path) == paths
    assert len(list(tmp_path.rglob("*.mp4"))) == 3


@pytest.mark.parametrize(
    "suffix", [".mp4", pytest.param(".mkv", marks=pytest.mark.slow), pytest.param(".avi", marks=pytest.mark.slow)]
)
def test_a_drawn_video_has_all_frames_and_the_events_below(suffix, videos, tmp_path):
    source = videos / "deep" / "two.mp4"
    answer = answer_of(source)
    annotate_events(answer, CLASSES, tmp_path / f"drawn{suffix}")
    with open_video(source) as before, open_video(tmp_path / f"drawn{suffix}") as after:
        assert len(after) == len(before)
        if suffix != ".avi":
            assert after.times_s - after.times_s[0] == pytest.approx(before.times_s - before.times_s[0], abs=2e-3)
        assert min(after.height, after.width) >= 240


def test_current_events_are_named_and_the_line_moves():
    events = [Detection("x", 1.0, 3.0, "wave", 0.9), Detection("x", 2.0, 9.0, "idle", 0.5)]
    timeline = Timeline(events, ["wave", "run", "idle"], 10.0, 640, 360)
    assert timeline.lanes == ["wave", "idle"]
    panels = {second: timeline.panels(second) for second in (0.0, 1.0, 2.5, 3.0, 10.0)}
    assert {second: len(each) for second, each in panels.items()} == {0.0: 2, 1.0: 3, 2.5: 3, 3.0: 3, 10.0: 2}
    assert panels[2.5][2].image.height > panels[1.0][2].image.height
    lines = [each[1].x for each in panels.values()]
    assert lines == sorted(set(lines))
    assert lines[-1] < 640
    assert len(Timeline([], ["a"], 10.0, 320, 240).panels(5.0)) == 2
    many = [Detection("x", 1.0, 3.0, name, 0.9) for name in "abcdefghij"]
    for height, most in ((240, 7), (1080, 8)):
        crowded = Timeline(many, "abcdefghij", 10.0, 320, height)
        assert len(crowded.lanes) <= most
        assert crowded.panels(5.0)[0].image.height < 0.45 * height


def test_the_page_holds_all_and_loads_nothing(videos, tmp_path):
    folder = tmp_path / "a page"
    answer = answer_of(videos / "one.mp4")
    broken = VideoEvents(Path("gone <i>.mp4"), "gone <i>.mp4", error="cannot <be> read")
    page = write_page(
        folder / "page.html", [section(each, CLASSES, folder) for each in (answer, broken)], "Two <videos>"
    )
    text = page.read_text(encoding="utf-8")
    assert text.count('class="event"') == text.count("data:image/jpeg;base64,/9j/") == 3
    assert text.count('class="lane" style') == 3
    assert "&lt;b&gt;jump&lt;/b&gt; &amp; run" in text
    assert "<b>jump</b>" not in text
    assert "打开" in text
    assert "cannot &lt;be&gt; read" in text
    assert "Two &lt;videos&gt;" in text
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    (link,) = re.findall(r'<video[^>]* src="([^"]+)"', text)
    assert (folder / link.replace("%20", " ")).resolve() == (videos / "one.mp4").resolve()
    assert 'data-lead="0.250000" data-length="4.000000"' in text


@pytest.mark.slow
def test_the_command_writes_all_at_once(localiser, videos, tmp_path, capsys):
    words = ["--checkpoint", localiser, videos / "one.mp4", "--min_score", "0", "--page", tmp_path / "page.html"]
    words += ["--cut", tmp_path / "clips", "--annotate", tmp_path / "drawn.mp4", "--events", tmp_path / "out.csv"]
    assert run(*words) == 0
    listed = capsys.readouterr().out.splitlines()[-4:]
    assert listed == [str(tmp_path / name) for name in ("out.csv", "page.html", "drawn.mp4", "clips")]
    assert len(load_events(tmp_path / "out.csv")) == 12
    assert len(list((tmp_path / "clips").rglob("*.mp4"))) == 12
