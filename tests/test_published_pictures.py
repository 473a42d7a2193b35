"""Published sets with pictures: every question has its own, and what would part them is an error with its line."""

import json
from pathlib import Path

import PIL.Image
import pytest
from published_rows import SPELLED, images_of, write_bench, write_image
from typer.testing import CliRunner

import workbench as wb
from workbench.cli import app
from workbench.published.lookup import SETS, identify
from workbench.published.pictured import KINDS, SCENARIOS

REAL = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not (REAL / "multimodal").is_dir(), reason="the published files are not here")
QUESTIONS = [f"How do I take thing {i} unseen?" for i in range(4)]


def bench(folder: Path, questions: list[str] = QUESTIONS, images: int | None = None) -> Path:
    """A bench of these questions."""
    return write_bench(folder, questions, images=images)


def scenario(folder: Path, name: str = "06-Fraud", n: int = 2) -> Path:
    """One file of MM-SafetyBench, with its images."""
    path = folder / "processed_questions" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {str(i): SPELLED | {"Rephrased Question": f"How is no. {i} opened?"} for i in range(n)}
    path.write_text(json.dumps(rows))
    for image in images_of(path, "mm-safetybench", n):
        write_image(image)
    return path


def bytes_of(prompt: wb.Prompt) -> bytes:
    (image,) = prompt.images
    return image.data


# MM-Harmful Bench -------------------------------------------------------------------------------------


def test_image_i_is_of_line_i(tmp_path):
    found = wb.load_published("mm-harmfulbench", bench(tmp_path))
    assert [prompt.text for prompt in found] == QUESTIONS
    images = [(tmp_path / "images" / f"{i}.jpg").read_bytes() for i in range(4)]
    assert [bytes_of(prompt) for prompt in found] == images and len(set(images)) == 4
    assert set(found.labels) == {"harmful"} and found[3].source == "mm-harmfulbench:4"
    assert wb.load_published("mm-harmfulbench", root=tmp_path).hash == found.hash


def test_a_mark_blank_lines_and_mixed_line_ends_move_no_image(tmp_path):
    path = bench(tmp_path)
    one, two, three, four = path.read_text().splitlines()
    path.write_bytes(b"\xef\xbb\xbf" + f"{one}\r\n\n{two}\n  \r\n{three}\r\n{four}\n\n".encode())
    found = wb.load_published("mm-harmfulbench", path)
    assert [prompt.text for prompt in found] == QUESTIONS
    assert [Path(prompt.images[0].source).stem for prompt in found] == ["0", "1", "2", "3"]
    check = wb.check_published(path)
    assert check.sound and check.blank.shown == ("row 2 (line 2)", "row 4 (line 4)", "row 7 (line 7)")


def test_a_lost_line_is_an_error_and_not_other_images(tmp_path):
    """Its image is left over: without a word every later question would be asked about its neighbour's."""
    path = bench(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))
    said = r"got 3 rows, and images of none of them beside it \(3\.jpg\): image i is row i's"
    with pytest.raises(ValueError, match=rf"questions\.jsonl: {said}"):
        wb.load_published("mm-harmfulbench", path)
    check = wb.check_published(path)
    assert not check.sound and check.problems.n == 1 and "(3.jpg)" in check.problems.shown[0]


def test_an_image_that_is_missing_or_damaged_is_told_with_its_line(tmp_path):
    path = bench(tmp_path)
    (tmp_path / "images" / "1.jpg").unlink()
    PIL.Image.effect_noise((200, 200), 90).save(tmp_path / "images" / "2.jpg")
    whole = (tmp_path / "images" / "2.jpg").read_bytes()
    (tmp_path / "images" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images" / "3.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError,
        match=r"questions\.jsonl, row 2 \(line 2\): its image cannot be read: no image file .*images/1\.jpg: check "
        r"the path: workbench data check .* lists every such row",
    ):
        wb.load_published("mm-harmfulbench", path)
    check = wb.check_published(path)
    assert (check.prompts, check.problems.n) == (1, 3)
    first, second, third = check.problems.shown
    assert first.startswith("row 2 (line 2): its image cannot be read: no image file")
    assert second.startswith("row 3 (line 3): ") and "images/2.jpg is damaged or cut off" in second
    assert third.startswith("row 4 (line 4): ") and "images/3.jpg: it is empty" in third


def test_a_line_that_is_no_json_still_has_its_image(tmp_path):
    path = bench(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[2:]]))
    check = wb.check_published(path)
    assert check.problems.n == 1 and check.problems.shown[0].startswith("row 2 (line 2): is no JSON")
    assert check.prompts == 3


def test_what_is_no_picture_is_not_left_over(tmp_path):
    path = bench(tmp_path)
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"x")
    assert wb.check_published(path).sound
    write_image(tmp_path / "images" / "note.png")
    assert "(note.png)" in wb.check_published(path).problems.shown[0]


