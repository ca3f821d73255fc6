"""The built site: clean from a clean tree, every link good, and as a reader meets it in a real browser."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser

import pdf
import pytest
import yaml
from browser import NO_CHROMIUM, chromium, find_chromium, serve, weight_of
from bs4 import BeautifulSoup
from filelock import FileLock

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = re.findall(r"^[ -]*(?:root|file): *(\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"), re.M)
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]


def needs(*pages):
    """A mark for tests of certain pages, which an edition may leave out."""
    missing = sorted(set(pages) - set(PAGES))
    return pytest.mark.skipif(bool(missing), reason=f"left out of this edition: {', '.join(missing)}")


def copy_sources(folder, pages=None):
    """A copy of what the pages are built from, without anything that was built. Where `pages` are given, they and the front page are all of the contents."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (".gitignore", "_config.yml", "_toc.yml", "CITATION.cff", "book", "notebooks", "data"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        else:
            shutil.copy(source, folder / name)
    if pages is not None:
        lines = "".join(f"      - file: {page}\n" for page in pages)
        (folder / "_toc.yml").write_text(f"format: jb-book\nroot: book/index\nparts:\n  - caption: Some pages\n    chapters:\n{lines}", encoding="utf-8")
    return folder


def build(folder, **environment):
    """Build the book in `folder`, warnings as errors; returns the finished process."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")} | environment
    program = pathlib.Path(sys.executable).with_name("jupyter-book")
    return subprocess.run([program, "build", ".", "-W", "-n", "--keep-going"], cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)


def git(folder, *arguments, day="2031-05-06"):
    """Run git in `folder`, on a day of one's choice."""
    when = {f"GIT_{who}_DATE": f"{day}T12:00:00+0000" for who in ("AUTHOR", "COMMITTER")}
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, env=os.environ | when, check=True, capture_output=True)


def commit_sources(folder, pages=None, day="2030-01-02"):
    """A repository in `folder` in which the working tree's sources are committed, but for what git is to ignore."""
    copy_sources(folder, pages)
    git(folder, "init", "--quiet", ".")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "all", day=day)
    return folder


FORK = {"GITHUB_REPOSITORY": "Student-42/my-course", "GITHUB_REF_NAME": "autumn"}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of pages, as CI publishes those of a fork, Student-42/my-course, of its branch `autumn`, in which one page was changed later than the others.

    Built from a clean clone: what git ignores is not there. Built once, for all processes of pytest-xdist; what changes it works on pages of its own."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-site"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            shared.mkdir()
            whole = commit_sources(shared / "whole")
            page = whole / "book" / "errata.md"
            page.write_text(page.read_text(encoding="utf-8") + "\nOne more line.\n", encoding="utf-8")
            git(whole, "commit", "--quiet", "-a", "-m", "one page")
            git(shared, "clone", "--quiet", whole.as_uri(), "clone")
            done = build(shared / "clone", **FORK)
            (shared / "said").write_text(f"{done.returncode}\n{done.stdout}", encoding="utf-8")
    status, _, said = (shared / "said").read_text(encoding="utf-8").partition("\n")
    assert status == "0", said[-4000:]
    return shared / "clone" / "_build" / "html"


def parse(file, folded=False, until=""):
    """A page; with its code `folded` into plain text it is read in half of the time, and no further than `until` in a small part of it."""
    text = file.read_text(encoding="utf-8")
    text = text[:text.index(until)] if until else text
    return BeautifulSoup(pdf.fold(text) if folded else text, "html.parser")


def parse_meta(page):
    """The page's <meta> tags, name or property to content."""
    return {tag.get("property") or tag.get("name"): tag["content"] for tag in page.find_all("meta", content=True)}


def test_a_page_for_every_line_of_the_contents(site):
    for page in PAGES:
        assert (site / f"{page}.html").stat().st_size > 5000, page
    assert (site / "index.html").exists() and (site / "sitemap.xml").exists()


def test_every_internal_link_and_anchor_resolves(site):
    """Follows each href and src of each page, within the site."""
    pages = {file: parse(file, folded=True) for file in site.rglob("*.html") if "_static" not in file.parts and file.name != "404.html"}
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
    article = parse(site / f"{page}.html", folded=True).find("article")
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


