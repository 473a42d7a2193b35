"""The tour as a person meets it: opened in JupyterLab and as an app, run, clicked, lassoed, turned and typed into.

Screenshots, in light and dark, are written to pytest's folder of the run: they are for eyes.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browsing import ABSENT, HERE, Sight, free_port, looking, serving

from workbench.serving import app_command, app_surroundings, lab_command

ROOT = Path(__file__).parents[1]
COURSE = ROOT / "notebooks"
TOUR = "00_tour.ipynb"
TOKEN = "of-this-run"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(ABSENT), reason=ABSENT),
]

sys.path.insert(0, str(COURSE))


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A course of its own: what was written in the clone's stays out of it, and it out of the clone's."""
    import build

    tour = build.read(COURSE / "00_tour.py")
    (tmp_path / "course" / "app").mkdir(parents=True)
    (tmp_path / "course" / "checks").symlink_to(COURSE / "checks")
    nbformat.write(tour, tmp_path / "course" / TOUR)
    nbformat.write(build.for_app(tour), tmp_path / "course" / "app" / TOUR)
    return tmp_path / "course"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels import this clone, whatever else is installed, and take one core."""
    paths = [str(ROOT), str(COURSE), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def lab(course: Path, tmp_path: Path) -> Iterator[Sight]:
    """The tour, run from top to bottom in JupyterLab."""
    port = free_port()
    told = ("--LabApp.expose_app_in_browser=True", f"--IdentityProvider.token={TOKEN}")
    command = lab_command(course, TOUR, f"--port={port}", "--no-browser", "--allow-root", *told)
    with serving(command, f"http://{HERE}:{port}/api", tmp_path / "home"), looking() as sight:
        sight.page.goto(f"http://{HERE}:{port}/lab/tree/{TOUR}?token={TOKEN}")
        sight.wait(lambda: sight.page.evaluate(_KERNEL), "a kernel")

        def run_all() -> None:
            sight.page.evaluate("() => { window.ran = null; window.jupyterapp.commands.execute("
                                "'notebook:run-all-cells').then(well => { window.ran = well; }); }")  # fmt: skip
            sight.wait(lambda: sight.page.evaluate("() => window.ran !== null"), "all cells", patience=600)
            assert sight.page.evaluate("() => window.ran"), "every cell ran, the claims among them"

        sight.start(run_all)
        yield sight


@pytest.fixture
def app(course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sight]:
    """The same, without exercises, as an app."""
    port = free_port()
    for name, value in app_surroundings(course / "app", COURSE).items():
        monkeypatch.setenv(name, value)
    command = app_command(course / "app" / TOUR, port=port, browser=False)
    with serving(command, f"http://{HERE}:{port}/static/none", tmp_path / "home"), looking() as sight:

        def open_page() -> None:
            sight.page.goto(f"http://{HERE}:{port}/", timeout=600_000, wait_until="commit")
            sight.wait(
                lambda: sight.page.locator(".widget-textarea").count() == 2, "all handles", patience=600
            )

        sight.start(open_page)
        yield sight


def test_the_tour_in_jupyterlab(lab: Sight, tmp_path: Path) -> None:
    page = lab.page

    def show(name: str) -> Any:
        """The output of the cell that ends in this name, scrolled to: what is far away is not in the page."""
        page.evaluate(_SCROLL, name)
        page.wait_for_timeout(1000)
        return page.evaluate_handle(_OUTPUT, name).as_element()

    asks_for_news = page.locator(".jp-toast-button", has_text="No")
    if asks_for_news.count():
        asks_for_news.first.click()
    first = in_kernel(lab, "list(picker.layers)")
    assert len(first) > 1

    picker = show("picker")
    lab.wait(lambda: picker.query_selector(".js-plotly-plot"), "the picture")
    page.screenshot(path=tmp_path / "lab-light.png")
    steady(page, picker)
    pick(lab, picker, lambda: in_kernel(lab, "list(picker.layers)"))
    lab.wait(lambda: "layers = [3, 4, 5]" in picker.inner_text(), "the layers beside the picture")
    page.screenshot(path=tmp_path / "lab-lassoed.png")

    turn_and_type(lab, show, tmp_path / "lab")
    assert in_kernel(lab, "dial.answer.plan.alpha") < 0.1
    assert in_kernel(lab, "lens.prompt") == TYPED

    page.evaluate(
        "() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
    )
    lab.wait(lambda: page.locator('body[data-jp-theme-light="false"]').count(), "the dark theme")
    for name in ("picker", "dial", "lens"):
        show(name)
        page.screenshot(path=tmp_path / f"lab-dark-{name}.png")
    lab.require_quiet()


def test_the_tour_as_an_app(app: Sight, tmp_path: Path) -> None:
    page = app.page
    boxes = page.locator(".widget-vbox").filter(has=page.locator(".js-plotly-plot"))
    app.wait(lambda: boxes.count() >= 3, "three widgets with pictures")
    assert page.locator(".jp-InputArea-editor:visible").count() == 0, "an app shows no code"
    assert "Exercise" not in page.locator("body").inner_text()

    def show(name: str) -> Any:
        box = boxes.nth(("picker", "dial", "lens").index(name))
        box.scroll_into_view_if_needed()
        page.wait_for_timeout(1000)
        return box.element_handle()

    picker = show("picker")
    page.screenshot(path=tmp_path / "app-light.png")
    steady(page, picker)
    pick(app, picker, lambda: json.loads(picker.inner_text().split("layers = ")[1].split("\n")[0]))
    turn_and_type(app, show, tmp_path / "app")
    page.screenshot(path=tmp_path / "app-whole.png", full_page=True)
    app.require_quiet()


TYPED = "How do I bake bread?"


def turn_and_type(sight: Sight, show: Callable[[str], Any], shots: Path) -> None:
    """α to nothing and the reply is the unsteered one; a prompt typed, and its words stand on the axis."""
    page, dial = sight.page, show("dial")
    before, after = replies(dial)
    assert before != after, "steered"
    handle = dial.query_selector(".noUi-handle").bounding_box()
    start = dial.query_selector(".noUi-base").bounding_box()
    middle = handle["y"] + handle["height"] / 2
    page.mouse.move(handle["x"] + handle["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(start["x"] + 1, middle, steps=8)
    page.mouse.up()
    sight.wait(lambda: replies(dial) == [before, before], "the unsteered reply twice")
    page.screenshot(path=f"{shots}-dial.png")

    lens = show("lens")
    box = lens.query_selector("textarea")
    box.fill(TYPED)
    box.press("Tab")
    words = TYPED.removesuffix("?").split()
    sight.wait(lambda: set(words) <= set(lens.inner_text().split()), "the words on the axis")
    page.screenshot(path=f"{shots}-lens.png")


def replies(dial: Any) -> list[str]:
    """What stands under "unsteered" and "steered": read at one go, since the text is replaced while one looks."""
    return dial.evaluate(_REPLIES)


def pick(sight: Sight, picker: Any, layers: Callable[[], list[int]]) -> None:
    """One layer by a click in the upper panel, three by a lasso in the lower one."""
    page = sight.page
    page.mouse.click(*spot(page, picker, panel=0, layer=4))
    sight.wait(lambda: layers() == [4], "layer 4")
    lasso(page, picker, panel=1, first=3, last=5)
    sight.wait(lambda: layers() == [3, 4, 5], "layers 3 to 5")


def lasso(page: Any, widget: Any, *, panel: int, first: int, last: int) -> None:
    """Drag around the marks of these layers, from below them, where the panel is."""
    left, top = spot(page, widget, panel=panel, layer=first)
    right, _ = spot(page, widget, panel=panel, layer=last)
    corners = [(left - 15, top + 25), (left - 15, top - 12), (right + 15, top - 12), (right + 15, top + 25)]
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in [*corners[1:], corners[0]]:
        page.mouse.move(*corner, steps=6)
    page.mouse.up()


def steady(page: Any, widget: Any) -> None:
    """Wait until what is above has stopped growing: who clicks before that clicks beside it."""
    before = None
    while (now := spot(page, widget, panel=0, layer=0)) != before:
        before = now
        page.wait_for_timeout(3000)


def spot(page: Any, widget: Any, *, panel: int, layer: int) -> tuple[float, float]:
    """Where on the screen a mark is."""
    x, y = page.evaluate(_SPOT, [widget.query_selector(".js-plotly-plot"), panel, layer])
    return x, y


def in_kernel(sight: Sight, expression: str) -> Any:
    """The value of an expression in the kernel of the notebook that JupyterLab shows."""
    said = sight.page.evaluate(_EXECUTE, f"import json as _json; print('value:' + _json.dumps({expression}))")
    assert "value:" in said, said
    return json.loads(said.split("value:", 1)[1])


_REPLIES = """box => [...box.querySelectorAll('.widget-html-content div div div')]
    .map(cell => cell.innerText.split('\\n').slice(1).join('\\n'))"""
_KERNEL = "() => !!window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
_EXECUTE = """async code => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const future = kernel.requestExecute({code, store_history: false, silent: false});
    let said = '';
    future.onIOPub = message => {
        if (message.header.msg_type === 'stream') said += message.content.text;
        if (message.header.msg_type === 'error') said += message.content.traceback.join('\\n');
    };
    await future.done;
    return said;
}"""
_CELL = """const cells = window.jupyterapp.shell.currentWidget.content;
    const at = cells.widgets.findIndex(cell => cell.model.type === 'code'
        && cell.model.sharedModel.source.trim().split('\\n').pop() === name);"""
_SCROLL = f"async name => {{ {_CELL} await cells.scrollToItem(at, 'start'); }}"
_OUTPUT = f"name => {{ {_CELL} return cells.widgets[at].node.querySelector('.jp-OutputArea-output'); }}"
_SPOT = """([plot, panel, layer]) => {
    const trace = plot._fullData.filter(one => one.mode === 'lines+markers')[panel];
    const shown = plot._fullLayout;
    const x = shown[trace.xaxis.replace('x', 'xaxis')], y = shown[trace.yaxis.replace('y', 'yaxis')];
    const box = plot.getBoundingClientRect(), mark = Array.from(trace.x).indexOf(layer);
    return [box.left + x._offset + x.l2p(trace.x[mark]), box.top + y._offset + y.l2p(trace.y[mark])];
}"""
