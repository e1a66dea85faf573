"""The libraries' networks mean the same behind our contract."""

import importlib

import pytest
import torch
import torchvision
from torch._dynamo.utils import counters

import vidact.models
from vidact.models.backbones import set_gradient_checkpointing
from vidact.models.video_networks import WindowPool, slow_frames
from vidact.tasks.training import compiled

# Millions of parameters with 400 classes, measured on the libraries' own networks.
MILLIONS = {
    "slow_r50": 32.454,
    "c2d_r50": 24.328,
    "i3d_r50": 28.043,
    "slowfast_r50": 34.566,
    "x3d_xs": 3.794,
    "x3d_s": 3.794,
    "x3d_m": 3.794,
    "csn_r101": 22.214,
    "r2plus1d_r50": 28.108,
    "r3d_18": 33.371,
    "mc3_18": 11.695,
    "r2plus1d_18": 31.505,
    "s3d": 8.320,
    "mvit_v2_s": 34.538,
    "swin3d_t": 28.158,
    "swin3d_s": 49.817,
    "swin3d_b": 88.049,
    "mvit_v1_b": 36.611,
    "slowfast_r101": 62.827,
    "x3d_l": 6.153,
}


@pytest.mark.parametrize("name", MILLIONS)
def test_published_size(name):
    with torch.device("meta"):
        network = getattr(vidact.models, name)(num_classes=400, weights=None)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.0006)
    assert network.input.size in (112, 160, 224, 312)


def theirs(name):
    torch.manual_seed(0)
    if hasattr(torchvision.models.video, name):
        return getattr(torchvision.models.video, name)().eval(), {}
    module = next(
        m for m in ("x3d", "slowfast", "resnet", "csn", "r2plus1d") if name.startswith(m) or m in HUB.get(name, "")
    )
    network = getattr(importlib.import_module(f"pytorchvideo.models.hub.{module}"), name)(pretrained=False).eval()
    network.blocks[-1].activation = None  # theirs ends in a softmax when it evaluates; logits are logits
    return network, {"model_state": network.state_dict()}


HUB = {"slow_r50": "resnet", "c2d_r50": "resnet", "i3d_r50": "resnet", "csn_r101": "csn"}


