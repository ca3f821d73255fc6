"""The built site: clean from a clean tree, every link good, and as a reader meets it in a real browser."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

import pytest
import yaml
from browser import NO_CHROMIUM, chromium, find_chromium, serve
from bs4 import BeautifulSoup

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = re.findall(r"^[ -]*(?:root|file): *(\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"), re.M)
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]


def needs(*pages):
    """A mark for tests of certain pages, which an edition may leave out."""
    missing = sorted(set(pages) - set(PAGES))
    return pytest.mark.skipif(bool(missing), reason=f"left out of this edition: {', '.join(missing)}")


def copy_sources(folder):
    """A copy of what the pages are built from, without anything that was built."""
    for name in ("_config.yml", "_toc.yml", "CITATION.cff", "book", "notebooks", "data"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        else:
            shutil.copy(source, folder / name)
    return folder


def build(folder, **environment):
    """Build the book in `folder`, warnings as errors; returns the finished process."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")} | environment
    program = pathlib.Path(sys.executable).with_name("jupyter-book")
    return subprocess.run([program, "build", ".", "-W", "-n", "--keep-going"], cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of pages, built from a clean copy."""
    folder = copy_sources(tmp_path_factory.mktemp("book"))
    done = build(folder)
    assert done.returncode == 0, done.stdout[-4000:]
    return folder / "_build" / "html"


def parse(file):
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")


def parse_meta(page):
    """The page's <meta> tags, name or property to content."""
    return {tag.get("property") or tag.get("name"): tag["content"] for tag in page.find_all("meta", content=True)}


def test_a_page_for_every_line_of_the_contents(site):
    for page in PAGES:
        assert (site / f"{page}.html").stat().st_size > 5000, page
    assert (site / "index.html").exists() and (site / "sitemap.xml").exists()


def test_every_internal_link_and_anchor_resolves(site):
    """Follows each href and src of each page, within the site."""
    pages = {file: parse(file) for file in site.rglob("*.html") if "_static" not in file.parts and file.name != "404.html"}
    anchors = {file: {tag["id"] for tag in page.find_all(id=True)} for file, page in pages.items()}
    broken, followed = [], 0
    for file, page in pages.items():
        for tag in page.find_all(["a", "img", "script", "link"]):
            target = tag.get("href") or tag.get("src") or ""
            if re.match(r"[a-z]+:|//", target) or not target or target == "#":
                continue
            path, _, anchor = target.partition("#")
            goal = (file.parent / urllib.parse.unquote(path.split("?")[0])).resolve() if path else file
            followed += 1
            if not goal.exists() or (anchor and goal in anchors and anchor not in anchors[goal] and tag.name == "a"):
                broken.append(f"{file.relative_to(site)}: {target}")
    assert followed > 40 * len(PAGES)
    assert not broken, broken[:20]


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_no_raw_markup_and_every_picture_has_an_alternative(site, page):
    article = parse(site / f"{page}.html").find("article")
    for code in article.find_all(["code", "pre"]):
        code.decompose()
    assert not re.search(r"\{(glue|numref|term|footcite|cite)|```|:::|\[\[", article.get_text()), page
    for image in article.find_all("img"):
        assert len(image.get("alt", "")) >= 40, image
        assert not image["alt"].startswith("../_images"), image


def test_numbers_in_the_narrative_are_those_of_the_results(site):
    """The glued numbers of the front page, of what opens a part and of the page on failures are the references, formatted."""
    results = json.loads((ROOT / "data" / "results.json").read_text(encoding="utf-8"))
    for page in {"book/index", "book/information", "book/learning", "book/failing"} & set(PAGES):
        wanted = re.findall(r"\{glue:text\}`\S+::(\w+):(\S+)`", (ROOT / f"{page}.md").read_text(encoding="utf-8"))
        shown = [tag.get_text() for tag in parse(site / f"{page}.html").find("article").find_all(class_="pasted-text")]
        assert shown == [format(int(results[name]["value"]) if form.endswith("d") else results[name]["value"], form) for name, form in wanted]


def test_the_page_of_results_has_a_row_for_every_score(site):
    """The table under the drawing: the value, its interval, and a link to the notebook."""
    import json
    results = json.loads((ROOT / "data" / "results.json").read_text(encoding="utf-8"))
    scores = {name: entry for name, entry in results.items() if name.startswith("score_") and "about" in entry}
    page = parse(site / "book" / "results.html").find("article")
    rows = [[cell.get_text(strip=True) for cell in row.find_all("td")] for row in page.find("table").find("tbody").find_all("tr")]
    expected = []
    for name, entry in scores.items():
        ends = [results[f"{name}_{end}"]["value"] for end in ("low", "high") if f"{name}_{end}" in results]
        expected.append([entry["about"]["model"], f"{entry['value']:.3f}", f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "–"])
    assert len(rows) > 10 and sorted(row[:3] for row in rows) == sorted(expected)
    assert len(page.find("table").find_all("a", href=re.compile("notebooks/14_compression"))) > 10 or "notebooks/14_compression" not in PAGES
    assert len(page.select(".score:not(.axis)")) == len(scores)


def test_a_number_that_no_notebook_publishes_fails_the_build(tmp_path):
    folder = copy_sources(tmp_path)
    page = folder / "book" / "index.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n{glue:text}`../notebooks/11_surprise.ipynb::no_such_number:.2f`\n", encoding="utf-8")
    done = build(folder)
    assert done.returncode != 0 and "no_such_number" in done.stdout


