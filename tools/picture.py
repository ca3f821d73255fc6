"""Draw the picture of the chat at work that the README and the PDF show: book/_static/chat.png.

It is the front page of the built site in Chromium, with the model's own answers to these messages, by the first seed. Run it again
when the model, its rules or the looks of the chat change."""
import argparse
import io
import pathlib
import sys

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from browser import NO_CHROMIUM, chromium, find_chromium, serve  # noqa: E402

SAID = [None, "I went hiking with my dog.", "Do you have any pets?"]  # None: what stands in the line at first


def take(browser, address):
    """The chat after these messages, as the bytes of a PNG."""
    page = browser.new_context(viewport={"width": 1180, "height": 900}, device_scale_factor=1.5).new_page()
    page.goto(f"{address}book/index.html", wait_until="networkidle")
    for text in SAID:
        if text:
            page.fill(".chat-message", text)
        page.press(".chat-message", "Enter")
        page.wait_for_function("document.querySelector('.chat').dataset.state === 'ready'")
    page.evaluate("document.activeElement.blur()")
    return page.locator("section.chat").screenshot()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=pathlib.Path, default=ROOT / "_build" / "html", help="the built pages (by default those of `make book`)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "book" / "_static" / "chat.png")
    arguments = parser.parse_args()
    program = find_chromium() or sys.exit(NO_CHROMIUM)
    if not (arguments.site / "chat").is_dir():
        sys.exit(f"there is no chat in {arguments.site}: build the pages first (`make book`)")
    with serve(arguments.site) as address, chromium(program) as browser:
        picture = take(browser, address)
    few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    few.save(arguments.out, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
