"""The book on paper: whole, in order, with page numbers that hold, and nothing cut or torn; and single pages as a browser prints them."""
import collections
import contextlib
import ctypes
import functools
import itertools
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pdf
import pytest
import yaml
from bs4 import BeautifulSoup
from test_site import browser, PAGES as site_pages, parse, server, site  # noqa: F401

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "pdf.py"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
RIGHT = 210 - 20  # the right margin of a page, in mm
MM = 72 / 25.4
# Hundreds of pages are printed twice and read letter by letter; half of the notebooks show what all would, but for what is in the others alone. A release looks at all.
WITHOUT = [] if os.environ.get("PRINTED") == "whole" else [page for page in site_pages if re.match(r"notebooks/[1-8]\d_", page)][1::2]
CONTENTS = pdf.contents(WITHOUT)
PAGES = [page for _, some in CONTENTS for page in some]
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]
FOREIGN = re.compile("[\0\u2e80-\uffff\U00010000-\U0010ffff]")  # what comes from fonts for emoji and Chinese, and what PDFium makes of it


def texts_of(file):
    """The text of each page of the PDF, of which spaces and line breaks are a guess.

    By PDFium, which takes a tenth of the time that pypdf takes. It gives U+FFFE for the hyphen at the end of a line."""
    import pypdfium2
    with contextlib.closing(pypdfium2.PdfDocument(file)) as document:
        for page in document:
            with contextlib.closing(page), contextlib.closing(page.get_textpage()) as text:
                yield text.get_text_range().replace("\ufffe", "-")


def read_pages(file):
    """Of each page its text, line by line, and every letter in its right half that is in the type of code, with where it ends: (points from the left, the letter).

    Lines are told by where the letters stand, up to 4 points higher or lower than the first: what PDFium takes for lines is wrong
    where it takes a page for one that is written downwards, which a contents can be. So are words, by gaps of more than 1 point."""
    import pypdfium2
    from pypdfium2 import raw
    box, x, y, font, flags = raw.FS_RECTF(), ctypes.c_double(), ctypes.c_double(), ctypes.create_string_buffer(100), ctypes.c_int()
    with contextlib.closing(pypdfium2.PdfDocument(file)) as document:
        for page in document:
            with contextlib.closing(page), contextlib.closing(page.get_textpage()) as text:
                pieces, ends, height, right = [], [], math.inf, 0
                for number in range(text.count_chars()):
                    code = raw.FPDFText_GetUnicode(text, number)
                    letter = "-" if code in (2, 0xFFFE) else chr(code)
                    if letter.isspace():
                        continue
                    assert raw.FPDFText_GetCharOrigin(text, number, x, y) and raw.FPDFText_GetLooseCharBox(text, number, box)
                    if abs(y.value - height) > 4:
                        height = y.value
                        pieces.append("\n")
                    elif x.value > right + 1:
                        pieces.append(" ")
                    pieces.append(letter)
                    right = box.right
                    if right > 105 * MM:
                        assert raw.FPDFText_GetFontInfo(text, number, font, len(font), flags) <= len(font)
                        if b"Mono" in font.value:
                            ends.append((right, letter))
                yield "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16").strip("\n"), ends


@pytest.fixture(scope="module")
def whole(browser, site):  # noqa: F811
    """The book as one page of HTML, its page numbers still to be filled in."""
    return pdf.assemble(site, WITHOUT)


@pytest.fixture(scope="module")
def first(browser, site, whole, tmp_path_factory):  # noqa: F811
    """The book printed with marks and without page numbers: the file, and what of it is torn, what was marked, the text of its pages."""
    file = tmp_path_factory.mktemp("first") / "book.pdf"
    return file, *torn(browser, site, pdf.fill(whole, {}), file)


