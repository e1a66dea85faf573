"""Variables and parameters are named for what they hold: names that fit anything stay rare."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "vidact"
VAGUE = {
    *("found", "words", "place", "asked", "one", "shown", "known", "kept", "done", "begin", "what", "given", "said"),
    *("taken", "seen", "other", "look", "own", "there", "told", "wanted", "answer", "here", "who", "made"),
}
MOST_PER_1000_LINES = 2


def assigned_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that is assigned, bound by a loop, ``with``, comprehension or pattern, or declared as a parameter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def count(package: Path = PACKAGE) -> tuple[Counter[str], int, list[str]]:
    names, lines, places = Counter(), 0, []
    for path in sorted(package.rglob("*.py")):
        source = path.read_text()
        lines += len(source.splitlines())
        for name, line in assigned_names(ast.parse(source)):
            if name in VAGUE:
                names[name] += 1
                places.append(f"{path.relative_to(package.parent)}:{line}: {name}")
    return names, lines, places


def test_vague_names_are_rare() -> None:
    names, lines, places = count()
    assert 1000 * names.total() / lines < MOST_PER_1000_LINES, "\n".join(places)


if __name__ == "__main__":
    names, lines, places = count()
    print(*places, sep="\n")
    print(f"{names.total()} in {lines} lines, {1000 * names.total() / lines:.2f} per 1000: {dict(names.most_common())}")
