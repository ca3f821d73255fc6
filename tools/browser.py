"""The built pages in headless Chromium: where it is, how the pages are served to it, and what a page weighs."""
import contextlib
import functools
import gzip
import http.server
import pathlib
import re
import shutil
import threading

NO_CHROMIUM = "NO CHROMIUM ON THIS MACHINE"
FLAGS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
COMPRESSED = re.compile(r"text/|application/(javascript|json|xml)|image/svg")  # what a web server such as GitHub Pages compresses
WEIGHED = {}


def find_chromium():
    """The program, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@contextlib.contextmanager
def chromium(program):
    """A browser that asks nothing of the network by itself."""
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *FLAGS])
        yield browser
        browser.close()


class Pages(http.server.SimpleHTTPRequestHandler):
    """Files as GitHub Pages serves them: the site lies in a folder `prefix`, and 404.html answers for what is missing."""
    prefix, more = "/", {}  # more: headers

    def end_headers(self):
        for name, value in self.more.items():
            self.send_header(name, value)
        super().end_headers()

    def translate_path(self, path):
        inside = path.startswith(self.prefix)
        return super().translate_path(path.removeprefix(self.prefix.rstrip("/")) if inside else "/outside-the-site")

    def send_error(self, code, message=None, explain=None):
        page = pathlib.Path(self.directory, "404.html")
        if code != 404 or not page.exists():
            return super().send_error(code, message, explain)
        body = page.read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(folder, prefix="/", headers=None):
    """The folder over http on this machine, with some headers more; the address that it is at."""
    handler = functools.partial(type("Site", (Pages,), {"prefix": prefix, "more": headers or {}}), directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{prefix}"
    finally:
        server.shutdown()
        server.server_close()


def weight_of(responses):
    """The bytes of what was loaded, what is text compressed by gzip.

    What every page loads is compressed once: it is known again by its address, length and date."""
    total = 0
    for response in responses:
        if response.status == 200 and not response.url.startswith("data:"):
            known = response.url, response.headers.get("content-length"), response.headers.get("last-modified")
            if known not in WEIGHED or None in known:
                body = response.body()
                WEIGHED[known] = len(gzip.compress(body, 6) if COMPRESSED.match(response.headers.get("content-type", "")) else body)
            total += WEIGHED[known]
    return total


def weigh(browser, address):
    """Bytes that reach a reader who opens the page for the first time."""
    context = browser.new_context()
    page, responses = context.new_page(), []
    page.on("response", lambda response: responses.append(response))
    page.goto(address, wait_until="networkidle")
    total = weight_of(responses)
    context.close()
    return total
