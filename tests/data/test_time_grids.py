"""Features that are windows of frames: a stride, a length and a rate say where each lies in seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vidact.data import Event, SequenceDataset, load_sequences
from vidact.data.event_list import load_events
from vidact.data.sequence_list import Untrimmed, write_folder, write_sequences
from vidact.data.sequences import collate
from vidact.models.offline_decoding import Grid, detections

GRIDS = {
    "THUMOS I3D": {"stride": 4, "frames": 16, "fps": 30},
    "ActivityNet TSP": {"stride": 16, "frames": 16, "fps": 15},
    "EPIC SlowFast": {"stride": 16, "frames": 32, "fps": 30},
    "every second frame": {"stride": 2, "frames": 1, "fps": 30},
}
CLASSES = ["a", "b"]
TOKENS = 60


def folder(root: Path, grid: dict, events: list[Event], tokens: int = TOKENS) -> Path:
    rate = grid["fps"] / grid["stride"]
    features = np.arange(3.0 * tokens).reshape(tokens, 3)
    videos = [Untrimmed(video, split, features, [e for e in events if e.video == video]) for video, split in
              (("v", "train"), ("w", "test"))]  # fmt: skip
    write_folder(root, videos, CLASSES, {"origin": "there", "grid": grid, "tokens_per_second": rate})
    return root


def made_events(grid: dict) -> list[Event]:
    """The first begins with the video, before token 0's share; the last ends with the last window."""
    end_s = ((TOKENS - 1) * grid["stride"] + grid["frames"]) / grid["fps"]
    times_s = [(0.0, 0.2 * end_s), (0.2 * end_s, 0.31 * end_s), (0.6 * end_s, end_s)]
    return [Event(v, round(s, 6), round(e, 6), CLASSES[i % 2]) for v in "vw" for i, (s, e) in enumerate(times_s)]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_decoded_places_are_the_seconds_of_the_events(tmp_path: Path, grid: dict) -> None:
    """Truth becomes places as networks learn them, places become events, and these have the seconds of events.csv."""
    events = made_events(grid)
    sequences = load_sequences(folder(tmp_path, grid, events), val_fraction=0)
    rate, stated = sequences.tokens_per_second, Grid(**grid)
    sequence = sequences.sequences[0]
    assert sequence.start_s == pytest.approx((grid["frames"] - grid["stride"]) / 2 / grid["fps"])
    data = SequenceDataset([sequence], classes=CLASSES, tokens_per_second=rate)
    batch = collate([data[0]])
    assert batch.truth is not None
    rows = batch.truth[0].double()
    places = rows[:, :2] * rate - 0.5
    wanted = torch.tensor([[stated.places(e.start_s), stated.places(e.end_s)] for e in events if e.video == "v"])
    torch.testing.assert_close(places, wanted.double(), atol=1e-4, rtol=0)
    decoded = detections(
        torch.cat([places, rows[:, 2:], torch.ones(len(rows), 1)], 1), "v", CLASSES, stated, duration_s=100.0
    )
    expected = [(e.start_s, e.end_s, e.label) for e in events if e.video == "v"]
    for detection, (start_s, end_s, label) in zip(decoded, expected, strict=True):
        assert detection.label == label
        assert (detection.start_s, detection.end_s) == pytest.approx((start_s, end_s), abs=1e-4)
    # and without the grid, in the seconds of the sequence, as validation and test count them
    local = detections(
        torch.cat([places, rows[:, 2:], torch.ones(len(rows), 1)], 1), "v", CLASSES, Grid.of(rate), TOKENS / rate,
        margin_s=stated.start_s,
    )  # fmt: skip
    begin_s = sequence.start_s
    assert [(d.start_s, d.end_s) for d in local] == [
        pytest.approx((start_s - begin_s, end_s - begin_s), abs=1e-4) for start_s, end_s, _ in expected
    ]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_sequence_starts_where_its_grid_does(grid: dict) -> None:
    """Code that knows the rate and the start of a sequence needs nothing else of the grid."""
    stated = Grid(**grid)
    places = np.linspace(-3, 50, 54)
    assert np.allclose(Grid.of(stated.tokens_per_second).seconds(places) + stated.start_s, stated.seconds(places))
    assert Grid.of(4.0).start_s == 0


def test_tokens_have_the_labels_around_their_centres(tmp_path: Path) -> None:
    """Token 20 of THUMOS's I3D features is the window of 2.667 to 3.2 s; its share is 2.867 to 3 s."""
    events = [Event("v", 2.87, 2.99, "a"), Event("v", 3.01, 3.02, "b"), Event("w", 1, 2, "a")]
    sequences = load_sequences(folder(tmp_path, GRIDS["THUMOS I3D"], events), val_fraction=0)
    labels = sequences.sequences[0].multi_hot
    assert labels[:, 1].nonzero()[0].tolist() == [20]
    assert labels[:, 2].nonzero()[0].tolist() == [21]


def test_events_within_the_last_window_stay(tmp_path: Path) -> None:
    events = made_events(GRIDS["THUMOS I3D"])
    sequences = load_sequences(folder(tmp_path, GRIDS["THUMOS I3D"], events), val_fraction=0, tolerance_s=0.0)
    last = sequences.sequences[0].events[-1]
    assert last.end_s + sequences.sequences[0].start_s == pytest.approx(events[2].end_s, abs=1e-5)


def test_written_again_the_times_stay(tmp_path: Path) -> None:
    root = folder(tmp_path / "one", GRIDS["THUMOS I3D"], made_events(GRIDS["THUMOS I3D"]))
    sequences = load_sequences(root, val_fraction=0)
    again = tmp_path / "again"
    write_sequences(again, sequences, sequences.classes, sequences.tokens_per_second, sequences.record)
    assert load_sequences(again, val_fraction=0).digest == sequences.digest
    for first, second in zip(load_events(root / "events.csv"), load_events(again / "events.csv"), strict=True):
        assert (second.start_s, second.end_s) == pytest.approx((first.start_s, first.end_s), abs=2e-6)


def test_groups_are_written(tmp_path: Path) -> None:
    videos = [Untrimmed(v, "train", np.ones((4, 2)), [Event(v, 0, 1, "a")], v[:2]) for v in ("P1x", "P1y", "P2x")]
    write_folder(tmp_path, videos, CLASSES, {"tokens_per_second": 4.0})
    assert (tmp_path / "videos.csv").read_text() == "video,split,group\nP1x,train,P1\nP1y,train,P1\nP2x,train,P2\n"
    kept = {s.id for s in load_sequences(tmp_path, val_fraction=0.3).split("val")}
    assert kept in ({"P1x", "P1y"}, {"P2x"})


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"stride": 8, "frames": 16, "fps": 30}, r"7\.5 tokens per second and a stride of 8 frames .* which are 3\.75"),
        ({"stride": 0, "frames": 16, "fps": 30}, r"grid\.stride is 0; it is a number above 0"),
        ({"stride": 4, "fps": 30}, r"features\.json is damaged or not ours: it has no frames"),
        ([4, 16, 30], r"grid is \[4, 16, 30\], not an object"),
    ],
)
def test_a_wrong_grid_is_refused(tmp_path: Path, grid: object, message: str) -> None:
    root = folder(tmp_path, GRIDS["THUMOS I3D"], made_events(GRIDS["THUMOS I3D"]))
    record = json.loads((root / "features/features.json").read_text())
    (root / "features/features.json").write_text(json.dumps({**record, "grid": grid}))
    with pytest.raises(ValueError, match=message):
        load_sequences(root)
