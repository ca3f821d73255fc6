"""Run notebooks in order, each in a fresh kernel, and keep their outputs (`make execute`).

With --refresh, first measure the published results again under several seeds, thread counts and instruction sets,
and record them with their spread in data/results.json (`make refresh`). data/runs.json notes every run: its duration,
peak memory, machine and versions. A notebook that fails is left as it was."""
import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import sys
import tempfile
import time

import nbclient
import nbformat

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
from processor import old_processor  # noqa: E402
from practitioner.book import machine, record, ResultError, versions, write_atomically  # noqa: E402

SEEDS = range(1, 4)


def run(path, environment):
    """Execute the notebook at `path`; returns it with its outputs, its seconds and its kernel's peak memory in MB."""
    os.environ.update(environment)
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    client = nbclient.NotebookClient(notebook, kernel_name="python3", timeout=1800, record_timing=False, coalesce_streams=True,
                                     extra_arguments=["--log-level=ERROR"], resources={"metadata": {"path": str(path.parent)}})
    for attempt in range(3):
        try:
            client.execute()
            break
        except RuntimeError as error:  # two kernels that start together may have been given the same port
            if attempt == 2 or "before replying" not in str(error):
                raise
    seconds = time.perf_counter() - started
    try:
        import resource
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    except ImportError:  # Windows has no such reading
        peak = None
    notebook.metadata = {key: value for key, value in notebook.metadata.items() if key in ("nbdev", "kernelspec")}
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook, seconds, peak


def measure(path, environment):
    """The results that one run of the notebook measures: name to (value, unit, about)."""
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder, "measured.jsonl")
        run(path, environment | {"PRACTITIONER_MODE": "measure", "PRACTITIONER_MEASURED": str(log)})
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return {entry["name"]: (entry["value"], entry["unit"], entry.get("about")) for entry in map(json.loads, lines)}


def refresh(pool, path, reason):
    """Measure `path` under every variation and record the results."""
    usual = {"PRACTITIONER_SEED": "0"}
    variations = [usual] + [{"PRACTITIONER_SEED": str(seed)} for seed in SEEDS]
    variations += [usual | old_processor(), usual | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}]
    first = pool.submit(measure, path, usual).result()
    if first:
        rest = [pool.submit(measure, path, variation) for variation in variations[1:]]
        runs = [first] + [job.result() for job in rest]
        print(f"{path.stem}: {len(runs)} runs; recorded {', '.join(record(path.stem, runs, reason))}", flush=True)
    else:
        record(path.stem, [{}])
        print(f"{path.stem}: publishes no result", flush=True)


def note(path, seconds, peak):
    """Add a run to data/runs.json."""
    file = ROOT / "data" / "runs.json"
    runs = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    runs[path.stem] = {"date": str(datetime.date.today()), "seconds": round(seconds, 1), "peak_mb": peak and round(peak),
                       "machine": machine(), "versions": versions()}
    write_atomically(file, json.dumps(runs, indent=1, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks, such as 11_surprise; without any, all of them")
    parser.add_argument("--refresh", action="store_true", help="measure the published results again")
    parser.add_argument("--reason", default="", help="why a result leaves its old tolerance; it is recorded")
    options = parser.parse_args()
    paths = [ROOT / "notebooks" / f"{pathlib.Path(name).stem}.ipynb" for name in options.names] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in paths:
        if not path.exists():
            parser.error(f"there is no {path.relative_to(ROOT)}")
    failed = []
    # A worker runs one notebook and ends, so that the peak memory of its kernel is that of this notebook alone.
    with concurrent.futures.ProcessPoolExecutor(2, max_tasks_per_child=1) as pool:
        for path in paths:
            try:
                if options.refresh:
                    refresh(pool, path, options.reason)
                print(f"{path.stem}: running", end=" ", flush=True)
                notebook, seconds, peak = pool.submit(run, path, {"PRACTITIONER_MODE": "test"}).result()
            except (nbclient.exceptions.CellExecutionError, ResultError) as error:
                print(f"\n{path.stem} failed, and is left as it was:\n{error}", file=sys.stderr)
                failed.append(path.stem)
                continue
            write_atomically(path, nbformat.writes(notebook) + "\n")
            note(path, seconds, peak)
            print(f"{seconds:.1f} s" + (f", {peak:.0f} MB" if peak else ""), flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
