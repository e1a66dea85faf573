"""The runtimes by name, and what agreement between them means; commands import this before they parse options."""

RUNTIMES = ("auto", "torch", "onnx")
RUNTIME_NAMES = {"torch": "PyTorch", "onnx": "ONNX Runtime"}
TOLERANCE = 1e-4  # the largest difference from PyTorch that is accepted, as a share of PyTorch's largest output


def refuse_runtime(name: str) -> None:
    """Raise ValueError for a name that is no runtime."""
    if name not in RUNTIMES:
        raise ValueError(f"runtime is {name!r}; it is one of {', '.join(RUNTIMES)}")
