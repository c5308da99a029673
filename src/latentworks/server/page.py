"""The pages at / and /docs, from the files in pages/."""

from pathlib import Path

from fastapi import FastAPI, Response

FOLDER = Path(__file__).parent / "pages"
FILES = {
    "": "index.html",
    "page.css": "page.css",
    "page.js": "page.js",
    "docs": "docs.html",
    "docs.js": "docs.js",
}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (  # the pages load and send nothing elsewhere, and no other page can frame them
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def add_pages(app: FastAPI) -> None:
    for path, name in FILES.items():
        _add(app, f"/{path}", FOLDER / name)


def _add(app: FastAPI, path: str, file: Path) -> None:
    content, media_type = file.read_bytes(), TYPES[file.suffix]

    async def page() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    app.add_api_route(path, page, methods=["GET", "HEAD"])
