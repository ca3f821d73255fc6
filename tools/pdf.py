"""Print the whole book as one PDF (`make pdf`): the site's own pages, in the order of _toc.yml, through headless Chromium.

Every page is taken from the built site, so that text, figures and numbers are the same. A title page and a contents with
page numbers come before them, and the folded solutions of exercises come last. The page numbers are those of a first
printing, and the printing is repeated until they hold. Looks are in tools/pdf.css and in book/_static/book.css."""
import argparse
import contextlib
import datetime
import html
import json
import pathlib
import posixpath
import re
import shutil
import subprocess
import tomllib
import urllib.parse

import yaml
from browser import FLAGS, find_chromium, serve
from bs4 import BeautifulSoup

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = "becoming-a-machine-learning-practitioner.pdf"
NO_BROWSER = """no Chromium, Chrome or Edge was found. Install one: chromium from your system's packages,
Chrome from https://www.google.com/chrome/, or `python -m playwright install chromium` in the environment of this script"""
WIDTH = 642  # of the text on A4 in tools/pdf.css, 170 mm, in the pixels of style sheets
PATIENCE = 600  # seconds: hundreds of pages and pictures load slowly on a busy machine
OLDEST = 131  # the first version that prints running heads and page numbers from style sheets


def contents(without=()):
    """The parts of _toc.yml, each with its pages, but for those that are not wanted: [(caption, [page, …]), …]; the root is a part without a caption."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))

    def walk(entries):
        for entry in entries:
            yield entry["file"]
            yield from walk(entry.get("sections", []))
    parts = [(None, [toc["root"]])] + [(part.get("caption"), [page for page in walk(part["chapters"]) if page not in without]) for part in toc["parts"]]
    return [(caption, pages) for caption, pages in parts if pages]


def name(page, anchor=""):
    """The id that `anchor` of `page` has in the whole: pages share anchors, such as `exercises`."""
    return f"{page}.{anchor}".replace("/", ".") if anchor else page.replace("/", ".")


def title(tag):
    """The content of the first heading in `tag`, as HTML."""
    return tag.find(re.compile("h[1-6]")).decode_contents()


def fold(text):
    """`text`, HTML, in which the many tags inside blocks of code are plain text: to read them takes longer than all the rest. Not where one is a goal or a link."""
    return re.sub(r"<pre>(.*?)</pre>", lambda block: block[0] if re.search(r"<[^>]* (id|href|src)=", block[1])
                  else f"<pre data-folded>{html.escape(block[1], quote=False)}</pre>", text, flags=re.S)


def unfold(text, plain=False):
    """What `fold` was given, after other changes; `plain`: without the tags inside blocks of code, hence without its colours."""
    code = lambda block: html.unescape(block[1])
    return re.sub(r'<pre data-folded="">(.*?)</pre>', lambda block: f"<pre><span></span>{re.sub('<[^>]*>', '', code(block))}</pre>" if plain else f"<pre>{code(block)}</pre>",
                  text, flags=re.S)


def chapter(site, page, level, pages, address):
    """The article of `page`, with ids and links that hold in the whole and its headings `level` levels down.

    A link to what else the site has (its index, a file) leads to the site's `address`. Code is still folded."""
    article = BeautifulSoup(fold((site / f"{page}.html").read_text(encoding="utf-8")), "html.parser").find("article")
    for tag in article.select("script, style, button, section.chat, a.headerlink, .sd-summary-state-marker"):
        tag.decompose()
    for tag in article.find_all(True):
        for key in tag.attrs.keys() & {"id", "for", "aria-labelledby", "aria-describedby"}:
            tag[key] = " ".join(name(page, each) for each in tag[key].split())
        if tag.name == "a" and "href" in tag.attrs and not re.match(r"[a-z]+:|//", tag["href"]):
            path, _, anchor = tag["href"].partition("#")
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), urllib.parse.unquote(path))) if path else f"{page}.html"
            if path.removesuffix(".html") in pages:
                tag["href"] = "#" + name(path.removesuffix(".html"), urllib.parse.unquote(anchor))
            elif (site / path).exists():
                tag["href"] = address + path
            else:
                raise SystemExit(f"{page} has a link to {tag['href']}, which the site does not have")
        if tag.has_attr("src"):
            tag["src"] = "/" + posixpath.normpath(posixpath.join(posixpath.dirname(page), tag["src"]))
        if re.fullmatch("h[1-5]", tag.name):
            tag.name = f"h{int(tag.name[1]) + level}"
        if tag.name == "p" and tag.get_text().rstrip().endswith(":"):  # it announces what follows
            tag["class"] = [*tag.get("class", []), "announces"]
    for details in article.find_all("details"):
        details["open"] = ""
    article.name = "div"
    article["class"], article["id"] = ["bd-article", "chapter"], name(page)
    return article


