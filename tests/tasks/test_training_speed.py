"""What makes training quicker changes nothing but the time: compiling, fused optimisers, memory layout, TF32."""

import copy
import functools
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters
from torch._functorch.compilers import nop

import vidact
from vidact.data.clips import ClipData
from vidact.data.synthetic import write_clips
from vidact.models import eco_lite_tiny, gsm_bn_inception_tiny, r3d_tiny, tsm_resnet_tiny, tsn_resnet_tiny, x3d_s
from vidact.models.backbones import channels_last, clip_channels_last, has_channels_last
from vidact.models.tsm import shift
from vidact.tasks import ClipClassification, clip_classification
from vidact.tasks.training import MovingAverage, TensorFloat32, compiled, fuse, gradient_norm
from vidact.video import SegmentSampler

CUDA = torch.device("cuda")
CLIPS = torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> None:
    torch.compiler.reset()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    names = ["moving left", "moving right", "pulsing cross"]
    write_clips(folder, splits={"train": 3, "val": 1, "test": 1}, seed=0, classes=names)
    return folder


def clip_data(root: Path, **options) -> ClipData:
    return ClipData(str(root), SegmentSampler(2), **{"batch_size": 4, "num_workers": 0, **options})


def network(**options) -> nn.Module:
    """Without dropout: a compiled network draws other numbers."""
    torch.manual_seed(0)
    return tsm_resnet_tiny(num_classes=3, weights=None, **{"size": 32, "width": 8, "dropout": 0.0, **options})


def fit(root: Path, run: Path, task: ClipClassification, data: ClipData | None = None, **options) -> pl.Trainer:
    trainer = pl.Trainer(
        **{
            "default_root_dir": run, "accelerator": "cpu", "max_epochs": 1, "logger": False,
            "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False,
            "use_distributed_sampler": False, "num_sanity_val_steps": 0, **options,
        }
    )  # fmt: skip
    trainer.fit(task, clip_data(root) if data is None else data)
    return trainer


def assert_same_weights(actual: nn.Module, expected: nn.Module, tolerance: float = 1e-5) -> None:
    assert list(actual.state_dict()) == list(expected.state_dict())
    for (name, a), b in zip(actual.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=0, atol=tolerance * max(1.0, float(b.abs().max())), msg=name)


# ---- torch.compile


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("eager", {"ema": 0.9, "freeze_norms": "partial"}),  # the graph is found, and no code is made
        pytest.param("aot_eager", {"checkpoint_blocks": True}, marks=pytest.mark.slow),
    ],
)
def test_compiling_changes_no_number(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, options: dict
) -> None:
    """Nine videos: two full batches, which are compiled once, and one video that goes its own way; and a validation."""
    monkeypatch.setattr(clip_classification, "compiled", functools.partial(compiled, backend=backend))
    plain, quick = (ClipClassification(network(), compile=where, **options) for where in ("never", "always"))
    names = list(quick.state_dict())
    fit(root, tmp_path, plain)
    counters.clear()
    trainer = fit(root, tmp_path, quick)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert_same_weights(quick, plain)
    assert list(quick.state_dict()) == names
    trainer.save_checkpoint(tmp_path / "quick.ckpt")
    assert_same_weights(vidact.load(tmp_path / "quick.ckpt"), plain.network)
    # and goes on from there, compiled or not
    further = ClipClassification(network(), **options)
    resumed = pl.Trainer(**{**RESUMED, "default_root_dir": tmp_path})
    resumed.fit(further, clip_data(root), ckpt_path=tmp_path / "quick.ckpt")
    assert resumed.global_step == 2 * trainer.global_step


RESUMED = {
    "accelerator": "cpu", "max_epochs": 2, "logger": False, "enable_progress_bar": False,
    "enable_checkpointing": False, "enable_model_summary": False, "use_distributed_sampler": False,
}  # fmt: skip


