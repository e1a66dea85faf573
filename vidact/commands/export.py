"""``vidact export``: a network, or one step of a stream, for other runtimes."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vidact.commands import forms
from vidact.export.formats import Format, Kind

PROG = "vidact export"


def main(args: Sequence[str]) -> None:
    """Run ``vidact export``, and print what was written and how near it comes to PyTorch."""
    forms.call(export, args, PROG)


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    return forms.parser_of(export, PROG)


def export(
    checkpoint: str,
    out: str,
    format: Format | None = None,
    what: Kind | None = None,
    frames: int | None = None,
    extractor: str | None = None,
    runs: int | None = None,
) -> None:
    """Write a trained network, or one step of a stream, as ONNX or torch.export; the file is compared with PyTorch.

    Args:
        checkpoint: best.ckpt of a run, a .safetensors that vidact saved, the name of a published network, or
            hf://owner/name.
        out: the file to write, .onnx or .pt2.
        format: onnx, or torch for torch.export; by default the one of the file's suffix.
        what: a whole clip, one step of a stream, or the network that makes a detector's features; by default a step of
            an online detector, and a clip of a clip network.
        frames: the frames of a clip; by default as many as the network was trained with.
        extractor: the extractor of a detector's features, to include in its .onnx: a folder of features or the
            extractor.safetensors in it; by default the checkpoint's own.
        runs: random inputs to compare; by default 200 steps, 10 clips.
    """
    from vidact.export.write import export

    print(export(checkpoint, out, format=format, what=what, frames=frames, extractor=extractor, runs=runs))
