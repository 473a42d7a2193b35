"""A published set from the Hugging Face hub, through the library `datasets`, and only when asked for.

The trap: `datasets` runs no code of a repository any more. A set that the hub has as a script alone is not had from
there, and the registry names no place for it.
"""

from collections.abc import Iterator

from workbench.published.registry import Layout, Part, PublishedSet
from workbench.published.tables import Row


def hub_rows(entry: PublishedSet, part: Part) -> tuple[Iterator[Row], Layout]:
    """The rows of a part, and the layout that they have. Downloads them, or takes what was downloaded before."""
    name = entry.full_name(part)
    if part.hub is None:
        raise ValueError(
            f"{name} is not read from the hub: get it from {entry.home}, and pass path= or root="
        )
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{name} from the hub takes the library datasets: pip install '.[data]'") from error
    repository, configuration, split = part.hub
    try:
        found = datasets.load_dataset(repository, configuration, split=split)
    except Exception as error:
        gated = "accept its terms there and log in first (hf auth login), or " if entry.gated else ""
        error.add_note(f"{name}, {repository} on the hub: {gated}get it from {entry.home}, and pass path=")
        raise
    columns = found.column_names
    for layout in entry.layouts:
        if not layout.headerless and layout.fits(columns, ".parquet"):
            return (Row(number, None, fields) for number, fields in enumerate(found, start=1)), layout
    raise ValueError(
        f"{name}, {repository} on the hub: got columns {', '.join(columns)}, expected {entry.expected}: it has "
        f"changed; get it from {entry.home}, and pass path="
    )
