"""What a reader counts on: pages that are light, dated, citable, legible in the dark, walked by keyboard, and a way on from what is not there."""
import json
import os
import re
import struct
import subprocess
import sys

import practitioner_book
import pytest
import yaml
from browser import serve, weigh
from test_site import BOUND, browser, build, copy_sources, FRONT_BOUND, needs, NOTEBOOKS, PAGES, parse, parse_meta, ROOT, site, visit  # noqa: F401

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def fork(site):  # noqa: F811
    """The pages, which are those of a fork, Student-42/my-course, of its branch `autumn`, in which one page was changed later than the others."""
    return site


@pytest.fixture(scope="module")
def server(fork):
    """The fork as GitHub Pages serves it, in a folder of its name."""
    with serve(fork, "/my-course/") as address:
        yield address


# Dates, citation, cards

def test_each_page_says_when_it_was_changed_last(fork):
    """... itself, or what it shows: in a shallow clone there is no date (tests/test_site.py builds so)."""
    days = {page: re.findall(r"Last updated on (\S+)\.", (fork / f"{page}.html").read_text(encoding="utf-8")) for page in PAGES}
    assert days == {page: ["2031-05-06" if page == "book/errata" else "2030-01-02"] for page in PAGES}


def entry_of(text):
    """The one entry of some BibTeX, as a bibliography program reads it."""
    from pybtex.database import parse_string
    [entry] = parse_string(text, "bibtex").entries.values()
    return entry


def test_the_page_that_says_how_to_cite_agrees_with_the_citation_file(fork):
    entry = entry_of(parse(fork / "book" / "using.html").select_one(".highlight-bibtex pre").get_text())
    year, month, _ = CITATION["date-released"].split("-")
    assert entry.fields["title"].strip("{}") == CITATION["title"] and entry.fields["url"] == CITATION["url"]
    assert (entry.fields["year"], int(entry.fields["month"])) == (year, int(month)) and CITATION["version"] in entry.fields["note"]
    assert [str(person).strip("{}") for person in entry.persons["author"]] == [author["name"] for author in CITATION["authors"]]


def test_people_are_cited_by_their_names():
    """A fork's own authors, in its own CITATION.cff."""
    people = [{"family-names": "Lovelace", "given-names": "Ada"}, {"name": "The class of 2031"}]
    entry = entry_of(practitioner_book.bibtex(CITATION | {"authors": people, "url": "https://ada.github.io/course/"}))
    assert [person.last_names for person in entry.persons["author"]] == [["Lovelace"], ["{The class of 2031}"]]
    assert entry.fields["url"] == "https://ada.github.io/course/"


def card_faults(meta, canonical, site, address):
    """What is missing for a link to the page to be shown with title, words and picture."""
    faults = [name for name in ("og:title", "og:site_name", "og:image:alt") if len(meta.get(name, "")) < 4]
    faults += [name for name in ("og:description", "description") if len(meta.get(name, "")) < 60]
    faults += ["og:url"] if meta.get("og:url") != canonical or not canonical.startswith(address) else []
    picture = site / meta.get("og:image", "").removeprefix(address)
    if not meta.get("og:image", "").startswith(address) or not picture.is_file():
        return [*faults, "og:image"]
    head = picture.read_bytes()[:24]
    size = struct.unpack(">II", head[16:]) if head.startswith(b"\x89PNG") else None
    declared = tuple(int(meta.get(f"og:image:{side}", 0)) for side in ("width", "height"))
    faults += ["the picture's size"] if not size == declared == (1200, 630) or picture.stat().st_size > 100_000 else []
    return faults + (["twitter:card"] if meta.get("twitter:card") != "summary_large_image" else [])


@pytest.mark.parametrize("page", PAGES)
def test_a_link_to_the_page_is_shown_with_a_card(fork, page):
    page = parse(fork / f"{page}.html", until="</head>")
    assert not card_faults(parse_meta(page), page.find(rel="canonical")["href"], fork, "https://student-42.github.io/my-course/")


def test_the_bare_address_leads_to_the_front_page_and_shows_its_card(fork):
    page = parse(fork / "index.html")
    assert page.find("meta", attrs={"http-equiv": "refresh"})["content"] == "0; url=book/index.html"
    assert not card_faults(parse_meta(page), page.find(rel="canonical")["href"], fork, "https://student-42.github.io/my-course/")


