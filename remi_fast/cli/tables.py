"""Tables that several commands print."""


def metrics_table(columns: dict[str, dict[str, float]]) -> None:
    """Print metrics (rows) of several splits (columns)."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", *columns)
    names = next(iter(columns.values()), {})
    for name in names:
        values = [column.get(name, float("nan")) for column in columns.values()]
        table.add_row(name, *(f"{v:,.0f}" if name == "users" else f"{v:.4f}" for v in values))
    Console().print(table)
