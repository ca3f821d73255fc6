"""A course: a fork under another name, with chapters left out or added in _toc.yml and nowhere else, builds without a warning and passes its tests."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from bs4 import BeautifulSoup
from test_fork import adopt, commit, make_clone
from test_site import build, copy_sources, needs

ROOT = pathlib.Path(__file__).resolve().parent.parent
whole = needs("book/information", "book/status", "notebooks/10_corpus", "notebooks/11_surprise")  # a course may lack what these tests leave out
LINE = re.compile(r"^( *)- (?:file: (\S+)|caption: *\"?([^\"\n]+)\"?)\n", re.M)


def leave_out(folder, *wanted):
    """Delete, in _toc.yml, the lines of pages and of whole parts (by their captions), each with the lines that belong to it."""
    file, deep, kept = folder / "_toc.yml", None, []
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        indent = len(line) - len(line.lstrip())
        deep = None if deep is not None and indent <= deep else deep
        match = LINE.fullmatch(line)
        if deep is None and match and (match[2] or match[3]) in wanted:
            deep = indent
        if deep is None:
            kept.append(line)
    text = re.sub(r"^( +)sections:\n(?!\1  )", "", "".join(kept), flags=re.M)  # a heading with nothing left below it
    assert text != file.read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")


def part_of(folder, page):
    """The caption of the part that has a page as a chapter."""
    parts = yaml.safe_load((folder / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    return next(part["caption"] for part in parts if page in [chapter["file"] for chapter in part["chapters"]])


def add(folder, page):
    """Add a line for a page at the beginning of the first part."""
    file = folder / "_toc.yml"
    file.write_text(re.sub(r"^( *)- file: ", rf"\1- file: {page}\n\1- file: ", file.read_text(encoding="utf-8"), count=1, flags=re.M), encoding="utf-8")


def run_tests(folder, *arguments):
    """The tests of the clone in `folder`, run there."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PRACTITIONER_"))}
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *arguments], cwd=folder, env=variables,
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)


# Not run in the clone: this file, test_fork.py, a test of the workflows and one of the site, which make clones; most of what looks at pages in the browser; and what neither a name nor the contents
# can change, that is the modules that the notebooks write, the chat in the page, the runs that `make train` records, nbval itself, and the results that it measures; the workflows, which adopting does not touch
# (test_fork.py), held against their schemas; what the tools say of themselves; and the stubs of the exercises and the wrong answers to them. That each solution is still accepted is run.
LEFT_OUT = {"course", "fork", "train", "strict", "results", "pdf", "page_chat"} | {file.stem for file in (ROOT / "practitioner").glob("*.py")}
BROWSED = "quiet_and_fits or axe or keyboard or typeset or search_finds or in_the_dark or no_page_is_heavy or stand_out or is_weighed or a_first_one or colours"
UNCHANGED = "commits_it_once or a_shallow_clone_has or the_files_are_valid or an_invalid_file or a_tool_says or the_stub_is or the_stub_says or a_wrong_answer"
SUITE = ["tests", *(f"--ignore=tests/test_{name}.py" for name in sorted(LEFT_OUT)), "-k", f"not ({BROWSED} or {UNCHANGED})"]
# Of the PDF, what the name and the contents can change.
PRINTED = ["tests/test_pdf.py", "-k", "not (torn or cut_line_would or a_line_or_two or not_built or missing_or_old or refused or follow_their_goals or unfolded)"]