@pytest.mark.parametrize("name, value", [("og:image", "_static/card.png"), ("og:description", "Short."), ("og:image:width", "600"), ("twitter:card", "summary"), ("og:url", "book/index.html")])
def test_a_bad_card_is_noticed(fork, name, value):
    page = parse(fork / "book" / "index.html")
    canonical = page.find(rel="canonical")["href"]
    assert card_faults(parse_meta(page) | {name: value}, canonical, fork, "https://student-42.github.io/my-course/")


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_the_notebook_is_downloaded_as_it_stands_in_the_repository(fork, page):
    [button] = parse(fork / f"{page}.html", until="<article").select("a.btn-download-source-button[href$='.ipynb']")
    assert (fork / page).parent.joinpath(button["href"]).resolve().read_bytes() == (ROOT / f"{page}.ipynb").read_bytes()


def test_the_list_for_search_engines_is_of_the_pages_and_nothing_else(fork):
    found = re.findall(r"<loc>https://student-42\.github\.io/my-course/(.*?)\.html</loc>", (fork / "sitemap.xml").read_text(encoding="utf-8"))
    assert sorted(found) == sorted(PAGES)


@needs("notebooks/11_surprise")
def test_in_a_fork_every_button_leads_to_the_fork(fork):
    page = (fork / "notebooks" / "11_surprise.html").read_text(encoding="utf-8")
    assert "https://mybinder.org/v2/gh/Student-42/my-course/autumn?urlpath=lab/tree/notebooks/11_surprise.ipynb" in page
    assert "https://colab.research.google.com/github/Student-42/my-course/blob/autumn/notebooks/11_surprise.ipynb" in page
    assert 'rel="canonical" href="https://student-42.github.io/my-course/notebooks/11_surprise.html"' in page
    assert "YOUR_ACCOUNT" not in str(parse(fork / "notebooks" / "11_surprise.html").find(class_="article-header-buttons"))
    assert parse_meta(parse(fork / "notebooks" / "11_surprise.html"))["og:image"] == "https://student-42.github.io/my-course/_static/card.png"
    assert 'href="/my-course/book/index.html"' in (fork / "404.html").read_text(encoding="utf-8")


# Words

# Terms with one meaning only. `code`, `run`, `bit`, `turn` and the like are words of every day too.
TERMS = ["bits per byte", "corpus", "entropy", "held-out", "mutual information", "plug-in estimate", "tolerance"]
NARRATIVE = [page for page in PAGES if page.startswith("book/") and page.split("/")[1] not in ("glossary", "bibliography", "notation", "status", "errata", "troubles")]


def unlinked(article):
    """Terms of the glossary that the page uses, and does not link where it does so first."""
    for tag in article.select("h1, h2, h3, pre, code, table, .footnote, aside, svg, .citation, em"):
        tag.decompose()
    faults = []
    for term in TERMS:
        for text in article.find_all(string=re.compile(rf"\b{term}", re.I)):
            link = text.find_parent("a")
            if link is None or "glossary.html#term-" not in link.get("href", ""):
                faults.append(term)
            break
    return faults


@pytest.mark.parametrize("page", NARRATIVE)
def test_a_term_is_linked_where_a_page_first_uses_it(fork, page):
    article = parse(fork / f"{page}.html").find("article")
    assert not unlinked(article)
    assert page != "book/information" or len(article.select("a[href*='#term-']")) >= 5


@needs("book/information")
def test_a_term_without_a_link_is_noticed(fork):
    article = parse(fork / "book" / "information.html").find("article")
    for link in article.select("a[href*='#term-entropy']"):
        link.unwrap()
    article.smooth()
    assert unlinked(article) == ["entropy"]


# A symptom as the page on troubles gives it, and the file that says so. Others are said by programs that are not ours.
SAID = {"Python 3.11 or newer is needed; none was found": "Makefile", "the build left no _build/html/index.html": "Makefile",
        "NO CHROMIUM ON THIS MACHINE": "tools/browser.py", "test_the_package_is_the_export_of_the_notebooks": "tests/test_frame.py",
        "the corpus needs the package": "practitioner/corpus.py", "which is not installed": "practitioner/corpus.py", "no reference is called": "practitioner/book.py",
        "not attempted yet": "practitioner/book.py", "Write it in the cell above, then run this one again.": "practitioner/book.py",
        ", but the book says": "practitioner/book.py", "yours 1.50, the book's 1.40 bits": "notebooks/90_honest_numbers.ipynb"}


