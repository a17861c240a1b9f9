"""`make test-lab`: notebooks 01, 04 and 07 in JupyterLab, in a headless Chromium, at smoke size, in a scratch folder.

For each: open it (nothing to save), Run All and Stop (one line), Run All six times, one changed parameter, save and reopen.
`python -m tests.lab 01` tries one. Needs Chromium; takes minutes.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.browser import Browser
from xlm_utils.draw.canvas import chrome
from xlm_utils.study import ROOT
from xlm_utils.study.notebook import STOPPED

# notebook → a parameter, another value of it, and the last code cell that imports anything large before a long one
TRIED = {"01_curate": ("drive_dir", '"{scratch}"', 3), "04_generate": ("max_new_tokens", "6", 5), "07_figures": ("judge", '"proxy"', 3)}
ALL = sorted(path.stem for path in (ROOT / "notebooks").glob("0[1-7]*.ipynb"))
# the notebook on screen, and what its code cells show
JS = """
const panel = jupyterapp.shell.currentWidget, app = jupyterapp.commands;
const code = () => [...panel.content.model.cells].filter(cell => cell.type === 'code');
const outputs = () => code().flatMap(cell => cell.outputs.toJSON());
const errors = () => outputs().filter(output => output.output_type === 'error').map(output => output.traceback);
const until = async (what, seconds) => {
  for (let i = 0; i < 10 * seconds; i++) { if (await what()) return true; await new Promise(done => setTimeout(done, 100)); }
  throw new Error('waited in vain for ' + what);
};
"""


def page(browser: Browser, address: str) -> None:
    """JupyterLab, once its server answers and its page has started."""
    for _ in range(90):
        if browser.js("return typeof jupyterapp !== 'undefined'"):
            return
        if "/lab" not in browser.js("return location.href") or browser.js("return !document.title.includes('JupyterLab')"):
            browser.call("Page.navigate", url=address)
        time.sleep(2)
    raise AssertionError(f"JupyterLab did not come up: {browser.js('return document.title + location.href')}")


def open_notebook(browser: Browser, name: str) -> None:
    """Open it, wait for its kernel, and see that nothing is to be saved."""
    browser.js(f"await jupyterapp.restored; await jupyterapp.commands.execute('docmanager:open', {{path: 'notebooks/{name}.ipynb'}})")
    browser.js(JS + "await panel.context.ready; await panel.sessionContext.ready; "
               "await until(() => panel.sessionContext.session?.kernel?.status === 'idle', 90)")  # fmt: skip
    time.sleep(2)  # the kernel's word on its language comes last
    assert not browser.js(JS + "return panel.context.model.dirty"), f"{name}: unsaved as soon as it is opened"


def run_all(browser: Browser, name: str, how: str) -> None:
    """Run All, without an error."""
    started = time.monotonic()
    browser.js(JS + "app.execute('notebook:clear-all-cell-outputs'); const last = code().at(-1), before = last.executionCount; "
               "app.execute('notebook:run-all-cells'); await until(() => errors().length || (last.executionCount ?? before) !== before, 600); "
               "await until(() => panel.sessionContext.session.kernel.status === 'idle', 60)")  # fmt: skip
    errors = browser.js(JS + "return errors()")
    assert not errors, f"{name}, {how}: {errors}"
    print(f"  {how}: {time.monotonic() - started:.0f} s", flush=True)


def stop(browser: Browser, name: str) -> None:
    """Stop while cells run, behind those that import (no import survives a Stop halfway): one line, and no further cell."""
    browser.js(JS + "app.execute('notebook:clear-all-cell-outputs'); app.execute('notebook:run-all-cells'); "
               "await until(() => code()[2].outputs.length > 0, 120); "
               f"await until(() => code()[{TRIED[name][2]}].executionCount && code()[{TRIED[name][2]}].executionState === 'idle', 120)")  # fmt: skip
    time.sleep(0.5)
    browser.js(JS + "await app.execute('notebook:interrupt-kernel'); await until(() => errors().length > 0, 120); "
               "await until(() => panel.sessionContext.session.kernel.status === 'idle', 120)")  # fmt: skip
    assert browser.js(JS + "return errors()") == [[STOPPED]]
    print("  stopped, in one line", flush=True)


def try_notebook(browser: Browser, name: str, scratch: Path) -> None:
    """All that `make test-lab` tries, for one notebook."""
    print(name, flush=True)
    parameter, value, _ = TRIED[name]
    open_notebook(browser, name)
    stop(browser, name)
    run_all(browser, name, "resumed")
    for _ in range(5):  # some kernels (ipykernel 7.0 to 7.3) leave requests lying, in one run of ten
        run_all(browser, name, "run again")
    widest = browser.js(JS + "return Math.max(...[...panel.node.querySelectorAll('.jp-OutputArea-output img')].map(img => img.naturalWidth), 0)")
    assert widest <= 1220, widest
    before = browser.js(JS + "return code()[1].sharedModel.getSource()")
    after = re.sub(rf"^{parameter} = \S+", f"{parameter} = {value.format(scratch=scratch / 'elsewhere')}", before, flags=re.MULTILINE)
    assert after != before
    browser.js(JS + f"code()[1].sharedModel.setSource({json.dumps(after)})")
    run_all(browser, name, f"with another {parameter}")
    assert parameter != "drive_dir" or any((scratch / "elsewhere").rglob("vocabulary.csv"))
    browser.js(JS + f"code()[1].sharedModel.setSource({json.dumps(before)})")
    run_all(browser, name, "as before")
    shown = browser.js(JS + "await app.execute('docmanager:save'); const n = outputs().length; await app.execute('application:close'); return n")
    assert "widget-view" not in (scratch / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    open_notebook(browser, name)
    assert browser.js(JS + "return outputs().length") == shown
    assert "Error displaying widget" not in browser.js("return document.body.innerText")
    print("  saved and reopened", flush=True)


def main(wanted: list[str]) -> None:
    """JupyterLab on a scratch copy of the notebooks; those between the tried ones run by themselves."""
    if not chrome():
        sys.exit("no Chrome: install chromium, or run plotly_get_chrome")
    names = [name for name in TRIED if not wanted or name[:2] in wanted]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        scratch = Path(temporary)
        shutil.copytree(ROOT / "notebooks", scratch / "notebooks", ignore=shutil.ignore_patterns(".*"))
        for folder in ("xlm_utils", "data", "docs"):
            (scratch / folder).symlink_to(ROOT / folder)
        cache = os.environ.get("XLM_CACHE", str(ROOT / "data" / "cache"))
        environment = {**os.environ, "XLM_SMOKE": "1", "XLM_HOME": str(scratch / "home"), "XLM_CACHE": cache, "PYTHONPATH": str(ROOT)}
        environment["JUPYTERLAB_WORKSPACES_DIR"] = str(scratch / "workspaces")  # a person's own open tabs would be opened, too, and lost
        python = [sys.executable, "-m"]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        settings = " ".join(re.findall(r"^LAB [:+]= (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))  # as `make lab` has them
        lab = [*python, "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=",
               *settings.split(), f"--ServerApp.root_dir={scratch}", "--LabApp.expose_app_in_browser=True"]  # fmt: skip
        log = (scratch / "log").open("w")
        server = subprocess.Popen(lab, env=environment, cwd=scratch, stdout=log, stderr=log)
        browser = None
        try:
            browser = Browser(scratch / "chrome")
            page(browser, f"http://localhost:{port}/lab")
            for name in ALL[: ALL.index(names[-1]) + 1]:
                if name in names:
                    try_notebook(browser, name, scratch)
                elif len(names) > 1 or names[0] != "04_generate":  # 04 makes for itself what it lacks
                    notebook = str(scratch / "notebooks" / f"{name}.ipynb")
                    papermill = [*python, "papermill", "--no-progress-bar", notebook, os.devnull]
                    subprocess.run(papermill, env=environment, check=True, capture_output=True)
        finally:
            for process in filter(None, (server, browser and browser.process)):
                process.terminate()
                process.wait()
            log.close()


if __name__ == "__main__":
    main(sys.argv[1:])
