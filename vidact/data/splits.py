"""The split of each clip: stated, held out by its group, or drawn."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidact.text.names import first_few, plain_name, plain_path
from vidact.video.folders import (
    plain_id,
    relative_name,
)

SPLITS = ("train", "val", "test")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
DEFAULT_FRACTIONS = (0.7, 0.15, 0.15)


class Candidate(NamedTuple):
    """A clip before classes, ids and splits are known; ``where`` names it in messages."""

    where: str
    path: Path
    labels: tuple[str, ...]
    start_s: float | None
    end_s: float | None
    split: str | None
    group: str | None = None


def group_of(row: Mapping[str, str], where: str) -> str | None:
    """Return the group that a row names; None in a table without that column, ValueError where the cell is empty."""
    if "group" not in row:
        return None
    if not (group := plain_name(row["group"])):
        raise ValueError(f"{where} has no group; name one in every row, or leave the column out")
    return group


def split_of(cell: str, where: str) -> str:
    """Return the split that a cell names: "train", "val" or "test"; ValueError where it names none."""
    split = SPLIT_FOLDERS.get(plain_name(cell).lower())
    if split is None:
        raise ValueError(f"{where}: the split is {cell!r}; it can be {', '.join(SPLITS)}")
    return split


# --------------------------------------------------------------------------------------------------------------- splits


def clip_groups(
    root: Path, candidates: list[Candidate], pattern: str | None, table: Path, notes: list[str]
) -> list[str] | None:
    """Return the group of each clip, from the pattern or else from the column; None where there is neither."""
    named = [clip.group for clip in candidates if clip.group is not None]
    if pattern is not None:
        if named:
            notes.append(f"the pattern group {pattern!r} replaces the column group of {table}")
        return groups_of(root, [clip.path for clip in candidates], pattern)
    if not named:
        return None
    of: dict[Path, str] = {}
    for clip, group in zip(candidates, named, strict=True):
        if of.setdefault(clip.path, group) != group:
            raise ValueError(
                f"{clip.where}: {clip.path} is of the group {of[clip.path]} in one row and of {group} in another; "
                "parts of one file belong together"
            )
    return named


def clip_splits(
    root: Path,
    candidates: list[Candidate],
    groups: list[str] | None,
    seed: int,
    fractions: Sequence[float],
    held_out: list[str],
    multi_label: bool,
    notes: list[str],
) -> list[str]:
    """Return the split of each clip: held out, stated, or drawn."""
    stated = [clip.split for clip in candidates if clip.split is not None]
    if held_out and groups is None:
        raise ValueError(
            f"held_out={first_few(held_out)} names a group, so group must say how a path tells its group, or a column "
            "group of clips.csv must name it"
        )
    # Without groups each file is a group, because two parts of one recording are no independent test.
    units = groups or [plain_id(root, clip.path) for clip in candidates]
    held_out = [plain_name(name) for name in held_out]

    if stated and not held_out:
        if groups is not None:
            sides: dict[str, set[str]] = defaultdict(set)
            for unit, split in zip(units, stated, strict=True):
                sides[unit].add(split)
            torn = sorted(unit for unit, names in sides.items() if len(names) > 1)
            if torn:
                notes.append(f"the stated split puts {len(torn)} groups on two sides: {first_few(torn)}")
        return stated

    shares = tuple(fractions)
    if len(shares) != 3 or not all(share >= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise ValueError(f"fractions are {shares}; give three shares train, val, test that sum to 1, train above 0")
    if held_out:
        if unknown := [name for name in held_out if name not in units]:
            raise ValueError(
                f"no clip is of the group {first_few(unknown)}; the groups are {first_few(sorted(set(units)), 50)}"
            )
        if len(set(held_out)) == len(set(units)):
            raise ValueError(f"held_out names all groups ({first_few(held_out)}), so that none is left to train on")
        if stated:
            notes.append(f"held_out={first_few(held_out)} replaces the split that the data state")
        shares = (shares[0], shares[1], 0.0)  # the held-out groups are the test split; val is drawn from the rest

    kinds: dict[str, set[str]] = defaultdict(set)
    for unit, clip in zip(units, candidates, strict=True):
        if unit not in held_out:
            kinds[unit].update(clip.labels)
    strata: dict[str, list[str]] = defaultdict(list)
    for unit, labels in kinds.items():
        # Groups of one class are drawn class by class, so that each split gets every class; all others together.
        strata[next(iter(labels)) if len(labels) == 1 and not multi_label else ""].append(unit)
    drawn = dict.fromkeys(held_out, "test")
    for members in strata.values():
        members.sort(key=lambda unit: hashlib.sha256(f"{seed}/{unit}".encode()).digest())
        names = [name for name, count in zip(SPLITS, _counts(len(members), shares), strict=True) for _ in range(count)]
        drawn |= dict(zip(members, names, strict=True))
    return [drawn[unit] for unit in units]


def _counts(number: int, shares: tuple[float, ...]) -> list[int]:
    """Split a number by shares: largest remainders first; where possible no split with a share stays empty."""
    shares_now = np.array(shares) / sum(shares)
    counts = np.floor(shares_now * number + 1e-9).astype(int)
    order = (0, 2, 1)  # train first, then test, because a model can be trained without val
    for i in sorted(order, key=lambda i: (counts[i] - shares_now[i] * number, order.index(i)))[: number - counts.sum()]:
        counts[i] += 1
    for i in order:
        if shares_now[i] and not counts[i] and counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[i] += 1
    return [int(count) for count in counts]


def groups_of(root: Path, paths: list[Path], pattern: str) -> list[str]:
    """Return the text that the group of ``pattern`` matches in each path relative to the root."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"group is {pattern!r}, which is no regular expression: {error}") from None
    if expression.groups != 1:
        raise ValueError(f"group is {pattern!r} with {expression.groups} groups; it needs exactly one, in parentheses")
    groups, unmatched = [], []
    for path in paths:
        name = plain_path(relative_name(root, path))
        match = expression.search(name)
        if match is None or match[1] is None:
            unmatched.append(name)
        else:
            groups.append(plain_name(match[1]))
    if unmatched:
        raise ValueError(
            f"group {pattern!r} matches no group in {len(unmatched)} of {len(paths)} paths: {first_few(unmatched)}"
        )
    return groups
