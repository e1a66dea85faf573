"""Law 3: a file played through the engine gets the features, scores and events of extraction and scoring."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.online_networks import NUM_CLASSES, ONLINE_NETWORKS
from support.playing import Named, answers, grab, recording_model
from torch import nn

import vidact.models
from vidact.events import EventDetector, scores_to_events
from vidact.features.extractor import FeatureExtractor
from vidact.models.weights import save
from vidact.stream import load_model, run, run_many
from vidact.stream.engine import Streams
from vidact.stream.grabs import Grab
from vidact.stream.model import StreamModel
from vidact.stream.sources import open_source
from vidact.video import Clock, open_video
from vidact.video.numbered import numbered_picture, write_numbered_video
from vidact.video.transform import from_record

CLASSES = ["a", "b", "c", "d"]
SMALL = {"size": 32, "width": 8}
LENGTHS = (250, 97, 201, 60, 140, 33, 180, 120)  # frames, at 25 fps


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Steady ones, and one whose frames come when they like."""
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for i, length in enumerate(LENGTHS):
        gaps = np.random.default_rng(i).integers(10, 90, length) if i == 2 else np.full(length, 40)
        paths.append(folder / f"video{i}.mp4")
        write_numbered_video(paths[-1], length, times_ms=(gaps.cumsum() - gaps[0]).tolist())
    return paths


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    torch.manual_seed(0)
    network = vidact.models.tsn_resnet_tiny(num_classes=2, **SMALL)
    return FeatureExtractor(network, device="cpu")


@pytest.fixture(scope="module")
def features(videos: list[Path], extractor: FeatureExtractor) -> list[torch.Tensor]:
    """What extraction leaves of each."""
    found = []
    for path in videos:
        with open_video(path) as video:
            found.append(extractor.video(video))
    return found


@torch.no_grad()
def detector(case, features):
    """A toy detector whose answers differ from token to token: its input layer is as loud as the features are quiet."""
    torch.manual_seed(0)
    network = getattr(vidact.models, case[0])(num_classes=NUM_CLASSES, feature_dim=features.shape[1], **case[1]).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=(3 / parameter[0].numel()) ** 0.5)
        else:
            parameter += 0.3 * torch.randn_like(parameter)
    return network


@torch.no_grad()
def scan(network, features):
    """What scoring says of a whole video."""
    output = network.scan(features[None])
    future = None if output.future is None else output.future[0].softmax(-1).numpy()
    return output.logits[0].softmax(-1).numpy(), future


def checkpoint(network, extractor, on, path):
    """A file that streams by itself."""
    network.extractor_state = extractor.state()
    record = {
        "classes": CLASSES,
        "features": extractor.record(),
        "tokens_per_second": extractor.tokens_per_second,
        "scores": "softmax",
        "events": {"on": on, "smoothing": 0.5, "min_seconds": 0.5, "merge_seconds": 0.25},
    }
    return save(network, path, record)


def played(source, model):
    """Scores (T, 1 + K), future and events of one source, and all its updates."""
    updates = list(run(source, model))
    future = None if updates[0].future is None else np.stack([update.future for update in updates])
    return (
        np.stack([update.scores for update in updates]),
        future,
        [event for update in updates for event in update.events],
        updates,
    )


def assert_same_events(actual, expected):
    def key(event):
        return event.start_s, event.end_s, event.label

    assert sorted(map(key, actual)) == sorted(map(key, expected))
    for one, other in zip(sorted(actual, key=key), sorted(expected, key=key), strict=True):
        assert (one.video, one.score) == (other.video, pytest.approx(other.score, abs=1e-4))


def label(case):
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


@pytest.mark.parametrize("case", ONLINE_NETWORKS, ids=label)
def test_a_file_played_is_a_file_scored(case, videos, features, extractor, tmp_path):
    """Through the checkpoint, which carries the extractor, the thresholds and the names."""
    network = detector(case, features[0])
    scores, future = scan(network, features[0])
    on = [round(float(value), 4) for value in np.quantile(scores[:, 1:], 0.7, axis=0)]
    model = load_model(checkpoint(network, extractor, on, tmp_path / "detector.safetensors"), device="cpu")
    events = scores_to_events(scores, str(videos[0]), model.detector)
    assert scores.std(0).max() > 0.01  # or the comparison would prove nothing
    assert events

    got_scores, got_future, got_events, updates = played(open_source(videos[0]), model)
    np.testing.assert_allclose(got_scores, scores, atol=1e-5)
    assert (got_future is None) == (future is None)
    if future is not None:
        np.testing.assert_allclose(got_future, future, atol=1e-5)
    assert_same_events(got_events, events)
    assert [update.seconds for update in updates] == pytest.approx([t / 4 for t in range(len(scores))])
    opened = [(event.start_s, event.label) for update in updates for event in update.opened]
    assert sorted(opened) == sorted((event.start_s, event.label) for event in events)


