"""Transforms: one draw per clip, labels that follow the mirror, flow that follows the images, exact normalisation."""

import pickle

import pytest
import torch
import torchvision.transforms.v2.functional as F
from jsonargparse import ArgumentParser

from vidact.batch import ClipInput
from vidact.video import transform as module
from vidact.video.flow import flow_fields, mirror, quantise
from vidact.video.transform import Augment, TestTransform, TrainTransform, flip_pairs, from_record, images_per_index

RGB = ClipInput(size=56)
RAW = ClipInput(size=56, mean=(0.0,), std=(1.0,), scale=255.0)  # leaves pixel values as they are
FLOW = ClipInput(size=56, mean=(0.0,), std=(1.0,), scale=255.0, channels=10, flow_fields=5)
BOTH = ClipInput(size=56, mean=(0.0,), std=(1.0,), scale=255.0, channels=7, flow_fields=2)
PLAIN = Augment(crop="none", flip="never")


def noise(num_images, height=72, width=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_images, 3, height, width), generator=generator, dtype=torch.uint8)


def texture(num_images, x, height=72, width=96):
    """A smooth texture moving x pixels right per image."""
    generator = torch.Generator().manual_seed(5)
    field = F.gaussian_blur(torch.rand(1, 3, height, width + num_images * abs(x), generator=generator), 13, 3.0)[0]
    field = ((field - field.amin()) / (field.amax() - field.amin()) * 255).to(torch.uint8)
    first = (num_images - 1) * x if x > 0 else 0
    return torch.stack([field[..., first - x * t :][..., :width] for t in range(num_images)])


def train(input, augment, classes=None):
    return module.train_transform(input, augment, classes)


# --- one draw per clip


@pytest.mark.parametrize(
    "augment",
    [
        Augment(flip="always"),
        Augment(flip="always", positions=5, max_distort=2),
        Augment(flip="always", positions=0),
        Augment(crop="resized", flip="always"),
        Augment(crop="resized", flip="always", color_jitter=0.5),
        Augment(flip="always", rand_augment=2, magnitude=15),
        Augment(flip="always", erasing=1.0),
    ],
    ids=repr,
)
def test_identical_frames_stay_identical_and_clips_differ(augment):
    transform = train(RGB, augment)
    images = noise(1).expand(6, -1, -1, -1)
    drawn = []
    for seed in range(12):
        torch.manual_seed(seed)
        clips, label = transform(images, 3)
        assert clips.shape == (1, 6, 3, 56, 56)
        assert clips.dtype == torch.float32
        assert label == 3
        assert (clips == clips[:, :1]).all()
        drawn.append(clips)
        torch.manual_seed(seed)
        torch.testing.assert_close(transform(images, 3)[0], clips, rtol=0, atol=0)  # the seed decides
    assert sum(not torch.equal(drawn[0], other) for other in drawn[1:]) >= 8


@pytest.mark.parametrize("crops", [1, 3, 5, 10])
def test_test_views_never_change(crops):
    transform = module.test_transform(RGB, crops)
    images = noise(4)
    first, label = transform(images, 7)
    assert label == 7
    assert first.shape == (crops, 4, 3, *((64, 64) if crops == 3 else (56, 56)))
    torch.testing.assert_close(transform(images)[0], first, rtol=0, atol=0)


@pytest.mark.parametrize(("height", "width"), [(144, 180), (30, 20), (9, 300), (256, 340), (1, 1), (224, 224)])
@pytest.mark.parametrize("crop", ["multiscale", "resized", "none"])
def test_any_size_of_video_works(height, width, crop):
    images = noise(2, height, width)
    for seed in range(5):
        torch.manual_seed(seed)
        assert train(RGB, Augment(crop=crop, flip="always"))(images)[0].shape == (1, 2, 3, 56, 56)
    assert module.test_transform(RGB, 10)(images)[0].shape == (10, 2, 3, 56, 56)
    assert module.test_transform(RGB, 3)(images)[0].shape == (3, 2, 3, 64, 64)


def test_grey_videos_stay_grey():
    images = noise(2)[:, :1].expand(-1, 3, -1, -1)
    clips, _ = train(RAW, Augment(flip="always"))(images)
    assert (clips[:, :, :1] == clips).all()


