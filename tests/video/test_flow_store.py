"""Stored flow: every convention of the field gives back what was written, and damage is named."""

import json
import struct
import unicodedata
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from vidact.video import VideoError
from vidact.video.flow import dequantise, quantise
from vidact.video.flow_record import LAYOUTS
from vidact.video.flow_store import FlowRecord, FlowStore, FlowWriter, read_record, write_record

EXAMPLES = {
    "packed": ["people/00012.flow.zip"],
    "tsn": ["people/00012/flow_x_00001.jpg", "people/00012/flow_y_00003.jpg"],
    "mmaction": ["people/00012/x_00001.jpg", "people/00012/y_00003.jpg"],
    "something_v1": ["people/000012/000012-x_00001.jpg", "people/000012/000012-y_00003.jpg"],
    "colour": ["people/00012/00001.jpg", "people/00012/00003.jpg"],
    "uv": ["u/people/00012/frame000001.jpg", "v/people/00012/frame000003.jpg"],
}


def smooth(num_fields=3, height=24, width=32, seed=0):
    """Smooth levels (n, 2, H, W), as flow is and as jpg keeps well."""
    coarse = torch.rand(num_fields, 2, 4, 5, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def stored(root, levels, video="people/00012", **record):
    chosen = FlowRecord(**record)
    write_record(root, chosen)
    with FlowWriter(root, video, chosen) as writer:
        for one in levels:
            writer.write(one)
    return FlowStore(root)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_back_what_was_written(layout, tmp_path):
    levels = smooth()
    name = "12" if layout == "something_v1" else "00012"
    store = stored(tmp_path, levels, f"people/{name}", layout=layout)
    for example in EXAMPLES[layout]:
        assert (tmp_path / example).is_file()
    with store.open(f"people/{name}") as flow:
        assert len(flow) == 3
        found = flow.fields_at([2, 0, 2])
    assert found.dtype == torch.uint8
    assert (found.int() - levels[[2, 0, 2]].int()).abs().float().mean() < 1.5  # jpg at quality 95
    exact = stored(tmp_path / "png", levels, f"people/{name}", layout=layout, image="png")
    assert torch.equal(exact.open(f"people/{name}").fields_at(range(3)), levels)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("on_disk", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_that_differ_in_what_is_not_seen_are_found(layout, on_disk, asked, tmp_path):
    """A store that was written on, or copied by, a machine that writes accents otherwise."""
    levels = smooth()
    video = "caf\u00e9 noir/\u0439\u00e9t\u00e9 1"
    store = stored(tmp_path, levels, unicodedata.normalize(on_disk, video), layout=layout, image="png")
    with store.open(unicodedata.normalize(asked, video)) as flow:
        assert torch.equal(flow.fields_at(range(3)), levels)
    assert store.is_whole(unicodedata.normalize(asked, video), 3)
    with pytest.raises(VideoError, match="there is no flow of 'cafe noir"):
        store.open(video.replace("\u00e9", "e"))  # another name
    other = unicodedata.normalize(asked, video)
    stored(tmp_path, levels.flip(0), other, layout=layout, image="png")  # the name as it is written comes first
    assert torch.equal(store.open(other).fields_at(range(3)), levels.flip(0))


def test_a_pack_is_a_plain_zip_archive(tmp_path):
    stored(tmp_path, smooth())
    with zipfile.ZipFile(tmp_path / "people/00012.flow.zip") as archive:
        assert archive.namelist()[:3] == ["flow_x_00001.jpg", "flow_y_00001.jpg", "flow_x_00002.jpg"]
    before = (tmp_path / "people/00012.flow.zip").read_bytes()
    stored(tmp_path, smooth())
    assert (tmp_path / "people/00012.flow.zip").read_bytes() == before


def test_pictures_of_other_programs_are_read(tmp_path):
    """A folder that dense_flow might have left; its record says so."""
    levels = smooth(12)
    (tmp_path / "a").mkdir()
    for i, (x, y) in enumerate(levels.numpy(), start=1):
        Image.fromarray(x).save(tmp_path / f"a/flow_x_{i:05d}.jpg", quality=95)
        Image.fromarray(y).save(tmp_path / f"a/flow_y_{i:05d}.jpg", quality=95)
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "a/img_00001.jpg")
    with pytest.raises(FileNotFoundError, match="extract flow --adopt"):
        FlowStore(tmp_path)
    write_record(tmp_path, FlowRecord(method="tvl1", layout="tsn", size=(340, 256)))
    flow = FlowStore(tmp_path).open("a")
    assert len(flow) == 12
    assert (flow.fields_at([11]).int() - levels[11:].int()).abs().float().mean() < 1.5
    (tmp_path / "a/flow_x_00007.jpg").rename(tmp_path / "a/flow_x_00019.jpg")
    with pytest.raises(VideoError, match="12 fields of flow, and number 7 is not among them"):
        FlowStore(tmp_path).open("a")


def test_another_bound_is_brought_to_the_usual_one(tmp_path):
    motion = torch.linspace(-8, 8, 24 * 32).view(1, 1, 24, 32).expand(1, 2, 24, 32)
    store = stored(tmp_path, quantise(motion, 8.0), bound=8.0, image="png")
    assert (dequantise(store.open("people/00012").fields_at([0])) - motion).abs().max() < 8 / 255 + 20 / 255 + 1e-4


def interrupted(root, video, record):
    with FlowWriter(root, video, record) as writer:
        writer.write(smooth(1)[0])
        raise KeyboardInterrupt


@pytest.mark.parametrize("layout", ["packed", "uv"])
def test_all_or_nothing(layout, tmp_path):
    """A writer that is interrupted leaves what was there, and its rubbish goes with the next one."""
    old, record = smooth(2), FlowRecord(layout=layout)
    store = stored(tmp_path, old, layout=layout)
    for exists in (True, False):
        video = "people/00012" if exists else "new"
        with pytest.raises(KeyboardInterrupt):
            interrupted(tmp_path, video, record)
    assert len(store.open("people/00012")) == 2
    with pytest.raises(VideoError, match="no flow of 'new'"):
        store.open("new")
    killed = FlowWriter(tmp_path, "people/00012", record)
    killed.halves = [half.with_name(half.name.replace(str(half.name.split(".")[1]), "99")) for half in killed.halves]
    killed.__enter__().write(smooth(1)[0])  # and never left
    stored(tmp_path, old, layout=layout)
    assert not [path for path in tmp_path.rglob(".*")]
    assert store.is_whole("people/00012", 2)
    assert not store.is_whole("people/00012", 3)


def test_damage_is_named(tmp_path):
    store = stored(tmp_path, smooth())
    pack = tmp_path / "people/00012.flow.zip"
    whole = pack.read_bytes()
    pack.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match=r"00012\.flow\.zip cannot be read"):
        store.open("people/00012")
    with zipfile.ZipFile(pack, "w") as archive:
        archive.writestr("flow_x_00001.jpg", b"")
        archive.writestr("flow_x_00002.jpg", b"")
    with pytest.raises(VideoError, match="does not hold 1 numbered fields"):
        store.open("people/00012")
    with zipfile.ZipFile(pack, "w") as archive:
        archive.writestr("flow_x_00001.jpg", b"no picture")
        archive.writestr("flow_y_00001.jpg", b"no picture")
    with pytest.raises(VideoError, match=r"flow_x_00001\.jpg .*cannot be read"):
        store.open("people/00012").fields_at([0])
    pack.write_bytes(whole)
    with pytest.raises(IndexError, match=r"field 3 of people/00012 does not exist: it has 3"):
        store.open("people/00012").fields_at([3])
    with pytest.raises(VideoError, match="let it be computed while loading"):
        store.open("elsewhere")


