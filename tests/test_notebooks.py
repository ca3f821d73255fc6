"""Hygiene of the notebooks. Each rule is a function that lists what breaks it, and each is shown to refuse a notebook that does."""
import ast
import base64
import builtins
import collections
import copy
import json
import pathlib
import platform
import re
import statistics

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
BOOK = {file.stem: nbformat.read(file, as_version=nbformat.NO_CONVERT) for file in FILES}
RUNS = json.loads((ROOT / "data" / "runs.json").read_text(encoding="utf-8"))
MACHINE_PATH = re.compile(r"/(?:root|home|Users|work|tmp)/\w|[A-Z]:\\+Users")
EXERCISE_TAGS = {"exercise", "check", "solution"}


# What a rule looks at

def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def markdown_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def tree(cell):
    """The cell's syntax tree; magics and shell lines are understood."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def images(cell):
    """The cell's image outputs: (type, content) pairs."""
    return [(kind, content) for output in cell.outputs for kind, content in output.get("data", {}).items() if kind.startswith("image/")]


def without_blocks(text):
    """Markdown without its fenced blocks of code; a directive such as ```{note} stays."""
    return re.sub(r"^(```+|~~~+)(?![`~{]).*?^\1", "", text, flags=re.M | re.S)


def without_code(text):
    """Markdown without its code, in blocks and in spans. What follows a role such as {cite} is no code span."""
    return re.sub(r"(?<![}`])(`+)(?!`).+?(?<!`)\1(?!`)", "", without_blocks(text), flags=re.S)


