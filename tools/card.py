"""Draw the picture that stands beside a link to the book elsewhere: book/_static/card.png, 1200 by 630.

It is made from the book's own logo and road, in Chromium, with few colours so that it stays small. Run it again when one of
them changes; the title is that of _config.yml."""
import argparse
import io
import pathlib
import sys

import yaml
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from browser import NO_CHROMIUM, chromium, find_chromium  # noqa: E402

PAGE = """<!doctype html><meta charset="utf-8"><style>
  body {{ margin: 0; width: 1200px; height: 630px; display: flex; align-items: center; background: #fff; color: #14181e;
         font-family: "DejaVu Sans", sans-serif; border-bottom: 16px solid #0072b2; box-sizing: border-box; }}
  .words {{ width: 600px; padding-left: 72px; }}
  .words svg {{ width: 132px; }}
  h1 {{ font-size: 54px; line-height: 1.18; margin: 34px 0 26px; letter-spacing: -0.01em; }}
  p {{ font-size: 27px; line-height: 1.4; color: #48566b; margin: 0; }}
  .road {{ flex: 1; padding: 0 30px 0 44px; }}
  .road svg {{ width: 490px; }}
  .road .soft {{ fill: #48566b; }}
</style><div class="words">{logo}<h1>{title}</h1><p>Build a chatbot, from entropy to the key&#8209;value cache</p></div>{road}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    program = find_chromium()
    if program is None:
        sys.exit(NO_CHROMIUM)
    static = ROOT / "book" / "_static"
    title = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["title"]
    html = PAGE.format(title=title, **{name.split(".")[0]: (static / name).read_text(encoding="utf-8") for name in ("logo.svg", "road.html")})
    with chromium(program) as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 630})
        page.set_content(html)
        picture = page.screenshot()
    few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(static / "card.png", optimize=True)
    print(f"book/_static/card.png: {(static / 'card.png').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
