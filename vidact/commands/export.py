"""``vidact export``: a network, or one step of a stream, for other runtimes."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vidact.commands import forms
from vidact.export.formats import Format, Kind

PROG = "vidact export"


def main(args: Sequence[str]) -> None:
    """Run ``vidact export``, and print what was written and how near it comes to PyTorch."""
    words = zip(args, [*args[1:], "--"], strict=True)
    forms.call(export, [f"{word}=true" if _is_alone(word, after) else word for word, after in words], PROG)


def _is_alone(word: str, after: str) -> bool:
    """Return whether the word is --int8 without a value."""
    return word == "--int8" and after.startswith("-")


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
    int8: bool = False,
    calibrate: str | None = None,
    max_loss: float | None = None,
    data: str | None = None,
) -> None:
    """Write a trained network, or one step of a stream, as ONNX or torch.export; the file is compared with PyTorch.

    Args:
        checkpoint: best.ckpt of a run, a .safetensors that vidact saved, the name of a published network, or
            hf://owner/name.
        out: the file to write, .onnx or .pt2.
        format: onnx, or torch for torch.export; by default the one of the file's suffix.
        what: a whole clip, one step of a stream, an offline network for whole videos, or the network that makes
            features; by default a step of an online detector, a clip of a clip network, a video of an offline network.
        frames: the frames of a clip; by default as many as the network was trained with.
        extractor: the extractor of the features, to include in the .onnx of what reads them: a folder of features, or
            the extractor.safetensors in it; by default the checkpoint's own.
        runs: random inputs to compare; by default 200 steps, 10 clips, 6 videos.
        int8: compute with whole numbers of 8 bits, which is quicker on a CPU: a clip network, a probe, an
            extractor, or the extractor in a detector's file. It needs --calibrate, and --int8 alone is --int8 true.
        calibrate: for int8, a folder of some of the videos that the network will see, or a file.
        max_loss: the largest loss of int8 that is accepted, in 0 to 1; nothing is written above it; by default 0.01.
        data: for int8, the folder of data with a split val, on which top-1 or mAP is measured before and after; by
            default the data of the checkpoint's run, and without a run the videos of --calibrate.
    """
    from vidact.export.write import export

    print(
        export(
            checkpoint, out, format=format, what=what, frames=frames, extractor=extractor, runs=runs, int8=int8,
            calibrate=calibrate, max_loss=max_loss, data=data,
        )
    )  # fmt: skip
