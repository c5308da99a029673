"""Pages of the documentation site that lie outside docs/: a hook of mkdocs.yml.

README.md becomes the first page, and the other texts beside it get pages, too. A link to a file
outside docs/, such as params.yaml, opens a copy of the file. The decisions join the navigation by
themselves.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = {"README.md": "index.md"}
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#]+)(?=[)#])")


def on_config(config: MkDocsConfig) -> None:
    """Add all decisions to the navigation, in their order."""
    folder = Path(config.docs_dir) / "decisions"
    names = sorted(path.name for path in folder.glob("[0-9]*.md"))
    nav = config.nav
    assert nav is not None  # mkdocs.yml has one
    nav.append({"Decisions": [f"decisions/{name}" for name in ("README.md", *names)]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages beside docs/, and each file outside docs/ to which a page links."""
    root = Path(config.docs_dir).parent
    for name in PAGES:
        files.append(File.generated(config, _place(name), content=(root / name).read_text()))
    for page in [page for page in files if page.src_uri.endswith(".md")]:
        for target in LINK.findall(page.content_string):
            path = _path(page.src_uri, target)
            if (root / path).is_file() and _place(path) not in files.src_uris:
                file = File.generated(config, _place(path), abs_src_path=str(root / path))
                files.append(file)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write each link as one between places of the site."""
    here = posixpath.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        return posixpath.relpath(_place(_path(page.file.src_uri, match[1])), here or ".")

    return LINK.sub(link, markdown)


def _path(page: str, target: str) -> str:
    """The path in the checkout to which a link of a page leads."""
    outside = page in {_place(name) for name in PAGES}
    folder = Path("/") if outside else Path("/docs", page).parent
    return str((folder / target).resolve().relative_to("/"))


def _place(path: str) -> str:
    """The place in the site of a file of the checkout."""
    return TOP.get(path, path.removeprefix("docs/"))