def prose(text):
    """Markdown without code, mathematics and the targets of links."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]*\$", "", without_code(text), flags=re.S)
    return re.sub(r"\]\([^)]*\)|<[^>]*>|https?://\S+", " ", text)


# The rules: each takes a notebook and its name and lists what is wrong

def format_rule(notebook, name):
    """Valid nbformat 4.5, and no id twice."""
    ids = collections.Counter(cell.get("id") for cell in notebook.cells)
    version = (notebook.nbformat, notebook.nbformat_minor)
    faults = [f"the id {id} stands {count} times" for id, count in ids.items() if count > 1] + ([] if version == (4, 5) else [f"nbformat {version}"])
    try:
        nbformat.validate(copy.deepcopy(notebook))
    except nbformat.ValidationError as error:
        faults.append(str(error).splitlines()[0])
    return faults


def metadata_rule(notebook, name):
    """The kernel is python3, and nothing else is said of a machine or an editor."""
    faults = [f"metadata {key}" for key in set(notebook.metadata) - {"kernelspec", "language_info", "nbdev"}]
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    return faults + ([] if kernel == "python3" else [f"kernelspec {kernel}"])


def execution_rule(notebook, name):
    """Every code cell was run, once, in order, in a fresh kernel."""
    counts = [cell.execution_count for cell in code_cells(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts {counts}"]


def output_rule(notebook, name):
    """No output is an error or stderr, or says that something was not fetched: what a network brings is executed with one."""
    return [f"{cell.id}: {output.output_type} {output.get('name', output.get('ename', ''))}" for cell in code_cells(notebook)
            for output in cell.outputs if output.output_type == "error" or output.get("name") == "stderr" or "was not fetched" in output.get("text", "")]


def path_rule(notebook, name):
    """No output holds a path of one machine."""
    faults = []
    for cell in code_cells(notebook):
        shown = [{**output, "data": {kind: content for kind, content in output.get("data", {}).items() if not kind.startswith("image/")}}
                 for output in cell.outputs]
        faults += [f"{cell.id}: {found}" for found in MACHINE_PATH.findall(json.dumps(shown))]
    return faults


def setup_rule(notebook, name):
    """The first code cell is the set-up cell: not shown on the page, and silent."""
    first = code_cells(notebook)[0]
    faults = [] if first.source.startswith("# Set-up") else ["the first code cell is not the set-up cell"]
    faults += [] if "remove-cell" in tags(first) else ["the set-up cell is not tagged remove-cell"]
    return faults + (["the set-up cell has an output"] if first.outputs else [])


def figure_rule(notebook, name):
    """A cell that draws has an alternative text (40 characters or more), a caption and a name."""
    faults = []
    for cell in filter(images, code_cells(notebook)):
        myst = cell.metadata.get("mystnb", {})
        figure = myst.get("figure", {})
        faults += [] if len(myst.get("image", {}).get("alt", "")) >= 40 else [f"{cell.id}: the alternative text is missing or short"]
        faults += [f"{cell.id}: no figure.{key}" for key in ("caption", "name") if not figure.get(key)]
    return faults


def picture_rule(notebook, name):
    """Pictures are PNG, under 200 kB each; none is smuggled in as HTML."""
    faults = []
    for cell in code_cells(notebook):
        for kind, content in images(cell):
            data = base64.b64decode(content) if kind == "image/png" else b""
            if not data.startswith(b"\x89PNG"):
                faults.append(f"{cell.id}: {kind} is not PNG")
            elif len(data) >= 200_000:
                faults.append(f"{cell.id}: a picture of {len(data):,} bytes")
        html = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
        faults += [f"{cell.id}: {found} in HTML" for found in re.findall(r"<(?:img|svg)\b", html)]
    return faults


def asserts_something_computed(cell):
    """Whether an assertion that runs with the cell depends on a name that was computed."""
    nodes = list(tree(cell).body)
    constants = set(vars(builtins))
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            constants |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        if isinstance(node, ast.Assign) and not any(isinstance(part, (ast.Name, ast.Call)) for part in ast.walk(node.value)):
            constants |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        nodes += ast.iter_child_nodes(node)
    nodes = list(tree(cell).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Assert):
            test = node.test
            same = isinstance(test, ast.Compare) and any(ast.dump(test.left) == ast.dump(other) for other in test.comparators)
            always = isinstance(test, ast.Tuple) or isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) and any(
                isinstance(part, ast.Constant) and part.value for part in test.values)
            names = {part.id for part in ast.walk(test) if isinstance(part, ast.Name)}
            if names - constants and not same and not always:
                return True
        nodes += ast.iter_child_nodes(node)
    return False


def ignored_output_rule(notebook, name):
    """An output that nbval does not compare is guarded by an assertion instead."""
    return [f"{cell.id}: its output is ignored and nothing computed is asserted" for cell in code_cells(notebook)
            if "nbval-ignore-output" in tags(cell) and not asserts_something_computed(cell)]


def typed_number_rule(notebook, name):
    """No decimal number is typed in prose: the cell below says it."""
    return [f"{cell.id}: {' '.join(found.split())}" for cell in markdown_cells(notebook)
            for found in re.findall(r"[^.\n]{0,40}\b\d+\.\d+\b[^.\n]{0,20}", prose(cell.source))]


def size_rule(notebook, name):
    """Code cells of 40 lines at most, half of those that are shown of 10 at most, lines of 92 columns at most."""
    lengths = {cell.id: sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code_cells(notebook)}
    faults = [f"{id}: {length} lines" for id, length in lengths.items() if length > 40]
    wide = [max(map(len, cell.source.splitlines())) for cell in code_cells(notebook)]
    faults += [f"{cell.id}: a line of {width} columns" for cell, width in zip(code_cells(notebook), wide) if width > 92]
    median = statistics.median([lengths[cell.id] for cell in code_cells(notebook) if "remove-cell" not in tags(cell)] or [0])
    return faults + ([f"the median cell has {median:g} lines"] if median > 10 else [])


def rhythm_rule(notebook, name):
    """Title, aim, and, in the book's own chapters, a prediction, a check and a break (but in an appendix), three exercises, and what comes next."""
    text = "\n\n".join(cell.source for cell in markdown_cells(notebook))
    first = notebook.cells[0].source if notebook.cells[0].cell_type == "markdown" else ""
    faults = [] if re.match(r"# \S.*\n+> \S", first) else ["it does not begin with a title and an aim"]
    if not re.match(r"\d\d_", name):  # a course's own
        return faults
    faults += [] if re.search(r"<details>(?:(?!</details>).)*<b>Predict", text, re.S) else ["nothing to predict"]
    headings = ["## Exercises", "## What comes next"] + ([] if name.startswith("9") else ["## Check", "## Break"])
    faults += [f"no {heading}" for heading in headings if not re.search(f"^{heading}", text, re.M)]
    exercises = [int(number) for number in re.findall(r"^\*\*Exercise (\d+)", text, re.M)]
    return faults + ([] if len(exercises) >= 3 and exercises == list(range(1, len(exercises) + 1)) else [f"exercises {exercises}"])


SECONDS = {"seconds": 10, "under a minute": 60, "under two minutes": 120, "under three minutes": 180}
MEGABYTES = {None: 256, "half a gigabyte": 500, "a gigabyte": 1000, "a gigabyte and a half": 1500, "two gigabytes": 2000}


