"""Flow: its sign and size, its storage, and what a mirror does to it."""

import cv2
import pytest
import torch
import torchvision
import torchvision.transforms.v2.functional as F

from vidact.video.flow import dequantise, flow, flow_fields, mirror, quantise, raft, rescale, stack


def moving_texture(num_frames, x, y, height=96, width=120, seed=0):
    """A smooth random texture that moves x pixels right and y pixels down per frame: uint8 (T, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    margin = num_frames * max(abs(x), abs(y)) + 1
    noise = torch.rand(1, 3, height + 2 * margin, width + 2 * margin, generator=generator)
    noise = F.gaussian_blur(noise, 13, 3.0)
    texture = ((noise - noise.amin()) / (noise.amax() - noise.amin()) * 255).to(torch.uint8)[0]
    tops = [margin - y * t for t in range(num_frames)]
    lefts = [margin - x * t for t in range(num_frames)]
    return torch.stack(
        [texture[:, a : a + height, b : b + width] for a, b in zip(tops, lefts, strict=True)]
    )  # (T, 3, H, W)


@pytest.mark.parametrize(("x", "y"), [(3, 1), (-2, 0), (0, -3)])
def test_dis_finds_sign_and_size(x, y):
    a, b = moving_texture(2, x, y)
    inside = flow(a, b)[:, 15:-15, 15:-15]
    assert inside.dtype == torch.float32
    assert inside.flatten(1).median(1).values.tolist() == pytest.approx([x, y], abs=0.15)


def test_farneback_finds_the_direction():
    a, b = moving_texture(2, 3, 0)
    x, y = flow(a, b, "farneback").flatten(1).median(1).values.tolist()
    assert 2 < x < 3.3
    assert abs(y) < 0.3


def test_fields_lie_between_consecutive_images():
    images = torch.cat([moving_texture(2, 2, 0), moving_texture(2, 0, 2)])
    fields = flow_fields(images)
    assert fields.shape == (3, 2, 96, 120)
    torch.testing.assert_close(fields[2], flow(images[2], images[3]))
    assert flow_fields(images[:1]).shape == (0, 2, 96, 120)


def test_mirrored_video_has_the_mirrored_flow():
    images = moving_texture(3, 3, 1)
    difference = flow_fields(images.flip(-1)) - mirror(flow_fields(images))
    assert difference[..., 15:-15, 15:-15].abs().median() < 0.05
    assert mirror(flow_fields(images))[:, 0].median() == pytest.approx(-3, abs=0.15)


def test_mirror_twice_is_nothing():
    for fields in (torch.randn(5, 2, 4, 6), torch.randint(0, 256, (5, 2, 4, 6), dtype=torch.uint8)):
        before = fields.clone()
        torch.testing.assert_close(mirror(mirror(fields)), fields)
        torch.testing.assert_close(fields, before)


def test_stored_mirror_is_the_mirror_of_the_stored():
    fields = torch.randn(3, 2, 8, 9) * 5
    difference = dequantise(mirror(quantise(fields))) - mirror(fields)
    assert difference.abs().max() <= 20 / 255 + 1e-5


def test_no_motion_is_128():
    image = moving_texture(1, 0, 0)[0]
    fields = flow(image, image)
    assert (quantise(fields) == 128).all()
    half_a_step = 20 / 255
    assert dequantise(quantise(fields)).abs().max() <= half_a_step + 1e-6


def test_quantise_rounds_clips_and_inverts():
    assert quantise(torch.tensor([-99.0, -20.0, 1.0, 20.0, 99.0])).tolist() == [0, 0, 134, 255, 255]
    values = torch.linspace(-20, 20, 1001)
    assert (dequantise(quantise(values)) - values).abs().max() <= 20 / 255 + 1e-5
    assert dequantise(quantise(torch.tensor([4.0]), bound=8), bound=8).item() == pytest.approx(4, abs=8 / 255)


def test_stack_keeps_time_order():
    fields = torch.arange(6).view(6, 1, 1, 1) * 10 + torch.tensor([1, 2]).view(1, 2, 1, 1)
    assert stack(fields, 3)[:, :, 0, 0].tolist() == [[1, 2, 11, 12, 21, 22], [31, 32, 41, 42, 51, 52]]
    with pytest.raises(ValueError, match="7 flow fields cannot be split into stacks of 3"):
        stack(torch.zeros(7, 2, 1, 1), 3)


def test_threads_of_the_caller_are_left_alone():
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        a, b = moving_texture(2, 2, 0, 32, 40)
        flow(a, b)
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


class ThreadsAfterFlow(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        cv2.setNumThreads(2)
        flow(*moving_texture(2, 2, 0, 32, 40))
        return cv2.getNumThreads()


def test_a_worker_stays_on_one_thread():
    assert next(iter(torch.utils.data.DataLoader(ThreadsAfterFlow(), num_workers=1))).item() == 1


def test_tvl1_says_what_to_install_or_works():
    a, b = moving_texture(2, 2, 0, 48, 64)
    if hasattr(cv2, "optflow"):
        assert flow(a, b, "tvl1")[0].median() == pytest.approx(2, abs=0.2)
    else:
        with pytest.raises(ImportError, match="uninstall opencv-python first, then install opencv-contrib-python"):
            flow(a, b, "tvl1")


@pytest.fixture(scope="module")
def raft_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.save(torchvision.models.optical_flow.raft_small().state_dict(), path)
    return str(path)


def test_raft_gives_what_torchvision_does(raft_file):
    """Whole at sides that fit, and cut back to the image at sides that do not."""
    images = moving_texture(3, 2, 1, 128, 136)
    network = torchvision.models.optical_flow.raft_small()
    network.load_state_dict(torch.load(raft_file, weights_only=True))
    with torch.no_grad():
        expected = network.eval()(images[:-1] / 127.5 - 1, images[1:] / 127.5 - 1)[-1]
    fields = flow_fields(images, "raft_small", raft_file)
    torch.testing.assert_close(fields, expected, rtol=1e-4, atol=1e-4)
    small = images[..., :60, :100]
    wide = torch.nn.functional.pad(small.float(), (0, 28, 0, 68), mode="replicate").to(torch.uint8)
    cut = flow_fields(wide, "raft_small", raft_file)[..., :60, :100]
    torch.testing.assert_close(flow_fields(small, "raft_small", raft_file), cut, rtol=1e-4, atol=1e-4)
    assert flow_fields(images[:1], "raft_small", raft_file).shape == (0, 2, 128, 136)


def test_raft_says_where_its_weights_are(raft_file, monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    raft.cache_clear()
    with pytest.raises(OSError, match=r"could not be downloaded.*--weights FILE"):
        flow(*moving_texture(2, 1, 0), "raft")
    with pytest.raises(FileNotFoundError, match=r"no file nowhere\.pth"):
        raft("raft", "nowhere.pth")
    with pytest.raises(ValueError, match="does not fit torchvision's raft: "):
        raft("raft", raft_file)


def test_a_smaller_video_moves_fewer_pixels():
    """Flow brought to another size is the flow of the resized video."""
    images = moving_texture(2, 4, 2, 192, 240)
    small = F.resize(images, [96, 120], antialias=True)
    brought = rescale(quantise(flow_fields(images)), (96, 120))
    difference = dequantise(brought) - flow_fields(small)
    assert difference[..., 10:-10, 10:-10].abs().median() < 0.15
    assert dequantise(brought)[0].flatten(1).median(1).values.tolist() == pytest.approx([2, 1], abs=0.15)
    assert torch.equal(rescale(brought, (96, 120)), brought)
    squeezed = dequantise(rescale(quantise(flow_fields(images)), (192, 120)))[0]
    assert squeezed.flatten(1).median(1).values.tolist() == pytest.approx([2, 2], abs=0.15)


def test_errors_say_what_is_wrong():
    a, b = moving_texture(2, 1, 0, 32, 40)
    with pytest.raises(ValueError, match="no flow method 'pwc'; there are dis, farneback, tvl1, raft"):
        flow(a, b, "pwc")
    with pytest.raises(ValueError, match="two images of one size"):
        flow(a, b[:, :-1])
    with pytest.raises(ValueError, match=r"uint8 RGB images \(T, 3, H, W\); these are torch.float32"):
        flow_fields(torch.zeros(2, 3, 32, 32))
