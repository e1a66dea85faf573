"""Windows: what a clip network reads for each token, in files, in streams, and in folders of older versions."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from support.playing import play_file

import vidact.models
from vidact import cli
from vidact.export import export, load_onnx
from vidact.features.extractor import FeatureExtractor
from vidact.features.files import extract_features
from vidact.models.weights import save
from vidact.stream import load_model, run
from vidact.stream.sources import open_source
from vidact.video import Clock, SegmentSampler, open_video, test_transform
from vidact.video.numbered import write_numbered_video

LENGTHS = {"steady": 60, "short": 7}


@cache
def network(name="tsn_resnet_tiny"):
    torch.manual_seed(0)
    options = {} if name.startswith(("vjepa2", "videomae")) else {"size": 32, "width": 8}
    return getattr(vidact.models, name)(num_classes=2, **options).eval()


def extractor_of(name="tsn_resnet_tiny", **settings):
    return FeatureExtractor(network(name), **{"device": "cpu", **settings})


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, length in LENGTHS.items():
        write_numbered_video(folder / f"{name}.mp4", length)
    # A pause of 100 s after 20 frames: two takes.
    times_ms = [40 * i for i in range(20)] + [100_000 + 40 * i for i in range(20, 45)]
    write_numbered_video(folder / "paused.mkv", 45, times_ms=times_ms)
    return folder


def by_hand(name, path, window, chunk, fps=24.0):
    """Tokens of a video without pauses, each of the frames in a list that is written out."""
    trunk, rows = network(name), []
    with open_video(path) as video:
        slots = Clock(fps).indices(video.times_s, video.end_s).tolist()
        images = video.frames_at(range(len(video))).images
    for end in range(chunk, len(slots) + 1, chunk):
        shown = [slots[0]] * window + slots[:end]  # the first frame stands before the beginning
        seen = shown[-window:]
        if trunk.input.frames is not None:
            seen = [seen[i] for i in SegmentSampler(trunk.input.frames)(window)[0]]
        clip = test_transform(trunk.input)(images[seen])[0][0]
        with torch.inference_mode():
            rows.append(trunk.features(clip[None])[0])
    return torch.stack(rows)


# network, window, chunk: longer than a chunk, shorter (frames are left out), longer than the video, and networks of a
# fixed length and of any; then no multiple of a chunk, one chunk, and a token a frame
CASES = [
    ("tsn_resnet_tiny", 16, 6), ("tsn_resnet_tiny", 4, 6), ("tsn_resnet_tiny", 70, 6), ("videomae_tiny", 40, 6),
    ("vjepa2_tiny", 16, 6),
]  # fmt: skip
MORE_CASES = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (
        ("tsn_resnet_tiny", 7, 6), ("tsn_resnet_tiny", 6, 6), ("tsm_resnet_tiny", 9, 4), ("videomae_tiny", 16, 6),
        ("vjepa2_tiny", 4, 1),
    )
]  # fmt: skip


@pytest.mark.parametrize(("name", "window", "chunk"), [*CASES, *MORE_CASES])
def test_tokens_are_those_of_windows_by_hand(name, window, chunk, videos):
    extractor = extractor_of(name, window=window, chunk=chunk)
    for video in LENGTHS:
        with open_video(videos / f"{video}.mp4") as reader:
            tokens = extractor.video(reader)
        torch.testing.assert_close(tokens, by_hand(name, videos / f"{video}.mp4", window, chunk), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "window", "chunk"), CASES)
def test_a_stream_gets_what_the_file_gives(name, window, chunk, videos):
    """Exactly, over a pause that is not filled, with the times of the beginnings of the chunks."""
    extractor = extractor_of(name, window=window, chunk=chunk)
    with open_video(videos / "paused.mkv") as video:
        features, end_s = extractor.video(video), video.end_s
    tokens = play_file(extractor, videos / "paused.mkv", end_s)
    assert torch.equal(torch.stack([vector for _, vector in tokens]), features)
    assert [seconds for seconds, _ in tokens[:3]] == pytest.approx([i * chunk / 24 for i in range(3)])


def test_no_token_depends_on_later_frames_or_on_an_earlier_take(videos):
    """The frames of a token end with its chunk, and do not reach over a pause that is not filled."""
    extractor = extractor_of(window=16)
    with open_video(videos / "paused.mkv") as video:
        numbers, takes = extractor.plan(video)
        slots = [Clock().indices(video.times_s[:20]), 20 + Clock().indices(video.times_s[20:], video.end_s)]
    firsts = [take.token for take in takes]
    assert firsts == [0, 3]
    for token, row in enumerate(numbers):
        take = int(token >= 3)
        last = (token - firsts[take] + 1) * 6 - 1
        assert row.max() == row[-1] == slots[take][last]
        assert row.min() >= slots[take][0]
    assert (numbers[0] == 0).sum() == 11
    assert (numbers[3] == 20).sum() == 11


def test_networks_of_a_length_get_it_and_others_get_a_chunk():
    assert extractor_of("videomae_tiny").window == extractor_of("vjepa2_tiny").window == 16
    assert extractor_of("videomae_tiny", chunk=24).window == 24  # as before: sixteen frames of the chunk
    assert extractor_of().window == 6
    record = extractor_of("vjepa2_tiny").record()
    assert record["window"] == 16
    assert record["frames"] == [list(range(-10, 6))]
    assert "window" not in extractor_of().record()
    assert "window" not in extractor_of("vjepa2_tiny", window=6).record()


def test_weights_say_the_length_they_were_trained_on(monkeypatch):
    from vidact.models import video_transformers

    monkeypatch.setattr(video_transformers, "_state_dict", lambda *args: {})
    monkeypatch.setattr(video_transformers, "_start", lambda *args: None)
    monkeypatch.setitem(video_transformers._OF_VJEPA2, "vjepa2_large", video_transformers._OF_VJEPA2["vjepa2_tiny"])
    monkeypatch.setitem(
        video_transformers._OF_VIDEOMAE, "videomae_base", video_transformers._OF_VIDEOMAE["videomae_tiny"]
    )
    lengths = {"something_v2": 16, "diving48": 32, "unlabelled": 64}
    for weights, length in lengths.items():
        assert vidact.models.vjepa2_large(2, weights=weights, size=32).trained_frames == length
    assert vidact.models.videomae_base(2, weights="kinetics400", size=32).trained_frames == 16
    assert vidact.models.videomae_base(2, weights="something_v2", size=32).trained_frames is None


def test_it_is_kept_with_the_features_and_opened_again(videos, tmp_path):
    extractor = extractor_of("vjepa2_tiny", window=8)
    extract_features(videos / "steady.mp4", tmp_path, extractor, progress=False)
    assert json.loads((tmp_path / "features.json").read_text()) == extractor.record()
    again = FeatureExtractor.open(tmp_path, device="cpu")
    assert again.record() == extractor.record()
    with open_video(videos / "steady.mp4") as video:
        np.testing.assert_array_equal(np.load(tmp_path / "steady.npy"), again.video(video).numpy())


def test_a_folder_without_windows_keeps_its_rule(videos, tmp_path, capsys):
    """What an older version began with one chunk a token goes on so; a window that is asked for is refused."""
    old = extractor_of("vjepa2_tiny", window=6)
    extract_features(videos / "steady.mp4", tmp_path, old, progress=False)
    assert "window" not in json.loads((tmp_path / "features.json").read_text())
    new = extractor_of("vjepa2_tiny")
    result = extract_features([videos / "steady.mp4", videos / "short.mp4"], tmp_path, new)
    assert (result.kept, result.written) == (["steady"], ["short"])
    assert "was begun without windows" in capsys.readouterr().err
    with open_video(videos / "short.mp4") as video:
        np.testing.assert_array_equal(np.load(tmp_path / "short.npy"), old.video(video).numpy())
    with pytest.raises(ValueError, match=r"frames .*window None and 16.* \(there and asked\)"):
        extract_features(videos, tmp_path, extractor_of("vjepa2_tiny", window=16), progress=False)


@pytest.fixture(scope="module", params=["tsn_resnet_tiny", pytest.param("vjepa2_tiny", marks=pytest.mark.slow)])
def detector(request, videos, tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A detector on windows of 16 frames with its extractor, and its scores of the video "steady"."""
    extractor = extractor_of(request.param, window=16)
    torch.manual_seed(0)
    network = vidact.models.miniroad_small(3, extractor.dim, embedding_dim=12, hidden_dim=8).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    with open_video(videos / "steady.mp4") as video, torch.no_grad():
        scores = network.scan(extractor.video(video)[None]).logits[0].softmax(-1).numpy()
    assert scores.std(0).max() > 0.01
    network.extractor_state = extractor.state()
    record = {"classes": ["a", "b"], "features": extractor.record(), "tokens_per_second": 4.0, "scores": "softmax"}
    return save(network, tmp_path_factory.mktemp("detector") / "detector.safetensors", record), scores


