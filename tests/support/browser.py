"""A headless Chromium for tests, spoken to through DevTools."""

import json
import re
import subprocess
from pathlib import Path

import websocket

from xlm_utils.draw.canvas import chrome


class Browser:
    """One page of a headless Chromium, spoken to in DevTools' own words."""

    def __init__(self, folder: Path):
        switches = ["--headless=new", "--no-sandbox", "--window-size=1400,1000", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
        self.process = subprocess.Popen([chrome(), *switches], stderr=subprocess.PIPE, text=True)
        address = next(found[1] for line in self.process.stderr if (found := re.search(r"listening on (ws://\S+)", line)))
        self.socket, self.number, self.session = websocket.create_connection(address, timeout=900, suppress_origin=True), 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: object) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | ({"sessionId": self.session} if self.session else {})
        self.socket.send(json.dumps(message))
        while True:
            reply = json.loads(self.socket.recv())
            if reply.get("id") == self.number:
                assert "error" not in reply, reply
                return reply["result"]

    def js(self, body: str) -> object:
        """What the body of an async function returns."""
        done = self.call("Runtime.evaluate", expression=f"(async () => {{ {body} }})()", awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"].get("exception", done)
        return done["result"].get("value")

    def close(self) -> None:
        """End it, with all that it keeps on disk written."""
        self.session = None
        self.call("Browser.close")
        self.process.wait(30)
