"""results.json: what the tools found about a run, one section a tool, each with the command that made it.

    {"test": {"figures": {"test_top1": 0.95}, "command": "vidact test --config runs/a/config.yaml", "views": "1x1"}}
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

from vidact.files import write_json


def save_results(run: Path | str, figures: dict[str, Any], command: str, section: str = "test", **extra: Any) -> Path:
    """Write one section of the run's results.json; other sections stay, this one is replaced whole.

    A section is replaced and not mended, so that every figure in it comes from the command beside it. ``extra`` are
    facts such as ``views="1x1"``. Numbers that JSON cannot hold (NaN, infinity) become null. Creates the folder.
    """
    clash = [name for name in ("figures", "command") if name in extra]
    if clash:
        raise ValueError(f"{clash[0]!r} is a name that every section of results.json has; call the fact something else")
    path = Path(run) / "results.json"
    results = load_results(run) if path.exists() else {}
    results[section] = {"figures": _plain(figures), "command": command, **_plain(extra)}
    write_json(path, results)
    return path


def load_results(run: Path | str) -> dict[str, Any]:
    """The run's results.json: sections by name, each with its ``figures``, its ``command`` and further facts."""
    path = Path(run) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `vidact test` writes it")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); mend it, or delete it and test the run again") from None
    if not isinstance(results, dict) or not all(isinstance(section, dict) for section in results.values()):
        raise ValueError(f"{path} does not hold sections of figures; delete it and test the run again")
    return results


def command_line() -> str:
    """The command of this process, as a shell would take it from the folder that it runs in."""
    script, arguments = Path(sys.argv[0]), sys.argv[1:]
    if script.name == "__main__.py":
        words = ["python", "-m", script.parent.name]
    elif script.suffix == ".py":
        inside = script.is_absolute() and script.is_relative_to(Path.cwd())
        words = ["python", str(script.relative_to(Path.cwd()) if inside else script)]
    else:
        words = [script.name or "python"]
    return shlex.join(words + arguments)


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it; numpy and torch numbers and arrays become Python's."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