def test_a_detector_on_windows_streams_what_is_scored(detector, videos):
    path, scores = detector
    updates = list(run(open_source(videos / "steady.mp4"), load_model(path, device="cpu")))
    np.testing.assert_allclose([update.scores for update in updates], scores, atol=1e-5)
    assert [update.seconds for update in updates] == pytest.approx([t / 4 for t in range(len(scores))])


@pytest.mark.slow
def test_an_exported_detector_has_the_windows_of_its_extractor(detector, videos, tmp_path):
    path, scores = detector
    export(path, tmp_path / "detector.onnx", runs=1)
    exported = load_onnx(tmp_path / "detector.onnx")
    assert exported.extractor.window == 16
    updates = list(run(open_source(videos / "steady.mp4"), exported))
    np.testing.assert_allclose([update.scores for update in updates], scores, atol=1e-4)


def test_the_command(videos, tmp_path, capsys):
    common = ["extract", "features", "--videos", str(videos), "--device", "cpu", "--workers", "1"]
    tiny = ["--network", "tsn_resnet_tiny", "--weights", "none", "--size", "32"]
    cli.main([*common, *tiny, "--out", str(tmp_path / "a"), "--window", "16", "--hop", "4"])
    assert "tokens/s, each of the last 16 frames (0.67 s)" in capsys.readouterr().out
    record = json.loads((tmp_path / "a" / "features.json").read_text())
    assert (record["chunk"], record["window"], record["tokens_per_second"]) == (4, 16, 6.0)
    cli.main([*common, *tiny, "--out", str(tmp_path / "b"), "--window", "16", "--chunk", "4"])
    for name in ("steady", "paused"):
        assert (tmp_path / "a" / f"{name}.npy").read_bytes() == (tmp_path / "b" / f"{name}.npy").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hop", "4", "--chunk", "6"], "--hop is 4 and --chunk is 6; both are the frames from one token to the next"),
        (["--hop", "0"], "chunk is 0; a chunk has at least one slot"),
        (["--window", "0"], "window is 0; a window has 1 to 100,000 frames"),
        (["--window", "16", "--network", "resnet_tiny"], "window is 16, but ResNet reads images and not clips"),
        (["--window", "15", "--network", "vjepa2_tiny"], "the clip has 15 frames; this network takes them in pairs"),
        (
            ["--window", "8", "--network", "videomae_tiny"],
            "looks at 16 frames at least and the window is 8; set it to 16",
        ),
        (["--window", "two"], "invalid int value: 'two'"),
    ],
)
def test_what_is_no_window_is_refused_in_words(options, message, videos, tmp_path, capsys):
    arguments = ["--network", "tsn_resnet_tiny", "--weights", "none", "--size", "32", *options]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["extract", "features", "--videos", str(videos), "--out", str(tmp_path / "out"), *arguments])
    assert stopped.value.code == 2
    words = capsys.readouterr().err
    assert message in " ".join(words.split())
    assert not (tmp_path / "out").exists()