def head_rule(notebook, name):
    """The first cell says what the notebook needs, with a link to each that it imports from, and its time and memory; the record of runs agrees.

    A head that is silent on memory promises a quarter of a gigabyte. The appendix on honest numbers, which all import from, needs no link."""
    if not re.match(r"\d\d_", name):  # a course's own
        return []
    head = notebook.cells[0].source
    run = RUNS.get(name, {"seconds": 0, "peak_mb": 0})
    modules = {other.metadata["nbdev"]["default_exp"]: file for file, other in BOOK.items() if "nbdev" in other.metadata}
    used = {node.module.partition(".")[2] for cell in code_cells(notebook) for node in ast.walk(tree(cell))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("practitioner.")}
    faults = [f"no link to {modules[module]}" for module in sorted(used - {"book"}) if modules[module] != name and f"({modules[module]}.ipynb" not in head]
    faults += [] if re.search(r"\b[Ii]t needs\b", head) else ["what it needs"]
    time = re.search(rf"\b[Ii]t runs in ({'|'.join(SECONDS)})\b", head)
    memory = re.search(rf"\b({'|'.join(sorted(filter(None, MEGABYTES), key=len, reverse=True))})\b", head)
    faults += ["how long it runs"] if not time else [f"{run['seconds']} s"] if run["seconds"] > SECONDS[time[1]] else []
    return faults + ([f"{run['peak_mb']} MB"] if (run["peak_mb"] or 0) > MEGABYTES[memory and memory[1]] else [])


def markup_rule(notebook, name):
    """No MyST directive or role, which Jupyter and Colab would show as raw text."""
    return [f"{cell.id}: {found}" for cell in markdown_cells(notebook)
            for found in re.findall(r"^\s*(?:```+|~~~+)\{|^\s*:::", without_blocks(cell.source), re.M)
            + re.findall(r"\{[a-z][\w:+.-]*\}`", without_code(cell.source))]


def link_rule(notebook, name):
    """Every relative link points to a file that exists."""
    faults = []
    for cell in markdown_cells(notebook):
        text = without_code(cell.source)
        for target in re.findall(r"\]\(([^)\s]+)[^)]*\)|(?:href|src)=\"([^\"]+)\"", text) + re.findall(r"^(\[[^\]]+\]): +(\S+)", text, re.M):
            target = next(part for part in reversed(target) if part).split("#")[0]
            if target and not re.match(r"[a-z]+:", target) and not (ROOT / "notebooks" / target).exists():
                faults.append(f"{cell.id}: {target}")
    return faults


RULES = [format_rule, metadata_rule, execution_rule, output_rule, path_rule, setup_rule, figure_rule, picture_rule, ignored_output_rule,
         typed_number_rule, size_rule, rhythm_rule, head_rule, markup_rule, link_rule]


@pytest.mark.parametrize("name", BOOK)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_notebook_keeps_the_rule(name, rule):
    faults = rule(BOOK[name], name)
    assert not faults, f"{rule.__doc__}\n" + "\n".join(faults)


# Rules between notebooks

def test_the_setup_cell_is_the_same_everywhere():
    """One text and one set of tags; `setup_rule` says that it is the first cell."""
    cells = {(code_cells(notebook)[0].source, tuple(sorted(tags(code_cells(notebook)[0])))) for notebook in BOOK.values()}
    assert len(cells) == 1


def test_no_two_figures_have_the_same_name():
    names = collections.Counter(cell.metadata["mystnb"]["figure"]["name"] for notebook in BOOK.values()
                                for cell in filter(images, code_cells(notebook)) if "figure" in cell.metadata.get("mystnb", {}))
    assert names and max(names.values()) == 1, names


def twice_defined(book):
    """Functions and classes that more than one notebook defines, but for those of exercises."""
    where = collections.defaultdict(set)
    for name, notebook in book.items():
        for cell in code_cells(notebook):
            if not tags(cell) & EXERCISE_TAGS:
                for node in tree(cell).body:
                    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                        where[node.name].add(name)
    return {function: names for function, names in where.items() if len(names) > 1}


def test_nothing_is_written_in_two_notebooks():
    """... and the search for it finds a definition that is copied into a second one."""
    assert not twice_defined(BOOK)
    bad = copy.deepcopy(good_notebook())
    bad.cells.append(nbformat.v4.new_code_cell("def entropy(p):\n    return 0"))
    assert list(twice_defined(BOOK | {"99_copy": bad})) == ["entropy"]
    bad.cells[-1].metadata["tags"] = ["solution"]
    assert not twice_defined(BOOK | {"99_copy": bad})


# The record of runs

def allowed(name):
    """The seconds and megabytes that a notebook may take: a minute and 1500, unless its head says otherwise."""
    head = BOOK[name].cells[0].source if name in BOOK else ""
    return max([60, *(seconds for promise, seconds in SECONDS.items() if promise in head)]), 2000 if "two gigabytes" in head else 1500