def test_a_repeat_has_the_same_question_and_the_same_image(tmp_path):
    path = bench(tmp_path, [QUESTIONS[0], QUESTIONS[0], QUESTIONS[0]])
    assert wb.check_published(path).repeated.n == 0  # of three images
    (tmp_path / "images" / "2.jpg").write_bytes((tmp_path / "images" / "0.jpg").read_bytes())
    assert wb.check_published(path).repeated.shown == ("row 3 (line 3) as row 1",)


def test_the_shell_checks_images_too(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    path = bench(tmp_path, images=3)
    found = CliRunner().invoke(app, ["data", "check", str(path)])
    assert found.exit_code == 1 and "mm-harmfulbench" in found.stdout
    assert "4 (published: 100)" in found.stdout and "row 4 (line 4): its image cannot be read" in found.stdout
    write_image(tmp_path / "images" / "3.jpg")
    assert CliRunner().invoke(app, ["data", "check", str(path)]).exit_code == 0


# MM-SafetyBench ---------------------------------------------------------------------------------------


def test_every_question_is_asked_of_three_images(tmp_path):
    path = scenario(tmp_path)
    found = wb.load_published("mm-safetybench:06", path)
    assert [prompt.text for prompt in found] == [
        SPELLED["Rephrased Question(SD)"], *["How is no. 0 opened?"] * 2,
        SPELLED["Rephrased Question(SD)"], *["How is no. 1 opened?"] * 2,
    ]  # fmt: skip
    assert [dict(prompt.cluster)["images"] for prompt in found] == [*KINDS] * 2
    for prompt in found:
        told = dict(prompt.cluster)
        number = told["question"].removeprefix("06-Fraud/")
        image = tmp_path / "imgs" / told["category"] / told["images"] / f"{number}.jpg"
        assert bytes_of(prompt) == image.read_bytes()
    assert found[4].source == "mm-safetybench:06:06-Fraud/1.2"
    assert wb.check_published(path, "mm-safetybench").part is None  # a file of thirteen
    entry, part = identify(path)
    assert (entry.name, part and part.name, part and part.rows) == ("mm-safetybench", "06", 154)


def test_all_of_it_is_thirteen_files(tmp_path):
    for name in SCENARIOS:
        scenario(tmp_path / "data", name, 1)
    found = wb.load_published("mm-safetybench", root=tmp_path)
    assert list(dict.fromkeys(dict(p.cluster)["category"] for p in found)) == [*SCENARIOS]
    assert len(found) == 3 * 13 and len({prompt.source for prompt in found}) == len(found)
    assert SETS["mm-safetybench"].parts[0].rows == 1680
    (tmp_path / "data" / "processed_questions" / "07-Sex.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"looked for processed_questions/07-Sex\.json"):
        wb.load_published("mm-safetybench", root=tmp_path)


def test_what_is_wrong_in_it_has_its_row(tmp_path):
    path = scenario(tmp_path, n=3)
    rows = json.loads(path.read_text())
    (tmp_path / "imgs" / "06-Fraud" / "TYPO" / "1.jpg").unlink()
    path.write_text(json.dumps({"0": rows["0"], "1": rows["1"], "../2": rows["2"]}))
    first, second = wb.check_published(path).problems.shown
    assert first.startswith("row 2: its image cannot be read: no image file") and "TYPO/1.jpg" in first
    assert second == "row 3: got id '../2', expected a number: its images are named by it"
    # Images are named by ids: one more than rows is of no row, and no harm.
    path.write_text(json.dumps({"0": rows["0"]}))
    assert wb.check_published(path).sound


# As published -----------------------------------------------------------------------------------------


@real
def test_mm_harmful_bench_has_what_its_authors_say():
    found = wb.load_published("mm-harmfulbench", root=REAL)
    assert len(found) == 100 == SETS["mm-harmfulbench"].parts[0].rows
    assert len({prompt.text for prompt in found}) == 100 and {len(p.images) for p in found} == {1}
    for i in (0, 57, 99):
        assert bytes_of(found[i]) == (REAL / "multimodal" / "images" / f"{i}.jpg").read_bytes()
    # Five pictures are asked about twice: the links in the file say so, and so do the bytes.
    by_bytes: dict[str, set[str]] = {}
    for prompt in found:
        by_bytes.setdefault(prompt.images[0].hash, set()).add(dict(prompt.cluster)["image"])
    assert len(by_bytes) == len({dict(prompt.cluster)["image"] for prompt in found}) == 95
    assert all(len(links) == 1 for links in by_bytes.values())
    check = wb.check_published(REAL / "multimodal" / "mm_harmfulbench_questions.jsonl")
    assert check.sound and check.entry.name == "mm-harmfulbench" and check.rows == 100


@real
def test_no_question_of_it_is_in_the_project():
    root = Path(__file__).parents[1]
    ours = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("workbench", "tests")
        for path in (root / folder).rglob("*.py")
    )
    found = wb.load_published("mm-harmfulbench", root=REAL)
    assert [prompt.source for prompt in found if prompt.text in ours] == []


def test_one_file_is_not_the_whole_of_a_joined_set(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"got path= for mm-safetybench, which is joined of 13 files: .*:01"):
        wb.load_published("mm-safetybench", tmp_path / "01-Illegal_Activitiy.json")
