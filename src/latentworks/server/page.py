"""The pages at / and /docs, from the files in pages/."""

from pathlib import Path

from fastapi import APIRouter, Response

FOLDER = Path(__file__).parent / "pages"
FILES = {
    "": "index.html",
    "page.css": "page.css",
    "page.js": "page.js",
    "docs": "docs.html",
    "docs.js": "docs.js",
}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

router = APIRouter()


def _add(path: str, file: Path) -> None:
    content, media_type = file.read_bytes(), TYPES[file.suffix]

    @router.get(f"/{path}", include_in_schema=False)
    async def answer() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})


for path, name in FILES.items():
    _add(path, FOLDER / name)
