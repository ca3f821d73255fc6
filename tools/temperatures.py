"""How daring the chatbot should be (`data/chat/temperatures.json`): its replies at several temperatures, judged by whether they belong to what was said before.

Takes about ten minutes of one core. The judge is the released model, which has read the same conversations in letters: for each reply, how many bits less it
costs after its own context than after others' (the mean of four). The contexts are the first three turns of the validation part's conversations."""
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
from practitioner.chat import distinct, in_letters, prompt, surprises, words  # noqa: E402
from practitioner.chatbot import chat_tokenizer, load_chatbot, replies_at_once  # noqa: E402
from practitioner.corpus import load_corpus  # noqa: E402
from practitioner.network import evaluating  # noqa: E402
from practitioner.sampling import Decoding  # noqa: E402
from practitioner.scaling import load_quantised  # noqa: E402

TEMPERATURES, SEEDS, TOP_P, LONGEST = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5), (0, 1, 2), 0.9, 48
ELSEWHERE = 7, 19, 31, 53  # how many conversations further the other contexts are


def belonging(judge, dialect, contexts, replies):
    """For each reply how many bits less it costs after its own context than after others, (N,)."""
    parts, count = [], len(replies)
    for away in (0, *ELSEWHERE):
        for place, said in enumerate(replies):
            given = prompt(dialect, contexts[(place + away) % count], 160)
            body = dialect.turn(len(contexts[place]), said)[1][:64]
            parts.append((np.array(given + body, np.int64), np.arange(len(given) + len(body)) >= len(given)))
    with evaluating(judge):
        bits = surprises(judge, parts, 32).reshape(-1, count)
    return bits[1:].mean(axis=0) - bits[0]


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    started, bot = time.perf_counter(), load_chatbot()
    letters = in_letters(chat_tokenizer())
    judge = load_quantised(ROOT / "data" / "scaling" / "released.safetensors")
    talks = [conversation.turns for conversation in load_corpus().validation if len(conversation.turns) > 3]
    contexts = [list(turns[:3]) for turns in talks]
    prompts = [prompt(bot.dialect, turns, bot.room) for turns in contexts]

    def described(replies):
        """What is kept of several lists of replies: the bits of each context, the mean of the lists; different pairs of words; words."""
        gains = np.mean([belonging(judge, letters, contexts, each) for each in replies], axis=0)
        return dict(gains=[round(float(gain), 2) for gain in gains], distinct=[round(distinct(each, 2), 4) for each in replies],
                    words=round(float(np.mean([len(words(said)) for each in replies for said in each])), 2))

    kept = dict(top_p=TOP_P, people=described([[turns[3] for turns in talks]]), temperatures={}, machine=machine(), versions=versions())
    for temperature in TEMPERATURES:
        replies = [replies_at_once(bot.steps.lm, bot.dialect, prompts, LONGEST, torch.Generator().manual_seed(seed), Decoding(temperature, top_p=TOP_P)) for seed in SEEDS]
        kept["temperatures"][f"{temperature:g}"] = found = described(replies)
        print(f"{temperature:g}: {np.mean(found['gains']):.2f} bits, {np.mean(found['distinct']):.3f} different pairs of words, {found['words']} words", flush=True)
    kept["seconds"] = round(time.perf_counter() - started, 1)
    write_atomically(ROOT / "data" / "chat" / "temperatures.json", json.dumps(kept, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
