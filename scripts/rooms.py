"""Draw the rooms of src/latentworks from their imports: docs/pictures/rooms.png, CONTRIBUTING.md.

`python scripts/rooms.py` writes both. A room is a folder of the package, or a module beside them;
pipeline/ is one, too. It stands above all the rooms that it imports.
"""

import ast
from functools import cache
from itertools import permutations
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
DOC, PICTURE = ROOT / "CONTRIBUTING.md", ROOT / "docs/pictures/rooms.png"
START, END = "<!-- written by scripts/rooms.py -->", "<!-- up to here -->"
FOUNDATION = {"config", "errors", "system"}
WIDTH, HEIGHT = 1.55, 0.62  # of a box, in inches
ACROSS, UP = 1.95, 1.15  # from one box to the next


# --- imports -------------------------------------------------------------------------------------


def file_of(module: str) -> Path:
    path = (ROOT if module.split(".")[0] == "pipeline" else SRC) / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def exists(module: str) -> bool:
    return module.split(".")[0] in ("latentworks", "pipeline") and file_of(module).is_file()


@cache
def modules() -> tuple[str, ...]:
    """All modules of latentworks and pipeline, with full names."""
    found = []
    for base, files in (
        (SRC, (SRC / "latentworks").rglob("*.py")),
        (ROOT, (ROOT / "pipeline").glob("*.py")),
    ):
        names = (".".join(file.relative_to(base).with_suffix("").parts) for file in files)
        found += [name.removesuffix(".__init__") for name in names]
    return tuple(sorted(found))


@cache
def imports(module: str) -> frozenset[str]:
    """The modules that `module` imports anywhere in its code, ours and others, by full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file_of(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            ours = {name for name in names if exists(name)}
            found |= ours if len(ours) == len(names) else {node.module, *ours}
    return frozenset(found)


def room_of(module: str) -> str:
    return module.removeprefix("latentworks.").split(".")[0]


def rooms() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    found: dict[str, set[str]] = {}
    for module in modules():
        if module != "latentworks":
            room = room_of(module)
            others = {room_of(name) for name in imports(module) if exists(name)}
            found.setdefault(room, set()).update(others - {room, "latentworks"})
    return found


def levels(imported: dict[str, set[str]]) -> dict[str, int]:
    """How many rooms stand below each room, one upon the other."""

    @cache
    def level(room: str) -> int:
        return max((level(other) + 1 for other in imported[room]), default=0)

    return {room: level(room) for room in imported}


def reduced(imported: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that follow from others: a room above imports those below, too."""

    @cache
    def below(room: str) -> frozenset[str]:
        return frozenset(imported[room]).union(*(below(other) for other in imported[room]))

    return {
        room: {each for each in others if not any(each in below(other) for other in others)}
        for room, others in imported.items()
    }


def purpose(room: str) -> str:
    """The first line of the room's docstring, without its full stop."""
    module = room if room == "pipeline" else f"latentworks.{room}"
    text = ast.get_docstring(ast.parse(file_of(module).read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].removesuffix(".")


# --- the table and the picture -------------------------------------------------------------------


def table() -> str:
    """Markdown: a row for each room, the lowest first."""
    imported = rooms()
    level = levels(imported)
    rows = ["| level | room | holds |", "|---|---|---|"]
    for room in sorted(imported, key=lambda each: (level[each], each)):
        is_folder = (
            file_of(room if room == "pipeline" else f"latentworks.{room}").stem == "__init__"
        )
        name = f"`{room}/`" if is_folder else f"`{room}.py`"
        rows.append(f"| {level[room] + 1} | {name} | {purpose(room)} |")
    return "\n".join(rows)


def draw() -> None:
    """The rooms as boxes; an arrow leads from a room to one that it imports.

    FOUNDATION has no arrows, since nearly every room imports it.
    """
    upper = {
        room: others - FOUNDATION for room, others in rooms().items() if room not in FOUNDATION
    }
    level, arrows = levels(upper), reduced(upper)
    lines = [[room for room in upper if level[room] == n] for n in range(max(level.values()) + 1)]
    places = _places(lines, arrows)
    widest = max(abs(x) for x in places.values()) + ACROSS / 2
    figure, axes = plt.subplots(figsize=(2 * widest, UP * (len(lines) + 1)))
    _box(axes, 0, -UP, ", ".join(sorted(FOUNDATION)), 2 * widest - ACROSS + WIDTH)
    for room, x in places.items():
        y = UP * level[room]
        _box(axes, x, y, room, WIDTH)
        for other in arrows[room]:
            rise = level[room] - level[other]
            bent = 0.0 if rise == 1 else 0.12 * (1 if places[other] >= x else -1)
            axes.annotate(
                "",
                (places[other] - (places[other] - x) / 12, UP * level[other] + HEIGHT / 2),
                (x + (places[other] - x) / 12, y - HEIGHT / 2),
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": "#7a869c",
                    "shrinkA": 0,
                    "shrinkB": 1,
                    "connectionstyle": f"arc3,rad={bent}",
                },
                zorder=1,
            )
    axes.set_xlim(-widest, widest)
    axes.set_ylim(-1.5 * UP, UP * (len(lines) - 0.5))
    axes.axis("off")
    figure.savefig(PICTURE, dpi=100, bbox_inches="tight", metadata={"Software": None})


def _box(axes: Axes, x: float, y: float, text: str, width: float) -> None:
    style = "round,pad=0,rounding_size=0.08"
    corner = (x - width / 2, y - HEIGHT / 2)
    axes.add_patch(
        FancyBboxPatch(corner, width, HEIGHT, style, fc="#eef3fb", ec="#3c5a99", zorder=2)
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=12, zorder=3)


def _places(lines: list[list[str]], arrows: dict[str, set[str]]) -> dict[str, float]:
    """Where each room stands on its line: in the order in which the arrows are shortest."""
    places: dict[str, float] = {}

    def length(found: dict[str, float]) -> float:
        return sum((x - places[other]) ** 2 for room, x in found.items() for other in arrows[room])

    for line in lines:
        left = -ACROSS * (len(line) - 1) / 2
        orders = permutations(sorted(line))
        found = [{room: left + ACROSS * n for n, room in enumerate(order)} for order in orders]
        best: dict[str, float] = min(found, key=length)
        places |= best
    return places


def main() -> None:
    text = DOC.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    DOC.write_text(f"{before}{START}\n\n{table()}\n\n{END}{after}", encoding="utf-8")
    draw()


if __name__ == "__main__":
    main()
