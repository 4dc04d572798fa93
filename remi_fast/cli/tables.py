"""Tables that several commands print."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remi_fast.retrieval.compare import Difference


def metrics_table(columns: Mapping[str, Mapping[str, float]], title: str | None = None) -> None:
    """Print metrics (rows) of several splits, groups or settings (columns)."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", *columns, title=title)
    names = next(iter(columns.values()), {})
    for name in names:
        values = [column.get(name, float("nan")) for column in columns.values()]
        table.add_row(name, *(f"{v:,.0f}" if name == "users" else f"{v:.4f}" for v in values))
    Console().print(table)


def differences_table(differences: "Mapping[str, Difference]", first: str, second: str) -> None:
    """Print the metrics (rows) of two runs, and their difference."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", first, second, "difference", "95 % interval", "p")
    for name, d in differences.items():
        table.add_row(
            name,
            f"{d.first:.4f}",
            f"{d.second:.4f}",
            f"{d.difference:+.4f}",
            f"{d.low:+.4f} to {d.high:+.4f}",
            f"{d.p:.4f}",
        )
    Console().print(table)
