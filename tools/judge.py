"""Judge the chat model and what it came from, over the test part (`data/chat/judged.json`): what replies cost, which of 20 candidates is chosen, what is said.

Takes about a quarter of an hour of one core. Contexts are drawn by a fixed seed; of what people wrote only numbers of conversations and turns are kept."""
import argparse
import json
import pathlib
import sys
import time

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from practitioner.book import machine, versions, write_atomically  # noqa: E402
from practitioner.cache import Cache, CachedLM, CachedSteps, fork  # noqa: E402
from practitioner.chat import as_typed, begin_chat, in_letters, prompt, reply, reply_bits, template  # noqa: E402
from practitioner.chatbot import chat_tokenizer  # noqa: E402
from practitioner.corpus import load_corpus  # noqa: E402
from practitioner.scaling import load_quantised  # noqa: E402

DATA, CANDIDATES = ROOT / "data", 20


def contexts(conversations, count, seed):
    """Places (conversation, turn) at which the bot is to speak, after three turns or more: `count` of them, drawn without repetition."""
    places = [(number, turn) for number, turns in enumerate(conversations) for turn in range(3, len(turns), 2)]
    return [places[chosen] for chosen in np.random.default_rng(seed).permutation(len(places))[:count]]


@torch.no_grad()
def costs(lm, dialect, turns, candidates, longest=64):
    """As `candidate_bits`, with a cache: what came before is read once and not for each candidate. tests/test_chat.py holds the two against each other."""
    given = prompt(dialect, turns, lm.context + 1 - longest)
    bodies = [dialect.turn(len(turns), candidate)[1][:longest] for candidate in candidates]
    cache, counts = Cache(lm.model), np.array([len(body) for body in bodies])
    if len(given) > 1:
        lm.features(torch.tensor([given[:-1]]), cache)
    rows = torch.tensor([[given[-1], *body[:-1], *(counts.max() - len(body)) * [0]] for body in bodies])
    log_p = lm(rows, fork(cache, len(bodies) * [0])).log_softmax(-1)
    bits = [-log_p[row, range(len(body)), body].sum().item() / np.log(2) for row, body in enumerate(bodies)]
    return np.array(bits), counts


def chosen_by(model, dialect, conversations, count):
    """For each context, the rank of what was really said, from 0, among it and 19 replies from other conversations: by bits a token, and by bits."""
    lm, ranks, rng = CachedLM(model), [], np.random.default_rng(1)
    for number, turn in contexts(conversations, count, 0):
        others = [(n, t) for n, turns in enumerate(conversations) if n != number for t in range(3, len(turns), 2)]
        drawn = [others[each] for each in rng.permutation(len(others))[:CANDIDATES - 1]]
        said = [conversations[number][turn], *(conversations[n][t] for n, t in drawn)]
        bits, tokens = costs(lm, dialect, conversations[number][:turn], said)
        ranks.append([int((values[1:] <= values[0]).sum()) for values in (bits / tokens, bits)])
    return ranks


def said_by(model, dialect, conversations, count):
    """For each context a reply, and whether it ended by itself."""
    lm, found = CachedLM(model), []
    for number, turn in contexts(conversations, count, 2):
        text, ended = reply(model, dialect, conversations[number][:turn], np.random.default_rng([3, number, turn]), steps=CachedSteps(lm))
        found.append([number, turn, text, bool(ended)])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choices", type=int, default=300, help="contexts in which one of the candidates is to be chosen (300)")
    parser.add_argument("--replies", type=int, default=200, help="contexts in which a reply is written (200)")
    arguments = parser.parse_args()
    started, tokenizer = time.perf_counter(), chat_tokenizer()
    conversations = [conversation.turns for conversation in load_corpus().test]
    released, typed, chat = (load_quantised(DATA / folder / f"{name}.safetensors") for folder, name in (("scaling", "released"), ("chat", "typed"), ("chat", "chat")))
    letters, lines, roles = in_letters(tokenizer), as_typed(tokenizer), template(tokenizer)
    judged = dict(machine=machine(), versions=versions())
    for name, model, dialect in (("released in letters", released, letters), ("released in the template", begin_chat(released, tokenizer), roles), ("chat", chat, roles),
                                 ("typed in lines", typed, lines), ("typed in the template", begin_chat(typed, tokenizer), roles)):
        judged[name] = {}
        if name != "chat":  # its run has said what replies cost it
            bits, sizes, tokens = reply_bits(model, dialect, conversations)
            judged[name] |= dict(test=[round(float(cost), 1) for cost in bits], tokens=int(tokens.sum()))
            print(f"{name}: {bits.sum() / sizes.sum():.3f} bits per byte of replies", flush=True)
        if name in ("released in letters", "chat"):
            judged[name] |= dict(ranks=chosen_by(model, dialect, conversations, arguments.choices), replies=said_by(model, dialect, conversations, arguments.replies))
            print(f"  first of {CANDIDATES}: {np.mean([rank == 0 for rank, _ in judged[name]['ranks']]):.3f}", flush=True)
    judged["seconds"] = round(time.perf_counter() - started, 1)
    write_atomically(DATA / "chat" / "judged.json", json.dumps(judged, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