@needs("notebooks/11_surprise")
def test_in_a_fork_every_button_leads_to_the_fork(tmp_path):
    folder = copy_sources(tmp_path)
    done = build(folder, GITHUB_REPOSITORY="Student-42/my-course", GITHUB_REF_NAME="autumn")
    assert done.returncode == 0, done.stdout[-4000:]
    page = (folder / "_build" / "html" / "notebooks" / "11_surprise.html").read_text(encoding="utf-8")
    assert "https://mybinder.org/v2/gh/Student-42/my-course/autumn?urlpath=lab/tree/notebooks/11_surprise.ipynb" in page
    assert "https://colab.research.google.com/github/Student-42/my-course/blob/autumn/notebooks/11_surprise.ipynb" in page
    assert 'rel="canonical" href="https://student-42.github.io/my-course/notebooks/11_surprise.html"' in page
    buttons = BeautifulSoup(page, "html.parser").find(class_="article-header-buttons")
    assert "YOUR_ACCOUNT" not in str(buttons)
    card = parse_meta(BeautifulSoup(page, "html.parser"))["og:image"]
    assert card == "https://student-42.github.io/my-course/_static/card.png"
    missing = (folder / "_build" / "html" / "404.html").read_text(encoding="utf-8")
    assert 'href="/my-course/book/index.html"' in missing


def test_it_builds_in_a_shallow_clone(tmp_path):
    """What is committed is enough: a clone of depth 1 builds without a warning."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", clone], check=True)
    done = build(clone)
    assert done.returncode == 0, done.stdout[-4000:]
    page = (clone / "_build" / "html" / "book" / "using.html").read_text(encoding="utf-8")
    assert "Last updated" not in page  # git cannot know


# In a browser

@pytest.fixture(scope="module")
def server(site):
    """The site over http on localhost; its address."""
    with serve(site) as address:
        yield address


def need_chromium():
    """The program. Without one the test is left out, and tests/conftest.py says so at the end; under CI it fails."""
    return find_chromium() or (pytest.fail if os.environ.get("CI") else pytest.skip)(NO_CHROMIUM)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    with chromium(need_chromium()) as browser:
        yield browser


def visit(browser, server, path, width=1280, scheme="light"):
    """The page at `path`, what its console complained of, and what it asked of other hosts."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, complaints, strangers = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((server, "data:")) else strangers.append(request.url))
    page.goto(server + path, wait_until="load")
    page.wait_for_timeout(300)
    return page, complaints, strangers


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_quiet_and_fits_wide_and_narrow(browser, server, page):
    for width, scheme in (1280, "light"), (390, "dark"):
        tab, complaints, strangers = visit(browser, server, f"{page}.html", width, scheme)
        assert not complaints and not strangers, (complaints, strangers)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        broken = tab.evaluate("[...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src)")
        assert not broken, broken
        tab.context.close()


