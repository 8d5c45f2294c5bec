"""A real Chromium, driven over chromedriver's HTTP protocol with nothing but the standard library.

Knows nothing of relatch. Every wait has a deadline, and the reason why it waited is in its error.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Space": " ", "Left": "\ue012", "Right": "\ue014", "Home": "\ue011", "Escape": "\ue00c"}


class Late(Exception):
    """Something that was waited for did not come."""


class Browser:
    def __init__(self, width=1200, height=900):
        driver = shutil.which("chromedriver") or "chromedriver"
        self.profile = tempfile.mkdtemp(prefix="relatch-page-")
        # What the driver says goes to a file: a pipe that nobody reads would stop it in time.
        self.said = os.path.join(self.profile, "chromedriver.log")
        with open(self.said, "wb") as log:
            self.driver = subprocess.Popen([driver, "--port=0"], stdout=log, stderr=log, start_new_session=True)
        try:
            self.base = f"http://127.0.0.1:{self._port()}"
            options = {"args": [*FLAGS, f"--user-data-dir={self.profile}/profile", f"--window-size={width},{height}"]}
            if os.getuid() == 0:
                options["args"].append("--no-sandbox")
            if binary := shutil.which("chromium"):
                options["binary"] = binary
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}}, seconds=60)
        except BaseException:
            self._end_driver()
            raise
        self.session = f"/session/{answer['sessionId']}"

    def _port(self):
        end = time.monotonic() + 20
        while time.monotonic() < end and self.driver.poll() is None:
            with open(self.said) as said:
                if found := re.search(r"started successfully on port (\d+)", said.read()):
                    return int(found[1])
            time.sleep(0.02)
        raise Late(f"chromedriver did not start: {open(self.said).read()[-500:]}")

    def _ask(self, verb, path, body=None, seconds=20):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as refused:
            said = json.load(refused)["value"]
            raise Late(f"{verb} {path}: {said['error']}: {said['message'][:400]}") from None

    def ask(self, verb, path, body=None):
        return self._ask(verb, self.session + path, body)

    def cdp(self, command, **params):
        """A command of Chromium's own protocol."""
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    # --- going places and looking -----------------------------------------------------------------------------------

    def go(self, url):
        self.ask("POST", "/url", {"url": url})

    def run(self, script, *args):
        """The value of a function body in the page."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.textContent ?? null", selector)

    def until(self, what, script, *args, seconds=20):
        """Waits for a true value of a function body in the page."""
        end = time.monotonic() + seconds
        while True:
            if value := self.run(script, *args):
                return value
            if time.monotonic() > end:
                raise Late(f"{what} (waited {seconds} s); the page says: {self.text('body')[:1500]}")
            time.sleep(0.02)

    def shot(self, path, whole=False):
        """A picture of what is seen, or of the whole page."""
        if whole:
            height = self.run("return document.documentElement.scrollHeight")
            width = self.run("return innerWidth")
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            data = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        else:
            data = self.ask("GET", "/screenshot")
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    # --- hands ------------------------------------------------------------------------------------------------------

    def press(self, *keys):
        """Presses keys one after another, as a keyboard does."""
        actions = []
        for key in keys:
            key = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def tab_to(self, selector, most=200):
        """Goes there with the Tab key alone."""
        for _ in range(most):
            if self.run("return document.activeElement?.matches(arguments[0]) ?? false", selector):
                return
            self.press("Tab")
        raise Late(f"the Tab key does not lead to {selector} within {most} steps")

    def screen(self, width, height, phone=False):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def light(self, scheme):
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    # --- the end ----------------------------------------------------------------------------------------------------

    def complaints(self):
        """What the browser's console said since it was asked last."""
        return [f"{entry['level']} {entry['message']}" for entry in self.ask("POST", "/se/log", {"type": "browser"})]

    def close(self):
        try:
            self.ask("DELETE", "")
        except (Late, OSError):
            pass
        self._end_driver()

    def _end_driver(self):
        self.driver.terminate()
        try:
            self.driver.wait(10)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            self.driver.wait()
        shutil.rmtree(self.profile, ignore_errors=True)
