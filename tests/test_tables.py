"""Files as rows: every format, with the damage that files have, and its place."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from published_rows import write_rows

from workbench.published.tables import open_table


def rows_of(path: Path, **options: object) -> list[tuple[str, dict[str, object] | str]]:
    return [(row.place, row.damage or dict(row.fields)) for row in open_table(path, **options).rows]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = [{"goal": "bake, then\nmend", "target": "NA"}, {"goal": 'a "ring"', "target": "007"}]
    table = open_table(write_rows(tmp_path / f"few{suffix}", rows))
    assert table.columns == ("goal", "target")
    assert [dict(row.fields) for row in table.rows] == rows


def test_a_cell_may_hold_lines_and_the_next_row_still_knows_its_own(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text('goal,target\n"a\nb\nc",x\nd,y\n')
    assert rows_of(path) == [
        ("row 1 (line 2)", {"goal": "a\nb\nc", "target": "x"}),
        ("row 2 (line 5)", {"goal": "d", "target": "y"}),
    ]


@pytest.mark.parametrize("bom", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_part_of_the_first_column(tmp_path: Path, bom: str) -> None:
    path = tmp_path / "few.csv"
    path.write_text("goal,target\nbäke,x\n", encoding=bom)
    assert rows_of(path) == [("row 1 (line 2)", {"goal": "bäke", "target": "x"})]


def test_newlines_of_three_kinds_and_blank_rows(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_bytes(b"goal,target\r\na,b\rc,d\n\r\n , \ne,f")
    table = list(open_table(path).rows)
    assert [row.blank for row in table] == [False, False, True, True, False]
    assert [row.place for row in table] == [f"row {n} (line {n + 1})" for n in range(1, 6)]
    assert dict(table[-1].fields) == {"goal": "e", "target": "f"}


def test_lines_of_text_keep_what_is_in_them(tmp_path: Path) -> None:
    path = tmp_path / "few.txt"
    path.write_bytes('a, "b\u2028c"\r\n\n  d \n'.encode())
    assert rows_of(path) == [
        ("row 1 (line 1)", {"text": 'a, "b\u2028c"'}),
        ("row 2 (line 2)", {"text": ""}),
        ("row 3 (line 3)", {"text": "  d "}),
    ]


def test_tabs_part_the_cells_of_a_tsv(tmp_path: Path) -> None:
    path = tmp_path / "few.tsv"
    path.write_text("goal\ttarget\na, b\tc\n")
    assert rows_of(path) == [("row 1 (line 2)", {"goal": "a, b", "target": "c"})]


def test_rows_that_were_cut_say_so_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("goal,target\na,b\nc\nd,e,f\ng,h\n")
    assert [row for row in rows_of(path) if isinstance(row[1], str)] == [
        ("row 2 (line 3)", "got 1 cells, expected 2, as the header has"),
        ("row 3 (line 4)", "got 3 cells, expected 2, as the header has"),
    ]
    lines = tmp_path / "few.jsonl"
    lines.write_text('{"goal": "a"}\n{"goal": \n\n["a"]\n3\n{"goal": "b"}\n')
    assert rows_of(lines) == [
        ("row 1 (line 1)", {"goal": "a"}),
        ("row 2 (line 2)", "is no JSON: Expecting value, column 9"),
        ("row 3 (line 3)", {}),
        ("row 4 (line 4)", "got a value of type list, expected an object or a text"),
        ("row 5 (line 5)", "got a value of type int, expected an object or a text"),
        ("row 6 (line 6)", {"goal": "b"}),
    ]


def test_a_quote_that_never_closes_is_told_where_it_opens(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text('goal,target\na,b\n"c,d\ne,f\n')
    with pytest.raises(
        ValueError, match=r"few\.csv, row 2 \(line 3\): unexpected end of data: a quote that opens"
    ):
        rows_of(path)
    path.write_text('"goal,target\n')
    with pytest.raises(ValueError, match=r"few\.csv, the header \(line 1\): unexpected end of data"):
        open_table(path)


def test_a_byte_that_is_no_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_bytes(b"goal,target\n" + b"a,b\n" * 5000 + b"caf\xe9,d\n")
    with pytest.raises(
        ValueError, match=r"few\.csv, line 5002: byte 0xe9 is no UTF-8: save the file as UTF-8"
    ):
        rows_of(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
def test_a_file_of_another_encoding_may_have_been_saved_anew(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "few.txt"
    path.write_text("caf\xe9@neutral\n", encoding=encoding)
    assert rows_of(path, fallback="latin-1") == [("row 1 (line 1)", {"text": "caf\xe9@neutral"})]


def test_json_is_a_list_an_object_by_id_or_lines(tmp_path: Path) -> None:
    path = tmp_path / "few.json"
    for text, rows in (
        ('["a", null]', [{"text": "a"}, {"text": None}]),
        ('{"x": {"q": 1}, "y": {"q": 2, "id": "own"}}', [{"id": "x", "q": 1}, {"id": "own", "q": 2}]),
        ('{"q": 1}', [{"q": 1}]),
        ('\n{"q": 1}\n{"q": 2}\n', [{}, {"q": 1}, {"q": 2}]),
        ('{\n"x": {"q": 1}\n}', [{"id": "x", "q": 1}]),
        ("[]", []),
    ):
        path.write_text(text)
        assert [row for _, row in rows_of(path)] == rows
    path.write_text('[{"q": 1},\n{"q": }]')
    with pytest.raises(ValueError, match=r"few\.json, line 2: is no JSON: Expecting value"):
        open_table(path)


def test_what_is_no_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.csv: check the path"):
        open_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"got a file that ends in '\.xlsx', expected \.csv, \.tsv, \.json"):
        open_table(tmp_path / "few.xlsx")
    path = tmp_path / "few.csv"
    path.write_text("goal,goal\na,b\n")
    with pytest.raises(ValueError, match="got two columns 'goal', expected every column once"):
        open_table(path)
    parquet = tmp_path / "few.parquet"
    parquet.write_text("no parquet")
    with pytest.raises(ValueError, match=r"few\.parquet: is no parquet file"):
        open_table(parquet)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"few\.parquet takes pyarrow to be read: pip install '\.\[data\]'"):
        open_table(parquet)


def test_columns_without_a_header_are_named_by_whoever_knows_them(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("Which?,sky\n")
    assert rows_of(path, header=("question", "A")) == [("row 1 (line 1)", {"question": "Which?", "A": "sky"})]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt", ".parquet"])
def test_a_million_rows_pass_through_in_the_memory_of_a_few(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"many{suffix}"
    n = 1_000_000
    with path.open("w", newline="") as file:
        if suffix == ".csv":
            writer = csv.writer(file)
            writer.writerow(["goal", "target"])
            writer.writerows((f"paint boat number {i}", "x") for i in range(n))
        elif suffix == ".jsonl":
            file.writelines(json.dumps({"goal": f"paint boat number {i}"}) + "\n" for i in range(n))
        elif suffix == ".txt":
            file.writelines(f"paint boat number {i}\n" for i in range(n))
    if suffix == ".parquet":
        from pyarrow import table
        from pyarrow.parquet import write_table

        write_table(
            table({"goal": [f"paint boat number {i}" for i in range(n)]}), path, row_group_size=10_000
        )
    code = (
        "import resource, sys\nfrom workbench.published.tables import open_table\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "n = sum(not row.blank for row in open_table(sys.argv[1]).rows)\n"
        "print(n, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    found = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    read, megabytes = map(int, found.stdout.split())
    assert read == n and megabytes < 100
