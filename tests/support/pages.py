"""The commands that the README and the pages of docs/ show."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]


def commands(page: str) -> list[list[str]]:
    """Every ``vidact`` command line in the page's bash blocks, without comments and continuation marks."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index("vidact") + 1 :] for line in words if "vidact" in line[:3]]
