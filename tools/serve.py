"""Serve the chatbot's model by the library transformers, to programs that speak OpenAI's interface (`make serve`).

The model is written in the hub's format into _build/hub/chatbot, and `transformers serve` is started with it on this
computer, for nobody else. It is the bare model: the fixed answers and the checks of the book's chatbot are not in it."""
import argparse
import importlib.util
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
NEEDED = "accelerate", "fastapi", "openai", "uvicorn"
NO_SERVER = "the packages of the group serve are not installed"


def missing():
    """Which of the packages that the server needs are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def command(folder, port):
    """What starts the server, as a list of words."""
    return [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--host", "localhost", "--port", str(port), "--device", "cpu"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="at which it listens (8000)")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "_build" / "hub" / "chatbot", help="where the model is written (_build/hub/chatbot)")
    parser.add_argument("--model", type=pathlib.Path, help="weights of your own, as notebook 56 keeps them")
    parser.add_argument("--export-only", action="store_true", help="write the model, and start nothing")
    arguments = parser.parse_args()
    if missing() and not arguments.export_only:
        parser.error(f"{NO_SERVER} ({', '.join(missing())}): pip install --group serve --constraint constraints.txt")
    if not 1 <= arguments.port <= 65535:
        parser.error(f"a port is from 1 to 65535: not {arguments.port}")
    from practitioner.chatbot import export_to_hub
    try:
        folder = export_to_hub(arguments.folder, arguments.model)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"The model, in the hub's format: {folder}", flush=True)
    if not arguments.export_only:
        print(f"Its name is {folder}, its address http://localhost:{arguments.port}/v1; Ctrl-C ends it.", flush=True)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched
        os.execv(sys.executable, command(folder, arguments.port))


if __name__ == "__main__":
    main()