def take_solutions(page, article):
    """Move the solutions out of `article`, leaving their page numbers there; returns them as HTML."""
    taken = []
    for number, cell in enumerate(article.select(".cell.tag_solution"), 1):
        here, there = name(page, f"exercise-{number}"), name(page, f"solution-{number}")
        label = cell.find_previous("strong", string=re.compile("^Exercise"))
        label = label.get_text().strip(". ") if label else f"Exercise {number}"
        cell.insert_before(BeautifulSoup(f'<p class="solution" id="{here}"><a href="#{there}">Solution: page <span class="page"></span></a></p>', "html.parser"))
        inner = "".join(str(part.extract()) for part in cell.select(".cell_input, .cell_output"))
        cell.decompose()
        taken.append(f'<div class="cell" id="{there}"><p class="announces"><b>{label}</b> (<a href="#{here}">page <span class="page"></span></a>)</p>{inner}</div>')
    return f'<section id="{name(page, "solutions")}"><h2>{title(article)}</h2>{"".join(taken)}</section>' if taken else ""


def edition():
    """The version of the book and the date of its last commit; without git, that of CITATION.cff."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    done = subprocess.run(["git", "log", "-1", "--format=%cs"], cwd=ROOT, capture_output=True, text=True, check=False) if shutil.which("git") else None
    date = done.stdout.strip() if done else ""
    return version, datetime.date.fromisoformat(date or yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["date-released"])


def assemble(site, without=()):
    """The book, but for the pages that are not wanted, as one HTML page, for a server whose root is `site`; page numbers are still to be filled in."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    parts = contents(without)
    pages = [page for _, some in parts for page in some]
    missing = [page for page in pages if not (site / f"{page}.html").exists()]
    if missing:
        raise SystemExit(f"there is no {site / missing[0]}.html: build the pages first (`make book`)")
    root = BeautifulSoup((site / f"{pages[0]}.html").read_text(encoding="utf-8"), "html.parser")
    address = root.find("link", rel="canonical")["href"].removesuffix(f"{pages[0]}.html")
    head = [f'<link rel="stylesheet" href="/{posixpath.normpath(posixpath.join(posixpath.dirname(pages[0]), link["href"]))}">'
            for link in root.select("head link[rel=stylesheet]")]
    body, lines, solutions = [], [], []
    running = [f'@page {{ @top-left {{ content: {json.dumps(config["title"], ensure_ascii=False)} }} }}']

    def add(article, part=None):
        """A chapter, its line in the contents, and its running head."""
        level = int(part is not None)
        if part and part[1]:
            article.find(f"h{level + 1}").insert_before(BeautifulSoup(f'<h1 class="part">{part[0]}</h1>', "html.parser"))
            lines.append(f'<li class="part">{part[0]}</li>')
        heading = article.find(f"h{level + 1}", class_=lambda value: value != "part")
        heading["class"] = "chapter-title"
        for tag, kind in [(article, "chapter"), *((section, "section") for section in article.select(":scope > section > section"))]:
            words = heading.decode_contents() if kind == "chapter" else title(tag)
            lines.append(f'<li class="{kind}"><a href="#{tag["id"]}"><span>{words}</span><span class="dots"></span><span class="page"></span></a></li>')
        article["style"] = f"page: c{len(running)}"
        running.append(f'@page c{len(running)} {{ @top-right {{ content: {json.dumps(heading.get_text(), ensure_ascii=False)} }} }}')
        body.append(article)

    for caption, some in parts:
        for page in some:
            article = chapter(site, page, int(caption is not None), pages, address)
            solutions.append(take_solutions(page, article))
            add(article, (html.escape(caption), page == some[0]) if caption else None)
    if any(solutions):
        add(BeautifulSoup(f'<div class="bd-article chapter" id="solutions"><section id="solutions.all"><h1>Solutions</h1>{"".join(solutions)}</section></div>',
                          "html.parser").div)
    version, date = edition()
    front = f"""<div class="title-page"><img src="/_static/logo.svg" alt="">
        <p class="book-title">{html.escape(config["title"])}</p><p class="subtitle">{root.find("article").find("em").get_text()}</p>
        <p class="edition">Edition {version}, {date.day} {date:%B %Y}</p><p class="edition"><a href="{address}">{address.removeprefix("https://")}</a></p>
        <p class="edition">{BeautifulSoup(config["html"]["extra_footer"], "html.parser").get_text().strip()}</p></div>
        <nav class="book-contents" aria-labelledby="contents"><h1 class="chapter-title" id="contents">Contents</h1><ul>{"".join(lines)}</ul></nav>"""
    settings = (re.search(r"<script>window\.MathJax = .*?</script>", (site / f"{page}.html").read_text(encoding="utf-8"), re.S) for page in pages)
    scripts = next((found[0] for found in settings if found), "") + '<script defer src="/_static/mathjax/tex-chtml.js"></script>'
    return f"""<!DOCTYPE html>
<html lang="{config["sphinx"]["config"]["language"]}" data-theme="light" data-mode="light">
<head><meta charset="utf-8"><link rel="icon" href="data:,"><title>{html.escape(config["title"])}</title>
{"".join(head)}<style>{(ROOT / "tools" / "pdf.css").read_text(encoding="utf-8")}{"".join(running)}</style>{scripts}</head>
<body><main class="bd-content">{front}{unfold("".join(map(str, body)))}</main></body></html>"""


