"""Draw the rooms of src/latentworks from their imports: docs/pictures/rooms.png, CONTRIBUTING.md.

`python scripts/rooms.py` writes both. A room is a folder of the package, or a module beside them;
pipeline/ is one, too. It stands above all the rooms that it imports.
"""

import ast
from functools import cache
from itertools import accumulate, pairwise
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
ACROSS, UP = 1.9, 1.1  # from one box to the next
PAGE = 15.0  # inches
SWEEPS = 40
GREY = "#7a869c"


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
    """Return the level of each room: one above the highest room that it imports."""

    @cache
    def level(room: str) -> int:
        return max((level(other) + 1 for other in imported[room]), default=0)

    return {room: level(room) for room in imported}


def reduced(imported: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out arrows that follow from others: a room above imports those below, too."""

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
    """Draw the rooms as boxes, with an arrow from each room to those that it imports.

    FOUNDATION has no arrows, since nearly every room imports it. An arrow that passes a line has a
    place on that line, between the boxes.
    """
    upper = {
        room: others - FOUNDATION for room, others in rooms().items() if room not in FOUNDATION
    }
    level, arrows = levels(upper), reduced(upper)
    ways = {
        (room, other): [room, *(f"{room}>{other}>{n}" for n in passed), other]
        for room, others in arrows.items()
        for other in sorted(others)
        for passed in [range(level[room] - 1, level[other], -1)]
    }
    on_line = level | {
        point: int(point.rsplit(">")[-1]) for way in ways.values() for point in way[1:-1]
    }
    places = _places(on_line, list(ways.values()))
    right = max(places.values()) + ACROSS / 2
    height = max(level.values())
    figure, axes = plt.subplots(figsize=(right, UP * (height + 2)))
    _box(axes, right / 2 - ACROSS / 4, -UP, ", ".join(sorted(FOUNDATION)), right - ACROSS / 2)
    for room in upper:
        _box(axes, places[room], UP * level[room], room, WIDTH)
    for (room, other), way in ways.items():
        points = [(places[room], UP * level[room] - HEIGHT / 2)]
        for point in way[1:-1]:
            x, y = places[point], UP * on_line[point]
            points += [(x, y + HEIGHT / 2), (x, y - HEIGHT / 2)]
        points.append((places[other], UP * level[other] + HEIGHT / 2))
        axes.plot(*zip(*points[:-1], strict=True), color=GREY, lw=1.0, zorder=1)
        head = {"arrowstyle": "-|>", "color": GREY, "lw": 1.0, "shrinkA": 0, "shrinkB": 1}
        axes.annotate("", points[-1], points[-2], arrowprops=head, zorder=1)
    axes.set_xlim(-ACROSS / 2, right)
    axes.set_ylim(-1.5 * UP, UP * (height + 0.5))
    axes.axis("off")
    figure.savefig(PICTURE, dpi=90, bbox_inches="tight", metadata={"Software": None})


def _box(axes: Axes, x: float, y: float, text: str, width: float) -> None:
    style = "round,pad=0,rounding_size=0.08"
    corner = (x - width / 2, y - HEIGHT / 2)
    axes.add_patch(
        FancyBboxPatch(corner, width, HEIGHT, style, fc="#eef3fb", ec="#3c5a99", zorder=2)
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=12, zorder=3)


def _places(on_line: dict[str, int], ways: list[list[str]]) -> dict[str, float]:
    """Return the place of each box and each passing arrow on its line.

    Sugiyama's method: again and again, each line is put in the order of the means of the
    neighbours on the lines below and above.
    """
    lines = [
        sorted(each for each in on_line if on_line[each] == n)
        for n in range(max(on_line.values()) + 1)
    ]
    near: dict[str, set[str]] = {point: set() for point in on_line}
    for way in ways:
        for one, other in pairwise(way):
            near[one].add(other)
            near[other].add(one)
    places = {point: x for line in lines for point, x in _spread(line).items()}
    for sweep in range(SWEEPS):
        for line in lines if sweep % 2 == 0 else lines[::-1]:
            means = {
                point: _mean([places[each] for each in near[point]] or [places[point]])
                for point in line
            }
            places |= _spread(sorted(line, key=lambda point: (means[point], point)))
    return places


def _spread(line: list[str]) -> dict[str, float]:
    """Place a line from left to right, in the middle of the page; passing arrows take less room."""
    widths = [ACROSS / 4 if ">" in point else ACROSS for point in line]
    left = (PAGE - sum(widths)) / 2
    ends = accumulate(widths)
    return {
        point: left + end - width / 2 for point, end, width in zip(line, ends, widths, strict=True)
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    text = DOC.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    DOC.write_text(f"{before}{START}\n\n{table()}\n\n{END}{after}", encoding="utf-8")
    draw()


if __name__ == "__main__":
    main()
