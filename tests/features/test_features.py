"""The extractor: a camera gets what a file gives, nothing that must not matter matters, and it can be kept."""

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from support.playing import play_file
from torch import nn

import vidact.models
from vidact.features.extractor import IMAGE_BACKBONES, FeatureExtractor
from vidact.features.names import build_extractor, build_network
from vidact.models.weights import builder, save
from vidact.video import Chunker, Clock, VideoError, open_video, test_transform
from vidact.video.numbered import write_numbered_video

TINY = {"size": 32, "width": 8}


def network(name, **arguments):
    torch.manual_seed(0)
    return getattr(vidact.models, name)(num_classes=3, **{**TINY, **arguments})


def tiny(**settings):
    """An extractor on one frame of a chunk."""
    return build_extractor("resnet_tiny", size=32, **{"device": "cpu", **settings})


def flow(fields=5):
    return network("tsn_resnet_tiny", modality="flow", flow_fields=fields)


# name → extractor; what each looks at in a chunk of six
EXTRACTORS = {
    "image": (lambda **s: tiny(**s), [[3]]),
    "clip": (lambda **s: FeatureExtractor(network("tsn_resnet_tiny"), **s), [[0, 1, 2, 3, 4, 5]]),
    "shift": (lambda **s: FeatureExtractor(network("tsm_resnet_tiny"), **s), [[0, 1, 2, 3, 4, 5]]),
    "image+flow": (
        lambda **s: FeatureExtractor(
            build_network("resnet_tiny", size=32),
            flow_network=build_network("resnet_tiny", size=32, modality="flow"),
            **s,
        ),
        [[3], [0, 1, 2, 3, 4, 5]],
    ),
    "two stream": (lambda **s: FeatureExtractor(network("two_stream_resnet_tiny"), **s), [[0, 1, 2, 3, 4, 5]]),
    "short flow": (lambda **s: FeatureExtractor(flow(2), **s), [[1, 2, 3, 3, 4, 5]]),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 fps, 10 fps, and one whose frames come when they like."""
    folder = tmp_path_factory.mktemp("videos")
    write_numbered_video(folder / "steady.mp4", 60)
    write_numbered_video(folder / "slow.mp4", 14, times_ms=[100 * i for i in range(14)])
    generator = torch.Generator().manual_seed(0)
    gaps = torch.randint(5, 120, (45,), generator=generator)
    write_numbered_video(folder / "jittered.mkv", 45, times_ms=gaps.cumsum(0).tolist())
    return folder


@cache
def extractor_of(name):
    return EXTRACTORS[name][0](device="cpu")


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize("file", ["steady.mp4", "slow.mp4", "jittered.mkv"])
def test_a_camera_gets_what_the_file_gives(name, file, videos):
    """Law 3, and exactly: on a CPU both compute one chunk at a time."""
    extractor = extractor_of(name)
    with open_video(videos / file) as video:
        features, times_s = extractor.video(video), video.times_s
    tokens = play_file(extractor, videos / file)
    assert len(tokens) == len(features) == len(Clock().indices(times_s)) // 6
    assert torch.equal(torch.stack([vector for _, vector in tokens]), features)
    starts = [float(times_s[0]) + k / extractor.tokens_per_second for k in range(len(tokens))]
    assert [time_s for time_s, _ in tokens] == pytest.approx(starts)
    assert features.shape == (len(tokens), extractor.dim)
    assert features.dtype == torch.float32
    assert features.std(0).max() > 0


@pytest.mark.parametrize("name", EXTRACTORS)
def test_which_frames_are_seen(name):
    """Changing any of them changes the vector; changing another one of the chunk does not."""
    extractor = extractor_of(name)
    assert extractor.record()["frames"] == EXTRACTORS[name][1]
    images = torch.randint(0, 256, (6, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    vector = extractor.chunk(images)
    for place in range(6):
        changed = images.clone()
        changed[place] = 255 - changed[place]
        assert torch.equal(extractor.chunk(changed), vector) == (place not in extractor.frames), place


def test_the_view_is_the_test_view_of_the_network():
    """An extractor adds nothing to the network and its own transform."""
    extractor = tiny()
    images = torch.randint(0, 256, (6, 3, 90, 50), dtype=torch.uint8)
    backbone = build_network("resnet_tiny", size=32).eval()
    clips, _ = test_transform(backbone.input)(images[3:4])
    with torch.inference_mode():
        torch.testing.assert_close(extractor.chunk(images), backbone(clips[0])[0])


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (32, 33), (37, 101), (32, 32)])
def test_a_single_image_is_prepared_where_it_lies(size):
    """An image whose channels lie together, as a decoder leaves it, is not copied, and gives the same bits."""
    extractor = FeatureExtractor(build_network("resnet_tiny", size=32), device="cpu")
    decoded = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    apart = decoded.permute(2, 0, 1).contiguous()
    before = decoded.clone()
    (prepared,) = extractor.prepare([decoded.permute(2, 0, 1)])
    assert torch.equal(prepared, extractor.prepare([apart])[0])
    assert torch.equal(prepared, test_transform(extractor.networks["network"].input)(apart[None])[0][0, 0][None])
    assert torch.equal(decoded, before)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_batch_mates_change_nothing_but_the_rounding(name, videos):
    several = EXTRACTORS[name][0](device="cpu", batch=4)
    with open_video(videos / "steady.mp4") as video:
        alone, together = (extractor.video(video) for extractor in (extractor_of(name), several))
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5 * max(1.0, float(alone.abs().max())))


def test_only_frames_that_are_seen_are_decoded_and_each_once(videos):
    with open_video(videos / "steady.mp4") as video:
        asked: list[int] = []
        frames_at = video.frames_at
        video.frames_at = lambda indices: asked.extend(indices) or frames_at(indices)
        tiny().video(video)
        rows = Chunker().indices(Clock().indices(video.times_s))
    assert asked == rows[:, 3].tolist()
    with open_video(videos / "slow.mp4") as video:  # frames that several slots show, across chunks too
        asked.clear()
        frames_at_slow = video.frames_at
        video.frames_at = lambda indices: asked.extend(indices) or frames_at_slow(indices)
        FeatureExtractor(network("tsn_resnet_tiny"), device="cpu").video(video)
    assert asked == sorted(set(asked))


def test_what_must_matter_matters(videos):
    with open_video(videos / "steady.mp4") as video:
        default = tiny().video(video)
        assert not torch.equal(tiny(rgb_index=2).video(video), default)
        assert tiny(fps=12).video(video).shape == (4, 128)
        assert tiny(chunk=3).tokens_per_second == 8
        assert tiny(chunk=3).video(video).shape == (19, 128)
        assert tiny(chunk=1).frames == [0]


# ---------------------------------------------------------------------------------------------- keeping it


@pytest.mark.parametrize("name", ["image", "image+flow", "shift"])
def test_a_checkpoint_can_carry_it(name, videos, tmp_path):
    """The record as JSON and the tensors among a detector's own are enough to stream."""
    extractor = EXTRACTORS[name][0](device="cpu", fps=25, chunk=6)
    record = json.loads(json.dumps(extractor.record()))
    torch.save({"network.gru.weight": torch.zeros(3)} | extractor.state("extractor."), tmp_path / "detector.ckpt")
    tensors = torch.load(tmp_path / "detector.ckpt", weights_only=True)
    again = FeatureExtractor.load(record, tensors, prefix="extractor.", device="cpu")
    assert again.record() == extractor.record() == record
    with open_video(videos / "steady.mp4") as video:
        assert torch.equal(again.video(video), extractor.video(video))
    extractor.save(tmp_path / "extractor.safetensors")
    for place in (tmp_path, tmp_path / "extractor.safetensors"):
        assert FeatureExtractor.open(place, device="cpu").record() == record


def test_a_trained_network_becomes_an_extractor(tmp_path, videos):
    trained = network("tsm_resnet_tiny", shift="causal")
    path = save(trained, tmp_path / "tsm.safetensors", {"classes": ["a", "b", "c"], "sampling": None})
    extractor = build_extractor(str(path), device="cpu")
    assert extractor.record()["network"]["recipe"]["builder"] == "vidact.models.tsm_resnet_tiny"
    with open_video(videos / "steady.mp4") as video:
        assert torch.equal(extractor.video(video), FeatureExtractor(trained, device="cpu").video(video))


def test_the_record_knows_the_weights_and_not_their_place(tmp_path):
    """Another path is the same extractor; other numbers are another one."""
    backbone = build_network("resnet_tiny", size=32)
    records = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "weights.pth"
        torch.save({key: value for key, value in backbone.state_dict().items() if "num_batches" not in key}, path)
        records.append(build_extractor("resnet_tiny", str(path), size=32, device="cpu").record())
    assert records[0] == records[1] == tiny().record()
    assert str(tmp_path) not in json.dumps(records[0])
    with torch.no_grad():
        next(backbone.parameters()).view(-1)[0] += 1e-3
    changed = FeatureExtractor(backbone, device="cpu").record()
    assert changed["weights_sha256"] != records[0]["weights_sha256"]
    assert {**changed, "weights_sha256": records[0]["weights_sha256"]} == records[0]


def test_other_tensors_than_the_records_are_refused():
    extractor = tiny()
    record, state = extractor.record(), extractor.state()
    name = next(key for key, value in state.items() if value.ndim == 4)
    with pytest.raises(ValueError, match=r"not the extractor of the record: weights_sha256 \w+… and \w+…"):
        FeatureExtractor.load(record, {**state, name: state[name] + 1})
    with pytest.raises(ValueError, match="1 missing"):
        FeatureExtractor.load(record, {key: value for key, value in state.items() if key != name})
    with pytest.raises(ValueError, match=r"outside vidact.*would run its code"):
        FeatureExtractor.load({**record, "network": {"recipe": {"builder": "os.system", "arguments": {}}}}, state)
    with pytest.raises(ValueError, match="format 2 and this vidact reads up to 1; install a newer one"):
        FeatureExtractor.load({**record, "format": 2}, state)
    with pytest.raises(ValueError, match="lacks network, weights_sha256"):
        FeatureExtractor.load({"fps": 24.0, "chunk": 6, "frames": [[3]], "decoder": "pyav"}, state)


def test_a_file_that_is_no_extractor(tmp_path):
    path = save(network("tsn_resnet_tiny"), tmp_path / "tsn.safetensors")
    with pytest.raises(ValueError, match=r"holds no feature extractor; give the extractor\.safetensors of a folder"):
        FeatureExtractor.open(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        FeatureExtractor.open(tmp_path)


# ---------------------------------------------------------------------------------------------- bad input


def test_networks_without_one_vector_a_clip_are_refused_by_name():
    with pytest.raises(ValueError, match=r"TRN does not say its input and dim.*mobilenet_v2.*TSN, TSM or X3D"):
        FeatureExtractor(network("trn_resnet_tiny", num_segments=4))
    with pytest.raises(ValueError, match="Linear does not say its input and dim"):
        FeatureExtractor(nn.Linear(3, 4))
    silent = network("tsn_resnet_tiny")
    bare = nn.Module()
    bare.input, bare.dim = silent.input, 5
    with pytest.raises(ValueError, match=r"Module has no features\(clip\)"):
        FeatureExtractor(bare)
    with pytest.raises(ValueError, match=r"flow_network is a TSN, which does not look at flow alone.*modality='flow'"):
        FeatureExtractor(silent, flow_network=network("tsn_resnet_tiny"))
    with pytest.raises(ValueError, match="looks at 6 frames at least and a chunk has 4; set chunk to 6 or more"):
        FeatureExtractor(flow(), chunk=4)
    silent.dim = 7
    with pytest.raises(ValueError, match="say they give 7 numbers a chunk and gave 64"):
        FeatureExtractor(silent)
    with torch.no_grad():
        next(silent.parameters()).fill_(math.nan)
    silent.dim = 64
    with pytest.raises(ValueError, match="TSN gave features that are not finite; look at the weights"):
        FeatureExtractor(silent)


def test_a_network_without_a_recipe_cannot_be_recorded():
    plain = vidact.models.tsn_resnet_tiny.__wrapped__(num_classes=3, **TINY)
    extractor = FeatureExtractor(plain, device="cpu")
    with pytest.raises(ValueError, match="TSN has no recipe"):
        extractor.record()


def test_settings_out_of_range():
    for settings, words in (
        ({"fps": 0}, "needs a rate above 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"rgb_index": 6}, "rgb_index is 6; a chunk of 6 frames has 0 to 5"),
        ({"batch": 0}, "batch is 0"),
        ({"decoder": "vlc"}, "decoder 'vlc' is unknown; choose one of pyav"),
        ({"flow_network": "resnet_tiny", "flow_method": "hs"}, "no flow method 'hs'"),
    ):
        with pytest.raises(ValueError, match=words):
            tiny(**settings)


def test_names():
    with pytest.raises(ValueError, match="'mobilenetv2' is neither a file nor a name; did you mean 'mobilenet_v2'"):
        build_network("mobilenetv2")
    with pytest.raises(ValueError, match="'weights' is neither a file nor a name"):
        build_network("weights")  # a module of vidact.models
    with pytest.raises(FileNotFoundError, match=r"there is no file gone\.ckpt"):
        build_network("gone.ckpt")
    with pytest.raises(FileNotFoundError, match=r"'gone\.pth' is neither a file nor a published name"):
        build_network("resnet_tiny", "gone.pth")
    with pytest.raises(ValueError, match="'x3d_m' takes no flow_fields, modality"):
        build_network("x3d_m", None, modality="flow")
    assert {"mobilenet_v2", "resnet50", "bn_inception"} <= set(IMAGE_BACKBONES)


@pytest.mark.slow
def test_networks_of_timm():
    assert build_extractor("timm/resnet10t", None, 64, device="cpu").dim == 512


def test_a_trained_network_is_no_weights_of_a_backbone(tmp_path):
    path = str(save(network("tsn_resnet_tiny"), tmp_path / "tsn.safetensors"))
    with pytest.raises(ValueError, match="trained network, not a backbone's weights; give it as the network"):
        build_network("resnet_tiny", path)
    with pytest.raises(ValueError, match="brings its own; leave weights='imagenet' out"):
        build_network(path, "imagenet")
    with pytest.raises(ValueError, match="leave size=64 out"):
        build_network(path, size=64)


def test_untrained_networks_are_the_same_in_every_run_and_disturb_nobody():
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    first = tiny().record()
    assert torch.equal(torch.rand(3), before)
    assert tiny().record() == first
    clip = build_extractor("tsn_resnet_tiny", size=32, flow_network="tsn_resnet_tiny", device="cpu")
    assert clip.dim == 256
    assert clip.frames == [0, 1, 2, 3, 4, 5]


def test_what_is_no_chunk_and_no_frame():
    extractor = tiny()
    with pytest.raises(ValueError, match=r"uint8 RGB images \(6, 3, H, W\); these are torch.uint8 \(5, 3, 32, 32\)"):
        extractor.chunk(torch.zeros(5, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"these are torch\.float32"):
        extractor.chunk(torch.zeros(6, 3, 32, 32))
    stream = extractor.stream()
    with pytest.raises(
        ValueError, match=r"a frame is a uint8 RGB image \(3, H, W\); this is torch.uint8 \(32, 32, 3\)"
    ):
        stream.push(0.0, torch.zeros(32, 32, 3, dtype=torch.uint8))
    stream.push(0.0, torch.zeros(3, 32, 48, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"frame of 0\.040 s is 32x48, those before it 48x32; begin a new stream"):
        stream.push(0.04, torch.zeros(3, 48, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="time goes forwards"):
        stream.push(-1.0, torch.zeros(3, 32, 48, dtype=torch.uint8))


def test_a_video_shorter_than_a_token(tmp_path):
    write_numbered_video(tmp_path / "short.mp4", 5)
    with (
        open_video(tmp_path / "short.mp4") as video,
        pytest.raises(
            VideoError,
            match=r"short\.mp4 has 5 frames at 24 fps; a token needs 6\. Leave it out, or make the chunk smaller",
        ),
    ):
        tiny().video(video)


@builder
def elsewhere(num_classes: int = 2, weights: str | None = None) -> nn.Module:
    """A network of somebody else's package."""
    return vidact.models.tsn_resnet_tiny(num_classes, weights, **TINY)


def test_networks_of_other_packages_need_trust():
    extractor = FeatureExtractor(elsewhere(), device="cpu")
    record, state = extractor.record(), extractor.state()
    with pytest.raises(ValueError, match="If you trust it"):
        FeatureExtractor.load(record, state)
    assert FeatureExtractor.load(record, state, trust=(__name__,), device="cpu").record() == record