def fill(text, numbers):
    """`text` with each page number that is still to be filled in: that of the goal of the link around it."""
    return re.sub(r'(<a href="#([^"]+)">(?:(?!</a>).)*<span class="page">)[^<]*', lambda link: f"{link[1]}{numbers.get(link[2], '000')}", text, flags=re.S)


def destinations(file):
    """The page, counted from 1, of each goal of a link in the PDF."""
    from pypdf import PdfReader
    reader = PdfReader(file)
    return {goal.removeprefix("/"): reader.get_destination_page_number(place) + 1 for goal, place in reader.named_destinations.items()}


def older(file):
    """The page numbers of a PDF that is there from before; none where it cannot be read."""
    from pypdf.errors import PyPdfError
    try:
        return destinations(file)
    except (OSError, PyPdfError, ValueError, KeyError):
        return {}


def open_browser(playwright):
    """The first Chromium, Chrome or Edge that this machine has."""
    from playwright.sync_api import Error
    found = find_chromium()
    for option in [{"executable_path": found}] if found else [{"channel": "chrome"}, {"channel": "msedge"}, {}]:
        try:
            browser = playwright.chromium.launch(args=FLAGS, **option)
        except Error as error:
            if found:
                raise SystemExit(f"{found} does not start:\n{error}") from None
            continue
        if int(browser.version.split(".")[0]) < OLDEST:
            raise SystemExit(f"Chromium {browser.version} is too old to print page numbers; {OLDEST} or newer is needed")
        return browser
    raise SystemExit(NO_BROWSER)