def test_what_is_committed_is_enough_and_a_shallow_clone_has_no_dates(tmp_path):
    """Here of two pages, outside of CI: where git cannot know when a page was changed, no page says so; and the address of a page is that of the book's home."""
    whole = commit_sources(tmp_path / "whole", ["book/using"])
    git(whole, "commit", "--quiet", "--allow-empty", "-m", "so that a shallow clone leaves something out")
    git(tmp_path, "clone", "--quiet", "--depth=1", whole.as_uri(), "clone")
    assert (tmp_path / "clone" / ".git" / "shallow").exists()
    done = build(tmp_path / "clone")
    assert done.returncode == 0, done.stdout[-4000:]
    file = tmp_path / "clone" / "_build" / "html" / "book" / "using.html"
    assert "Last updated" not in file.read_text(encoding="utf-8")
    home = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["html"]["baseurl"]
    assert parse_meta(parse(file))["og:url"] == f"{home}book/using.html"


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


def watch(tab, server):
    """Lists that will fill: what the tab's console complains of, and what is asked of other hosts."""
    complaints, strangers = [], []
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith((server, "data:")) else strangers.append(request.url))
    return complaints, strangers


def visit(browser, server, path, width=1280, scheme="light"):
    """The page at `path`, what its console complained of, and what it asked of other hosts."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    complaints, strangers = watch(page, server)
    page.goto(server + path, wait_until="load")
    page.wait_for_timeout(300)
    return page, complaints, strangers


class Opened:
    """One page after the other, each as a first visit finds it, wide and in the light, and its weight; it can then be made narrow, and dark.

    All in one tab, which keeps nothing of the page before: a new window for each takes as much of the processor as most pages do."""

    def __init__(self, browser, server):
        self.server, self.responses = server, []
        self.tab = browser.new_context().new_page()
        self.tab.add_init_script("try { localStorage.clear(); sessionStorage.clear() } catch {}")
        self.tab.on("response", lambda response: self.responses.append(response))
        self.session = self.tab.context.new_cdp_session(self.tab)
        self.complaints, self.strangers = watch(self.tab, server)

    def open(self, page):
        self.tab.goto("about:blank")
        self.arrange(1280, "light")
        for seen in self.complaints, self.strangers, self.responses:
            seen.clear()
        self.session.send("Network.clearBrowserCache")
        self.tab.goto(f"{self.server}{page}.html", wait_until="load")
        self.tab.wait_for_timeout(300)
        self.tab.wait_for_load_state("networkidle")
        self.page, self.weight = page, weight_of(self.responses)

    def arrange(self, width, scheme):
        self.tab.emulate_media(color_scheme=scheme)
        self.tab.set_viewport_size({"width": width, "height": 900})

    def show(self, width=1280, scheme="light"):
        self.arrange(width, scheme)
        self.tab.wait_for_timeout(150)
        self.tab.wait_for_function("document.getAnimations().every(each => each.playState !== 'running')")  # the theme's sidebars slide
        return self.tab


@pytest.fixture(scope="module")
def pages(browser, server):
    return Opened(browser, server)


@pytest.fixture(scope="module", params=PAGES)
def opened(request, pages):
    """Each page, opened once for the tests that look at every page; each says how it is to be shown."""
    pages.open(request.param)
    return pages


def test_a_page_is_quiet_and_fits_wide_and_narrow(opened):
    for width, scheme in (1280, "light"), (390, "dark"):
        tab = opened.show(width, scheme)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        broken = tab.evaluate("[...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src)")
        assert not broken, broken
    assert not opened.complaints and not opened.strangers, (opened.complaints, opened.strangers)


def test_each_visit_is_a_first_one(pages):
    """... though the tab is the same: what a page stored is gone, and all that it loads is weighed again."""
    loaded = []
    for _ in range(2):
        pages.open(PAGES[0])
        loaded.append({response.url for response in pages.responses})
        assert pages.tab.evaluate("[localStorage.left, sessionStorage.left]") == [None, None]
        pages.tab.evaluate("localStorage.left = sessionStorage.left = 'x'")
    assert loaded[0] == loaded[1] and len(loaded[0]) > 10


BOUND, FRONT_BOUND = 3_000_000, 1_000_000


def test_the_front_page_is_light_and_no_page_is_heavy(opened):
    """In bytes of a first visit."""
    low, high = (100_000, FRONT_BOUND) if opened.page == "book/index" else (0, BOUND)
    assert low < opened.weight < high


FIGURES = """() => {
  const light = color => { const c = color.match(/[\\d.]+/g).map(Number); return (c[3] ?? 1) < 1 ? 0 : Math.min(...c.slice(0, 3)) };
  if (light(getComputedStyle(document.body).backgroundColor) > 60) return ['the page is not dark'];
  return [...document.querySelectorAll('article .cell_output img, article figure img')].map(image => {
    const style = getComputedStyle(image), faults = [];
    for (let e = image; e; e = e.parentElement) if (getComputedStyle(e).filter !== 'none') faults.push('filtered');
    if (light(style.backgroundColor) < 230) faults.push('no light card');
    if (parseFloat(style.paddingLeft) < 4 || parseFloat(style.paddingTop) < 4) faults.push('no margin');
    if (parseFloat(style.opacity) < 1) faults.push('pale');
    return faults.length ? image.alt.slice(0, 40) + ': ' + faults : null }) }"""


@pytest.mark.parametrize("opened", [page for page in NOTEBOOKS if '"image/png"' in (ROOT / f"{page}.ipynb").read_text(encoding="utf-8")], indirect=True)
def test_in_the_dark_a_figure_is_a_light_card(opened):
    tab = opened.show(scheme="dark")
    found = tab.evaluate(FIGURES)
    assert found and not any(found), found
    for rule, fault in ("filter: invert(1)", "filtered"), ("background: transparent", "no light card"), ("padding: 0", "no margin"), ("opacity: 0.7", "pale"):
        style = tab.add_style_tag(content=f"html .bd-content article img {{ {rule} !important }}")
        assert all(fault in each for each in tab.evaluate(FIGURES)), fault
        style.evaluate("style => style.remove()")


# In code and equations are thousands of elements, of a few kinds: `test_code_and_equations_stand_out` looks at one of each.
BESIDE = {"exclude": [["article pre > *"], ["mjx-container > *"]]}
COLOURS = ["color-contrast"]
PLAIN = "[...document.querySelectorAll('article pre')].filter(pre => !pre.querySelector('a, button, [id], [tabindex]')).forEach(pre => { pre.textContent = pre.textContent })"


def violations(tab, context, rules=None, without=()):
    """What Deque's axe-core finds serious in the `context`, by all of its rules, by some, or by all without some, with the elements that have it.

    Where what stands in code is excluded, code is made plain text first: axe-core weighs up also where each excluded element stands, which
    took half of the time. A block stays what it is, and as wide, and is looked at: whether it is reached by keyboard where it scrolls.
    Axe-core lists the elements of violations alone."""
    from axe_playwright_python.sync_playwright import Axe
    if ["article pre > *"] in (context or {}).get("exclude", []):
        tab.evaluate(PLAIN)
    found = Axe().run(tab, context=context, options={"resultTypes": ["violations"], "rules": {rule: {"enabled": False} for rule in without}} | ({"runOnly": rules} if rules else {})).response
    assert len(found["passes"]) > (0 if rules else 10)
    return [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found["violations"] if each["impact"] in ("serious", "critical")]


def lasting_violations(tab, *arguments, **options):
    """Violations that are there still when the theme has measured again what scrolls, 0.3 s after a change of the width."""
    if violations(tab, *arguments, **options):
        tab.wait_for_timeout(1000)
        return violations(tab, *arguments, **options)
    return []


class Kinds(HTMLParser):
    """The kinds of elements of a page, but in code: of each its tag and classes, and those of the element around it."""
    def __init__(self, text):
        super().__init__()
        self.around, self.found = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        kind = tag, *sorted((dict(attributes).get("class") or "").split())
        if "pre" not in {outer for outer, *_ in self.around}:
            self.found.add((*self.around[-1:], kind))
        if tag not in ("area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"):
            self.around.append(kind)

    def handle_endtag(self, tag):
        while self.around and self.around.pop()[0] != tag:
            pass


def covering(kinds):
    """Of the pages, each with its kinds, some that have all kinds: always the one next that has most of those that are left."""
    left, chosen = set().union(*kinds.values()), []
    while left:
        chosen.append(max(kinds, key=lambda page: len(kinds[page] & left)))
        left -= kinds[chosen[-1]]
    return chosen


@pytest.fixture(scope="module")
def coloured(site):
    """Pages on which each kind of element stands: colours belong to kinds."""
    return covering({page: Kinds((site / f"{page}.html").read_text(encoding="utf-8")).found for page in PAGES})


def test_colours_are_looked_at_on_pages_that_have_every_kind_of_element(site, coloured):
    text = (site / f"{PAGES[0]}.html").read_text(encoding="utf-8")
    new = text.replace("</article>", '<p class="pale"><b>x</b></p></article>')
    assert Kinds(new).found - Kinds(text).found >= {(("p", "pale"), ("b",))} and Kinds(text + "<pre><i>").found - Kinds(text).found <= {(("pre",),)}
    assert covering({"a": {1, 2}, "b": {2, 3, 4}, "c": {1}, "d": {4}}) == ["b", "a"]
    assert len(coloured) < len(PAGES) / 2 or len(PAGES) < 20


def test_axe_finds_no_serious_violation(opened, coloured):
    """In the light all of its rules; in the dark the rule on colours.

    That on colours, which takes most of the time, on pages that have every kind of element."""
    beside = BESIDE if opened.page == PAGES[0] else {"exclude": [*BESIDE["exclude"], [".bd-sidebar-primary > *"]]}  # the same list on every page
    if opened.page in coloured:
        assert not lasting_violations(opened.show(), beside)
        assert not lasting_violations(opened.show(scheme="dark"), beside, COLOURS)
    else:
        assert not lasting_violations(opened.show(), beside, without=COLOURS)


@needs("notebooks/11_surprise")
def test_code_and_equations_stand_out(browser, server, site):
    """A sample of every kind of word that the book's code has, in the light and in the dark; equations have the colour of their text."""
    blocks = [block for page in NOTEBOOKS for block in re.findall(r"<pre>(.*?)</pre>", (site / f"{page}.html").read_text(encoding="utf-8"), re.S)]
    kinds = {kind for block in blocks for kind in re.findall(r'<span class="([^"]+)"', block)}
    assert {"kn", "mi"} <= kinds
    tab, _, _ = visit(browser, server, "notebooks/11_surprise.html")
    tab.wait_for_selector("mjx-container", timeout=20_000)
    samples = "".join(f'<span class="{kind}">word</span> ' for kind in sorted(kinds))
    tab.locator("article div.highlight pre").first.evaluate("(pre, samples) => { pre.id = 'samples'; pre.innerHTML = samples }", samples)
    samples_only = {"include": [["#samples"]]}
    for scheme in "light", "dark":
        tab.emulate_media(color_scheme=scheme)
        assert not violations(tab, samples_only, COLOURS)
        assert tab.evaluate("[...document.querySelectorAll('mjx-container')].every(e => getComputedStyle(e).color === getComputedStyle(e.parentElement).color)")
    tab.locator("#samples .mi").first.evaluate("word => { word.style.cssText = 'color: #777 !important; background: #888 !important' }")
    assert violations(tab, samples_only, COLOURS)
    tab.context.close()