@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_no_serious_violation(browser, server, page):
    """Deque's axe-core, on the page in light and in dark."""
    from axe_playwright_python.sync_playwright import Axe
    for scheme in "light", "dark":
        tab, _, _ = visit(browser, server, f"{page}.html", scheme=scheme)
        found = Axe().run(tab).response
        assert len(found["passes"]) > 10
        serious = [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found["violations"]
                   if each["impact"] in ("serious", "critical")]
        assert not serious, serious
        tab.context.close()


def test_axe_would_find_one(browser, server):
    """The check above can fail: a picture without an alternative is found."""
    from axe_playwright_python.sync_playwright import Axe
    tab, _, _ = visit(browser, server, "book/index.html")
    tab.evaluate("document.querySelector('article').append(Object.assign(new Image(), {src: '../_static/logo.svg'}))")
    assert "image-alt" in {each["id"] for each in Axe().run(tab).response["violations"]}
    tab.context.close()


@needs("notebooks/11_surprise")
def test_every_control_is_reached_by_keyboard(browser, server):
    """Tab walks through links, buttons and folds of a notebook's page, each with a visible focus; Enter unfolds a solution."""
    tab, _, _ = visit(browser, server, "notebooks/11_surprise.html")
    reached = set()
    for _ in range(200):
        tab.keyboard.press("Tab")
        name = tab.evaluate("""() => { const e = document.activeElement, s = getComputedStyle(e);
            const seen = s.outlineStyle !== 'none' || s.boxShadow !== 'none';
            return [e.tagName, seen, e.closest('article, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article')?.className.split(' ')[0] ?? ''] }""")
        reached.add((name[0], name[2]))
        assert name[1] or name[0] == "BODY", name
    assert {"A", "BUTTON", "SUMMARY"} <= {tag for tag, _ in reached}
    fold = tab.locator("article details summary").last
    fold.focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate("[...document.querySelectorAll('article details')].at(-1).open")
    tab.context.close()


@needs("notebooks/11_surprise")
def test_mathematics_is_typeset(browser, server):
    tab, _, _ = visit(browser, server, "notebooks/11_surprise.html")
    tab.wait_for_selector("mjx-container", timeout=20_000)
    assert tab.locator("mjx-container").count() > 30
    assert tab.locator("mjx-merror").count() == 0
    tab.context.close()


@needs("notebooks/11_surprise")
def test_search_finds_entropy(browser, server):
    tab, _, _ = visit(browser, server, "search.html?q=entropy")
    tab.wait_for_selector("#search-results li a", timeout=20_000)
    assert any("Surprise" in text for text in tab.locator("#search-results li a").all_inner_texts())
    tab.context.close()


def contents_faults(named, files, citation):
    """What is wrong with the notebooks that the contents name, for a book with these files and this CITATION.cff."""
    faults = [f"{name} is in _toc.yml, and there is no such notebook" for name in sorted(set(named) - set(files))]
    left_out = [] if "references" in citation else sorted(set(files) - set(named))
    return faults + [f"{name} is not in _toc.yml. (A fork may leave it out, after `make adopt REPO=owner/name`.)" for name in left_out]


def test_the_contents_name_every_notebook():
    """None is forgotten, and none that is named is missing. A fork, which cites the book that it was made from, may leave some out."""
    assert yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["root"] == "book/index"
    files = [f"notebooks/{file.stem}" for file in (ROOT / "notebooks").glob("*.ipynb")]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert contents_faults(NOTEBOOKS, files, citation) == []
    assert len(contents_faults(files[1:], files, {})) == len(contents_faults([*files, "notebooks/no"], files, {"references": []})) == 1
    assert contents_faults(files[1:], files, {"references": []}) == []