@whole
def test_a_course_passes_its_own_tests(tmp_path):
    """All of Part 1 is left out, its chapter and its notebooks, to which most of the rest refers; and a notebook of the course's own is added."""
    course = make_clone(tmp_path / "course")
    assert adopt(course, "Student-42/my-course").returncode == 0
    leave_out(course, part_of(course, "book/information"))
    for command in "chapter.py", "execute.py":
        done = subprocess.run([sys.executable, f"tools/{command}", "a_test_week"], cwd=course, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert done.returncode == 0, done.stdout
    add(course, "notebooks/a_test_week")
    contents = (course / "_toc.yml").read_text(encoding="utf-8")
    assert "- file: notebooks/a_test_week\n" in contents and "information" not in contents.lower() and "notebooks/1" not in contents
    commit(course, "A course")
    done = run_tests(course, *SUITE)
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 300, done.stdout[-500:]
    # The PDF, of an edition that is quickly printed: the week, and the pages around the parts.
    rest = [part["caption"] for part in yaml.safe_load(contents)["parts"] if re.search(r"notebooks/[1-8]\d_", str(part))] + re.findall(r"notebooks/9[1-9]_\w+", contents)
    if rest:
        leave_out(course, *rest)
    done = run_tests(course, *PRINTED)
    assert done.returncode == 0, done.stdout[-4000:]


def test_a_notebook_is_not_begun_over_another_or_under_a_bad_name(tmp_path):
    for name, fault in ("11_surprise", "is there already"), ("week 1", "is no name"), ("week_1.ipynb", "is no name"), ("../week", "is no name"):
        done = subprocess.run([sys.executable, ROOT / "tools" / "chapter.py", name], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and fault in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the command is for a POSIX shell")
def test_what_is_handed_out_has_no_solution(tmp_path):
    """By the command that the page on teaching shows."""
    [command] = re.findall(r"^\.venv/bin/(jupyter nbconvert .*?)^```", (ROOT / "book" / "teaching.md").read_text(encoding="utf-8"), re.M | re.S)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    done = subprocess.run(f"{pathlib.Path(sys.executable).parent}/{command}", shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for file in sorted((tmp_path / "notebooks").glob("*.ipynb")):
        cells, handed = (json.loads(each.read_text(encoding="utf-8"))["cells"] for each in (file, tmp_path / "handout" / file.name))
        kept = [cell["source"] for cell in cells if "solution" not in cell["metadata"].get("tags", [])]
        assert [cell["source"] for cell in handed] == kept and not any(cell.get("outputs") for cell in handed), file.name
        assert len(kept) < len(cells) or not re.match(r"\d\d_", file.name)


EXTRA = """(rules)=
# Rules of the course

## Marks

$$ x = 1 $$ (marks)

:::{glossary}
mark
  What a teacher gives.

Late day
  One that costs nothing.
:::
"""
REFERENCES = {  # to what is left out, and what is read in their place
    "[one](extra.md)": "one", "[**two**](extra.md#marks)": "two", "[](extra.md)": "Rules of the course", "{doc}`extra`": "Rules of the course", "{doc}`three </book/extra>`": "three",
    "{ref}`rules`": "Rules of the course", "{ref}`four <rules>`": "four", "[five](#rules)": "five", "{eq}`marks`": "Rules of the course", "{term}`late day`": "Late day",
    "{term}`six <mark>`": "six", "{numref}`fig-coin`": "“The entropy of a coin”", "{numref}`Figure %s <fig-coin>`": "“The entropy of a coin”", "[seven](#fig-coin)": "seven",
    "[](../notebooks/11_surprise.ipynb)": "Surprise", "{chapter}`11_surprise`": "Surprise", "{chapter}`eight <11_surprise>`": "eight"}


# A few pages, so that they are built quickly; that a whole course whose other pages refer to what is left out can be built is shown above.
SOME = ["book/information", "notebooks/10_corpus", "notebooks/11_surprise", "book/status"]


@whole
def test_what_is_left_out_is_named_and_not_linked_and_its_numbers_stand(tmp_path):
    """One notebook is left out, and a page of one's own, with a label, an equation and a glossary."""
    folder = copy_sources(tmp_path, SOME)
    (folder / "book" / "extra.md").write_text(EXTRA, encoding="utf-8")
    page = folder / "book" / "index.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n" + "".join(f"- {reference}\n" for reference in REFERENCES) +
                    "- {glue:text}`../notebooks/11_surprise.ipynb::alphabet:,d`\n- {chapter}`10_corpus`\n- {chapter}`16_planned_only`\n", encoding="utf-8")
    leave_out(folder, "notebooks/11_surprise")
    done = build(folder)
    assert done.returncode == 0, done.stdout[-4000:]
    site = folder / "_build" / "html"
    pages = {file.relative_to(site).as_posix(): BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser") for file in site.glob("*/*.html")}
    assert "notebooks/11_surprise.html" not in pages and "notebooks/10_corpus.html" in pages
    assert not [name for name, page in pages.items() if page.find("a", href=re.compile(r"11_surprise|\bextra\.html"))]
    *items, number, corpus, planned = pages["book/index.html"].find("article").find_all("li")[-len(REFERENCES) - 3:]
    for item, words in zip(items, REFERENCES.values(), strict=True):
        mark = item.find("span", class_="not-in-this-edition")
        assert mark and mark["title"] == "not in this edition" and item.get_text().strip() == words, item
    results = json.loads((ROOT / "data" / "results.json").read_text(encoding="utf-8"))
    assert number.get_text().strip() == f"{results['alphabet']['value']:,d}"
    glued = {name: [tag.get_text() for tag in page.find_all(class_="pasted-text")] for name, page in pages.items()}
    form = re.findall(r"\{glue:text\}`\S+::(\w+):(\S+)`", (ROOT / "book" / "information.md").read_text(encoding="utf-8"))
    assert glued["book/information.html"] == [format(int(results[name]["value"]) if spec.endswith("d") else results[name]["value"], spec) for name, spec in form]
    assert corpus.find("a")["href"] == "../notebooks/10_corpus.html" and corpus.get_text().strip() == "Real conversations"
    assert planned.find("span", class_="planned").get_text() == "Planned only"
    assert pages["notebooks/10_corpus.html"].find("span", class_="not-in-this-edition")  # in a notebook, too
    assert "11_surprise" not in pages["book/status.html"].find("article").get_text()


@whole
def test_what_exists_nowhere_still_fails(tmp_path):
    """... and each mistake is named, though the notebook beside it is left out."""
    folder = copy_sources(tmp_path, SOME)
    mistakes = {"[a](../notebooks/99_gone.ipynb)": "99_gone", "[a](gone.md)": "gone.md", "[a](../data/chitchat/README.md)": "data/chitchat/README", "{doc}`vanished`": "vanished",
                "{ref}`no-label`": "no-label", "{numref}`fig-none`": "fig-none", "{term}`no term`": "no term", "[a](#no-anchor)": "no-anchor", "{eq}`no-equation`": "no-equation",
                "{glue:text}`../notebooks/11_surprise.ipynb::no_number:.2f`": "no_number", "{glue:text}`../notebooks/11_surprise.ipynb::conversations_kept:,d`": "conversations_kept",
                "{chapter}`11_another_name`": "there is no notebook '11_another_name', but there is '11_surprise'", "{chapter}`nonsense`": "there is no notebook 'nonsense'"}
    page = folder / "book" / "index.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n" + "".join(f"- {reference}\n" for reference in mistakes), encoding="utf-8")
    leave_out(folder, "notebooks/11_surprise")
    done = build(folder)
    warnings = [line for line in done.stdout.splitlines() if "WARNING" in line]
    assert done.returncode != 0 and len(warnings) == len(mistakes), done.stdout[-4000:]
    assert not [words for words in mistakes.values() if not any(words in line for line in warnings)]


@whole
def test_a_chapter_comes_back_and_another_is_added_by_their_lines(tmp_path):
    """In a folder that was built before, without a fresh start: every page follows the contents."""
    folder = copy_sources(tmp_path, SOME)
    contents = (folder / "_toc.yml").read_text(encoding="utf-8")
    leave_out(folder, "notebooks/11_surprise")
    assert build(folder).returncode == 0
    (folder / "book" / "week_one.md").write_text("# Week one\n\nRead [Surprise](../notebooks/11_surprise.ipynb).\n", encoding="utf-8")
    (folder / "_toc.yml").write_text(contents, encoding="utf-8")
    add(folder, "book/week_one")
    done = build(folder)
    assert done.returncode == 0, done.stdout[-4000:]
    for name in "week_one", "information":
        assert 'href="../notebooks/11_surprise.html"' in BeautifulSoup((folder / "_build" / "html" / "book" / f"{name}.html").read_text(encoding="utf-8"), "html.parser").find("article").decode()