WIDE = """() => { const pre = Object.assign(document.createElement('pre'), {innerHTML: `<span>${'wide '.repeat(99)}</span>`});
    pre.style.cssText = 'overflow: auto; white-space: pre';
    Object.defineProperty(pre, 'tabIndex', {set() {}});  // which the theme would set
    document.querySelector('article').append(pre, Object.assign(new Image(), {src: '../_static/logo.svg'})) }"""


def test_axe_would_find_one(browser, server):
    """The check above can fail: a picture without an alternative is found, and code that scrolls and that no key reaches."""
    tab, _, _ = visit(browser, server, "book/index.html")
    tab.evaluate(WIDE)
    assert {"image-alt", "scrollable-region-focusable"} <= dict(violations(tab, BESIDE)).keys()
    tab.context.close()


TAB_STOPS = """() => { const pres = [...document.querySelectorAll('article pre')], wide = pres.filter(pre => pre.scrollWidth > pre.clientWidth);
    return wide.length > 0 && wide.length < pres.length && pres.every(pre => (pre.tabIndex === 0) === wide.includes(pre)) }"""


def test_code_that_begins_to_scroll_while_the_window_stays_is_reached_by_keyboard(browser, server):
    """The theme measures at a change of the window's size alone; its sidebars may still be sliding then."""
    tab, _, _ = visit(browser, server, "book/teaching.html")
    tab.wait_for_function(TAB_STOPS, timeout=20_000)
    for width in "20rem", "":
        tab.evaluate("width => { document.querySelector('.bd-article').style.width = width }", width)
        tab.wait_for_function(TAB_STOPS, timeout=20_000)
        tab.wait_for_timeout(500)
        assert tab.evaluate(TAB_STOPS)
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
    tab.locator("#search-results li a", has_text="Surprise").first.wait_for(timeout=60_000)
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
