"""Which room may import which, and that no modules import each other in a circle: read from the sources alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("runtime", "training", "export", "serving", "benchmarks", "tools", "tests")
ALLOWED = {
    "runtime": ("runtime",),
    "training": ("training", "runtime"),
    # Parity is measured on renders, in the landmarks' NME.
    "export": (
        "export",
        "runtime",
        "training.model",
        "training.config",
        "training.checkpoint",
        "training.synthetic",
        "training.evaluation.metrics",
    ),
    "serving": ("serving", "runtime"),
    "benchmarks": ("benchmarks", "serving", "export", "training", "runtime"),
    "tools": ("tools", "export", "training", "runtime"),
    "tests": ROOMS,
}
"""Prefixes of the modules that each room may import, of this project's."""
NEVER = {"runtime": ("torch", "matplotlib", "scipy.spatial"), "serving": ("torch",)}
"""Foreign packages that a room does without, even inside a function."""
Modules = dict[str, set[str]]


def imports_of(source: str, known: set[str]) -> Iterator[str]:
    """Modules that a source imports, also inside functions, but not those for its types alone."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        waiting += ast.iter_child_nodes(node)


def read_modules(files: dict[str, str]) -> Modules:
    """What each module imports, by name, of sources by module name."""
    return {name: set(imports_of(source, set(files))) for name, source in files.items()}


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@pytest.fixture(scope="module")
def modules() -> Modules:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return read_modules({module_name(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files})


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def strangers(modules: Modules) -> list[str]:
    """Imports that no room is allowed."""
    lines = []
    for name, imported in modules.items():
        room = name.partition(".")[0]
        ours = {other for other in imported if other.partition(".")[0] in ROOMS}
        bad = {other for other in ours if not within(other, ALLOWED[room])}
        bad |= {other for other in imported if within(other, NEVER.get(room, ()))}
        lines += [f"{name} imports {other}" for other in sorted(bad)]
    return lines


def circles(modules: Modules) -> list[list[str]]:
    """Groups of modules that import each other, in whichever way (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(modules[name] & modules.keys()):
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1 or name in modules[name]:
                found.append(sorted(group))

    for name in modules:
        if name not in index:
            visit(name)
    return found


def test_rooms_import_what_the_design_allows(modules: Modules) -> None:
    assert len(modules) > 100
    assert strangers(modules) == []


def test_no_modules_import_each_other_in_a_circle(modules: Modules) -> None:
    assert circles(modules) == []


def test_a_stranger_and_a_circle_would_be_found() -> None:
    types_alone = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import training.d"
    made = read_modules(
        {
            "runtime.a": "def f():\n    from runtime import b\n    import torch",
            "runtime.b": f"from runtime.c import x\n{types_alone}",
            "runtime.c": "import runtime.a",
            "training.d": "from export.e import y\nimport runtime.a",
            "export.e": "from training.model.cln import CLN\nfrom training.data import points",
        }
    )
    expected = ["runtime.a imports torch", "training.d imports export.e", "export.e imports training.data"]
    assert strangers(made) == expected
    assert circles(made) == [["runtime.a", "runtime.b", "runtime.c"]]