def print_page(browser, site, text, file, quick=False):
    """Print the HTML `text` to `file`; whatever the page complains of is an error. A `quick` print has no outline and no tags for screen readers."""
    with serve(site) as address, contextlib.closing(browser.new_page(viewport={"width": WIDTH, "height": 1000})) as tab:
        complaints = []
        tab.route(f"{address}book.html", lambda route: route.fulfill(body=text, content_type="text/html; charset=utf-8"))
        tab.on("console", lambda message: complaints.append(f"{message.text} {message.location['url']}") if message.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.emulate_media(media="print", color_scheme="light")
        tab.goto(f"{address}book.html", wait_until="load", timeout=PATIENCE * 1000)
        tab.evaluate("async () => { await MathJax.startup.promise; await document.fonts.ready; }")
        complaints += tab.evaluate("""() => [...[...document.images].filter(image => !image.naturalWidth).map(image => `no picture ${image.src}`),
            ...[...document.querySelectorAll('mjx-merror')].map(error => `bad mathematics ${error.textContent}`),
            ...[...document.querySelectorAll('mjx-math, table, figure img')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
                .map(e => `wider than the paper, in ${e.closest('.chapter')?.id}: ${(e.closest('mjx-container') ?? e).textContent.trim().slice(0, 60) || e.src}`),
            ...[...document.querySelectorAll('a[href^="#"]')].filter(a => !document.getElementById(decodeURIComponent(a.hash.slice(1)))).map(a => `no goal ${a.hash}`)]""")
        if complaints:
            raise SystemExit("the book does not print:\n" + "\n".join(sorted(set(complaints))))
        tab.pdf(path=file, prefer_css_page_size=True, print_background=True, tagged=not quick, outline=not quick)


def describe(file, text):
    """Mend what Chromium leaves out: author, edition and date, that the outline is to be shown, and the spaces in it where a heading is broken.

    Only what changes is read, and written behind the rest, as PDF foresees it (ISO 32000-1, 7.5.6): a whole book has hundreds of
    thousands of objects, one for each word that a screen reader is to find, and pypdf's writer would read and compare them all."""
    from pypdf import PdfReader
    from pypdf.generic import BooleanObject, DictionaryObject, NameObject, TextStringObject
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    version, date = edition()
    reader, changed = PdfReader(file), {}

    def change(reference, entries):
        """Give the object at the reference other entries; returns it."""
        changed[reference.idnum] = found = reference.get_object()
        found.update({NameObject(key): value for key, value in entries.items()})
        return found
    stamp = f"D:{date:%Y%m%d}000000Z"
    about = {"/Title": config["title"], "/Author": config["author"], "/Subject": f"Edition {version}", "/CreationDate": stamp, "/ModDate": stamp}
    change(reader.trailer.raw_get("/Info"), {key: TextStringObject(value) for key, value in about.items()})
    root = change(reader.trailer.raw_get("/Root"), {"/PageMode": NameObject("/UseOutlines"),
                                                    "/ViewerPreferences": DictionaryObject({NameObject("/DisplayDocTitle"): BooleanObject(True)})})
    headings = [" ".join(heading.get_text().split()) for heading in BeautifulSoup(fold(text), "html.parser").find_all(re.compile("^h[1-6]$"))]

    def bookmarks(item):
        while item is not None:
            yield item
            yield from bookmarks(item.get_object().raw_get("/First") if "/First" in item.get_object() else None)
            item = item.get_object().raw_get("/Next") if "/Next" in item.get_object() else None
    marks = list(bookmarks(root["/Outlines"].raw_get("/First")))
    if len(marks) != len(headings):
        raise SystemExit(f"the outline has {len(marks)} entries for {len(headings)} headings")
    for mark, heading in zip(marks, headings):
        change(mark, {"/Title": TextStringObject(heading)})
    append(file, reader.trailer, changed)


def append(file, trailer, changed):
    """Write the `changed` objects, by their numbers, behind the others of the PDF, with a table of where they stand and the file's `trailer`."""
    from pypdf.generic import DictionaryObject, NameObject, NumberObject
    with open(file, "r+b") as stream:
        stream.seek(-1024, 2)
        before = int(re.findall(rb"startxref\s+(\d+)", stream.read())[-1])
        table = ["0 1\n0000000000 65535 f \n"]
        for number, content in sorted(changed.items()):
            table.append(f"{number} 1\n{stream.tell():010d} 00000 n \n")
            stream.write(f"{number} 0 obj\n".encode())
            content.write_to_stream(stream)
            stream.write(b"\nendobj\n")
        start = stream.tell()
        stream.write(f"xref\n{''.join(table)}trailer\n".encode())
        kept = {NameObject(key): trailer.raw_get(key) for key in ("/Size", "/Root", "/Info", "/ID") if key in trailer}
        DictionaryObject(kept | {NameObject("/Prev"): NumberObject(before)}).write_to_stream(stream)
        stream.write(f"\nstartxref\n{start}\n%%EOF\n".encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=pathlib.Path, default=ROOT / "_build" / "html", help="the folder of built pages (_build/html)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "_build" / "pdf" / NAME, help=f"where to write the PDF (_build/pdf/{NAME})")
    parser.add_argument("--without", nargs="*", default=[], metavar="PAGE", help="pages of _toc.yml to leave out, such as notebooks/11_surprise")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright
    text = assemble(options.site, options.without)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draft = options.out.with_suffix(".new")
    with sync_playwright() as playwright:
        browser = open_browser(playwright)
        numbers = older(options.out)  # most often right still, and one print is enough
        for _ in range(5):
            print_page(browser, options.site, fill(text, numbers), draft)
            before, numbers = numbers, destinations(draft)
            if numbers.items() <= before.items():  # an older PDF may have had more
                break
        else:
            raise SystemExit("the page numbers do not settle")
    describe(draft, text)
    draft.replace(options.out)
    print(f"The PDF: {options.out.resolve().as_uri()} ({options.out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