def run_faults(text, host):
    """What is wrong in the text of data/runs.json, for a book that was run on the machine named `host`."""
    runs = json.loads(text)
    faults = [f"{name}: no notebook, or no run" for name in set(runs) ^ set(BOOK)]
    faults += [f"{name}: {run['seconds']} s" for name, run in runs.items() if not 0 < run["seconds"] < allowed(name)[0]]
    faults += [f"{name}: {run['peak_mb']} MB" for name, run in runs.items() if not 0 < (run["peak_mb"] or 1) < allowed(name)[1]]
    return faults + (["the host's name"] if host and re.search(rf"(?<!\w){re.escape(host)}(?!\w)", text) else [])


def test_the_record_of_runs():
    """A run of each notebook, in time and memory, that names no machine."""
    assert not run_faults((ROOT / "data" / "runs.json").read_text(encoding="utf-8"), platform.node())


@pytest.mark.parametrize("key, value", [("seconds", 60), ("seconds", 0), ("peak_mb", 1500), ("machine", "at host-7, 2 cores"), (None, None)])
def test_a_bad_record_is_refused(key, value):
    runs = json.loads((ROOT / "data" / "runs.json").read_text(encoding="utf-8"))
    entry = runs["11_surprise"]
    if key:
        entry[key] = value
    else:
        runs["00_gone"] = runs.pop("11_surprise")
    assert len(run_faults(json.dumps(runs), "host-7")) == (1 if key else 2)


# Each rule refuses what it is there to refuse

PNG = base64.b64encode(b"\x89PNG\r\n").decode()


