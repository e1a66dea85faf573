"""The command that installs a missing package, for every error about one.

vidact is on no package index, so the name after ``pip install`` would be a stranger's; its extras are installed from
the clone. The packages themselves may be installed by name.
"""

from __future__ import annotations

# The extras of pyproject.toml, and the optional packages that each installs.
EXTRAS = {
    "onnx": (),  # a name of older commands: every installation has the packages
    "packed": ("fsspec", "webdataset"),
    "timm": ("timm",),
    "torchcodec": ("torchcodec",),
    "transformers": ("transformers",),
}


def how_to_install(*packages: str) -> str:
    """Return the command that installs these packages, as the end of a sentence.

    >>> how_to_install("timm")
    'run `uv sync --extra timm` in the clone of vidact, or `pip install timm`'
    """
    extras = [extra for extra, members in EXTRAS.items() if set(members) & set(packages)]
    sync = " ".join(["uv sync", *(f"--extra {extra}" for extra in extras)])
    return f"run `{sync}` in the clone of vidact, or `pip install {' '.join(packages)}`"