@pytest.fixture(scope="module")
def file(site, first, tmp_path_factory):  # noqa: F811
    """The PDF, as `make pdf` makes it where there is an older one, whose page numbers it tries first."""
    file = tmp_path_factory.mktemp("pdf") / "new" / "book.pdf"
    file.parent.mkdir()
    shutil.copy(first[0], file)
    done = subprocess.run([sys.executable, TOOL, "--site", site, "--out", file, "--without", *WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert os.listdir(file.parent) == ["book.pdf"] and file.as_uri() in done.stdout
    return file


@pytest.fixture(scope="module")
def reader(file):
    from pypdf import PdfReader
    return PdfReader(file, strict=True)


@pytest.fixture(scope="module")
def read(file):
    return list(read_pages(file))


@pytest.fixture(scope="module")
def texts(read):
    return [text for text, _ in read]


def outline(reader):
    """The entries of the outline in order: (title, level, page)."""
    def walk(items, level):
        for item in items:
            if isinstance(item, list):
                yield from walk(item, level + 1)
            else:
                yield item.title, level, reader.get_destination_page_number(item) + 1
    return list(walk(reader.outline, 0))


def squeeze(text):
    """`text` without spaces and line breaks, which a PDF does not keep."""
    return re.sub(r"\s", "", text)


@functools.lru_cache(maxsize=None)
def look(site, page):
    """Of a page of the site its headings, how many solutions it has, and the lines of each code cell."""
    article = parse(site / f"{page}.html", folded=True).find("article")
    for link in article.select("a.headerlink"):
        link.decompose()
    cells = [BeautifulSoup(pdf.unfold(str(cell), plain=True), "html.parser").get_text().strip("\n").splitlines() for cell in article.select("div.cell_input pre")]
    return [" ".join(heading.get_text().split()) for heading in article.find_all(["h1", "h2", "h3", "h4"])], len(article.select(".cell.tag_solution")), cells


# The document

def test_it_says_what_it_is_and_is_no_burden(file, reader):
    root = reader.trailer["/Root"]
    assert reader.metadata.title == CONFIG["title"] and reader.metadata.author == CONFIG["author"]
    assert root["/Lang"] == "en" and root["/MarkInfo"]["/Marked"] and "/StructTreeRoot" in root
    assert root["/ViewerPreferences"]["/DisplayDocTitle"] and reader.page_mode == "/UseOutlines"
    assert 200_000 < file.stat().st_size < 80_000 * len(reader.pages)
    assert {tuple(round(float(each) / MM) for each in page.mediabox[2:]) for page in reader.pages} == {(210, 297)}


def test_the_first_page_has_the_title_the_edition_and_the_licence(texts):
    version, date = pdf.edition()
    words = squeeze(texts[0])
    for each in CONFIG["title"], f"Edition {version}, {date.day} {date:%B %Y}", "CC BY 4.0", "Build a chatbot":
        assert squeeze(each) in words, each


def test_every_page_of_the_book_is_in_it_in_order(site, reader):
    """... with all its headings, under its part."""
    [*wanted] = itertools.chain.from_iterable(look(site, page)[0] for page in PAGES)
    found = outline(reader)
    parts = [caption for caption, _ in CONTENTS if caption]
    assert [title for title, level, _ in found if level == 0] == ["Contents", CONFIG["title"], *parts, "Solutions"]
    start = [title for title, _, _ in found].index("Solutions")
    assert [title for title, _, _ in found[1:start] if title not in parts] == wanted
    assert [page for _, _, page in found] == sorted(page for _, _, page in found)


def test_a_heading_stands_on_the_page_of_its_bookmark_and_a_chapter_begins_one(site, reader, texts):
    found = outline(reader)
    for title, _, page in found:
        assert squeeze(title) in squeeze(texts[page - 1]), (title, page)
    titles = {look(site, page)[0][0] for page in PAGES}
    chapters = [(title, page) for title, level, page in found if title in titles and level < 2][:len(PAGES)]
    assert len({page for _, page in chapters}) == len(PAGES)
    for title, page in chapters:  # the head of the page is printed first
        assert squeeze(texts[page - 1]).startswith(squeeze(CONFIG["title"] + title)), title


def test_the_page_numbers_of_the_contents_hold(site, reader, texts):
    """Each line of the contents names the page on which its heading stands, and leads there."""
    first = min(page for _, _, page in outline(reader)[1:])
    places = {(squeeze(title), page) for title, _, page in outline(reader)}
    captions = {caption for caption, _ in CONTENTS}  # "Week 12" is no line with a page
    lines = [re.fullmatch(r"(.*\S) (\d+)", line) for text in texts[1:first - 1] for line in text.splitlines() if line not in captions]
    lines = [(squeeze(line[1]), int(line[2])) for line in lines if line and int(line[2]) >= first]
    links = [link.get_object()["/Dest"].removeprefix("/") for page in reader.pages[1:first - 1] for link in page["/Annots"]]
    goals = {goal.removeprefix("/"): reader.get_destination_page_number(place) + 1 for goal, place in reader.named_destinations.items()}
    assert len(lines) == len(links) > 4 * len(PAGES) and {pdf.name(page) for page in PAGES} <= set(links)
    for line, link in zip(lines, links):
        assert line in places and goals[link] == line[1], (line, link)


def test_no_contents_end_with_a_line_or_two_on_a_page(browser, site, whole, tmp_path):  # noqa: F811
    """... however many lines they have: here each number from 35 to 60, which are more than a page."""
    head = re.match(r".*<main[^>]*>", whole, re.S)[0]
    line = '<li class="section"><a href="#x"><span>a section</span><span class="dots"></span><span class="page">7</span></a></li>'
    some = "".join(f'<nav class="book-contents" style="break-before: page"><h1 class="chapter-title">Contents</h1><ul>{line * number}</ul></nav>' for number in range(35, 61))
    pdf.print_page(browser, site, f'{head}<p id="x">x</p>{some}</main></body></html>', tmp_path / "contents.pdf", quick=True)
    counts = [squeeze(text).count("asection") for text in texts_of(tmp_path / "contents.pdf")]
    assert sum(counts) == sum(range(35, 61)) and len(counts) > 1 + 26 and min(counts[1:]) >= 10, counts


def test_pages_are_numbered_and_named(reader, texts):
    """At the foot the number, which is also the viewer's; at the head the chapter. None is empty."""
    starts = {page: title for title, level, page in reversed(outline(reader))}
    for number, (page, text) in enumerate(zip(reader.pages, texts), 1):
        lines = text.splitlines()
        assert len(lines) > 2, f"page {number} is empty"
        if number > 1:
            assert lines[1] == str(number) and lines[0].startswith(CONFIG["title"]) and len(lines[0]) > len(CONFIG["title"])
    assert starts[2] == "Contents"


def test_links_lead_into_the_book_or_to_the_world(reader):
    links = [link.get_object() for page in reader.pages for link in page.get("/Annots", [])]
    inside = {link["/Dest"] for link in links if "/Dest" in link}
    outside = {str(link["/A"]["/URI"]) for link in links if "/A" in link}
    assert inside <= reader.named_destinations.keys() and len(inside) > 50
    assert len(outside) > 20 and all(re.match(r"https?://(?!127\.|localhost)", address) for address in outside), outside


def test_mathematics_is_typeset_and_no_markup_is_left(reader, texts):
    whole = "\n".join(texts)
    assert "∑" in whole and not re.search(r"\\(frac|sum|log|le|mathbb|begin)\b", whole)
    assert not re.search(r"\{(glue|numref|term|footcite|cite)\b|```|:::|Show code|(?<![\d,._])(?<!\| )000$", whole, re.M)


def test_solutions_come_last_and_are_led_to(site, reader, texts):
    number = sum(look(site, page)[1] for page in NOTEBOOKS)
    [last] = [page for title, level, page in outline(reader) if title == "Solutions" and level == 0]
    before, after = squeeze("".join(texts[:last - 1])), squeeze("".join(texts[last - 1:]))
    assert before.count(f"Solution:page{last}") >= 1 and before.count("Solution:page") == number > 0
    assert len(re.findall(r"def\w+_solution\(", after)) >= number and not re.findall(r"def\w+_solution\(", before)


# On the paper

def cut(wanted, read):
    """Which of the `wanted` lines stand whole on no line of the pages, and what in the code's letters ends right of the margin."""
    lines = {squeeze(line) for text, _ in read for line in text.splitlines()}
    return [line for line in wanted if squeeze(line) not in lines], [end for _, ends in read for end in ends if end[0] > RIGHT * MM + 0.5]  # in points: where a browser breaks a line itself, it rounds


def test_no_line_of_code_is_broken_or_cut(site, read):
    """Lines of up to 92 columns stand whole on one line, and everything in the code's letters ends left of the margin.

    (But for lines with signs that the code's letters lack, emoji and Chinese: another font has them, wider, and PDFium reads them in an order of their own.)"""
    wanted = [line for page in PAGES for cell in look(site, page)[2] for line in cell if line.strip() and len(line) <= 92 and not FOREIGN.search(line)]
    assert max(map(len, wanted)) > 88
    broken, wide = cut(wanted, read)
    assert not broken and not wide, (broken[:5], wide[:5])
    ends = [end for _, some in read for end in some]
    assert len(ends) > 1000 and max(ends)[0] > 180 * MM, max(ends)


@pytest.mark.parametrize("style, broken, wide", [("", 0, 0), ("font-size: 9pt", 1, 0), ("font-size: 9pt; white-space: pre", 0, 1), ("font-size: 9pt; white-space: pre; overflow: hidden", 1, 1)])
def test_a_broken_or_cut_line_would_be_found(browser, site, whole, tmp_path, style, broken, wide):  # noqa: F811
    """Of two lines, of 80 and 92 columns, in letters that are a little too large, the second: it is broken, or it stands in the margin, or ends hidden in it."""
    head, lines = re.match(r".*<main[^>]*>", whole, re.S)[0], ["a" + "_" * 78 + "a", "b" + "_" * 90 + "b"]
    cell = f'<div class="bd-article"><div class="highlight"><pre style="{style}">{"<br>".join(lines)}</pre></div></div>'
    pdf.print_page(browser, site, f"{head}{cell}</main></body></html>", tmp_path / "cut.pdf", quick=True)
    found = cut(lines, [*read_pages(tmp_path / "cut.pdf")])
    assert found[0] == lines[1:] * broken and bool(found[1]) == bool(wide), found


def marked(text):
    """`text` with an id at the beginning and a mark at the end of what must not be torn; and for the names of each two, what they are of.

    Nothing is put before a block: even what is empty can be parted from it. Code is left without its colours, which are two thirds of
    all elements and take no room; were it otherwise, the print would differ from the PDF, and test_nothing_is_torn_that_fits_on_a_page fail."""
    page = BeautifulSoup(pdf.fold(text), "html.parser")
    blocks = [("code", tag) for tag in page.select(".cell_input") if tag.get_text().count("\n") < 55]
    blocks += [("figure", tag) for tag in page.select("figure")] + [("equation", tag) for tag in page.select("div.math")]
    blocks += [("row", tag) for tag in page.select("tbody tr")]
    names = {}

    def begin(tag):
        tag["id"] = tag.get("id") or f"begin-{len(names)}-{tag.name}"
        return tag["id"]
    for kind, tag in blocks:
        first, last = (tag.find_all(["td", "th"])[0], tag.find_all(["td", "th"])[-1]) if kind == "row" else (tag, tag)
        end = page.new_tag("div", id=f"end-{len(names)}")
        last.append(end)
        names[begin(first), end["id"]] = f"{kind}: {' '.join(tag.get_text().split())[:60]}"
    for heading in page.select(".chapter :is(h1, h2, h3, h4, h5)"):  # and what follows it
        follower = heading.find_next_sibling()
        if follower:
            follower = follower.find(["dt", "li"]) if follower.name in ("dl", "ul", "ol") else follower.select_one("table td, table th") or follower
            names[begin(heading), begin(follower)] = f"heading: {heading.get_text()}"
    links = "".join(f'<a href="#{goal}">{number}</a> ' for number, both in enumerate(names) for goal in both)
    page.main.append(BeautifulSoup(f'<div style="break-before: page; page: marks">{links}</div>', "html.parser"))
    return pdf.unfold(str(page), plain=True), names


def torn(chromium, site, text, file):
    """What of the marked `text` begins on one page and ends on another; and the text of each page."""
    text, names = marked(text)
    pdf.print_page(chromium, site, text, file, quick=True)
    goals = pdf.destinations(file)
    assert {goal for both in names for goal in both} <= goals.keys()
    return ([name for (begin, end), name in names.items() if goals[begin] != goals[end]],
            collections.Counter(name.split(":")[0] for name in names.values()), list(texts_of(file)))


def without_numbers(texts):
    """The letters of each text, sorted, without what differs between a print with and one without page numbers. Those of an equation PDFium reads now in one order and now in another."""
    return ["".join(sorted(FOREIGN.sub("", re.sub(r"\d+", "", squeeze(text))))) for text in texts]


def test_nothing_is_torn_that_fits_on_a_page(first, file, texts):
    """Figures with their captions, equations, code cells and rows of tables, and headings from what they head.

    Marks that take no room were put into the first print; that the PDF was printed the same is seen by its text and by where its links lead."""
    marked_file, found, kinds, marked_texts = first
    assert without_numbers(marked_texts[:len(texts)]) == without_numbers(texts)
    goals = pdf.destinations(marked_file)
    assert pdf.destinations(file).items() <= goals.items()
    assert min(kinds.values()) > 8 and kinds.keys() == {"code", "figure", "equation", "row", "heading"}
    assert not found, found


def test_a_torn_block_would_be_found(browser, site, whole, tmp_path):  # noqa: F811
    """Without the rules of the style sheet much of a few chapters is torn, of several kinds."""
    page = BeautifulSoup(pdf.fold(whole), "html.parser")
    kept = [pdf.name(notebook) for notebook in NOTEBOOKS[:6]]
    for each in page.select("nav, .chapter"):
        if not each.decomposed and each.get("id") not in kept:
            each.decompose()
    goals = {tag["id"] for tag in page.find_all(id=True)}
    for link in page.select('a[href^="#"]'):
        link["href"] = link["href"] if link["href"][1:] in goals else "https://site.example/"
    rules = "<style>* { break-inside: auto !important; break-after: auto !important; break-before: auto !important } .bd-article { font-size: 12.1pt }</style></head>"
    found, _, _ = torn(browser, site, pdf.fill(str(page), {}).replace("</head>", rules), tmp_path / "torn.pdf")
    assert len(found) > 10 and len({name.split(":")[0] for name in found}) >= 2, found


# What goes wrong is named

def test_pages_that_are_not_built_are_asked_for(tmp_path):
    done = subprocess.run([sys.executable, TOOL, "--site", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"{PAGES[0]}.html" in done.stderr and "make book" in done.stderr and "Traceback" not in done.stderr


class Playwright:
    """A stand-in that finds no browser, or one of this version."""

    def __init__(self, version=None):
        self.chromium, self.version = self, version

    def launch(self, **options):
        from playwright.sync_api import Error
        if self.version is None:
            raise Error("not installed")
        return self


def test_an_older_pdf_that_cannot_be_read_is_no_hindrance(tmp_path):
    (tmp_path / "old.pdf").write_bytes(b"%PDF-1.4 broken")
    assert pdf.older(tmp_path / "old.pdf") == pdf.older(tmp_path / "none.pdf") == {}


@pytest.mark.parametrize("version, said", [(None, "Install one"), ("115.0.1", "115.0.1 is too old")])
def test_a_missing_or_old_browser_is_named(monkeypatch, version, said):
    monkeypatch.setattr(pdf.shutil, "which", lambda program: None)
    with pytest.raises(SystemExit, match=said):
        pdf.open_browser(Playwright(version))


def test_what_would_print_badly_is_refused(browser, site, whole, tmp_path):  # noqa: F811
    """All that is wrong is named, and nothing is printed."""
    head = re.match(r".*<main[^>]*>", whole, re.S)[0]
    bad = """<img src="/lost.png"><a href="#nowhere">x</a><span class="math">\\(\\frac{1}\\)</span><div class="math">\\[\\rule{180mm}{1mm}\\]</div><script>throw new Error('broken')</script>"""
    with pytest.raises(SystemExit) as refusal:
        pdf.print_page(browser, site, f"{head}{bad}</main></body></html>", tmp_path / "bad.pdf")
    for said in r"no picture .*/lost\.png", "no goal #nowhere", "bad mathematics", "wider than the paper", "broken":
        assert re.search(said, str(refusal.value)), said
    assert not (tmp_path / "bad.pdf").exists()


def test_links_follow_their_goals(tmp_path):
    """Into the book, to the rest of the site, or nowhere."""
    (tmp_path / "part").mkdir()
    page, links = tmp_path / "part" / "a.html", {"../b.html#x": "#b.x", "#x": "#part.a.x", "a.html": "#part.a", "../c.csv": "https://site.example/c.csv", "mailto:a@b.example": "mailto:a@b.example"}
    (tmp_path / "c.csv").touch()
    page.write_text("<article><h1>A</h1>" + "".join(f'<a href="{link}">x</a>' for link in links) + "</article>", encoding="utf-8")
    article = pdf.chapter(tmp_path, "part/a", 0, ["part/a", "b"], "https://site.example/")
    assert [link["href"] for link in article.find_all("a")] == [*links.values()]
    page.write_text('<article><h1>A</h1><a href="lost.html">x</a></article>', encoding="utf-8")
    with pytest.raises(SystemExit, match="part/a has a link to lost.html"):
        pdf.chapter(tmp_path, "part/a", 0, ["part/a"], "https://site.example/")


# A single page, from the browser

@pytest.mark.parametrize("page", ["book/beginner", NOTEBOOKS[-1]])
def test_a_page_is_printed_unfolded_light_and_alone(browser, server, page):  # noqa: F811
    """... by someone who reads in the dark; nothing is wider than the paper."""
    context = browser.new_context(viewport={"width": 658, "height": 1000}, color_scheme="dark")
    tab = context.new_page()
    tab.goto(f"{server}{page}.html", wait_until="load")
    tab.evaluate("async () => { await window.MathJax?.startup.promise }")
    look = """() => {
        const shown = selector => [...document.querySelectorAll(selector)].filter(e => e.checkVisibility() && e.getBoundingClientRect().height > 0).length;
        const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765;
        const text = [...document.querySelectorAll('article p, article h1 ~ p, article pre, article pre span, article summary')].filter(e => e.checkVisibility());
        return {folded: shown('article details > :not(summary)') - document.querySelectorAll('article details > :not(summary)').length,
            frame: shown('.bd-header, .bd-header-article, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-footer, .prev-next-footer, .copybtn, .headerlink'),
            ground: light(getComputedStyle(document.body).backgroundColor), ink: Math.max(...text.map(e => light(getComputedStyle(e).color))),
            cards: Math.min(1, ...[...document.querySelectorAll('article pre, article details')].map(e => getComputedStyle(e).backgroundColor).filter(c => !c.includes(', 0)')).map(light)),
            wide: Math.max(...[...document.querySelectorAll('article, article *')].filter(e => e.checkVisibility() && !e.closest('mjx-assistive-mml, mjx-container, svg')).map(e => e.getBoundingClientRect().right)),
            folds: document.querySelectorAll('article details:not([open])').length} }"""
    screen = tab.evaluate(look)
    assert screen["folded"] < 0 < screen["frame"] and screen["ground"] < 0.5  # on the screen it is none of that
    tab.emulate_media(media="print")
    paper = tab.evaluate(look)
    assert paper["folds"] > 0 == paper["folded"] == paper["frame"], paper
    assert paper["ground"] == 1 and paper["cards"] > 0.9 and paper["ink"] < 0.6 and paper["wide"] <= 658, paper
    context.close()
