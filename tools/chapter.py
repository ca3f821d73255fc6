"""Begin a notebook of your own: the set-up cell that every notebook has, a title, and an aim (`make chapter NB=week_1`).

Its line in _toc.yml, which is printed, makes it a chapter. Name it with a letter first: two digits and _ are for the
chapters of the book, whose rhythm a test checks."""
import argparse
import json
import pathlib
import re
import sys
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent


def new_cell(kind, source, **more):
    return {"cell_type": kind, "id": uuid.uuid4().hex[:8], "metadata": {}, "source": source.splitlines(keepends=True), **more}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the notebook's name, such as week_1")
    name = parser.parse_args().name
    if not re.fullmatch(r"[A-Za-z0-9]\w*", name, re.A):
        parser.error(f"{name!r} is no name for a notebook: letters, digits and _ only, without .ipynb")
    file = ROOT / "notebooks" / f"{name}.ipynb"
    if file.exists():
        parser.error(f"notebooks/{file.name} is there already")
    notebook = json.loads((ROOT / "notebooks" / "90_honest_numbers.ipynb").read_text(encoding="utf-8"))
    setup = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    title = name.replace("_", " ").capitalize()
    notebook["cells"] = [
        new_cell("markdown", f"# {title}\n\n> What it is about, in a sentence.\n\nAt the end you can do what? It needs what? It runs how long?"),
        {**setup, "id": uuid.uuid4().hex[:8]},
        new_cell("code", "from practitioner.corpus import load_corpus\n\ncorpus = load_corpus()\nprint(len(corpus.train), 'conversations to learn from')", execution_count=None, outputs=[])]
    del notebook["metadata"]["nbdev"]  # it writes nothing into the package
    file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    print(f"notebooks/{file.name} is begun. Write it (make lab), run it (make execute NB={name}),\nand put its line where it belongs in _toc.yml:\n  - file: notebooks/{name}")


if __name__ == "__main__":
    sys.exit(main())