@pytest.mark.parametrize("name", ["tsm_resnet_tiny", "tsn_resnet_tiny"])
@pytest.mark.parametrize("index", [0, 2])
def test_a_recogniser_says_of_a_file_what_its_frames_say(name, index, videos, tmp_path):
    """The mean over the last eight frames at four a second, of which a causal TSM has seen all before as well."""
    torch.manual_seed(0)
    network = getattr(vidact.models, name)(
        num_classes=4, **SMALL, **({"shift": "causal"} if name.startswith("tsm") else {})
    )
    nn.init.normal_(network.fc.weight, std=3.0)
    record = {"classes": CLASSES, "sampling": {"name": "SegmentSampler", "arguments": {"num_segments": 8}}}
    path = save(network.eval(), tmp_path / "recogniser.safetensors", record)
    model = load_model(path, device="cpu", events={"on": 0.4})
    assert model.tokens_per_second == 4

    with open_video(videos[index]) as video:
        images = video.frames_at(Clock(4).indices(video.times_s)).images
    clip = from_record({"input": network.input.as_dict()})(images)[0]
    with torch.no_grad():
        logits = network.frame_logits(clip)[0]  # (T, K)
        means = torch.stack([logits[max(0, t - 7) : t + 1].mean(0) for t in range(len(logits))])
        torch.testing.assert_close(means[7], network(clip[:, :8])[0], rtol=0, atol=1e-4)  # at first simply its answer
    scores = np.pad(means.softmax(-1).numpy(), ((0, 0), (1, 0)))
    assert scores.std(0).max() > 0.01
    got_scores, _, got_events, _ = played(open_source(videos[index]), model)
    np.testing.assert_allclose(got_scores, scores, atol=1e-5)
    assert_same_events(got_events, scores_to_events(scores, str(videos[index]), model.detector))


# ---------------------------------------------------------------------------------------------- jitter


