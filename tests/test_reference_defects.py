"""Mistakes of published code that change results and that nobody notices: ours has none of them.

One test for each entry of a list that was made by reading and running a dozen repositories; the first line of each says
what the mistake is and where it is made.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from support.networks import CLIP_NETWORKS, LARGE_CLIP_NETWORKS, OPTIONAL
from torch import nn

import vidact.models
from vidact.batch import ClipInput
from vidact.data.clips import ClipData, EpochSampler
from vidact.data.synthetic import write_clips
from vidact.metrics import topk_accuracy
from vidact.models import tsm_resnet_tiny, tsn_resnet_tiny
from vidact.models.backbones import DifferenceConv2d, find_first_conv
from vidact.results.figures import load_results
from vidact.results.scores import Scores, fuse
from vidact.stream.live import _CameraConnection
from vidact.tasks import ClipClassification
from vidact.tasks.schedules import ParameterGroups
from vidact.training.run import train
from vidact.video import Augment, DenseSampler, LegacySampler, SegmentSampler, UniformSampler
from vidact.video.flow import dequantise, flow_fields, mirror, quantise, stack
from vidact.video.sample import expand
from vidact.video.transform import flip_pairs, test_transform, train_transform

pytestmark = pytest.mark.usefixtures("without_pages")

# small enough to run several times each; the laws of tests/models/ hold for all
TINY = [case for case in CLIP_NETWORKS if "tiny" in case[0]]


def rng(seed=0):
    return np.random.default_rng(seed)


def built(name, arguments):
    torch.manual_seed(0)
    return getattr(vidact.models, name)(**{"num_classes": 5, "weights": None, **arguments})


def noise(frames, height=40, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, classes=["moving right", "moving left"], splits={"train": 1, "val": 1, "test": 2}, seed=0)
    return folder


def test_01_as_many_frames_as_segments_are_all_seen():
    """TSN, TRN, TSM: a strict > in validation shows frame 1 eight times."""
    assert SegmentSampler(8)(8).tolist() == [list(range(8))]


@pytest.mark.parametrize("length", [1, 5, 6])
def test_02_every_index_lies_in_the_video(length):
    """TSN: indices of 0 and below in tests of short videos, and a crash in training."""
    for num_frames in range(1, 41):
        for segments in (1, 3, 7, 8, 25):
            for sampler in (SegmentSampler(segments, length), LegacySampler("tsn", segments, length)):
                for generator in (None, rng(num_frames)):
                    indices = expand(sampler(num_frames, generator), length, num_frames)
                    assert indices.min() >= 0
                    assert indices.max() < num_frames


def test_03_two_evaluations_are_equal():
    """TSM validates dense clips at random, TEA and TDN test so, and TRN draws relations in evaluation."""
    for sampler in (SegmentSampler(8), DenseSampler(8, 4), UniformSampler(8), LegacySampler("tsm_dense", 8)):
        assert np.array_equal(sampler(300), sampler(300))
    for name, arguments in TINY:
        network = built(name, arguments).eval()
        frames = network.input.frames or 8
        clip = torch.randn(1, frames, network.input.channels, network.input.size, network.input.size)
        with torch.no_grad():
            assert torch.equal(network(clip), network(clip)), name


def test_04_dense_starts_cover_every_place():
    """TSM: the last two starts are never drawn."""
    starts = {int(DenseSampler(8, 8)(60, rng(seed))[0, 0]) for seed in range(200)}
    assert starts == {0, 1, 2, 3}


def test_05_the_last_clip_reaches_the_end():
    """PySlowFast's default: none of ten clips does. Only the variant of its name behaves so."""
    assert DenseSampler(8, 4)(300, num_clips=10).max() == 299
    assert LegacySampler("slowfast", 8, stride=4)(300, num_clips=10).max() < 299


def test_06_two_clips_of_several_frames_stay_inside():
    """MMAction2: twice_sample with clip_len above 1 runs beyond the end and wraps."""
    for num_frames in (20, 33, 100):
        indices = DenseSampler(8, 4)(num_frames, num_clips=2)
        assert indices.min() >= 0
        assert indices.max() < num_frames
        assert (np.diff(indices) >= 0).all()


