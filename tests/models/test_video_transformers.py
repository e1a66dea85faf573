"""VideoMAE and V-JEPA 2 mean here what they mean in transformers, under the names of the hub's files."""

import dataclasses
import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.hub_server import Repository, hub_serving, use
from support.published import empty, millions
from torch import nn

import vidact
from vidact import cli, hub
from vidact.convert import convert
from vidact.features.extractor import FeatureExtractor
from vidact.models import video_transformers, videomae_tiny, vjepa2_tiny
from vidact.models.backbones import set_gradient_checkpointing
from vidact.models.video_transformers import FILES
from vidact.models.weights import from_reference
from vidact.report.network_table import giga_macs
from vidact.tasks.schedules import ParameterGroups, head_names

transformers = pytest.importorskip("transformers")

SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 5, "tubelet_size": 2,
    "patch_size": 16,
}  # fmt: skip
VIDEOMAE = {"intermediate_size": 64, "image_size": 32, "num_frames": 16}
VJEPA2 = {"mlp_ratio": 2.0, "crop_size": 32, "pred_hidden_size": 24, "pred_num_attention_heads": 2,
          "pred_num_hidden_layers": 1}  # fmt: skip
TINY = {"videomae": videomae_tiny, "vjepa2": vjepa2_tiny}
EACH = pytest.mark.parametrize("origin", TINY)


@torch.no_grad()
def theirs(origin, kind="ForVideoClassification", **options):
    """The library's own network, every number of it drawn at random."""
    library = {"videomae": "VideoMAE", "vjepa2": "VJEPA2"}[origin]
    shape = {"videomae": VIDEOMAE, "vjepa2": VJEPA2}[origin]
    config = getattr(transformers, f"{library}Config")(**SHAPE, **shape, **options)
    network = getattr(transformers, library + kind)(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 10
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan_in**-0.5 + (parameter.ndim == 1))
    return network