# --- crops


def test_multi_scale_crop_draws_every_pair_and_place():
    boxes = {module._multi_scale_box(256, 340, 224, (1, 0.875, 0.75, 0.66), 1, 13) for _ in range(6000)}
    assert {box[2:] for box in boxes} == {
        (a, b)
        for i, a in enumerate((256, 224, 192, 168))
        for j, b in enumerate((256, 224, 192, 168))
        if abs(i - j) <= 1
    }
    square = {box[:2] for box in boxes if box[2:] == (224, 224)}
    down, right = (256 - 224) // 4, (340 - 224) // 4
    corners = {(0, 0), (0, 4 * right), (4 * down, 0), (4 * down, 4 * right), (2 * down, 2 * right)}
    assert corners <= square
    assert len(square) == 13
    five = {module._multi_scale_box(256, 340, 224, (0.875,), 1, 5)[:2] for _ in range(300)}
    assert five == corners


def test_multi_scale_side_near_the_target_becomes_it():
    def side(height, size):
        return module._multi_scale_box(height, 340, size, (1.0,), 0, 0)[2]

    assert side(226, 224) == 224
    assert side(227, 224) == 227
    assert side(222, 224) == 222  # not larger than the image, although the rule alone would make it so


def test_free_positions_reach_the_borders():
    boxes = [module._multi_scale_box(20, 30, 10, (0.5,), 0, 0) for _ in range(3000)]
    assert {box[0] for box in boxes} == set(range(11))
    assert {box[1] for box in boxes} == set(range(21))


def test_crops_lie_where_they_should():
    """Each pixel says its place, so a crop says where it was cut."""
    height, width = 64, 96
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    images[:, 0] = torch.arange(height)[:, None]
    images[:, 1] = torch.arange(width)

    def corners(crops, images=images):
        clips = module.test_transform(RAW, crops)(images)[0][:, 0]  # (V, C, H, W)
        return [tuple(view[:2, 0, 0].int().tolist()) for view in clips]

    assert corners(1) == [(4, 20)]
    assert corners(3) == [(0, 0), (0, 16), (0, 32)]
    assert corners(5) == [(0, 0), (0, 40), (8, 0), (8, 40), (4, 20)]
    upright = images.transpose(2, 3)[:, [1, 0, 2]]
    assert corners(3, upright) == [(0, 0), (16, 0), (32, 0)]
    ten = module.test_transform(RAW, 10)(images)[0]
    five = module.test_transform(RAW, 5)(images)[0]
    torch.testing.assert_close(ten[0::2], five)
    torch.testing.assert_close(ten[1::2], five.flip(-1))


def test_training_without_crop_sees_what_testing_sees():
    images = noise(3, 64, 96)
    torch.testing.assert_close(train(RGB, PLAIN)(images)[0], module.test_transform(RGB)(images)[0])


# --- normalisation


