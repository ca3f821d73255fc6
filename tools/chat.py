"""Talk with the book's chatbot in the terminal (`make chat`).

It says what it is and what it is not; /help lists what it understands. Ctrl-C stops a reply, /quit or the end of the input
the program. Lines may come through a pipe. What is typed stays on this computer."""
import argparse
import concurrent.futures
import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one token after another: more threads would only wait for each other
RULES = json.loads((ROOT / "data" / "chat" / "behaviour.json").read_text(encoding="utf-8"))


def load(arguments, console):
    """The chat. Here the slow imports are, so that the greeting and the first line need not wait for them."""
    from practitioner.chatbot import load_chatbot, TerminalChat
    return TerminalChat(load_chatbot(arguments.model, arguments.seed, arguments.temperature), console)


def lines(console):
    """What is typed, or what comes through a pipe, which is shown as if it was typed."""
    if sys.stdin is None or not sys.stdin.isatty():
        for line in sys.stdin or ():
            if line.strip():
                console.out(f"you: {' '.join(line.split())}", highlight=False)
            yield line
        return
    try:
        import readline  # noqa: F401  (arrows and the lines before; Windows has its own)
    except ImportError:
        pass
    while True:
        try:
            yield input("you: ")
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print("\n/quit or Ctrl-D leaves.", style="dim", highlight=False)


def main():
    first, rule = RULES["seed"]["first"], RULES["decoding"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=first, help=f"by which replies are drawn ({first})")
    parser.add_argument("--temperature", type=float, default=rule["temperature"], help=f"how daring, from 0 to {rule['most']:g} ({rule['temperature']:g})")
    parser.add_argument("--model", type=pathlib.Path, help="weights of your own, as notebook 56 keeps them (data/chat/chat.safetensors)")
    arguments = parser.parse_args()
    if not 0 <= arguments.seed <= RULES["seed"]["most"] or not 0 <= arguments.temperature <= rule["most"]:
        parser.error(f"a seed is from 0 to {RULES['seed']['most']}, a temperature from 0 to {rule['most']:g}")
    weights = arguments.model or ROOT / "data" / "chat" / "chat.safetensors"
    if not weights.is_file():
        parser.error(f"there is no {weights}")
    from rich.console import Console
    for stream in filter(None, (sys.stdin, sys.stdout)):  # of a program without an input there is none
        stream.reconfigure(errors="replace")
    console = Console()
    console.print(RULES["greeting"], style="dim", markup=False, highlight=False, soft_wrap=not console.is_terminal)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load, arguments, console)
        for line in lines(console):
            try:
                if not loading.result().take(line):
                    break
            except ValueError as error:
                sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {error}")
            except KeyboardInterrupt:  # while it was still loading
                console.print()
        if error := loading.exception():  # also where nothing was typed
            sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