def clip_of(frames=16):
    return torch.randn(2, frames, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def assert_same_scores(network, reference, clip):
    with torch.no_grad():
        expected = reference(clip).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(network(clip), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


# Millions of parameters and billions of multiply-adds with 400 classes. VideoMAE's paper has 22, 87, 305 and 633,
# and 57, 180, 597 and 1192; V-JEPA 2's encoders have 0.3, 0.6 and 1 billion, and their pooler comes on top.
SIZES = [
    ("videomae_base", 86.535, 180.3, 16),
    pytest.param("vjepa2_large", 353.632, 935.2, 16, marks=pytest.mark.slow),
    pytest.param("videomae_small", 22.034, 56.9, 16, marks=pytest.mark.slow),
    pytest.param("videomae_large", 304.271, 596.8, 16, marks=pytest.mark.slow),
    pytest.param("videomae_huge", 632.119, 1191.0, 16, marks=pytest.mark.slow),
    pytest.param("vjepa2_huge", 709.232, 11693.1, 64, marks=pytest.mark.slow),
    pytest.param("vjepa2_giant", 1105.987, 61169.3, 64, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "parameters", "macs", "frames"), SIZES)
def test_published_size(name, parameters, macs, frames):
    network = empty(name, 400)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 3) == parameters
    assert giga_macs(network, frames) == pytest.approx(macs, abs=0.05)


def test_only_the_predictor_is_left_out():
    with torch.device("meta"):
        whole = transformers.VJEPA2ForVideoClassification(transformers.VJEPA2Config(num_labels=174))
    whole.vjepa2.predictor = nn.Identity()
    assert millions("vjepa2_large", 174) == round(sum(p.numel() for p in whole.parameters()) / 1e6, 3)


@EACH
def test_converted_file_gives_the_library_scores(origin, tmp_path, capsys):
    reference = theirs(origin)
    reference.save_pretrained(tmp_path / "hub")
    converted = convert(origin, tmp_path / "hub" / FILES[0], tmp_path / "ours.safetensors", size=32)
    assert converted.record["sampling"]["arguments"]["num_frames"] == 16
    assert len(converted.record["classes"]) == 5
    opened = vidact.load(tmp_path / "ours.safetensors")
    assert opened.recipe["builder"] == f"vidact.models.{origin}_tiny"
    assert_same_scores(opened, reference, clip_of())


def test_the_command_spreads_the_frames_where_asked(tmp_path, capsys):
    """VideoMAE of Something-Something saw frames of the whole video, the others a window."""
    theirs("videomae").save_pretrained(tmp_path)
    command = ["convert", "--origin", "videomae", "--file", str(tmp_path / FILES[0]), "--size", "32", "--out",
               str(tmp_path / "ours.safetensors")]  # fmt: skip
    cli.main(command)
    assert "sampling: DenseSampler" in capsys.readouterr().out
    cli.main([*command, "--spread", "16"])
    said = capsys.readouterr().out
    assert "sampling: SegmentSampler {'num_segments': 16" in said
    assert "its weights are made for 16 frames" in said
    with pytest.raises(SystemExit):
        cli.main([*command, "--spread", "16", "--dense"])
    assert "give one of them" in capsys.readouterr().err


@EACH
def test_weights_may_be_the_folder_or_the_file(origin, tmp_path):
    reference = theirs(origin)
    reference.save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / FILES[0]):
        assert_same_scores(TINY[origin](5, weights=str(path)).eval(), reference, clip_of())
    other = TINY[origin](7, weights=str(tmp_path)).eval()  # the classifier has other classes, and all else is theirs
    assert other.fc.out_features == 7
    assert torch.equal(other.features(clip_of()), TINY[origin](5, weights=str(tmp_path)).eval().features(clip_of()))
    (tmp_path / FILES[0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        TINY[origin](5, weights=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="neither a file nor a published name; the names here: none"):
        TINY[origin](5, weights="kinetics400")


def test_biases_under_their_older_names():
    """Published VideoMAE files have q_bias and v_bias beside the layers; either way gives the same network."""
    reference = theirs("videomae")
    tensors = reference.state_dict()
    older = {
        key.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value for key, value in tensors.items()
    }
    assert "videomae.encoder.layer.1.attention.attention.q_bias" in older
    for names in (tensors, older, {f"module.{key}": value for key, value in older.items()}):
        assert_same_scores(from_reference("videomae", names, num_classes=5, size=32), reference, clip_of())


# What VideoMAE's authors call a tensor → what the library does; query, key and value are rows of one tensor there.
AUTHORS = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def by_its_authors(tensors, pretraining=False):
    encoder = "encoder." if pretraining else ""
    found = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("videomae.").replace("encoder.layer.", "blocks.")
        for theirs, library in AUTHORS.items():
            name = name.replace(library, theirs)
        name = name.replace("attention.attention.query.bias", "attn.q_bias")
        name = name.replace("attention.attention.value.bias", "attn.v_bias")
        if name.endswith("query.weight"):
            parts = [tensors[f"videomae.encoder.layer.{name.split('.')[1]}.attention.attention.{part}.weight"]
                     for part in ("query", "key", "value")]  # fmt: skip
            found[f"{encoder}blocks.{name.split('.')[1]}.attn.qkv.weight"] = torch.cat(parts)
        elif not name.endswith(("key.weight", "value.weight")):
            found[(encoder if not name.startswith(("classifier", "fc_norm")) else "") + name] = tensor
    return {name.replace("classifier.", "head."): tensor for name, tensor in found.items()}


def test_files_of_its_authors(tmp_path):
    """As DeepSpeed saves them, under "module"."""
    reference = theirs("videomae")
    tensors = by_its_authors(reference.state_dict())
    assert {name for name in tensors if name.startswith(("blocks.1.", "patch_embed"))} == {
        *(f"blocks.1.norm{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")),
        *(f"blocks.1.{layer}.{kind}" for layer in ("attn.proj", "mlp.fc1", "mlp.fc2") for kind in ("weight", "bias")),
        *(f"blocks.1.attn.{name}" for name in ("q_bias", "v_bias", "qkv.weight")),
        *(f"patch_embed.proj.{kind}" for kind in ("weight", "bias")),
    }
    assert {name for name in tensors if name.startswith(("head", "fc_norm"))} == {
        f"{layer}.{kind}" for layer in ("head", "fc_norm") for kind in ("weight", "bias")
    }
    torch.save({"module": tensors, "epoch": 74}, tmp_path / "checkpoint.pth")
    converted = convert("videomae", tmp_path / "checkpoint.pth", tmp_path / "ours.safetensors", size=32)
    assert len(converted.record["classes"]) == 5
    assert_same_scores(vidact.load(tmp_path / "ours.safetensors"), reference, clip_of())
    assert_same_scores(videomae_tiny(5, weights=str(tmp_path / "checkpoint.pth")).eval(), reference, clip_of())
    for words, wrong in (
        (r"qkv\.weight has 95 rows; a third each is", {"blocks.1.attn.qkv.weight": torch.zeros(95, 32)}),
        (r"3 of the wrong shape: .*layer\.1\..*query\.weight", {"blocks.1.attn.qkv.weight": torch.zeros(96, 31)}),
        ("1 unknown: somebody.elses", {"somebody.elses": torch.zeros(3)}),
    ):
        with pytest.raises(ValueError, match=words):
            from_reference("videomae", {**tensors, **wrong}, num_classes=5, size=32)
    del tensors["blocks.0.norm2.bias"]
    with pytest.raises(ValueError, match=r"1 missing: trunk.*layer\.0\.layernorm_after\.bias"):
        from_reference("videomae", tensors, num_classes=5, size=32)


def test_files_of_its_authors_that_saw_no_label(tmp_path):
    reference = theirs("videomae", "ForPreTraining", use_mean_pooling=False)
    tensors = by_its_authors(
        {name: tensor for name, tensor in reference.state_dict().items() if name.startswith("videomae.")}, True
    )
    tensors = {name.replace("encoder.layernorm.", "encoder.norm."): tensor for name, tensor in tensors.items()}
    assert {
        "encoder.patch_embed.proj.weight",
        "encoder.blocks.0.attn.qkv.weight",
        "encoder.norm.bias",
    } <= tensors.keys()
    painting = ("mask_token", "encoder_to_decoder.weight", "decoder.blocks.0.attn.qkv.weight", "decoder.head.bias")
    tensors |= {name: torch.zeros(24) for name in painting}
    torch.save({"model": tensors}, tmp_path / "checkpoint.pth")
    network = videomae_tiny(5, weights=str(tmp_path / "checkpoint.pth")).eval()
    with torch.no_grad():
        tokens = network.trunk.videomae(clip_of()).last_hidden_state
        expected = reference.videomae(clip_of()).last_hidden_state
        torch.testing.assert_close(reference.videomae.layernorm(tokens), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("origin", "name", "frames", "size"), [("videomae", "videomae_base", 16, 224), ("vjepa2", "vjepa2_large", 4, 256)]
)
def test_published_sizes_give_the_library_scores(origin, name, frames, size):
    """The library's defaults are VideoMAE ViT-B and V-JEPA 2 ViT-L; the shapes alone tell which network that is."""
    library = {"videomae": "VideoMAE", "vjepa2": "VJEPA2"}[origin]
    config = getattr(transformers, f"{library}Config")(num_labels=7)
    torch.manual_seed(0)
    reference = getattr(transformers, f"{library}ForVideoClassification")(config).eval()
    nn.init.normal_(reference.classifier.weight)
    network = from_reference(origin, reference.state_dict(), num_classes=7)
    assert network.recipe["builder"] == f"vidact.models.{name}"
    assert network.input.size == size
    assert_same_scores(network, reference, torch.randn(1, frames, 3, size, size))


@EACH
def test_every_tensor_finds_its_place(origin):
    tensors = theirs(origin).state_dict()
    key = next(key for key in tensors if ".encoder.layer.1." in key and key.endswith("query.weight"))
    for words, names in (
        ("1 missing: trunk.*query.weight", {name: value for name, value in tensors.items() if name != key}),
        ("1 unknown: somebody.elses", {**tensors, "somebody.elses": torch.zeros(3)}),
        (f"1 of the wrong shape: {key}", {**tensors, key: tensors[key][1:]}),
    ):
        with pytest.raises(ValueError, match=words):
            from_reference(origin, names, num_classes=5, size=32)
    with pytest.raises(ValueError, match=rf"width 32 and 1 layers; the sizes .*{origin}_tiny \(32, 2\)"):
        from_reference(origin, {k: v for k, v in tensors.items() if "encoder.layer.1" not in k}, num_classes=5)
    with pytest.raises(ValueError, match="learned without labels and have no classifier; pass the file as weights="):
        from_reference(origin, {k: v for k, v in tensors.items() if "classifier" not in k}, num_classes=5)


@pytest.mark.parametrize(
    ("origin", "part", "words"),
    [
        ("videomae", "fc_norm", r"2 missing: trunk\.fc_norm\.weight, trunk\.fc_norm\.bias"),
        ("videomae", "classifier.bias", r"1 missing: fc\.bias"),
        ("vjepa2", "pooler.query_tokens", r"1 missing: trunk\.pooler\.query_tokens"),
        ("vjepa2", "classifier", r"2 missing: fc\.weight, fc\.bias"),
    ],
)
def test_weights_that_saw_labels_are_taken_whole(origin, part, words, tmp_path):
    """Only a file with nothing of the head may leave all of it to be trained."""
    theirs(origin).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / FILES[0])
    save_file({key: value for key, value in tensors.items() if part not in key}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=words):
        TINY[origin](5, weights=str(tmp_path / "part.safetensors"))