def test_normalisation_is_the_networks():
    images = noise(2, 64, 64)
    centre = images[..., 4:60, 4:60].double()
    clips, _ = module.test_transform(ClipInput(size=56))(images)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(clips[0], ((centre / 255 - mean) / std).float(), rtol=1e-5, atol=1e-5)
    caffe = ClipInput(size=56, mean=(104, 117, 128), std=(1,), order="bgr", scale=255.0)
    clips, _ = module.test_transform(caffe)(images)
    expected = centre.flip(1) - torch.tensor([104, 117, 128]).view(3, 1, 1)
    torch.testing.assert_close(clips[0], expected.float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_images_in_memory_does_not_change_a_bit(layout):
    images = torch.randint(256, (8, 3, 256, 340), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transform = module.test_transform(ClipInput(size=224, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)))
    clips, _ = transform(images.to(memory_format=layout))
    pixels = images[..., 16:240, 58:282].float()
    factor, offset = (torch.tensor(row).view(3, 1, 1) for row in ((0.2, 0.25, 0.3), (0.4, 0.5, 0.6)))
    torch.testing.assert_close(clips[0], pixels * (1.0 / 255 / factor) + -offset / factor, rtol=0, atol=0)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_frames_of_one_step_are_stacked_in_time_order(order):
    input = ClipInput(size=56, channels=15, images_per_frame=5, mean=(0.0,), std=(1.0,), scale=255.0, order=order)
    images = (torch.arange(10).view(10, 1, 1, 1) * 10 + torch.arange(3).view(1, 3, 1, 1)).expand(-1, -1, 64, 64)
    clips, _ = module.test_transform(input)(images.to(torch.uint8))
    channels = [0, 1, 2] if order == "rgb" else [2, 1, 0]
    expected = [[10 * (5 * t + i) + c for i in range(5) for c in channels] for t in range(2)]
    assert clips[0, :, :, 0, 0].round().int().tolist() == expected


def test_record_gives_the_test_transform():
    record = {"input": ClipInput(size=56, order="bgr").as_dict(), "classes": []}
    images = noise(2)
    expected = module.test_transform(ClipInput(size=56, order="bgr"), 3)(images)[0]
    torch.testing.assert_close(from_record(record, crops=3)(images)[0], expected)
    with pytest.raises(ValueError, match="the record has no 'input', only classes"):
        from_record({"classes": []})


# --- the mirror and the labels


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Swipe Left", "Swipe Right"),
        ("swipe_left", "swipe_right"),
        ("SwipeLeft", "SwipeRight"),
        ("swipe-LEFT", "swipe-RIGHT"),
        ("left_to_right", "right_to_left"),
        ("Pulling something from left to right", "Pulling something from right to left"),
        ("Turning Hand Clockwise", "Turning Hand Counterclockwise"),
        ("turn_clockwise", "turn_counter-clockwise"),
        ("TurnClockwise", "TurnCounterClockwise"),
        ("turn clockwise", "turn anti clockwise"),
        ("turn clockwise", "turn anticlockwise"),
        ("rotate_cw", "rotate_ccw"),
        ("moveLeft2", "moveRight2"),
        ("moving leftwards", "moving rightwards"),
    ],
)
def test_names_that_are_mirror_images(a, b):
    found = flip_pairs(["jump", a, "run", b])
    assert found.pairs == [(1, 3)]
    assert found.partners == (0, 3, 2, 1)
    assert not found.blocked
    assert flip_pairs([b, a]).pairs == [(0, 1)]


def test_words_that_only_contain_a_side_are_left_alone():
    found = flip_pairs(["eating leftovers", "standing upright", "bright", "cleft", "frightened"])
    assert found.partners == tuple(range(5))
    assert not found.blocked


def test_a_side_without_a_partner_is_never_mirrored():
    found = flip_pairs(["wave left hand", "jump", "swipe left", "swipe right", "Swipe_Left"])
    assert found.blocked == {0, 2, 3, 4}  # two spellings of one class leave open which is meant
    assert found.allows(1)
    assert not found.allows(0)
    assert "'wave left hand' names a side without a partner" in found.describe()
    transform = train(RAW, Augment(crop="none", flip_probability=1.0), ["wave left hand", "jump"])
    images = noise(2)
    assert not torch.equal(transform(images, 0)[0], transform(images, 1)[0])
    torch.testing.assert_close(transform(images, 0)[0], train(RAW, PLAIN)(images)[0])


@pytest.mark.parametrize(
    ("folder", "pairs"),
    [
        ("sthv2", [(86, 87), (93, 94), (166, 167)]),
        ("sthv1", [(2, 4), (30, 41), (52, 66)]),
        ("jester", [(0, 1)]),
    ],
)
def test_pairs_of_published_class_lists(shared_data, folder, pairs):
    path = shared_data / "annotations" / "class_lists" / folder / "label_map.txt"
    classes = path.read_text().splitlines()
    found = flip_pairs(classes)
    assert set(pairs) <= set(found.pairs)
    if folder == "jester":
        named = {(classes[a], classes[b]) for a, b in found.pairs}
        assert ("Turning Hand Clockwise", "Turning Hand Counterclockwise") in named
        assert len(found.pairs) == 3
    else:
        assert found.pairs == pairs
        # "… pulling it right out" means no side, but no one can tell by the word; it is not mirrored
        assert [classes[a] for a in found.blocked] == [
            "Plugging something into something but pulling it right out as you remove your hand"
        ]
    assert found.describe().count("<->") == len(found.pairs)


