"""Pages made from other files, and links that leave docs/.

Links are written as they work on GitHub. What lies outside docs/ and is linked to, or is in the
navigation, is shown under repository/, or as the page that is made from it. A link to a file that
does not exist fails the build.
"""

import os.path
import re
from pathlib import Path

import generated
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = "repository"
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "bench/README.md")
MADE = {
    "configuration.md": generated.configuration,
    "commands.md": generated.commands,
    "benchmarks.md": generated.benchmarks,
}
MADE_FROM = {
    ROOT / "remi_fast/config.py": "configuration.md",
    ROOT / "remi_fast/cli": "commands.md",
    ROOT / "README.md": "benchmarks.md",
    ROOT / "bench/results": "benchmarks.md",
}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and every file outside docs/ that a page links to."""
    for name, make in MADE.items():
        files.append(File.generated(config, name, content=make()))
    outside = {ROOT / name for name in PAGES}
    for file in files.documentation_pages():
        outside |= _outside(file.content_string, _place(file.src_uri))
    for name in PAGES:
        outside |= _outside((ROOT / name).read_text(), ROOT / name)
    for path in sorted(outside):
        uri = f"{OUTSIDE}/{path.relative_to(ROOT)}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between docs/ and the rest into links of the site."""
    source = _place(page.file.src_uri)
    here = os.path.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        target = (source.parent / match[1]).resolve()
        uri: str | Path
        if target in MADE_FROM:
            uri = MADE_FROM[target]
        elif target.is_relative_to(ROOT / "docs"):
            uri = target.relative_to(ROOT / "docs")
        elif target.is_relative_to(ROOT):
            uri = OUTSIDE / target.relative_to(ROOT)
        else:
            return match[1]
        return os.path.relpath(uri, here or ".")

    return _LINK.sub(link, markdown)


def _place(uri: str) -> Path:
    """Where the text of a page stands in the repository, or would stand."""
    within, _, rest = uri.partition("/")
    return ROOT / rest if within == OUTSIDE else ROOT / "docs" / uri


def _outside(text: str, source: Path) -> set[Path]:
    """The files outside docs/ that a text at `source` links to."""
    targets = {(source.parent / link).resolve() for link in _LINK.findall(text)}
    return {
        target
        for target in targets
        if target.is_file()
        and target not in MADE_FROM
        and target.is_relative_to(ROOT)
        and not target.is_relative_to(ROOT / "docs")
    }