@pytest.mark.slow
def test_machine_code_computes_the_same() -> None:
    """A layer of each kind, since a C++ compiler takes its time: outputs, gradients and statistics."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)

        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            maps = self.norm(self.convolution(shift(clip.flatten(0, 1), clip.shape[1], fold=3))).relu()
            return self.fc(maps.mean(dim=(2, 3))).unflatten(0, clip.shape[:2]).mean(dim=1)

    torch.manual_seed(0)
    plain = channels_last(Small())
    made = copy.deepcopy(plain)
    for forward in (plain, compiled(made, 2)):
        forward(CLIPS).square().sum().backward()
    assert_same_weights(made, plain)
    for a, b in zip(made.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_only_full_batches_are_compiled_and_once() -> None:
    made = tsn_resnet_tiny(num_classes=3, weights=None, size=32, width=8, dropout=0.0)
    channels_last(made)
    counters.clear()
    quick = compiled(made, 2, backend="eager")
    assert "_orig_mod" not in "".join(made.state_dict())
    for videos in (2, 1, 3, 2):
        clip = torch.randn(videos, 2, 3, 32, 32)
        for laid in (clip, clip_channels_last(clip)):
            torch.testing.assert_close(quick(laid), made(clip))
    assert counters["stats"]["unique_graphs"] == 1


def test_a_compiler_that_fails_is_named() -> None:
    def broken(graph, inputs):
        raise OSError("no compiler here")

    quick = compiled(tsn_resnet_tiny(num_classes=3, weights=None, size=32, width=8), 1, backend=broken)
    with pytest.raises(OSError, match=r"(?s)torch.compile of TSN, which failed on cpu.*no compiler here.*to never"):
        quick(torch.randn(1, 2, 3, 32, 32))


def test_a_compiler_that_fails_in_the_backward_pass_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph, inputs):
        raise TorchDynamoException("no compiler here")

    backend = aot_autograd(fw_compiler=nop, bw_compiler=broken)
    monkeypatch.setattr(clip_classification, "compiled", functools.partial(compiled, backend=backend))
    with pytest.raises(OSError, match=r"(?s)torch.compile of TSM, which failed on cpu.*no compiler here.*to never"):
        fit(root, tmp_path, ClipClassification(network(), compile="always"))


def test_a_network_that_cannot_be_compiled_whole_is_refused() -> None:
    class Asks(nn.Module):
        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()  # as what it cannot translate makes it do
            return clip

    with pytest.raises(OSError, match=r"(?s)torch.compile of Asks, which failed on cpu.*does not translate.*to never"):
        compiled(Asks(), 2, backend="eager")(CLIPS)


def test_networks_compiled_side_by_side_stay_compiled() -> None:
    quick = []
    for width in (8, 16):
        made = tsn_resnet_tiny(num_classes=3, weights=None, size=32, width=width)
        quick.append(compiled(made, 2, backend="eager"))
        quick[-1](CLIPS)
    counters.clear()
    for forward in quick:
        forward(CLIPS)
    assert counters["stats"]["unique_graphs"] == 0


@pytest.mark.parametrize(
    ("where", "batch_size", "words"),
    [
        ("gpu", 4, "model.compile is gpu and training runs on cpu: the network is not compiled"),
        ("always", 10, "model.compile is always and 9 videos make no batch of 10: the network is not compiled"),
    ],
)
def test_where_nothing_is_compiled_is_said(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture, where: str, batch_size: int, words: str
) -> None:
    task = ClipClassification(network(), compile=where)
    fit(root, tmp_path, task, clip_data(root, batch_size=batch_size), fast_dev_run=True)
    assert words in capsys.readouterr().out
    assert task.compiled is None


def test_other_words_for_compile_are_refused() -> None:
    with pytest.raises(ValueError, match="compile is 'yes'; it can be 'never', 'gpu' or 'always'"):
        ClipClassification(network(), compile="yes")


# ---- fused optimisers


def stepped(make, device: torch.device | None) -> nn.Module:
    """A network after three steps of an optimiser as ``fuse`` leaves it; the CPU has the same kernels as CUDA."""
    made = channels_last(network())
    optimizer = make(made.parameters())
    if device is not None:
        fuse(optimizer, device)
    for _ in range(3):
        optimizer.zero_grad()
        made(CLIPS).square().sum().backward()
        optimizer.step()
    return made


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4),
        functools.partial(torch.optim.Adam, lr=0.001, eps=1e-3),  # or it would magnify what is rounding
        functools.partial(torch.optim.AdamW, lr=0.001, eps=1e-3),
    ],
    ids=lambda make: make.func.__name__,
)
def test_a_fused_optimiser_takes_the_same_steps(make) -> None:
    assert_same_weights(stepped(make, CUDA), stepped(make, None), 1e-4)


@pytest.mark.parametrize(
    ("options", "device", "expected"),
    [
        ({}, CUDA, True),
        ({}, torch.device("cpu"), None),
        ({"fused": False}, CUDA, False),
        ({"foreach": True}, CUDA, None),
        ({"foreach": False}, CUDA, None),
        ({"differentiable": True}, CUDA, None),
    ],
)
def test_what_the_recipe_says_of_fused_stands(options: dict, device: torch.device, expected: bool | None) -> None:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.SGD([{"params": parameters[:1], "lr": 1.0}, {"params": parameters[1:]}], **options)
    fuse(optimizer, device)
    assert [group["fused"] for group in optimizer.param_groups] == [expected, expected]
    other = torch.optim.Adagrad(parameters)
    fuse(other, device)
    assert not other.param_groups[0]["fused"]


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_gradients_of_a_fused_optimiser_are_clipped(root: Path, tmp_path: Path, precision: str) -> None:
    """Lightning refuses to, unless gradients are unscaled before the step."""
    tasks = [
        ClipClassification(network(), functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=fused))
        for fused in (True, False)
    ]
    for task in tasks:
        fit(root, tmp_path, task, gradient_clip_val=0.01, precision=precision)
    assert_same_weights(*tasks, tolerance=1e-4)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_run_goes_on_where_kernels_and_layout_differ(kind) -> None:
    """Saved with channels first by a plain optimiser, continued with channels last by a fused one, and back."""
    options = {"lr": 0.01, "momentum": 0.9} if kind is torch.optim.SGD else {"lr": 0.01, "eps": 1e-3}

    def optimizer_of(made: nn.Module, fused: bool):
        optimizer = kind(made.parameters(), **options)
        fuse(optimizer, CUDA if fused else torch.device("cpu"))
        return optimizer

    def step(made: nn.Module, optimizer) -> None:
        optimizer.zero_grad()
        made(CLIPS).square().sum().backward()
        optimizer.step()

    for fused in (True, False):
        first = network() if fused else channels_last(network())
        before = optimizer_of(first, not fused)
        step(first, before)
        then = channels_last(network()) if fused else network()
        then.load_state_dict(first.state_dict())
        after = optimizer_of(then, fused)
        after.load_state_dict(copy.deepcopy(before.state_dict()))  # else both would write to one momentum
        assert after.param_groups[0]["fused"] == (True if fused else None)
        for parameter, state in after.state.items():
            for value in state.values():
                assert value.shape != parameter.shape or value.stride() == parameter.stride()
        step(first, before)
        step(then, after)
        assert_same_weights(then, first, 1e-4)


def test_the_gradient_norm_is_of_all_gradients_together() -> None:
    made = nn.Linear(3, 2)
    assert gradient_norm(made) is None
    made(torch.randn(4, 3)).square().sum().backward()
    together = torch.cat([made.weight.grad.flatten(), made.bias.grad])
    torch.testing.assert_close(gradient_norm(made), together.norm())


# ---- averaged weights


def test_the_average_lies_where_the_network_computes_and_waits_for_nothing() -> None:
    """As Lightning calls it: set up before the network, which is then laid out and moved."""
    task = ClipClassification(network())
    average = MovingAverage(0.9)
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    trainer = SimpleNamespace(strategy=strategy, state=SimpleNamespace(fn="fit"), global_step=0)
    average.setup(trainer, task, "fit")
    channels_last(task.network)
    average.on_fit_start(trainer, task)
    copies = [*average._average_model.module.parameters(), *average._average_model.module.buffers()]
    task.to("meta")
    for mine, theirs in zip(copies, (*task.parameters(), *task.buffers()), strict=True):
        assert mine.device.type == "meta"
        assert mine.stride() == theirs.stride()
    for trainer.global_step in (1, 2, 3):  # a number of the device, which meta tensors have not, would be waited for
        average.on_train_batch_end(trainer, task, None, None, 0)
    assert average.state_dict() == {"latest_update_step": 3}
    assert average._average_model.n_averaged == 3


def test_the_average_is_lightnings_and_goes_on_with_what_it_saved(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, lightnings = (ClipClassification(network(), ema=0.9) for _ in range(2))
    mine = fit(root, tmp_path, ours)
    with monkeypatch.context() as patched:
        patched.setattr(clip_classification, "make_callbacks", lambda ema, *_: [EMAWeightAveraging(decay=ema)])
        theirs = fit(root, tmp_path, lightnings)
    further = []
    for name, trainer in (("mine", mine), ("theirs", theirs)):
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        further.append(ClipClassification(network(), ema=0.9))
        resumed = pl.Trainer(**{**RESUMED, "default_root_dir": tmp_path})
        resumed.fit(further[-1], clip_data(root), ckpt_path=tmp_path / f"{name}.ckpt")
        (average,) = (callback for callback in resumed.callbacks if isinstance(callback, MovingAverage))
        assert average._average_model.n_averaged == average._latest_update_step == resumed.global_step
    counts = {name for name, value in ours.state_dict().items() if not value.is_floating_point()}
    for a, b in ((ours, lightnings), further):
        for name, value in a.state_dict().items():
            if name not in counts:  # of batches, of which an average means nothing
                torch.testing.assert_close(value, b.state_dict()[name], rtol=0, atol=1e-6, msg=name)


def test_the_average_knows_the_weights_of_classes(root: Path, tmp_path: Path) -> None:
    """A tensor that the module gets only in its ``setup``, and the first of its buffers."""
    task = ClipClassification(network(), ema=0.5, weigh_classes=True)
    trainer = fit(root, tmp_path, task)
    (average,) = (callback for callback in trainer.callbacks if isinstance(callback, MovingAverage))
    assert torch.equal(average._average_model.module.class_weights, task.class_weights)
    assert_same_weights(average._average_model.module, task)


# ---- memory layout and precision


def test_which_networks_have_their_channels_last() -> None:
    cpu = torch.device("cpu")
    for build, on_cpu, on_cuda in ((tsn_resnet_tiny, True, True), (r3d_tiny, False, True), (x3d_s, False, False)):
        options = {} if build is x3d_s else {"width": 8, "size": 32}
        for device, expected in ((cpu, on_cpu), (CUDA, on_cuda), (None, on_cpu)):
            made = build(num_classes=3, weights=None, **options)
            assert not has_channels_last(made)
            assert has_channels_last(channels_last(made, device)) is expected, (build.__name__, device)
    made = channels_last(r3d_tiny(num_classes=3, weights=None, width=8, size=32), CUDA)
    kernels = [weight for weight in made.parameters() if weight.ndim == 5]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last_3d) for kernel in kernels)


def test_2d_convolutions_beside_3d_ones_have_their_channels_last() -> None:
    for device in (torch.device("cpu"), CUDA):
        for build, grouped in ((gsm_bn_inception_tiny, True), (eco_lite_tiny, False)):
            made = channels_last(build(num_classes=3, weights=None, size=32), device)
            kernels = {dims: [weight for weight in made.parameters() if weight.ndim == dims] for dims in (4, 5)}
            assert kernels[5]
            assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels[4])
            if grouped or device != CUDA:
                assert all(kernel.is_contiguous() for kernel in kernels[5])


def test_a_clip_with_channels_last_is_the_same_clip() -> None:
    clip = torch.randn(2, 4, 3, 5, 7)
    laid = clip_channels_last(clip)
    assert torch.equal(laid, clip)
    assert laid.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)  # what a 2-D network sees
    assert laid.transpose(1, 2).is_contiguous(memory_format=torch.channels_last_3d)  # and a 3-D one
    assert clip_channels_last(laid).data_ptr() == laid.data_ptr()


def test_tf32_lasts_as_long_as_the_fit_and_only_on_cuda(root: Path, tmp_path: Path) -> None:
    def trainer_on(kind: str):
        return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(kind)))

    before = torch.get_float32_matmul_precision()
    assert before == "highest"
    callback = TensorFloat32()
    callback.on_fit_start(trainer_on("cpu"), None)
    assert torch.get_float32_matmul_precision() == before
    for end in (callback.on_fit_end, functools.partial(callback.on_exception, exception=OSError())):
        callback.on_fit_start(trainer_on("cuda"), None)
        assert torch.get_float32_matmul_precision() == "high"
        end(trainer_on("cuda"), None)
        assert torch.get_float32_matmul_precision() == before
    for tf32 in (False, True):
        kinds = [type(callback) for callback in ClipClassification(network(), tf32=tf32).configure_callbacks()]
        assert (TensorFloat32 in kinds) == tf32


# ---- all together, where it is meant for


@pytest.mark.gpu
@pytest.mark.parametrize("pixels_on", ["workers", "device"])
def test_training_on_a_gpu(root: Path, tmp_path: Path, pixels_on: str) -> None:
    """Compiled, mixed precision, clipped, fused, channels last: close to the plain way; a checkpoint for anywhere."""
    on_gpu = {"accelerator": "gpu", "devices": 1, "max_epochs": 3, "gradient_clip_val": 20.0}
    plain, quick = (
        ClipClassification(network(), functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9), compile=where)
        for where in ("never", "gpu")
    )
    fit(root, tmp_path, plain, clip_data(root), **on_gpu)
    counters.clear()
    data = clip_data(root, pixels_on=pixels_on)
    trainer = fit(root, tmp_path, quick, data, precision="bf16-mixed", benchmark=True, **on_gpu)
    assert counters["stats"]["unique_graphs"] == 1
    assert trainer.optimizers[0].param_groups[0]["fused"] is True
    assert has_channels_last(quick.network)
    assert_same_weights(quick, plain, 0.05)
    trainer.save_checkpoint(tmp_path / "quick.ckpt")
    loaded = vidact.load(tmp_path / "quick.ckpt")
    assert_same_weights(loaded, quick.network, 0.0)
    further = ClipClassification(network(), functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9), compile="gpu")
    pl.Trainer(**{**RESUMED, "max_epochs": 4, "default_root_dir": tmp_path}).fit(
        further, clip_data(root), ckpt_path=tmp_path / "quick.ckpt"
    )


@pytest.mark.gpu
def test_a_3d_network_on_a_gpu(root: Path, tmp_path: Path) -> None:
    made = r3d_tiny(num_classes=3, weights=None, width=8, size=32)
    task = ClipClassification(made, compile="gpu", tf32=True)
    data = ClipData(str(root), SegmentSampler(4), batch_size=4, num_workers=0)
    fit(root, tmp_path, task, data, accelerator="gpu", devices=1, precision="bf16-mixed")
    assert has_channels_last(made)
    assert all(torch.isfinite(weight).all() for weight in made.parameters())
