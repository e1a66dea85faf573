"""Networks fulfil the protocols that training, streaming and export rely on; a network of other code can, too."""

import pytest
import torch
from support.networks import CLIP_NETWORKS
from torch import nn

import vidact.models
from vidact.batch import ClipInput
from vidact.export import export
from vidact.features.extractor import FeatureExtractor
from vidact.models.clip_network import ClipNetwork, SteppingClipNetwork, VectorNetwork
from vidact.models.movinet import CausalMoViNet
from vidact.models.tsm import TSM
from vidact.models.tsn import TSN
from vidact.models.weights import builder


@pytest.mark.parametrize(("name", "arguments"), CLIP_NETWORKS, ids=[name for name, _ in CLIP_NETWORKS])
def test_every_clip_network_has_the_protocol(name, arguments):
    network = getattr(vidact.models, name)(num_classes=5, **{"weights": None, **arguments})
    assert isinstance(network, ClipNetwork)
    assert isinstance(network, VectorNetwork) == (hasattr(network, "dim") and hasattr(network, "features"))
    assert isinstance(network, SteppingClipNetwork) == isinstance(network, TSN | TSM | CausalMoViNet)


class Mean(nn.Module):
    """A network of other code, which inherits nothing from vidact."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.dim, self.input = num_classes, 3, ClipInput(size=16, resize=16, frames=4)
        self.fc = nn.Linear(3, num_classes)

    def forward(self, clip):
        return self.fc(self.features(clip))

    def features(self, clip):
        return clip.mean(dim=(1, 3, 4))


@builder
def mean(num_classes: int) -> Mean:
    return Mean(num_classes)


def test_a_network_of_other_code_is_a_clip_network(tmp_path):
    network = mean(5).eval()
    assert isinstance(network, ClipNetwork)
    assert isinstance(network, VectorNetwork)
    assert not isinstance(network, SteppingClipNetwork)
    assert not isinstance(nn.Linear(2, 2), ClipNetwork)
    extractor = FeatureExtractor(network, chunk=6)
    assert extractor.chunk(torch.zeros(6, 3, 20, 20, dtype=torch.uint8)).shape == (3,)
    assert export(network, tmp_path / "mean.pt2", runs=1).what == "clip"
    with pytest.raises(ValueError, match=r"Mean cannot step: this Mean looks at whole clips"):
        export(network, tmp_path / "step.pt2", what="step")


def test_a_network_without_classes_is_not_exported_as_a_clip_network(tmp_path):
    with pytest.raises(ValueError, match="Linear does not say its input"):
        export(nn.Linear(2, 2), tmp_path / "x.pt2", what="clip")
