"""From pixels to events: what extraction and the network give for the whole video, and what a stream gives."""

from pathlib import Path

import pytest
import torch
from support.offline_networks import OFFLINE_NETWORKS
from torch import nn

import vidact.models
from vidact.events import EventDetector
from vidact.models.offline_decoding import Decoding
from vidact.stream import run
from vidact.stream.model import StreamModel
from vidact.stream.sources import open_source
from vidact.untrimmed.finder import OfflineFinder, OnlineFinder, find_events
from vidact.video import VideoError, open_video
from vidact.video.numbered import write_numbered_video

CLASSES = ["a", "b", "c", "d"]
LOCALISER = next(values for name, values in OFFLINE_NETWORKS if name == "actionformer_small")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "long.mp4"
    write_numbered_video(path, 200, times_ms=[7000 + 80 * i for i in range(200)])
    return path


@pytest.fixture(scope="module")
def paused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds, a pause of two minutes, and eight seconds."""
    path = tmp_path_factory.mktemp("videos") / "paused.mkv"
    write_numbered_video(path, 225, times_ms=[80 * i + 120_000 * (i >= 125) for i in range(225)])
    return path


@torch.no_grad()
def loud(name, feature_dim, features, **arguments):
    """A toy network whose answers differ from token to token."""
    torch.manual_seed(0)
    num_classes = len(CLASSES) + (name not in ("actionformer_small",))
    network = getattr(vidact.models, name)(num_classes=num_classes, feature_dim=feature_dim, **arguments).eval()
    for key, parameter in network.named_parameters():
        if parameter.ndim > 1:
            scale = float(features.std(0).max()) if key.startswith(("first.input", "embedding.0", "input")) else 1.0
            nn.init.normal_(parameter, std=(3 / parameter[0].numel()) ** 0.5 / scale)
    if name == "actionformer_small":
        network.decoding = Decoding(max_events=40)
    return network


def features_of(extractor, path):
    with open_video(path) as reader:
        return extractor.video(reader), extractor.plan(reader)[1], reader.end_s - reader.times_s[0]


def rows_of(events):
    return [(event.label, event.start_s, event.end_s, event.score) for event in events]


def listed(answer):
    return [(round(event.start_s, 3), round(event.end_s, 3), event.label, round(event.score, 4)) for event in answer]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("actionformer_small", LOCALISER), ("ms_tcn", {"dim": 8, "stages": 2, "layers": 3})],
)
def test_a_file_has_the_events_of_its_features(name, arguments, extractor, video):
    features, _, length_s = features_of(extractor, video)
    network = loud(name, extractor.dim, features, **arguments)
    shares: list[float] = []
    found = find_events(OfflineFinder(network, extractor, CLASSES), video, progress=shares.append)
    with torch.inference_mode():
        rows = network.events(network(features[None]))[0].double()
    expected = [
        (
            round(max(0.0, (start + 0.5) / 4), 3),
            round(min(len(features) / 4, (end + 0.5) / 4), 3),
            CLASSES[int(label)],
            round(score, 4),
        )
        for start, end, label, score in rows.tolist()
    ]
    assert len(expected) > 3
    assert listed(found.events) == sorted(expected)
    assert {event.video for event in found.events} == {"long.mp4"}
    assert found.num_tokens == len(features) == 63
    assert found.duration_s == pytest.approx(length_s) == pytest.approx(15.96)
    assert (shares[-1], shares) == (1.0, sorted(shares))


@pytest.mark.parametrize(("name", "look_ahead"), [("miniroad_small", None), ("causal_ms_tcn", 0), ("causal_ms_tcn", 3)])
def test_a_detector_finds_what_its_stream_finds(name, look_ahead, extractor, video):
    features, _, _ = features_of(extractor, video)
    sizes = {} if look_ahead is None else {"dim": 8, "stages": 2, "layers": 3, "look_ahead": look_ahead}
    network = loud(name, extractor.dim, features, **sizes)
    with torch.no_grad():
        scores = network.scan(features[None]).logits[0].softmax(-1)
    on = scores[:, 1:].quantile(0.7, dim=0).tolist()
    detector = EventDetector(CLASSES, 4.0, on=on, smoothing=0.3)
    model = StreamModel(network, CLASSES, 4.0, detector, extractor)
    found = find_events(OnlineFinder(model), video)
    with open_source(str(video)) as source:
        streamed = [event for update in run(source, model) for event in update.events]
    assert len(streamed) > 3
    assert listed(found.events) == sorted(listed(streamed))


def test_the_takes_of_a_video_are_answered_one_by_one(extractor, paused):
    """No event reaches over a pause that is not filled, and times count from the first frame."""
    features, takes, length_s = features_of(extractor, paused)
    assert [take.start_s for take in takes] == pytest.approx([0.0, 130.0])
    network = loud("actionformer_small", extractor.dim, features, **LOCALISER)
    finder = OfflineFinder(network, extractor, CLASSES)
    found = find_events(finder, paused, "paused")
    stop = takes[1].token
    parts = [(features[:stop], 0.0), (features[stop:], 130.0)]
    expected = [event for rows, start_s in parts for event in finder.of_rows([rows], "paused", start_s)]
    assert listed(found.events) == sorted(listed(expected))
    starts, ends = [event.start_s for event in found.events], [event.end_s for event in found.events]
    assert any(start >= 130 for start in starts)
    assert any(start < 10 for start in starts)
    assert not any(start < 10 < end for start, end in zip(starts, ends, strict=True))
    assert found.duration_s == pytest.approx(length_s) == pytest.approx(137.96)


def test_features_of_another_extractor_are_refused(extractor):
    network = vidact.models.ms_tcn(5, feature_dim=7, dim=8, stages=2, layers=3).eval()
    with pytest.raises(ValueError, match=f"MSTCN reads 7 values a token, and the extractor makes {extractor.dim}"):
        OfflineFinder(network, extractor, CLASSES)


def test_a_file_that_cannot_be_read_raises(extractor, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    write_numbered_video(tmp_path / "short.mp4", 3)
    network = vidact.models.ms_tcn(5, feature_dim=extractor.dim, dim=8, stages=2, layers=3).eval()
    finder = OfflineFinder(network, extractor, CLASSES)
    for name, reason in (("bad.mp4", "bad.mp4"), ("short.mp4", "a token needs 6")):
        with pytest.raises(VideoError, match=reason):
            find_events(finder, tmp_path / name)