def test_a_folder_holds_one_kind_of_flow(tmp_path):
    write_record(tmp_path, FlowRecord())
    write_record(tmp_path, FlowRecord())
    with pytest.raises(ValueError, match=r"holds other flow: method 'dis' there and 'farneback' asked"):
        write_record(tmp_path, FlowRecord(method="farneback"))
    assert read_record(tmp_path) == FlowRecord()
    content = json.loads((tmp_path / "flow.json").read_text())
    for change, words in (
        ({"format": 9}, "newer"),
        ({"colour": 1}, "no record of flow"),
        ({"size": [1, 2, 3]}, "size"),
    ):
        (tmp_path / "flow.json").write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=words):
            read_record(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "zip"}, "layout is 'zip'; there are packed, tsn"),
        ({"image": "mp4"}, "stored as 'jpg' or 'png'"),
        ({"quality": 100}, "1 to 95"),
        ({"bound": 0}, "bound is 0"),
        ({"size": (1, 2, 3)}, "short side in pixels, or width and height"),
    ],
)
def test_records_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        FlowRecord(**options)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"format": "1"}', '{"format": 1, "bound": 1e999}', "\ud800"])
def test_a_record_of_wrong_kinds_is_named(text, tmp_path):
    (tmp_path / "flow.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ValueError, match=r"flow\.json is no"):
        FlowStore(tmp_path)


def png(width: int, height: int) -> bytes:
    """A picture that is black and small as a file, whatever its size."""
    rows = zlib.compress(bytes((width + 1) * height), 9)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    written = b"\x89PNG\r\n\x1a\n"
    for kind, data in parts:
        written += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return written


HOSTILE = {
    "a picture beyond any video": png(20_000, 10_000),
    "a picture cut in its header": png(8, 8)[:20],
    "a broken header": png(8, 8).replace(b"IHDR", b"IHDX"),
    "a long member": bytes(65 << 20),
}


@pytest.mark.parametrize("layout", ["packed", "tsn"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pictures_are_named_and_not_unpacked(name, layout, tmp_path):
    stored(tmp_path, smooth(1), layout=layout)
    if layout == "packed":
        (pack,) = tmp_path.rglob("*.flow.zip")
        with zipfile.ZipFile(pack, "w", zipfile.ZIP_DEFLATED) as archive:
            for axis in "xy":
                archive.writestr(f"flow_{axis}_00001.jpg", HOSTILE[name])
    else:
        for picture in tmp_path.rglob("*.jpg"):
            picture.write_bytes(HOSTILE[name])
    with pytest.raises(VideoError, match=r"flow_x_00001\.jpg of .* cannot be read \(.*\); extract it again"):
        FlowStore(tmp_path).open("people/00012").fields_at([0])
