"""A headless Chromium on servers of our own: what a person sees and does in a notebook, and what leaves the machine.

The trap: a page that asks some other machine for a script looks right wherever there is a network. Here every request
to anywhere else is stopped, and remembered.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ABSENT = (
    "playwright is not installed: pip install playwright"
    if importlib.util.find_spec("playwright") is None
    else "no Chromium on this machine: apt-get install chromium"
    if CHROMIUM is None
    else ""
)
"""Why nothing can be looked at here; empty where it can."""
HERE = "127.0.0.1"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
BENIGN = ("ResizeObserver loop", "setData is not a function")
"""Said where nothing is wrong: by browsers, about layout that needed another round; by plotly's renderer in Voilà, when
it would keep a still of a picture in the notebook, which an app has none of.
"""

STILLBORN = "[anywidget] Failed to initialize model"


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind((HERE, 0))
        return int(sock.getsockname()[1])


@contextmanager
def serving(command: Sequence[str], address: str, home: Path, *, patience: float = 120) -> Iterator[None]:
    """Run a server until the block ends. Its configuration, its log and what it remembers stay in `home`."""
    home.mkdir(parents=True, exist_ok=True)
    folders = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    surroundings = {f"JUPYTER_{name}": str(home / name.lower()) for name in folders}
    surroundings |= {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"), "TQDM_DISABLE": "1",
    }  # fmt: skip
    log = home / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, env=os.environ | surroundings, stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
        try:
            _wait_for(address, server, log, patience)
            yield
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_for(address: str, server: "subprocess.Popen[bytes]", log: Path, patience: float) -> None:
    # Without a proxy, whatever the machine's settings say: it is this machine that is asked.
    opener, end = build_opener(ProxyHandler({})), time.monotonic() + patience
    while time.monotonic() < end and server.poll() is None:
        try:
            opener.open(address, timeout=5).close()
            return
        except HTTPError:
            return  # there is nothing at that address, says somebody who is there
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"no answer from {address}:\n{log.read_text(errors='replace')[-3000:]}")


@dataclass
class Sight:
    """One page, and what it did: hosts that it asked for besides this machine, and errors that it raised."""

    page: Any
    left: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def require_quiet(self) -> None:
        """Fail if anything left the machine, or the page raised an error."""
        assert self.left == [], "requests that left the machine"
        assert self.errors == [], "errors of the page"

    def wait(self, found: Callable[[], Any], what: str, *, patience: float = 180) -> Any:
        """What `found` returns, once that is something."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if result := found():
                return result
            self.page.wait_for_timeout(200)
        shot = Path(tempfile.gettempdir()) / "workbench-waited.png"
        self.page.screenshot(path=shot)
        raise AssertionError(
            f"waited {patience:g} s for {what}; the page then: {shot}; errors: {self.errors}"
        )

    def start(self, show: Callable[[], None], *, attempts: int = 5) -> None:
        """Show the handles, anew where one of them never came to life.

        anywidget gives every model two seconds to load its code, plotly's five megabytes, and gives it up after that. A
        machine that is busy starting the rest may need longer: whoever meets that runs the cell again.
        """
        for _ in range(attempts):
            show()
            self.page.wait_for_timeout(3000)
            if not any(STILLBORN in error for error in self.errors):
                return
            self.errors = [error for error in self.errors if STILLBORN not in error]
        raise AssertionError(f"{attempts} times a handle did not come to life within anywidget's two seconds")


@contextmanager
def looking(*, width: int = 1300, height: int = 1000) -> Iterator[Sight]:
    """A page in a fresh browser, which reaches this machine only."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without a proxy for this machine: what goes out is to be seen where it leaves.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--no-proxy-server"])
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            sight = Sight(page)

            def pass_or_stop(route: Any) -> None:
                to = urlsplit(route.request.url)
                if to.scheme in ("data", "blob", "about") or to.hostname == HERE:
                    route.continue_()
                else:
                    sight.left.append(route.request.url)
                    route.abort()

            page.route("**/*", pass_or_stop)
            page.on("websocket", lambda ws: urlsplit(ws.url).hostname == HERE or sight.left.append(ws.url))
            page.on("pageerror", lambda error: _note(sight, str(error)))
            yield sight
        finally:
            browser.close()


def _note(sight: Sight, error: str) -> None:
    if not any(benign in error for benign in BENIGN):
        sight.errors.append(error)
