"""Write a trained model as files for other programs: item vectors, a faiss index, the user encoder,
the raw item ids, and a manifest with checksums. docs/export.md describes them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remi_fast.export.manifest import FORMATS

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from remi_fast.export import Export


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="run folder made by `remi-fast train`")
    parser.add_argument("--out", required=True, help="folder to make")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=tuple(FORMATS),
        default=list(FORMATS),
        help="what to write; onnx and faiss need extras (pip install 'remi-fast[export,faiss]')",
    )
    parser.add_argument(
        "--faiss", help="factory string of the index, such as HNSW32 (default: Flat, exact)"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def run(arguments: Any) -> int:
    """Export, then print what was written."""
    from remi_fast.export import export_run

    export = export_run(
        Path(arguments.run), Path(arguments.out), arguments.formats, arguments.faiss
    )
    if arguments.json:
        print(json.dumps(export.manifest))
    else:
        _print(export)
    return 0


def _print(export: "Export") -> None:
    from rich.console import Console
    from rich.table import Table

    manifest = export.manifest
    differences = manifest["largest_difference"]
    table = Table("file", "bytes", "difference from the model")
    for name, listed in manifest["files"].items():
        seen = f"{differences[name]:.1e}" if name in differences else ""
        table.add_row(name, f"{listed['bytes']:,}", seen)
    Console().print(table)
    print(
        f"{export.path}: {manifest['model']['name']}, {manifest['items']:,} items, "
        f"{export.num_interests} interests of {export.dim} dimensions"
    )
