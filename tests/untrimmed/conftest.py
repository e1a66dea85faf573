"""What the tests of untrimmed videos share."""

import pytest
import torch

import vidact.models
from vidact.features.extractor import FeatureExtractor


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    torch.manual_seed(0)
    return FeatureExtractor(vidact.models.tsn_resnet_tiny(num_classes=2, size=32, width=8), device="cpu")
