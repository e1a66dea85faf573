"""A network that computes on a device does not wait for tensors from the CPU within a pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidact.models import tsn_resnet_tiny
from vidact.models.online import one_stream, select_streams
from vidact.models.trn_relation import RelationHead
from vidact.models.two_stream import TwoStream
from vidact.models.video_networks import slow_frames


class Crossings(TorchDispatchMode):
    """Operations that take numbers of the CPU to the device (meta, which needs no GPU) and wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        made = operation(*args, **(options or {}))
        taken = {leaf.device.type for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor) and leaf.ndim}
        given = {leaf.device.type for leaf in tree_leaves(made) if isinstance(leaf, Tensor)}
        copied = "cpu" in taken and not (options or {}).get("non_blocking")
        listed = operation is torch.ops.aten.lift_fresh.default  # Python's numbers, in a list
        if "meta" in given and (copied or listed):
            self.found.append(str(operation))
        return made


def two_streams() -> Callable[[], Tensor]:
    streams = [
        tsn_resnet_tiny(num_classes=3, weights=None, size=32, width=8, modality=modality)
        for modality in ("rgb", "flow")
    ]
    network = TwoStream(*streams, scores="softmax").to("meta")
    clip = torch.empty(2, 4, network.input.channels, 32, 32, device="meta")
    return lambda: network(clip)


def relations(training: bool) -> Callable[[], Tensor]:
    network = RelationHead(6, dim=6, num_classes=4, eval_relations=2).to("meta").train(training)
    return lambda: network(torch.empty(2, 6, 6, device="meta"))


@pytest.mark.parametrize(
    "build",
    [
        lambda: lambda: slow_frames(torch.empty(1, 32, 3, 4, 4, device="meta")),
        lambda: relations(training=True),
        lambda: relations(training=False),
        two_streams,
        lambda: lambda: one_stream({"memory": torch.empty(4, 8, 3, device="meta")}, 1),
    ],
    ids=["slow frames", "relations in training", "relations", "two streams", "one stream"],
)
def test_nothing_is_waited_for(build: Callable[[], Callable[[], Tensor]]) -> None:
    run = build()
    with Crossings() as crossings:
        run()
    assert not crossings.found


def test_one_stream_is_what_would_be_selected_in_memory_of_its_own() -> None:
    state = {"memory": torch.randn(4, 8, 3), "count": [torch.arange(4)]}
    alone, selected = one_stream(state, 2), select_streams(state, torch.tensor([2]))
    assert torch.equal(alone["memory"], selected["memory"])
    assert alone["count"][0].tolist() == [2]
    assert alone["memory"].untyped_storage().nbytes() == alone["memory"].nbytes
