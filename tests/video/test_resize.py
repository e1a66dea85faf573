"""Images are resized to the same bits as by torchvision, whose transforms are slow to import."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import Video

from vidact.video.resize import resize, resized_sides

SIDE = st.integers(1, 40)


def torchvision_resize(images: torch.Tensor, size: list[int]) -> torch.Tensor:
    return functional.resize(Video(images), size, antialias=True).as_subclass(torch.Tensor)


@given(
    st.integers(1, 3), st.sampled_from([1, 2, 3]), SIDE, SIDE, st.one_of(SIDE, st.tuples(SIDE, SIDE)),
    st.sampled_from([torch.uint8, torch.float32]), st.booleans(), st.integers(0, 2**32),
)  # fmt: skip
def test_the_same_bits_as_torchvision(count, channels, height, width, size, kind, is_last, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, height, width), generator=generator).to(kind)
    if is_last:
        images = images.to(memory_format=torch.channels_last)
    result = resize(images, size)
    expected = torchvision_resize(images, [size] if isinstance(size, int) else list(size))
    assert result.dtype == kind
    if min(channels, *result.shape[-2:]) > 1:  # the stride of an axis of one has no meaning
        assert result.stride()[1:] == expected.stride()[1:]
    assert torch.equal(result, expected)


@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 20), st.integers(0, 20))
def test_a_part_of_an_image_is_resized_like_torchvision_does(height, width, tall, wide, top, left) -> None:
    whole = torch.randint(0, 256, (2, height + 20, width + 20, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for part in (whole[..., top : top + height, left : left + width], whole[1:, :, top : top + height, left:]):
        assert torch.equal(resize(part, (tall, wide)), torchvision_resize(part, [tall, wide]))


def test_sizes() -> None:
    assert resized_sides(240, 320, 120) == (120, 160)
    assert resized_sides(333, 100, 50) == (166, 50)
    images = torch.zeros(2, 3, 240, 320, dtype=torch.uint8)
    assert resize(images, 120).shape == (2, 3, 120, 160)
    assert resize(images, 240) is images
    assert resize(images, (240, 320)) is images


def test_processors_that_cannot_resize_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They resize floats and round, as torchvision does; a level may then differ by one."""
    images = torch.randint(0, 256, (2, 3, 30, 40), dtype=torch.uint8)
    usual = resize(images, 20)
    monkeypatch.setattr("vidact.video.resize._resizes_bytes", lambda: False)
    rounded = resize(images, 20)
    assert rounded.dtype == torch.uint8
    assert (rounded.int() - usual.int()).abs().max() <= 1