def good_notebook():
    """A notebook, constructed, that keeps every rule."""
    code, markdown, output = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell, nbformat.v4.new_output
    figure = {"image": {"alt": "A line that rises from left to right, and then no more."}, "figure": {"caption": "A line.", "name": "fig-line"}}
    cells = [
        markdown("# Title\n\n> The aim.\n\nIt needs patience. It runs in seconds.\n\n<details><summary><b>Predict.</b> What?</summary>\n\nThis.\n\n</details>"),
        code("# Set-up: nothing", metadata={"tags": ["remove-cell"]}),
        code("1 + 1", outputs=[output("execute_result", {"text/plain": "2"}, execution_count=2)]),
        code("draw()", metadata={"mystnb": figure}, outputs=[output("display_data", {"image/png": PNG})]),
        markdown("## Check\n\nAs `0.5` and $0.5$, $$0.25$$ and [a paper](https://doi.org/10.1002/j.1538) say; ``{cite}`x` `` is code, and so is `{a}`."),
        markdown("## Break\n\n```\n0.5\n```\n\n## Exercises\n\n**Exercise 1.** One.\n\n**Exercise 2.** Two.\n\n**Exercise 3 (open).** Three."),
        code("y = f()\nassert y > 0.5", metadata={"tags": ["nbval-ignore-output"]}, outputs=[output("stream", name="stdout", text="0.7\n")]),
        markdown("## What comes next\n\n[The first](10_corpus.ipynb#the-end)."),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    for place, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = place
    return notebook


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_passes(rule):
    assert not rule(good_notebook(), "11_good")


def set_source(place, source):
    return lambda notebook: notebook.cells[place].update(source=source)


def add_prose(text):
    return lambda notebook: notebook.cells[-1].update(source=notebook.cells[-1].source + "\n\n" + text)


def add_output(*arguments, **options):
    return lambda notebook: notebook.cells[2].outputs.append(nbformat.v4.new_output(*arguments, **options))


def drop(text):
    def change(notebook):
        for cell in notebook.cells:
            cell.source = cell.source.replace(text, "")
    return change


BIG = base64.b64encode(b"\x89PNG" + bytes(200_000)).decode()
BAD = [
    (format_rule, lambda notebook: notebook.cells[1].update(id=notebook.cells[2].id)),
    (format_rule, lambda notebook: notebook.update(nbformat_minor=4)),
    (format_rule, lambda notebook: notebook.cells[1].pop("outputs")),
    (metadata_rule, lambda notebook: notebook.metadata.update(widgets={})),
    (metadata_rule, lambda notebook: notebook.metadata.kernelspec.update(name="my-env")),
    (execution_rule, lambda notebook: notebook.cells[2].update(execution_count=None)),
    (execution_rule, lambda notebook: [cell.update(execution_count=None) for cell in code_cells(notebook)]),
    (execution_rule, lambda notebook: notebook.cells[2].update(execution_count=7)),
    (execution_rule, lambda notebook: notebook.cells.insert(1, notebook.cells.pop(2))),
    (output_rule, add_output("stream", name="stderr", text="100%")),
    (output_rule, add_output("stream", name="stdout", text="X was not fetched (ConnectionError): going on without")),
    (output_rule, add_output("error", ename="KeyError", evalue="", traceback=[])),
    (path_rule, add_output("stream", name="stdout", text="written to /home/ada/file\n")),
    (path_rule, add_output("execute_result", {"text/plain": "PosixPath('/tmp/x')"}, execution_count=2)),
    (setup_rule, lambda notebook: notebook.cells[1].metadata.update(tags=["set-up"])),
    (setup_rule, lambda notebook: notebook.cells[1].outputs.append(nbformat.v4.new_output("stream", text="ready"))),
    (setup_rule, lambda notebook: notebook.cells.insert(0, notebook.cells.pop(2))),
    (figure_rule, lambda notebook: notebook.cells[3].update(metadata={})),
    (figure_rule, lambda notebook: notebook.cells[3].metadata.mystnb.image.update(alt="A line.")),
    (figure_rule, lambda notebook: notebook.cells[3].metadata.mystnb.figure.pop("caption")),
    (figure_rule, lambda notebook: notebook.cells[3].metadata.mystnb.figure.pop("name")),
    (picture_rule, add_output("display_data", {"image/svg+xml": "<svg/>"})),
    (picture_rule, add_output("display_data", {"image/png": "AAAA"})),
    (picture_rule, add_output("display_data", {"image/png": BIG})),
    (picture_rule, add_output("display_data", {"text/html": "<img src='data:'>"})),
    (typed_number_rule, add_prose("The entropy is 4.52 bits.")),
    (typed_number_rule, add_prose("See [the 0.5](https://a.org/).")),
    (size_rule, set_source(2, "x = 1\n" * 41)),
    (size_rule, set_source(2, "x = " + "1" * 89)),
    (size_rule, lambda notebook: [cell.update(source="x = 1\n" * 11) for cell in code_cells(notebook)]),
    *[(rhythm_rule, drop(text)) for text in ("# Title", "> The aim", "<details>", "<b>Predict", "## Exercises", "## What comes next",
                                             "## Check", "## Break", "**Exercise 3", "**Exercise 1")],
    (head_rule, drop("It needs")),
    (head_rule, drop("It runs in seconds")),
    (head_rule, set_source(2, "from practitioner.corpus import load_corpus")),
    *[(markup_rule, add_prose(text)) for text in ("```{note}\nThis.\n```", ":::{note}\nThis.\n:::", "As {cite}`shannon` says.", "{glue:text}`a::b:.2f`")],
    (link_rule, add_prose("[gone](99_gone.ipynb)")),
    (link_rule, add_prose("[gone](../notebooks/99_gone.ipynb#here)")),
    (link_rule, add_prose('<a href="99_gone.ipynb">gone</a>')),
    (link_rule, add_prose("[gone][1]\n\n[1]: 99_gone.ipynb")),
    *[(ignored_output_rule, set_source(6, "y = f()\n" + text)) for text in (
        "print(y)", "assert True", "assert 1 < 2", "assert len([1])", "z = 1\nassert z", "import os\nassert os", "assert y == y", "assert y > 0 or True",
        "assert (y > 0, 'always true')", "def check():\n    assert y", "check = lambda: y  # assert y")],
]


def test_a_course_s_own_notebook_has_its_own_rhythm():
    """... but a title and an aim."""
    notebook = good_notebook()
    notebook.cells = notebook.cells[:2]
    assert rhythm_rule(notebook, "11_good") and not rhythm_rule(notebook, "week_1")
    drop("> The aim")(notebook)
    assert rhythm_rule(notebook, "week_1")


@pytest.mark.filterwarnings("ignore::nbformat.warnings.DuplicateCellId")
@pytest.mark.parametrize("rule, change", BAD, ids=lambda value: getattr(value, "__name__", None))
def test_a_bad_notebook_is_refused(rule, change):
    """One change to a good notebook, and the rule that forbids it says so."""
    notebook = good_notebook()
    change(notebook)
    assert rule(notebook, "11_bad")


def test_a_head_that_promises_less_than_was_recorded_is_refused():
    """Said: seconds, and nothing of memory."""
    run = RUNS["10_corpus"]
    assert head_rule(good_notebook(), "10_corpus") == [f"{run['seconds']} s", f"{run['peak_mb']} MB"]


def test_every_rule_is_shown_to_refuse():
    assert {rule for rule, _ in BAD} == set(RULES)