@pytest.mark.parametrize(("origin", "kind"), [("videomae", "ForPreTraining"), ("vjepa2", "Model")])
def test_weights_that_saw_no_label(origin, kind, tmp_path):
    """The encoder is taken, what it was trained with is dropped by name, and the head is new."""
    options = {"use_mean_pooling": False} if origin == "videomae" else {}
    reference = theirs(origin, kind, **options)
    reference.save_pretrained(tmp_path)
    network = TINY[origin](5, weights=str(tmp_path)).eval()
    with torch.no_grad():
        if origin == "videomae":  # there the tokens still pass the norm that the mean's replaces
            tokens = network.trunk.videomae(clip_of()).last_hidden_state
            expected = reference.videomae(clip_of()).last_hidden_state
            torch.testing.assert_close(reference.videomae.layernorm(tokens), expected)
        else:
            expected = reference(clip_of(), skip_predictor=True).last_hidden_state
            torch.testing.assert_close(network.trunk.encoder(clip_of()).last_hidden_state, expected)
    tensors = load_file(tmp_path / FILES[0])
    key = next(name for name in tensors if "encoder.layer.0" in name and name.endswith("key.weight"))
    save_file({name: value for name, value in tensors.items() if name != key}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"1 missing: trunk\..*key\.weight"):
        TINY[origin](5, weights=str(tmp_path / "part.safetensors"))