@pytest.mark.parametrize("words, file", SAID.items())
def test_what_the_page_on_troubles_quotes_is_what_the_book_says(words, file):
    assert words in (ROOT / "book" / "troubles.md").read_text(encoding="utf-8") and words in (ROOT / file).read_text(encoding="utf-8")


# In a browser

def test_everything_that_a_page_loads_is_weighed(browser, tmp_path):  # noqa: F811
    """A picture as it is, a script as a server compresses it, and what a script loads later."""
    noise = os.urandom(300_000)
    (tmp_path / "picture.png").write_bytes(noise)
    (tmp_path / "late.png").write_bytes(noise)
    (tmp_path / "script.js").write_text("//" + " " * 500_000 + "\nnew Image().src = 'late.png'")
    (tmp_path / "index.html").write_text("<!doctype html><link rel=icon href=data:,><img src=picture.png><script src=script.js></script>")
    with serve(tmp_path) as address:
        assert 600_000 < weigh(browser, address) < 605_000


def test_the_recorded_measurements_keep_their_bounds():
    """data/speeds.json, which the page of last runs shows."""
    import bench
    speeds = json.loads((ROOT / "data" / "speeds.json").read_text(encoding="utf-8"))
    assert (bench.BOUNDS[bench.FRONT] * 1e6, bench.BOUNDS[bench.HEAVIEST] * 1e6) == (FRONT_BOUND, BOUND)
    for start in bench.BOUNDS:
        assert sum(name.startswith(start) for name in speeds) == 1, start
    assert not [name for name, speed in speeds.items() if speed["value"] >= bench.bound(name)]


def test_a_bound_that_is_broken_is_an_error_of_make_bench(monkeypatch, tmp_path):
    import bench
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "weights", lambda: {bench.FRONT: (1.2, "MB"), bench.HEAVIEST: (1.2, "MB")})
    monkeypatch.setattr(sys, "argv", ["bench.py", "weights"])
    with pytest.raises(SystemExit, match="^front page.* 1.2 MB, where the book promises less than 1$"):
        bench.main()
    assert list(json.loads((tmp_path / "data" / "speeds.json").read_text(encoding="utf-8"))) == [bench.HEAVIEST]