def test_the_label_follows_the_mirror():
    classes = ["jump", "swipe left", "swipe right"]
    transform = train(RAW, Augment(crop="none", flip_probability=1.0), classes)
    images = noise(2)
    mirrored = train(RAW, PLAIN)(images)[0].flip(-1)
    for before, after in ((0, 0), (1, 2), (2, 1)):
        clips, label = transform(images, before)
        assert label == after
        torch.testing.assert_close(clips, mirrored)
    for before, after in (([1, 1, 0], [1, 0, 1]), ([0, 1, 1], [0, 1, 1]), ([1, 0, 0], [1, 0, 0])):
        target = torch.tensor(before)
        assert transform(images, target)[1].tolist() == after
        assert target.tolist() == before
    assert transform(images, torch.tensor(1))[1].item() == 2
    assert transform(images)[1] is None
    with pytest.raises(ValueError, match=r"shape \(2,\); there are 3 classes"):
        transform(images, torch.tensor([1, 0]))


def test_one_blocked_class_stops_the_mirror_of_a_multi_label_clip():
    found = flip_pairs(["jump", "left hand", "run"])
    assert not found.allows(torch.tensor([1, 1, 0]))
    assert found.allows(torch.tensor([1, 0, 1]))


def test_about_half_of_the_clips_are_mirrored():
    torch.manual_seed(0)
    transform = train(RAW, Augment(crop="none"), ["left", "right"])
    labels = [transform(noise(1, 64, 64), 0)[1] for _ in range(200)]
    assert 70 < sum(labels) < 130


def test_flip_can_be_never_or_always():
    images = noise(1)
    never = train(RAW, Augment(crop="none", flip="never", flip_probability=1.0), ["left", "right"])
    always = train(RAW, Augment(crop="none", flip="always", flip_probability=1.0), ["left", "right"])
    assert never(images, 0)[1] == always(images, 0)[1] == 0
    torch.testing.assert_close(always(images)[0], never(images)[0].flip(-1))
    assert "none" in never.describe()
    assert "labels unchanged" in always.describe()
    with pytest.raises(ValueError, match="give classes, or set flip to 'never' or 'always'"):
        train(RAW, Augment())


# --- flow


def test_images_per_index():
    assert images_per_index(RGB) == 1
    assert images_per_index(FLOW) == 6
    assert images_per_index(BOTH) == 3
    assert images_per_index(ClipInput(channels=15, images_per_frame=5)) == 5


def test_flow_is_that_of_the_resized_images():
    """Channel k of a stack is field k, at the size that is cropped, as a stored field would be."""
    images = torch.cat([texture(6, 2), texture(6, -1)])  # two time steps
    clips, _ = module.test_transform(FLOW)(images)
    assert clips.shape == (1, 2, 10, 56, 56)
    for step, group in enumerate(images.split(6)):
        fields = quantise(flow_fields(F.resize(group, [64], antialias=True)))
        for k in range(5):
            expected = F.center_crop(fields[k], [56, 56]).float()
            torch.testing.assert_close(clips[0, step, 2 * k : 2 * k + 2], expected, rtol=0, atol=1e-3)
    still = 127.5
    assert (clips[0, 0, 0::2].flatten(1).median(1).values > still + 5).all()
    assert (clips[0, 1, 0::2].flatten(1).median(1).values < still - 3).all()


def test_images_come_before_flow_and_share_its_crop():
    images = texture(6, 1)
    torch.manual_seed(3)
    clips, _ = train(BOTH, Augment(flip="always", positions=0))(images)
    assert clips.shape == (1, 2, 7, 56, 56)
    # the same draws, with an image in the place of the flow
    torch.manual_seed(3)
    firsts = F.resize(images[[0, 3]], [64], antialias=True)
    rgb, _ = train(RAW, Augment(flip="always", positions=0))(firsts)
    torch.testing.assert_close(clips[:, :, :3], rgb)