def test_positions_and_lengths():
    """VideoMAE is made for 16 frames, V-JEPA 2 for any pairs of them; both know where and when a tube is."""
    for build in TINY.values():
        network = build(5, size=48).eval()
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.2)
        clip = torch.randn(1, 16, 3, 48, 48)
        with torch.no_grad():
            logits = network(clip)
            assert (network(clip.flip(1)) - logits).abs().max() > 1e-4
            assert (network(clip.roll(16, 4)) - logits).abs().max() > 1e-4
        with pytest.raises(ValueError, match=r"32 x 48 pixels; the positions of this network are made for 48 x 48"):
            network(clip[:, :, :, :32])
        with pytest.raises(ValueError, match=r"size is 40; .*a multiple of 16"):
            build(5, size=40)
    assert vjepa2_tiny(5)(torch.randn(1, 6, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(ValueError, match=r"has 5 frames; this network takes them in pairs\. Sample 4 or 6"):
        vjepa2_tiny(5)(torch.randn(1, 5, 3, 32, 32))
    with pytest.raises(ValueError, match="has 8 frames; the weights of this network are made for 16"):
        videomae_tiny(5)(torch.randn(1, 8, 3, 32, 32))


def test_a_frozen_encoder_learns_nothing():
    network = vjepa2_tiny(5, frozen_encoder=True)
    learning = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert learning
    assert all(name.startswith(("trunk.pooler.", "fc.")) for name in learning)
    assert head_names(network) == ["fc"]
    groups = ParameterGroups().split(network, lr=1.0, weight_decay=0.1)
    assert sum(len(group["params"]) for group in groups) == len(learning)
    network.train()(clip_of()).sum().backward()
    assert network.trunk.encoder.layer[0].mlp.fc1.weight.grad is None
    assert network.trunk.pooler.query_tokens.grad is not None


@EACH
def test_gradient_checkpointing_changes_nothing(origin):
    torch.manual_seed(0)
    network = TINY[origin](5).train()
    plain = torch.autograd.grad(network(clip_of()).square().sum(), list(network.parameters()))
    set_gradient_checkpointing(network)
    again = torch.autograd.grad(network(clip_of()).square().sum(), list(network.parameters()))
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)


@EACH
def test_an_extractor_takes_its_features(origin):
    network = TINY[origin](5).eval()
    chunk = 16 if origin == "videomae" else 6
    extractor = FeatureExtractor(network, chunk=chunk, window=chunk, device="cpu")
    images = torch.randint(0, 256, (chunk, 3, 40, 50), dtype=torch.uint8)
    vector = extractor.chunk(images)
    assert vector.shape == (32,)
    assert not torch.equal(vector, extractor.chunk(images.flip(0)))
    loaded = FeatureExtractor.load(json.loads(json.dumps(extractor.record())), extractor.state(), device="cpu")
    assert torch.equal(loaded.chunk(images), vector)
    with pytest.raises(ValueError, match=r"16 frames at least|takes them in pairs"):
        FeatureExtractor(network, chunk=5, window=5, device="cpu")


# ---------------------------------------------------------------------------------------------- packages and downloads


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for build in TINY.values():
        with pytest.raises(ImportError, match=r"come from transformers: run `uv sync --extra transformers`"):
            build(5)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub, and empty caches of it and of published networks."""
    monkeypatch.setenv("VIDACT_HOME", str(tmp_path / "vidact"))
    with hub_serving() as started:
        use(started, tmp_path / "hf", monkeypatch)
        monkeypatch.setenv("VIDACT_MIRROR", started.address)
        yield started


def test_no_network_is_explained(server, monkeypatch):
    """The words of ``vidact.hub``, and what can be done without weights."""
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    words = r"videomae_small is not in the cache and downloads are forbidden: fetch https://huggingface.*weights=None"
    with torch.device("meta"), pytest.raises(OSError, match=words):
        vidact.models.videomae_small(400)
    monkeypatch.setitem(video_transformers._VJEPA2_HUB, "vjepa2_tiny", {"unlabelled": "somebody/network"})
    with pytest.raises(OSError, match=r"hf://somebody/network is not in the hub's cache, and downloads are .*=None"):
        vidact.models.vjepa2_tiny(5, weights="unlabelled")


@pytest.mark.parametrize("name", FILES)
def test_weights_without_a_classifier_are_read_from_the_hub(name, server, tmp_path, monkeypatch):
    """The newer kind of file before the older one."""
    published = theirs("videomae").state_dict()
    encoder = {key: value.contiguous() for key, value in published.items() if key.startswith("videomae.")}
    torch.save(encoder, tmp_path / FILES[1])
    save_file(encoder, tmp_path / FILES[0])
    files = {file: (tmp_path / file).read_bytes() for file in FILES if file >= name}
    server.repositories["somebody/network"] = repository = Repository()
    repository.commit(files)
    monkeypatch.setitem(video_transformers._VIDEOMAE_HUB, "videomae_tiny", {"unlabelled": "somebody/network"})
    network = vidact.models.videomae_tiny(5, weights="unlabelled")
    key = "encoder.layer.0.output.dense.weight"
    assert torch.equal(network.state_dict()[f"trunk.videomae.{key}"], published[f"videomae.{key}"])
    assert len(server.downloads()) == 1


def test_weights_of_a_published_network_that_earlier_versions_downloaded(server, tmp_path, monkeypatch):
    """They lie in the hub's cache, at the revision main; nothing is downloaded again."""
    entry = hub.PUBLISHED["videomae_base"]
    monkeypatch.setitem(hub.PUBLISHED, "videomae_base", dataclasses.replace(entry, name="tiny"))
    repository = "MCG-NJU/videomae-base-finetuned-kinetics"
    monkeypatch.setitem(video_transformers._VIDEOMAE_HUB, "videomae_tiny", {"kinetics400": repository})
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    folder = tmp_path / "hf" / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    published = theirs("videomae").state_dict()
    path = folder / "snapshots" / ("a" * 40) / "pytorch_model.bin"
    path.parent.mkdir(parents=True)
    torch.save(published, path)
    network = vidact.models.videomae_tiny(published["classifier.weight"].shape[0], weights="kinetics400")
    assert torch.equal(network.fc.weight, published["classifier.weight"])
    assert (hub.folder() / "tiny.bin").is_file()
    assert not server.requests
