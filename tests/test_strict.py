"""`make test` runs the notebooks under nbval: real runs, on broken notebooks, show that it would see the break."""
import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
REFERENCES = {name: {"value": 2.06, "unit": "bits", "tolerance": 0.03, "notebook": "demo"} for name in ("loss", "other")}


@pytest.fixture
def validate(tmp_path):
    """A function that runs a notebook as tools/validate.py does, in a folder of its own; returns the exit status and what was printed."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(NOTEBOOKS / "conftest.py", folder)

    def run(notebook, *options, references=None):
        nbformat.write(notebook, folder / "it.ipynb")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PRACTITIONER_RESULTS", "PRACTITIONER_MEASURED", "PYTEST_"))}
        environment |= {"PRACTITIONER_MODE": "test", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        if references is not None:
            (tmp_path / "results.json").write_text(json.dumps(references), encoding="utf-8")
            environment["PRACTITIONER_RESULTS"] = str(tmp_path / "results.json")
        done = subprocess.run([sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "-p", "no:randomly",
                               "-rA", *options, "it.ipynb"],
                              cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    return run


def failed(text):
    """The numbers of the code cells that failed, counted as nbval does: from 0."""
    return sorted({int(number) for number in re.findall(r"^FAILED .*::Cell (\d+)", text, flags=re.M)})


def passed(text):
    return sorted({int(number) for number in re.findall(r"^PASSED .*::Cell (\d+)", text, flags=re.M)})


def printing(source, text, execution_count=1):
    """A code cell that was run and printed `text`."""
    outputs = [new_output("stream", name="stdout", text=text)] if text else []
    return new_code_cell(source, execution_count=execution_count, outputs=outputs)


def publishing(name, value):
    """A code cell that measured `value`, and whose committed output is the reference."""
    source = f'from unittest import mock\nfrom practitioner.book import result\nwith mock.patch("IPython.get_ipython", return_value=None):\n    result("{name}", {value}, "bits")'
    return printing(source, f"{name}: 2.06 bits\n")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_a_right_output_and_a_result_within_its_tolerance_pass_and_so_does_a_cell_that_was_never_run(validate):
    """nbval has nothing to compare the last with, and passes it silently whatever it prints.

    So a strict run alone does not prove that a notebook was committed with its outputs: that every code cell
    was executed, in order, is guarded in test_notebooks.py. Should this test fail, nbval has become stricter."""
    cells = [printing("print(2 + 2)", "4\n"), publishing("loss", 2.08), printing("print(2 + 2)", "", execution_count=None)]
    code, said = validate(new_notebook(cells=cells), references=REFERENCES)
    assert code == 0 and passed(said) == [0, 1, 2] and not failed(said) and "ResultError" not in said, said


def test_an_output_that_is_not_what_the_cell_prints_and_a_result_outside_its_tolerance_fail(validate):
    """A stale output, one that is left out, and a result, each where it stands and nothing beside it. The result's committed output is the reference: it is the comparison that fails."""
    cells = [printing("print(2 + 2)", "4\n"), printing("print(2 + 2)", "5\n"), printing("print(2 + 2)", ""), publishing("loss", 2.08), publishing("other", 2.10), printing("print(4)", "4\n")]
    code, said = validate(new_notebook(cells=cells), references=REFERENCES)
    assert code == 1 and passed(said) == [0, 3, 5] and failed(said) == [1, 2, 4], said
    assert "ResultError: other: measured 2.1, but the book says 2.06 ± 0.03 bits" in said and "ResultError: loss" not in said, said


def kill(notebook, function):
    """Make `function` of the notebook return 0.0; returns the number of its cell."""
    for number, cell in enumerate(code_cells(notebook)):
        tree = ast.parse(cell.source)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == function:
                node.body = [ast.Return(ast.Constant(0.0))]
                cell.source = ast.unparse(tree)
                return number
    raise LookupError(f"no cell defines {function}")


def cell_that(notebook, text):
    """The number of the first code cell whose source contains `text`."""
    return next(number for number, cell in enumerate(code_cells(notebook)) if text in cell.source)


def test_a_notebook_whose_computation_is_dead_fails(validate):
    """`entropy` returns 0.0: every cell up to the first number that needs it passes, and that one names both numbers."""
    notebook = nbformat.read(NOTEBOOKS / "11_surprise.ipynb", as_version=4)
    dead, published = kill(notebook, "entropy"), cell_that(notebook, 'result("entropy_character"')
    code, said = validate(notebook, "-x")
    assert code == 1, said
    assert dead < published and passed(said) == list(range(published)) and failed(said) == [published], said
    assert re.search(r"ResultError: entropy_character: measured 0\.0, but the book says 4\.52", said), said


def test_references_moved_by_two_tolerances_fail_where_the_number_is_published(validate):
    """And nowhere else in the notebook; with the references as they are, all of it passes."""
    notebook = nbformat.read(NOTEBOOKS / "90_honest_numbers.ipynb", as_version=4)
    references = json.loads((ROOT / "data" / "results.json").read_text(encoding="utf-8"))
    code, said = validate(notebook, references=references)
    assert code == 0, said
    for entry in references.values():
        entry["value"] += 2 * entry["tolerance"]
    code, said = validate(notebook, references=references)
    assert code == 1 and failed(said) == [cell_that(notebook, 'result("heads_share"')], said
    assert f"but the book says {references['heads_share']['value']!r}" in said
