"""The folds of a cross-validation over groups: which groups each holds out, its folder, and the figures of all.

Trainings (``repeat``) and probes (``probing``) share them, so that both can stand in one table.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vidact.results.scores import Scores


def fold_folder(out: Path, name: str) -> Path:
    """Return the folder of the fold that holds out ``name``: directly in ``out``, also where ``name`` is a path."""
    return out / re.sub(r"^\.+$|[/\\]", "_", name)


def fold_parts(groups: list[str], folds: str | None, num_folds: int | None, root: Path) -> list[list[str]]:
    """Return the groups that each fold holds out: as in ``folds``, in ``num_folds`` parts, or each by itself."""
    if num_folds is not None:
        if not 2 <= num_folds <= len(groups):
            raise ValueError(f"--num_folds is {num_folds}; the {len(groups)} groups of {root} make 2 to {len(groups)}")
        return [part.tolist() for part in np.array_split(np.array(groups), num_folds)]
    parts = [[name] for name in groups]
    if folds:
        parts = [[name] if name in groups else name.split("+") for name in folds.split(",")]
    flat = [name for part in parts for name in part]
    if whole := [part for part in parts if set(part) >= set(groups)]:
        raise ValueError(
            f"the fold {'+'.join(whole[0])} holds out every group of {root}, so that none is left to train on; two "
            "groups are needed at least"
        )
    if unknown := sorted(set(flat) - set(groups)):
        raise ValueError(f"no group {', '.join(unknown)}; {root} has {', '.join(groups)}")
    if len(set(flat)) < len(flat):
        raise ValueError(f"the group {max(flat, key=flat.count)} is in two folds; each is held out once")
    return parts


def fold_figures(top1: list[float], pooled: Scores) -> dict[str, Any]:
    """Return the figures of several folds together."""
    return {
        "mean_top1": float(np.mean(top1)), "std_top1": round(float(np.std(top1)), 6), "min_top1": min(top1),
        "max_top1": max(top1), "errors": int((pooled.values.argmax(1) != pooled.labels).sum()),
        "videos": len(pooled.ids), "folds": len(top1), **pooled.beside_yardsticks(),
    }  # fmt: skip


def data_name(root: Path) -> str:
    """Return the name of the data on a page: that of its folder."""
    return root.resolve().name