@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [
        ("x3d_xs", 4, 160),
        ("x3d_xs", 4, 192),  # larger than trained: several windows
        ("mc3_18", 8, 64),
        *(
            pytest.param(name, frames, size, marks=pytest.mark.slow)
            for name, frames, size in [
                ("slowfast_r50", 32, 224),
                ("slowfast_r50", 32, 256),
                ("slow_r50", 8, 256),
                ("c2d_r50", 8, 224),
                ("i3d_r50", 8, 224),
                ("csn_r101", 32, 224),
                ("r2plus1d_r50", 16, 224),
                ("x3d_s", 13, 182),
                ("r3d_18", 16, 112),
                ("r2plus1d_18", 16, 112),
                ("s3d", 32, 224),
                ("swin3d_t", 8, 224),
                ("mvit_v2_s", 16, 224),
            ]
        ),
    ],
)
def test_same_logits_as_the_library(name, frames, size, tmp_path):
    """A file with the library's own names and classes gives the library's own scores, also at larger crops."""
    reference, content = theirs(name)
    torch.save(content or reference.state_dict(), tmp_path / "published.pth")
    sizes = {} if name == "mvit_v2_s" else {"size": size}
    network = getattr(vidact.models, name)(num_classes=400, weights=str(tmp_path / "published.pth"), **sizes).eval()
    clip = torch.randn(1, frames, 3, size, size)
    pathways = clip.transpose(1, 2)
    if name == "slowfast_r50":
        slow = torch.linspace(0, frames - 1, frames // 4).long()  # how the published weights were trained
        pathways = [pathways[:, :, slow], pathways]
    with torch.no_grad():
        expected = reference(pathways)
        torch.testing.assert_close(network(clip), expected, rtol=1e-4, atol=1e-5 * max(1, expected.abs().max()))


def test_published_head_is_taken_only_with_its_classes(tmp_path):
    reference, _ = theirs("mc3_18")
    torch.save(reference.state_dict(), tmp_path / "published.pth")
    network = vidact.models.mc3_18(num_classes=5, weights=str(tmp_path / "published.pth"))
    assert network.fc.weight.shape == (5, 512)
    assert torch.equal(network.trunk.stem[0].weight, reference.stem[0].weight)
    torch.save({"stem.0.weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not fit VideoNetwork"):
        vidact.models.mc3_18(num_classes=5, weights=str(tmp_path / "other.pth"))
    with pytest.raises(FileNotFoundError, match="names here: kinetics400"):
        vidact.models.mc3_18(num_classes=5, weights="kinetics")


def test_no_network_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDACT_MIRROR", "http://127.0.0.1:9")  # the discard service, which nobody runs
    for variable in ("VIDACT_HOME", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    for name in ("mc3_18", "x3d_xs"):
        with pytest.raises(OSError, match=r"could not be downloaded.*weights=None"):
            getattr(vidact.models, name)(num_classes=5)


@pytest.mark.parametrize("frames", range(4, 129, 4))
def test_slow_pathway_sees_the_published_frames(frames):
    clip = torch.arange(frames).view(1, frames, 1, 1, 1)
    expected = torch.linspace(0, frames - 1, frames // 4, dtype=torch.float64).long()
    assert slow_frames(clip).flatten().tolist() == expected.tolist()


def test_slow_frames_of_every_length():
    for slow in range(1, 65):
        frames = 4 * slow
        expected = [i * (frames - 1) // max(slow - 1, 1) for i in range(slow)]
        assert slow_frames(torch.arange(frames).view(1, frames, 1, 1, 1)).flatten().tolist() == expected


def test_slowfast_says_which_lengths_it_takes():
    with pytest.raises(ValueError, match=r"divisible by 4; the clip has 30\. Sample 28 or 32"):
        slow_frames(torch.zeros(1, 30, 3, 2, 2))


def test_short_clips_are_refused():
    network = vidact.models.s3d(num_classes=2, weights=None, size=64).eval()
    with pytest.raises(ValueError, match="has 7 frames; this network takes at least 8"):
        network(torch.zeros(1, 7, 3, 64, 64))


def test_window_pool_is_global_where_the_map_is_small():
    maps = torch.randn(1, 2, 3, 4, 4)
    torch.testing.assert_close(WindowPool((8, 7, 7))(maps), maps.mean(dim=(2, 3, 4), keepdim=True))
    assert WindowPool((2, 3, 3))(maps).shape == (1, 2, 2, 2, 2)


def test_input_keeps_the_published_ratio_of_resize_to_crop():
    assert (vidact.models.x3d_xs(2, None).input.size, vidact.models.x3d_xs(2, None).input.resize) == (160, 182)
    assert vidact.models.mc3_18(2, None, size=56).input.resize == 64


def test_gradient_checkpointing_reaches_the_libraries_blocks():
    for name in ("x3d_xs", "mc3_18"):
        network = getattr(vidact.models, name)(num_classes=2, weights=None, size=32).train()
        set_gradient_checkpointing(network)
        network(torch.randn(2, 4, 3, 32, 32)).sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        pytest.param("slow_r50", 2, marks=pytest.mark.slow),  # is the one pathway of slowfast_r50
        pytest.param("slowfast_r50", 8, marks=pytest.mark.slow),
        pytest.param("x3d_xs", 4, marks=pytest.mark.slow),
    ],
)
def test_compiles_in_one_piece(name: str, frames: int) -> None:
    """A block a stage, which has everything that the other blocks have."""
    torch.manual_seed(0)
    network = getattr(vidact.models, name)(num_classes=3, weights=None, size=32, dropout=0.0).train()
    for stage in network.modules():
        if type(stage).__name__ == "ResStage":
            stage.res_blocks = stage.res_blocks[:1]
    torch.compiler.reset()
    counters.clear()
    compiled(network, 2, backend="aot_eager")(torch.randn(2, frames, 3, 32, 32)).sum().backward()
    assert counters["stats"]["unique_graphs"] == 1
    assert all(parameter.grad is not None for parameter in network.parameters())
