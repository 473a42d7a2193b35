from rich.console import Console

def show(record, console: Console) -> None:
    console.print(record.table.to_string())