def test_07_a_mirrored_video_has_mirrored_flow():
    """MMAction2's ten-crop does not invert x, bryanyzhu's training neither."""
    texture = F.gaussian_blur(noise(1, 80, 120).float(), 13, 3.0)
    texture = ((texture - texture.amin()) / (texture.amax() - texture.amin()) * 255).to(torch.uint8)[0]
    images = torch.stack([texture[:, 4:60, 12 - 3 * t : 92 - 3 * t] for t in range(4)])  # 3 pixels to the right
    fields = flow_fields(images)
    assert fields[:, 0].median() == pytest.approx(3, abs=0.2)
    difference = flow_fields(images.flip(-1)) - mirror(fields)
    assert difference[..., 10:-10, 10:-10].abs().median() < 0.05
    takes = ClipInput(size=40, channels=6, flow_fields=3, mean=(0.5,), std=(1.0,), resize=48)
    views, _ = test_transform(takes, 10)(images)
    assert views[8, 0, 0].median() > 0  # the centre, and its mirror image
    assert views[9, 0, 0].median() < 0
    torch.testing.assert_close(views[9, :, 0::2], -views[8, :, 0::2].flip(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(views[9, :, 1::2], views[8, :, 1::2].flip(-1), rtol=0, atol=1e-5)
    always = train_transform(takes, Augment(crop="none", flip="always", flip_probability=1.0))
    never = train_transform(takes, Augment(crop="none", flip="never"))
    torch.testing.assert_close(always(images)[0][:, :, 0::2], -never(images)[0][:, :, 0::2].flip(-1), rtol=0, atol=1e-5)


def test_08_pairs_come_from_names():
    """GSM, TDN, TAM: integers of one class order are applied to another."""
    classes = [
        "Pushing something from left to right",
        "Doing nothing",
        "Pushing something from right to left",
        "Turning the camera left while filming something",
        "Turning the camera right while filming something",
    ]
    for order in (range(5), [3, 1, 4, 0, 2], [4, 3, 2, 1, 0]):
        listed = [classes[i] for i in order]
        named = {frozenset(listed[i] for i in pair) for pair in flip_pairs(listed).pairs}
        assert named == {frozenset({classes[0], classes[2]}), frozenset({classes[3], classes[4]})}


@pytest.mark.parametrize("name", ["sthv1", "sthv2"])
def test_08_both_something_lists(name, shared_data):
    """The same three pairs, wherever a list has them."""
    found = shared_data / "annotations" / "class_lists" / name / "label_map.txt"
    if not found.is_file():
        pytest.skip(f"there is no {found}")
    classes = [line.strip() for line in found.read_text().splitlines() if line.strip()]
    pairs = flip_pairs(classes)
    swapped = {"left": "right", "right": "left"}
    for a, b in pairs.pairs:
        words = [swapped.get(word.lower(), word.lower()) for word in classes[a].split()]
        assert words == classes[b].lower().split()
    assert len(pairs.pairs) == 3


def test_09_channel_k_is_field_k():
    """jeffreyyihuang: the stack is rotated by one pair."""
    fields = torch.arange(10).view(10, 1, 1, 1).expand(10, 2, 2, 2)
    assert stack(fields, 10)[0, ::2, 0, 0].tolist() == list(range(10))
    assert stack(fields, 10)[0, 1::2, 0, 0].tolist() == list(range(10))


@pytest.mark.parametrize("start", ["fresh", "train", "eval"])
def test_10_frozen_norms_are_frozen_while_training(root, tmp_path, start):
    """TSN: partial freezing leaves requires_grad behind, and under Lightning never happens at all."""
    import lightning.pytorch as pl

    seen = []

    class Census(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            norms = [m for m in module.network.modules() if isinstance(m, nn.BatchNorm2d)]
            seen.append([(norm.training, norm.weight.requires_grad) for norm in norms])

    task = ClipClassification(tsn_resnet_tiny(2, size=32, width=8), freeze_norms="partial")
    if start != "fresh":
        task.train(start == "train")
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, limit_train_batches=1, limit_val_batches=0,
        logger=False, enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        callbacks=[Census()], use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(task, ClipData(str(root), SegmentSampler(2), batch_size=2, num_workers=0))
    (modes,) = seen
    assert modes[0] == (True, True)
    assert modes[1:] == [(False, False)] * (len(modes) - 1)


def test_11_differences_are_normalised_alike_in_training_and_test():
    """TSN: RGB differences are normalised in the test script only."""
    network = tsn_resnet_tiny(3, size=40, width=8, modality="rgb_difference", flow_fields=2).eval()
    images = noise(3, 40, 40)
    still = Augment(crop="none", flip="never")
    takes = ClipInput(**{**network.input.as_dict(), "resize": 40})
    trained, tested = train_transform(takes, still)(images)[0], test_transform(takes)(images)[0]
    torch.testing.assert_close(trained, tested)
    name, conv = find_first_conv(network.backbone)
    assert isinstance(conv, DifferenceConv2d), name
    shown = tested[0]  # (1, 9, 40, 40)
    seen = nn.functional.conv2d(shown[:, 3:] - shown[:, :-3], conv.weight, conv.bias, conv.stride, conv.padding)
    torch.testing.assert_close(conv(shown), seen)
    std = torch.tensor(network.input.std).view(3, 1, 1)
    difference = (images[1].float() - images[0].float()) / 255 / std
    torch.testing.assert_close((shown[:, 3:6] - shown[:, :3])[0], difference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("networks", [CLIP_NETWORKS, pytest.param(LARGE_CLIP_NETWORKS, marks=pytest.mark.slow)])
def test_12_every_parameter_is_in_exactly_one_group(networks):
    """TSN and all that descend from it: a layer of a kind not thought of stops training."""
    for name, arguments in networks:
        package = OPTIONAL.get(name.partition("_")[0])
        if package and importlib.util.find_spec(package) is None:
            continue
        with torch.device("meta"):
            network = built(name, arguments)
        groups = ParameterGroups(head=5, first_conv=5, bias=2).split(network, 0.1, 1e-4)
        grouped = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(grouped) == sorted(id(parameter) for parameter in network.parameters()), name


def test_13_norms_average_over_ten_batches():
    """Ports of BN-Inception take Caffe's momentum of .9 for PyTorch's, which means the opposite."""
    names = {name for name in vidact.models.__all__ if "bn_inception" in name or name.startswith("eco_")}
    assert {"tsn_bn_inception", "trn_bn_inception", "gsm_bn_inception", "two_stream_bn_inception", "eco_full"} < names
    with torch.device("meta"):
        networks = [getattr(vidact.models, name)(5, weights=None) for name in names]
    for network in networks:
        norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert {norm.momentum for norm in norms} == {0.1}


def test_14_a_camera_gives_rgb():
    """TSM's camera demo shows BGR pictures to an RGB network."""

    class Blue:
        def isOpened(self):
            return True

        def grab(self):
            return True

        def retrieve(self):
            return True, np.full((4, 6, 3), (255, 0, 0), np.uint8)  # OpenCV's blue

        def get(self, prop):
            return 25.0

        def release(self):
            pass

    picture = next(iter(_CameraConnection(0, lambda index: Blue()).pictures()))
    assert picture.image[0, 0].tolist() == [0, 0, 255]
    images = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)  # red
    for order, channel in (("rgb", 0), ("bgr", 2)):
        takes = ClipInput(size=8, mean=(0.0,), std=(1.0,), order=order, resize=8)
        assert test_transform(takes)(images)[0][0, 0, :, 0, 0].tolist() == [float(k == channel) for k in range(3)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [*TINY, ("gsm_bn_inception", {"size": 64})],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_15_networks_run_on_a_cpu_at_any_length(name, arguments):
    """GSM and TIN need CUDA, TEA has its clip length written into every file."""
    network = built(name, arguments).eval()
    lengths = [network.input.frames] if network.input.frames else [4, 8, 16]
    for frames in lengths:
        clip = torch.randn(1, frames, network.input.channels, network.input.size, network.input.size)
        with torch.no_grad():
            assert network(clip).shape == (1, 5)


def test_16_fusion_is_by_video():
    """Everywhere: score files are joined by position, unchecked."""
    values, labels = rng().normal(size=(2, 6, 3)).astype(np.float32), np.arange(6) % 3
    ids = [f"video {i}" for i in range(6)]
    rest = {"classes": ["a", "b", "c"], "kind": "logits", "views": "1x1"}
    parts = [Scores(ids=ids, labels=labels, values=v, **rest) for v in values]
    order = rng(1).permutation(6)
    shuffled = Scores(ids=[ids[i] for i in order], labels=labels[order], values=values[1][order], **rest)
    assert np.allclose(fuse(parts).values, fuse([parts[0], shuffled]).values)
    other = Scores(ids=[*ids[:5], "other"], labels=labels, values=values[1], **rest)
    with pytest.raises(ValueError, match="not in"):
        fuse([parts[0], other])


def test_17_two_classes_have_a_top5(root, tmp_path):
    """PySlowFast: top-5 of fewer than five classes crashes."""
    assert topk_accuracy(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([0, 1]), 5) == 1.0
    trained = train(
        ["--config", "debug", f"--data.root={root}", "--model.network.size=32", "--device=cpu", "--run", str(tmp_path)]
    )
    tested = load_results(trained)["test"]
    assert (tested["classes"], tested["test_top5"]) == (2, 1.0)


def test_18_a_broken_video_is_excluded_and_counted(root, tmp_path):
    """PySlowFast, TRN: another video is scored in its place."""
    from vidact.data import load_clips

    clips = load_clips(root)
    rows = [f"{clip.path.resolve()},{clips.classes[clip.label]},{clip.split}" for clip in clips]
    (tmp_path / "broken.mp4").write_text("not a video")
    (tmp_path / "clips.csv").write_text(
        "\n".join(["path,label,split", *rows, f"{tmp_path / 'broken.mp4'},moving left,test"])
    )
    made = ClipData(str(tmp_path), SegmentSampler(2), num_workers=0, test_unreadable="skip", batch_size=8)
    made.prepare(ClipInput(size=32))
    batches = list(made.loader("test"))
    scored = [name for batch in batches for name in batch.ids]
    skipped = {name for batch in batches for name in batch.skipped}
    assert len(scored) == len(set(scored)) == len(clips.split("test"))
    assert len(skipped) == 1
    assert "broken" in skipped.pop()


@pytest.mark.parametrize("length", [1, 5, 7, 8])
def test_19_repeats_of_a_distributed_test_count_once(length):
    """torchvision's reference: videos that fill up the last batches count twice. (Processes: test_distributed.py.)"""
    parts = [list(EpochSampler(length, shuffle=False, rank=rank, world_size=3)) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    together = [key for part in parts for key in part]
    assert len(together) >= length
    task = ClipClassification(tsn_resnet_tiny(3, size=32, width=8))
    task.classes = ["a", "b", "c"]
    task.collected = [(f"video {index}", np.full(3, index, np.float32), np.int64(index % 3)) for _, index in together]
    joined = task.joined("1x1")
    assert joined.ids == sorted(f"video {index}" for index in range(length))
    assert sorted(joined.values[:, 0].tolist()) == list(range(length))


def test_20_a_causal_shift_does_not_see_the_next_frame():
    """The recipes that users exchange for "uni-directional" TSM take from frame t + 1."""
    torch.manual_seed(0)
    network = tsm_resnet_tiny(4, shift="causal", size=32, width=16).eval()
    nn.init.normal_(network.fc.weight)
    clip = torch.randn(1, 6, 3, 32, 32)
    other = clip.clone()
    other[:, 4:] = torch.randn(1, 2, 3, 32, 32)
    with torch.no_grad():
        before, after = network.frame_logits(clip), network.frame_logits(other)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize(
    "augment",
    [
        Augment(), Augment(crop="resized", color_jitter=0.5), Augment(rand_augment=2, magnitude=9),
        Augment(erasing=1.0), Augment(crop="none", flip="always"),
    ],
    ids=["multiscale", "resized and jitter", "rand_augment", "erasing", "mirror"],
)  # fmt: skip
def test_21_identical_frames_stay_identical(augment):
    """AugMix draws anew for every frame of a clip."""
    image = noise(1)
    transform = train_transform(ClipInput(size=32, resize=36), augment, ["a", "b"])
    for seed in range(10):
        torch.manual_seed(seed)
        clip, _ = transform(image.expand(6, -1, -1, -1), 0)
        assert torch.equal(clip, clip[:, :1].expand_as(clip))


def test_22_no_motion_is_the_middle():
    """MMAction2's extractor truncates, so that no motion is 127; networks subtract 128."""
    assert quantise(torch.zeros(1)).item() == 128
    half_a_step = 20 / 255
    assert abs(dequantise(torch.tensor([128], dtype=torch.uint8)).item()) <= half_a_step + 1e-5
