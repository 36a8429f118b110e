"""Chromium without a window, for pages on disk."""

import importlib.util
import json
import shutil
from pathlib import Path

CHROMIUM, DRIVER = (
    next(filter(None, map(shutil.which, names)), None)
    for names in (("chromium", "chromium-browser"), ("chromedriver",))
)
LACKS = [
    what
    for what, found in {
        "chromium (apt-get install chromium)": CHROMIUM,
        "chromedriver (apt-get install chromium-driver)": DRIVER,
        "selenium (pip install -e '.[test]')": importlib.util.find_spec("selenium"),
    }.items()
    if not found
]
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:", "devtools:")


class Page:
    """A page in a browser of its own.

    Args:
        width: of the window in pixels.
        dark: whether the user prefers dark pages.
    """

    def __init__(self, width: int = 1280, dark: bool = False):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})  # as a window in front
        self.driver.set_script_timeout(120)
        self.resize(width, dark)

    def resize(self, width: int, dark: bool = False, height: int = 900) -> None:
        """Take another width of the window, and light or dark colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.execute_async_script(  # colours that are still on their way have no contrast to measure
            "Promise.all(document.getAnimations().map(one => one.finished)).then(arguments[arguments.length - 1])"
        )

    def open(self, path: Path) -> "Page":
        """Open a file."""
        self.driver.get(path.resolve().as_uri())
        return self

    def run(self, script: str, *arguments):
        """Return what a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def text(self, id: str) -> str:
        """Return the text of an element."""
        return self.run("return document.getElementById(arguments[0]).textContent", id)

    def choose(self, id: str, value: object) -> None:
        """Give a select or a slider a value, as a user does."""
        script = (
            "const at = document.getElementById(arguments[0]); at.value = arguments[1];"
            "for (const name of ['input', 'change']) at.dispatchEvent(new Event(name, {bubbles: true}))"
        )
        self.run(script, id, str(value))

    def press(self, *keys: str) -> None:
        """Press keys, with the focus where it is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def complaints(self) -> list[str]:
        """Return what the console has said since it was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return which addresses of a network the page has asked for since it was asked last."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(LOCAL)]

    def picture(self, path: Path, selector: str | None = None) -> None:
        """Save a picture of the page, from an element on."""
        if selector:
            self.run("document.querySelector(arguments[0]).scrollIntoView()", selector)
        self.driver.save_screenshot(str(path))

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()
