"""The runtimes by name, and what agreement between them means; commands import this before they parse options."""

from typing import NamedTuple

RUNTIMES = ("auto", "torch", "onnx")
RUNTIME_NAMES = {"torch": "PyTorch", "onnx": "ONNX Runtime"}
TOLERANCE = 1e-4  # the largest difference from PyTorch that is accepted, as a share of PyTorch's largest output


class Agreement(NamedTuple):
    """The largest difference between the outputs of a graph and PyTorch's, and PyTorch's largest output."""

    largest_difference: float
    largest_output: float

    @property
    def is_close(self) -> bool:
        """Whether the difference is at most ``TOLERANCE`` of the largest output; a NaN is not."""
        return self.largest_difference <= TOLERANCE * self.largest_output


def refuse_runtime(name: str) -> None:
    """Raise ValueError for a name that is no runtime."""
    if name not in RUNTIMES:
        raise ValueError(f"runtime is {name!r}; it is one of {', '.join(RUNTIMES)}")