def jittered(fps, seconds=20.0, seed=0):
    """Times of frames that are up to 40 % of a frame off, one in twenty lost; ascending, the first kept."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(fps * seconds)) / fps
    times += rng.uniform(-0.4, 0.4, len(times)) / fps
    kept = rng.uniform(size=len(times)) >= 0.05
    kept[0] = True
    return (times - times[0])[kept]


@pytest.mark.parametrize("fps", [25, 30000 / 1001, 30])
@pytest.mark.parametrize("begin_s", [0.0, 7.3])
def test_jitter_and_drops_leave_the_features_of_the_nearest_frames(fps, begin_s):
    """What the network is given is, bit for bit, the feature of the frame nearest to the slot that is looked at."""
    times = jittered(fps)
    images = [numbered_picture(i) for i in range(len(times))]
    source = Named("camera", [Grab(begin_s + t, image, 0.0, 0) for t, image in zip(times, images, strict=True)])
    source.is_live = True
    model = recording_model()
    extractor = model.extractor
    assert extractor.frames == [3]
    updates = list(run(source, model))

    slots = np.arange(int(np.floor(times[-1] * 24 + 1e-9)) + 1) / 24
    looked_at = slots[: len(slots) // 6 * 6].reshape(-1, 6)[:, 3]
    nearest = [int(np.abs(times - slot).argmin()) for slot in looked_at]
    chunks = torch.stack([torch.from_numpy(images[i]).permute(2, 0, 1) for i in nearest])
    expected = torch.stack([extractor.chunk(image.expand(6, -1, -1, -1)) for image in chunks])
    got = torch.cat(model.network.given)
    assert len(got) in (len(expected), len(expected) + 1)  # a last slot may lie half a slot after the last frame
    assert torch.equal(got[: len(expected)], expected)
    assert len(set(nearest)) == len(nearest)
    if updates[-2].is_withdrawn:
        got = got[:-1]
    assert [u.seconds for u in answers(updates)] == pytest.approx([begin_s + t / 4 for t in range(len(got))])


# ---------------------------------------------------------------------------------------------- several sources


@pytest.mark.parametrize(
    "case", [pytest.param(ONLINE_NETWORKS[4], marks=pytest.mark.slow), ONLINE_NETWORKS[8]], ids=label
)
def test_eight_files_are_eight_single_runs(case, videos, features, extractor, tmp_path):
    """They end at different times, and share every step of the network until then."""
    network = detector(case, features[0])
    scores = [scan(network, one)[0] for one in features]
    on = [round(float(value), 4) for value in np.quantile(np.concatenate(scores)[:, 1:], 0.7, axis=0)]
    model = load_model(checkpoint(network, extractor, on, tmp_path / "detector.safetensors"), device="cpu")
    sizes = []
    step = model.network.step
    model.network.step = lambda given, state: sizes.append(len(given)) or step(given, state)
    together: dict[str, list] = {str(path): [] for path in videos}
    for update in run_many([open_source(path) for path in videos], model):
        together[update.source].append(update)
    tokens = sorted(len(one) for one in features)
    assert sizes[: tokens[0] - 1] == [8] * (tokens[0] - 1)  # what the end completes comes alone
    assert len(sizes) <= tokens[-1] + 8
    for path, expected in zip(videos, scores, strict=True):
        updates = together[str(path)]
        alone = list(run(open_source(path), model))
        np.testing.assert_allclose([u.scores for u in updates], [u.scores for u in alone], atol=1e-5)
        np.testing.assert_allclose([u.scores for u in updates], expected, atol=1e-5)
        assert [u.seconds for u in updates] == [u.seconds for u in alone]
        assert [u.is_last for u in updates] == [u.is_last for u in alone] == [False] * (len(alone) - 1) + [True]
        assert_same_events(
            [e for u in updates for e in u.events], scores_to_events(expected, str(path), model.detector)
        )


def test_a_source_that_joins_late_gets_its_own_answers(extractor):
    """In the middle of another one's life, at another phase of the token."""
    classes, rate = ["a", "b"], extractor.tokens_per_second
    torch.manual_seed(0)
    network = vidact.models.miniroad_small(3, extractor.dim, embedding_dim=12, hidden_dim=8).eval()
    model = StreamModel(network, classes, rate, EventDetector(classes, rate), extractor)
    frames = {name: [grab(i / 24, seed=100 * k + i) for i in range(60)] for k, name in enumerate("xyz")}
    begins = {"x": 0, "y": 8, "z": 23}
    streams, got, open_streams = Streams(model), {name: [] for name in frames}, {}
    for tick in range(100):
        for name, begin in begins.items():
            if tick == begin:
                open_streams[name] = streams.join(name)
            if begin <= tick < begin + 60:
                open_streams[name].push(frames[name][tick - begin])
            ended = [open_streams[name]] if tick == begin + 60 else []
            for update in [*streams.answers(), *(update for stream in ended for update in streams.leave(stream))]:
                got[update.source].append(update.scores)
    for name, own in frames.items():
        np.testing.assert_allclose(got[name], [u.scores for u in run(own, model)], atol=1e-6)
        assert len(got[name]) == 10


@pytest.mark.parametrize("many", [False, True], ids=["run", "engine"])
def test_a_last_picture_that_stays_is_seen_to_its_end(many, extractor, tmp_path):
    """A GIF of ten pictures, the last shown for five seconds: 5.9 s, 23 tokens."""
    path = tmp_path / "lasting.gif"
    pictures = [Image.fromarray(numbered_picture(i)) for i in range(10)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100] * 9 + [5000])
    with open_video(path) as video:
        tokens = extractor.video(video)
    network = detector(ONLINE_NETWORKS[0], tokens)
    model = load_model(checkpoint(network, extractor, 0.5, tmp_path / "detector.safetensors"), device="cpu")
    updates = list(run_many([open_source(path)], model) if many else run(open_source(path), model))
    np.testing.assert_allclose([update.scores for update in updates], scan(network, tokens)[0], atol=1e-5)
    assert len(updates) == len(tokens) == 23
    assert updates[-1].is_last