def test_mirrored_flow_is_the_flow_of_the_mirrored_video():
    """Both in training and in the mirrored ones of ten crops, within half a step of the storage."""
    images = texture(6, 2)
    plain, _ = train(FLOW, PLAIN)(images)
    torch.testing.assert_close(
        train(FLOW, Augment(crop="none", flip="always", flip_probability=1.0))(images)[0],
        mirrored_stack(plain),
    )
    of_mirrored, _ = train(FLOW, PLAIN)(images.flip(-1))
    assert (mirrored_stack(plain) - of_mirrored)[..., 8:-8, 8:-8].abs().median() <= 1
    ten, _ = module.test_transform(FLOW, 10)(images)
    torch.testing.assert_close(ten[1::2], mirrored_stack(ten[0::2]))
    ten, _ = module.test_transform(BOTH, 10)(images)
    torch.testing.assert_close(ten[1::2, :, :3], ten[0::2, :, :3].flip(-1))
    torch.testing.assert_close(ten[1::2, :, 3:], mirrored_stack(ten[0::2, :, 3:]))


def mirrored_stack(clips):
    """Raw stored flow (…, 2L, H, W) as a mirror shows it."""
    return mirror(clips.unflatten(-3, (-1, 2)).round().to(torch.uint8)).flatten(-4, -3).float()


def test_colour_never_touches_flow():
    images = texture(6, 2)
    colour = Augment(crop="none", flip="never", color_jitter=0.8)
    plain, coloured = train(BOTH, PLAIN)(images)[0], train(BOTH, colour)(images)[0]
    assert not torch.equal(plain[:, :, :3], coloured[:, :, :3])
    torch.testing.assert_close(plain[:, :, 3:], coloured[:, :, 3:], rtol=0, atol=0)


def test_repeated_last_frame_is_no_motion():
    clips, _ = module.test_transform(FLOW)(noise(1).expand(6, -1, -1, -1))
    assert (clips.round() == 128).all()


# --- the rest


def test_erasing_blanks_one_box_of_the_whole_clip():
    torch.manual_seed(0)
    clips, _ = train(RGB, Augment(crop="none", flip="never", erasing=1.0))(noise(4))
    blank = (clips == 0).flatten(0, 2)
    assert blank.any()
    assert (blank == blank[:1]).all()


def test_transforms_travel_to_workers():
    transform = train(FLOW, Augment(color_jitter=0.2), ["left", "right"])
    copy = pickle.loads(pickle.dumps(transform))
    torch.manual_seed(1)
    clips, label = transform(texture(6, 1), 0)
    torch.manual_seed(1)
    again, label_again = copy(texture(6, 1), 0)
    torch.testing.assert_close(again, clips)
    assert label_again == label


def test_command_line_takes_augment():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--augment", type=Augment, default=Augment())
    found = parser.instantiate(parser.parse_args(["--augment.crop=resized", "--augment.scales=[1.0, 0.5]"]))
    assert found.augment == Augment(crop="resized", scales=(1.0, 0.5))
    with pytest.raises(Exception, match="colour"):
        parser.parse_args(["--augment.colour=1"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Augment(crop="random"), "crop is 'random'; it can be 'multiscale', 'resized', 'none'"),
        (lambda: Augment(positions=7), "positions is 7; it can be 13, 5, 0"),
        (lambda: Augment(flip_probability=2), "flip_probability is 2; it lies between 0 and 1"),
        (lambda: Augment(scales=(1.2,)), "parts of the short side"),
        (lambda: Augment(area=(0.5, 0.1)), "area is 0.5 to 0.1"),
        (lambda: Augment(rand_augment=2, magnitude=40), "the magnitude is 0 to 30"),
        (lambda: train(FLOW, Augment(flip="never", rand_augment=2)), "set it to 0 for networks that take flow"),
        (lambda: TestTransform(RGB, 4), "4 crops were asked; a test view has 1, 3, 5 or 10"),
        (lambda: TestTransform(ClipInput(size=64, resize=56)), "short side of 56 and cannot be cropped to 64"),
        (lambda: TestTransform(FLOW)(noise(7)), "7 images cannot be split into groups of 6"),
        (lambda: TestTransform(RGB)(noise(0)), "0 images cannot be split"),
        (lambda: TestTransform(RGB)(noise(2).float()), r"uint8 RGB images .* this is torch.float32 \(2, 3, 72, 96\)"),
        (lambda: TestTransform(RGB)(noise(2)[:, :1]), "uint8 RGB images"),
        (
            lambda: TrainTransform(ClipInput(size=56, frames=8), PLAIN)(noise(4)),
            "the clip has 4 frames; the network's weights are made for 8",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()
