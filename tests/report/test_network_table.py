"""The table of networks is computed, so it must agree with what is known of them."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vidact import cli
from vidact.models import i3d_r50, tsm_resnet18, tsn_resnet50
from vidact.models.weights import REFERENCES
from vidact.report.network_table import (
    Reach,
    build,
    clip_networks,
    converters_of,
    describe,
    find_reach,
    markdown,
    paper_of,
    parity_of,
    read_records,
    records_table,
)

ROOT = Path(__file__).parents[2]
PARITY = Path(os.environ.get("VIDACT_SHARED", ROOT.parent / "shared")) / "parity"


@pytest.mark.parametrize(
    ("name", "arguments", "reach"),
    [
        ("tsn_resnet_tiny", {}, Reach(0, 0)),
        ("tsm_resnet_tiny", {}, Reach(4, 4)),  # four blocks, each of which looks one frame further
        ("tsm_resnet_tiny", {"shift": "causal"}, Reach(4, 0)),
        ("movinet_tiny_stream", {}, Reach(None, 0)),  # its means are over all frames so far
        ("movinet_tiny_base", {}, None),
        ("trn_resnet_tiny", {}, None),  # its weights fix the clip
        ("two_stream_resnet_tiny", {}, None),
    ],
)
def test_reach_is_what_the_blocks_add_up_to(name, arguments, reach):
    before = torch.random.get_rng_state()
    assert find_reach(name, **arguments) == reach
    assert torch.equal(torch.random.get_rng_state(), before)


def test_reach_is_measured(monkeypatch):
    """A network that looks two frames ahead and three back, whatever it is called."""

    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.input = type("Input", (), {"frames": None, "channels": 3})
            self.gain = nn.Parameter(torch.zeros(()))  # an identity until it is trained

        def frame_features(self, clip):
            values = clip.mean((2, 3, 4))
            return (values + self.gain * (values.roll(3, 1) + values.roll(-2, 1)))[..., None]

    monkeypatch.setattr("vidact.report.network_table.build", lambda *_args, **_options: Looks())
    assert find_reach("looks") == Reach(before=3, after=2)


def test_rows_agree_with_published_figures():
    row = describe("tsn_mobilenet_v2")
    assert (row.frames, row.size) == (8, 224)
    assert row.parameters == pytest.approx(2.736e6, abs=1e3)
    assert row.gmacs == pytest.approx(2.40, abs=0.01)
    assert (row.year, row.paper) == (2016, "https://arxiv.org/abs/1608.00859")
    assert row.reach == Reach(0, 0)
    line = markdown([row]).splitlines()[-1]
    assert (
        "| `tsn_mobilenet_v2` | [2016](https://arxiv.org/abs/1608.00859) | 2.736 | 8 × 224² | 2.40 | 1 | 0 | yes |"
        in line
    )


def test_papers_and_converters():
    assert paper_of(tsm_resnet18) == (2019, "https://arxiv.org/abs/1811.08383")
    assert paper_of(i3d_r50)[0] == 2017
    assert paper_of(tsn_resnet50)[0] == 2016
    assert converters_of("tsm_mobilenet_v2") == ("tsm", "mmaction2_tsm")
    assert converters_of("tsm_efficientnet_b0") == ()
    assert converters_of("slow_r50") == ("pytorchvideo", "slowfast")
    assert converters_of("mc3_18") == ("torchvision",)
    assert converters_of("i3d_inception") == ("i3d",)
    assert converters_of("movinet_a2_stream") == ("movinet",)
    assert converters_of("mvfnet_resnet50") == ("mvfnet",)
    assert converters_of("videomae_base") == ("videomae",)
    assert converters_of("vjepa2_giant") == ("vjepa2",)
    assert "bn_inception" not in " ".join(converters_of("tsn_resnet50"))


def test_converters_are_found_through_the_functions_that_a_layout_calls():
    assert converters_of("tdn_resnet101") == ("tdn",)
    assert converters_of("tin_resnet50") == ("tin", "mmaction2_tin")
    assert converters_of("tsm_resnet50_nonlocal") == ("tsm",)
    assert converters_of("tsn_bn_inception") == ("tsn",)
    assert converters_of("eco_full") == ("eco_full",)
    assert converters_of("stm_resnet50") == ()


@pytest.fixture(scope="module")
def some_records(tmp_path_factory):
    """Three of the published outputs, and one of them again with an output that is wrong by a half."""
    if not (PARITY / "fill.py").is_file():
        pytest.skip(f"no parity records in {PARITY}; VIDACT_SHARED names their parent folder")
    folder = tmp_path_factory.mktemp("parity")
    shutil.copy(PARITY / "fill.py", folder)
    for name in ("trn_relation_multi", "mmaction2_tsm_mobilenetv2", "miniroad"):
        shutil.copy(PARITY / f"{name}.json", folder)
    wrong = json.loads((PARITY / "trn_relation_single.json").read_text())
    values = wrong["outputs"]["logits"]["values"]
    values[3] += 0.5 * max(1.0, np.abs(values).max())
    (folder / "trn_relation_single.json").write_text(json.dumps(wrong))
    (folder / "unknown.json").write_text(json.dumps(wrong | {"name": "unknown", "origin": "of a network to come"}))
    return folder


def test_parity_of_networks_and_of_their_parts(some_records, monkeypatch):
    monkeypatch.setattr("vidact.report.network_table.find_reach", lambda *_args, **_options: None)
    monkeypatch.setattr("vidact.report.network_table.giga_macs", lambda *_args: 0.0)
    records = {record.name: record for record in read_records(some_records)}
    assert list(records) == ["miniroad", "mmaction2_tsm_mobilenetv2", "trn_relation_multi", "trn_relation_single"]
    assert all(record.error < 1e-5 for name, record in records.items() if name != "trn_relation_single")
    assert 0.3 < records["trn_relation_single"].error < 0.6

    def parity(name, **arguments):
        with torch.device("meta"):
            return parity_of(build(name, **arguments), list(records.values()))

    assert parity("tsm_mobilenet_v2") == {"": records["mmaction2_tsm_mobilenetv2"].error}
    assert parity("trn_resnet18") == {"head": records["trn_relation_multi"].error}
    assert parity("trn_resnet18", scales="single") == {"head": records["trn_relation_single"].error}
    assert parity("tsn_mobilenet_v2") == {}  # of the same tensors, which it computes otherwise
    assert describe("tsm_mobilenet_v2", list(records.values()), shift="causal").parity == {}
    table = records_table(records.values())
    assert re.search(r"\| miniroad \| `miniroad` \| `miniroad` \| \de-\d\d \| 1e-04 \|\n", table)
    row = describe("trn_mobilenet_v2", list(records.values()))
    assert re.search(r"\| head: \de-\d\d \|$", markdown([row]).splitlines()[-1])


def test_the_page_has_the_largest_error_of_every_published_output():
    if not (PARITY / "fill.py").is_file():
        pytest.skip(f"no parity records in {PARITY}; VIDACT_SHARED names their parent folder")
    page = (ROOT / "docs" / "networks.md").read_text()
    found = re.findall(r"^\| (\w+) \| `\w+` \| `\w+` \| ([\de.-]+) \| ([\de.-]+) \|$", page, re.M)
    paths = [*sorted(PARITY.glob("*.json")), *sorted(PARITY.glob("offline/*.json"))]
    records = [json.loads(path.read_text()) for path in paths]
    records = [record for record in records if record["origin"] in REFERENCES]
    assert [name for name, *_ in found] == [record["name"] for record in records]
    for (_, error, allowed), record in zip(found, records, strict=True):
        assert float(error) <= float(allowed) == record.get("tolerance", 1e-4)


def test_every_clip_network_is_in_the_table():
    names = clip_networks()
    assert {"tsn_resnet50", "tsm_mobilenet_v2", "trn_bn_inception", "eco_lite", "tanet_resnet50", "swin3d_t"} <= set(
        names
    )
    assert not {"miniroad", "causal_transformer", "trn_relation_head", "tsn_resnet_tiny"} & set(names)


def test_the_command(tmp_path, capsys):
    cli.main(["networks", "--networks", "tsm_resnet_tiny", "--out", str(tmp_path / "networks.md")])
    page = (tmp_path / "networks.md").read_text()
    assert re.search(r"`tsm_resnet_tiny, causal` .* 5 \| 0 \| yes", page)
    assert re.search(r"`tsm_resnet_tiny` .* 9 \| 4 \| no", page)
    with pytest.raises(SystemExit):
        cli.main(["networks", "--networks", "tsm_resnet49"])
    assert "no tsm_resnet49" in capsys.readouterr().err


def test_networks_of_a_package_that_is_absent_are_left_out(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("vidact.report.network_table.clip_networks", lambda: ["vjepa2_tiny", "tsn_resnet_tiny"])
    cli.main(["networks"])
    said = capsys.readouterr()
    assert "`tsn_resnet_tiny`" in said.out
    assert "vjepa2_tiny" not in said.out
    assert "vjepa2_tiny is left out: VideoMAE and V-JEPA 2 come from transformers: run `uv sync --extra" in said.err
    with pytest.raises(SystemExit):
        cli.main(["networks", "--networks", "vjepa2_tiny"])