CONTRASTS = """async () => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = color => { const c = color.match(/[\\d.]+/g).map(Number); return 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]) };
  const contrast = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05) };
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$|transparent/.test(c)) return c } };
  const found = [], road = document.querySelector('.road svg');
  for (const text of road.querySelectorAll('text')) {
    const inside = text.previousElementSibling?.tagName === 'circle';
    found.push([text.textContent, contrast(getComputedStyle(text).fill, inside ? getComputedStyle(text.previousElementSibling).fill : behind(road)), inside ? 3 : 4.5]) }
  for (const circle of road.querySelectorAll('circle')) found.push(['station', contrast(getComputedStyle(circle).fill, behind(road)), 3]);
  const logo = document.querySelector('.navbar-brand img');
  const drawn = new DOMParser().parseFromString(await (await fetch(logo.src)).text(), 'image/svg+xml').querySelector('path');
  const box = document.body.appendChild(Object.assign(document.createElement('i'), {style: 'color:' + drawn.getAttribute('fill')}));
  found.push(['logo', contrast(getComputedStyle(box).color, behind(logo)), 3]);
  return found }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_logo_and_the_road_stand_out(browser, server, scheme):  # noqa: F811
    """By the ratios of WCAG: 4.5 for text, 3 for shapes and for the large figures in them."""
    tab, _, _ = visit(browser, server, "book/index.html", scheme=scheme)
    found = tab.evaluate(CONTRASTS)
    assert len(found) == 25 and not [each for each in found if each[1] < each[2]]
    tab.add_style_tag(content=f".road text {{ fill: {'#ddd' if scheme == 'light' else '#333'} !important }}")
    assert len([each for each in tab.evaluate(CONTRASTS) if each[1] < each[2]]) >= 12
    tab.context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_is_reached_by_keyboard(browser, server, width):  # noqa: F811
    """From the front page with Tab and Enter alone, each link in sight with a visible focus: folded parts are opened, on a telephone the list too."""
    tab, _, _ = visit(browser, server, "book/index.html", width)
    state = """() => { const e = document.activeElement, s = getComputedStyle(e), box = e.getBoundingClientRect();
        return {tag: e.tagName, href: e.href ?? '', toggle: e.classList.contains('primary-toggle'), folded: e.tagName === 'SUMMARY' && !e.parentElement.open,
                seen: s.outlineStyle !== 'none' || s.boxShadow !== 'none', inside: box.right > 0 && box.left < innerWidth && box.width > 0,
                list: !!e.closest('.bd-sidebar-primary')} }"""
    reached, opened = set(), width > 1000
    for _ in range(160):
        tab.keyboard.press("Tab")
        now = tab.evaluate(state)
        if now["folded"]:
            tab.keyboard.press("Enter")
        if now["toggle"] and not opened:
            tab.keyboard.press("Enter")
            tab.wait_for_timeout(500)
            opened = True
        if now["list"] and now["tag"] == "A":
            assert now["inside"] and now["seen"], now
            reached.add(now["href"].removeprefix(server).split("#")[0].removesuffix(".html"))
        if opened and set(PAGES) <= reached:
            break
    assert set(PAGES) <= reached, set(PAGES) - reached
    tab.context.close()


def test_what_is_not_found_says_so_at_any_depth(browser, server, fork):  # noqa: F811
    """A page of the book, with its looks and its links, whatever was asked for; in another folder than its own it would be bare."""
    for path in "gone.html", "notebooks/deep/er/gone.html":
        context = browser.new_context()
        tab, strangers, failed = context.new_page(), [], []
        tab.on("request", lambda request: None if request.url.startswith((server, "data:")) else strangers.append(request.url))
        tab.on("response", lambda response: failed.append(response.url) if response.status != 200 else None)
        answer = tab.goto(server + path, wait_until="networkidle")
        assert answer.status == 404 and failed == [server + path] and not strangers, (failed, strangers)
        assert tab.locator("h1", has_text="Not found").count() == 1
        assert "serif" not in tab.evaluate("getComputedStyle(document.body).fontFamily").replace("sans-serif", "")
        links = set(tab.evaluate("[...document.querySelectorAll('a[href], form[action]')].map(e => e.href || e.action)"))
        own = {link.split("#")[0] for link in links if link.startswith(server)} - {server + path}
        assert len(own) > len(PAGES) and all(context.request.get(link).status == 200 for link in own)
        assert not [link for link in links if link.startswith(server.removesuffix("my-course/")) and not link.startswith(server)]
        tab.goto(tab.locator("article a", has_text="search").get_attribute("href").join([server.removesuffix("/my-course/"), "?q=entropy"]))
        tab.wait_for_selector("#search-results li a")
        context.close()
    with serve(fork, "/other/") as address:
        context = browser.new_context()
        tab, failed = context.new_page(), []
        tab.on("response", lambda response: failed.append(response.url) if response.status != 200 else None)
        tab.goto(address + "gone.html", wait_until="networkidle")
        assert len(failed) > 10
        context.close()


# What fails a build

LINKED = ["notebooks/10_corpus", "notebooks/11_surprise", "notebooks/90_honest_numbers", "book/using", "book/glossary"]


@needs(*LINKED)
def test_wrong_links_and_numbers_that_no_notebook_publishes_fail_the_build(tmp_path):
    """... here of a few pages; and plain links lead to terms and figures, so that a notebook's cell, which has nothing but plain links, can name both."""
    folder = copy_sources(tmp_path, LINKED)
    file, index = folder / "notebooks" / "90_honest_numbers.ipynb", folder / "book" / "index.md"
    notebook = json.loads(file.read_text(encoding="utf-8"))
    links = "[a](../book/glossary.md#term-entropy) [b](10_corpus.ipynb#fig-cleaning) [c](../book/using.md#cite-it) [d](../book/glossary.md#term-entropie)"
    notebook["cells"].append({"cell_type": "markdown", "id": "links", "metadata": {}, "source": links})
    file.write_text(json.dumps(notebook), encoding="utf-8")
    index.write_text(index.read_text(encoding="utf-8") + "\n{glue:text}`../notebooks/11_surprise.ipynb::no_such_number:.2f`\n", encoding="utf-8")
    done = build(folder)
    assert done.returncode != 0
    assert sorted(re.findall(r"WARNING: (.*?) \[", done.stdout)) == [
        "Glue reference 'no_such_number' not found in doc 'notebooks/11_surprise'", "local id not found in doc 'book/glossary': 'term-entropie'"]
    page = parse(folder / "_build" / "html" / "notebooks" / "90_honest_numbers.html")
    for target in "../book/glossary.html#term-entropy", "10_corpus.html#fig-cleaning", "../book/using.html#cite-it":
        assert page.select(f"article a[href='{target}']"), target
