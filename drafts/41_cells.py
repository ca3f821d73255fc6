md(r'''
# Tokens

> Between letters and words: a vocabulary of pieces that is learned from the text, exact on every byte there can be; what it costs, how large it should be, and what a model cannot see through it.

At the end you can train a byte-level BPE vocabulary that agrees with the library's to the last token, encode and decode any text without loss, keep control tokens out of reach of whoever types, and choose the size of a vocabulary by a number in which all sizes compare. It needs [Prediction](12_prediction.ipynb), whose n-grams read tokens here, and, for its data, [Real conversations](10_corpus.ipynb). It runs in under a minute on one core and takes a gigabyte of memory.
''')
setup()

md(r'''
## Neither letters nor words

What should a model read, one step at a time? The networks of Part 2 read bytes. [The LSTM](32_lstm.ipynb) read pieces of words that a library had chosen, and got through more text in the same time. This notebook makes the pieces. First the two answers that come to mind before.

**Letters** (or bytes) are few and never run out. But each is a step, and steps are what everything is paid in: time, memory, and how far back a model can look.

**Words** are long, and the text has few of them. But which ones belong to the alphabet? Cut the conversations into words and marks, list what the training part has, and look at the validation part.
''')
code(r'''
from collections import Counter
from itertools import pairwise

import numpy as np
from practitioner.book import use_style, label_line, result, judge
from practitioner.book import BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY
from practitioner.book import bootstrap_interval, load_references, scoreboard
from practitioner.corpus import load_corpus, serialise

corpus = load_corpus()
texts = {part: [serialise(conversation.turns) for conversation in getattr(corpus, part)]
         for part in ("train", "validation", "test")}
sizes = {part: sum(len(text.encode()) for text in texts[part]) for part in texts}
''')
code(r'''
import re

in_words = re.compile(r"\w+(?:'\w+)*|[^\w\s]+").findall
read = "".join(texts["train"])
words_read, first_seen = in_words(read), {}
for place, word in enumerate(words_read):
    first_seen.setdefault(word, place)
unseen = [[word for word in in_words(text) if word not in first_seen]
          for text in texts["validation"]]
print(f"{len(set(read))} letters and marks, "
      f"{len(first_seen):,} different words")
print(f"{len(list(filter(None, unseen)))} of {len(unseen)} validation conversations have "
      "words that were never seen, such as", ", ".join(sum(unseen, [])[40:46]))
''')
figure(r'''
import matplotlib.pyplot as plt

use_style()
fig, axes = plt.subplots(figsize=(7.2, 2.9))
letters_seen = {letter: read.index(letter) * len(words_read) / len(read)
                for letter in set(read)}
for name, seen, color in (("words", first_seen, BLUE), ("letters", letters_seen, ORANGE)):
    places = np.append(sorted(seen.values()), len(words_read))
    kinds = np.minimum(np.arange(1, len(places) + 1), len(seen))
    axes.loglog(places + 1, kinds, color=color)
    label_line(axes, name, places[-1], kinds[-1], color)
axes.set(xlabel="words of conversation read", ylabel="different ones so far")
plt.show()
''', "How many different words and letters have come up, as the training part is read. New letters soon stop coming; new words never do.",
"fig-new-words",
"Two rising lines on logarithmic axes, different kinds so far against words read. The letters rise to about ninety within a few thousand words and are level from there on. The words rise in a nearly straight line to the right edge, where they are some tens of thousands after two million words, and they do not level off.")
md(r'''
The list of words has no end. Four conversations in five have some in them that ten million bytes of others had not: names, slips of the finger, words that somebody has just made up. A model over words has to say `<unknown>` to them, and [Prediction](12_prediction.ipynb) has shown what such a model's score is worth. Nor does it know that *walk* and *walked* have anything to do with each other. And each word of the list costs a network a row of numbers, most of which are hardly ever used.

What we want is in between: whatever is frequent should be one symbol, as words are; whatever is rare should be spelled, as with letters; and nothing should be unknown.

<details><summary><b>Predict.</b> We will learn four thousand symbols from the conversations. Which of these will be a single symbol: <code>␣pizza</code>, <code>␣strawberry</code>, <code>␣100</code>, <code>␣2019</code>, <code>␣hahahaha</code>? (The mark is the space before the word.)</summary>

`␣pizza`, `␣100` and `␣hahahaha`. The year is two pieces and the strawberry four. What is one symbol depends on nothing but how often people wrote it *in this text*; that pizza is a word and hahahaha is none does not matter.

</details>

## One merge by hand

**Byte-pair encoding** was a method of compression ([Gage 1994](https://www.derczynski.com/papers/archive/BPE_Gage.pdf)) before it made vocabularies ([Sennrich, Haddow and Birch 2016](https://arxiv.org/abs/1508.07909)). Begin with single letters. Count which two are neighbours most often. Join these two, everywhere, into one new symbol. Repeat.
''')
code(r'''
pieces = list("the hat, that hat, the heat")
pairs = Counter(pairwise(pieces))
print(pairs.most_common(3))
''')
md(r'''
Joining is a walk from left to right. That matters where a pair overlaps with itself: of `aaa`, the first two are joined and the third stays alone. Nothing in this function cares whether the symbols are letters or numbers.
''')
export(r'''
def joined(tokens, pair, new):
    """A list of `tokens` with `new` in place of each `pair`, found from left to right."""
    (left, right), last, place, found = pair, len(tokens) - 1, 0, []
    while place <= last:
        if place < last and tokens[place] == left and tokens[place + 1] == right:
            found.append(new)
            place += 2
        else:
            found.append(tokens[place])
            place += 1
    return found
''')
code(r'''
for _ in range(4):
    pair, count = Counter(pairwise(pieces)).most_common(1)[0]
    pieces = joined(pieces, pair, "".join(pair))
    print(f"{count} × {pair[0]!r} + {pair[1]!r:5} →  {' | '.join(pieces)}")
assert joined(list("aaa"), ("a", "a"), "aa") == ["aa", "a"]
''')
md(r'''
A handful of merges, and pieces of words stand there that nobody has told it of. A symbol of the finished vocabulary is called a **token**, and the list of the merges *is* the vocabulary: whoever has it can cut any text in the same way.

## Bytes, so that nothing is unknown

With which letters to begin? Unicode has some hundred and fifty thousand of them, and a text can always bring one that training never saw. But every text is bytes, and there are 256 of those. So the first 256 tokens are the bytes, all of them, whether they occurred or not, and there is no text, and no file of any kind, that could not be written in them. That is the *byte-level* BPE of GPT-2 ([Radford et al. 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)). (GPT-1 began with characters, and needed an `<unk>`.)

Which byte gets which number is arbitrary, but everybody should do it alike. GPT-2 counts the bytes first that have a visible sign in Latin-1 and then the others, and so do the library `tokenizers` and we, so that our numbers can be compared with theirs.
''')
export(r'''
VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = VISIBLE + [byte for byte in range(256) if byte not in VISIBLE]
TOKEN_OF = {byte: token for token, byte in enumerate(BYTES)}
''')
code(r'''
for text in "hi", "naïve", "😀":
    data = text.encode()
    print(f"{text!r:8} {list(data)} → tokens {[TOKEN_OF[byte] for byte in data]}")
assert sorted(BYTES) == list(range(256)) and BYTES[0] == ord("!")
''')
md(r'''
## Words first

If merges may run over everything, `dog.` and `dog!` and `dog?` become a token each, and `of the` is one, too. So the text is first cut into words, by a pattern, and a merge never reaches over the edge of a word. This is GPT-2's rule, in our writing. It needs the package `regex`, because Python's own `re` has no name for "a letter of any script".
''')
export(r'''
import regex

WORD = regex.compile(r"""
    '(?:[stmd]|re|ve|ll)       # what follows the apostrophe in don't, I'm, we'll
  | [ ]?\p{L}+                 # letters, with the space before them
  | [ ]?\p{N}+                 # digits, likewise
  | [ ]?[^\s\p{L}\p{N}]+       # marks, likewise
  | \s+(?!\S)                  # white space, without its last sign if a word follows
  | \s+                        # that last sign
""", regex.VERBOSE)
''')
code(r'''
line = "We'll see 2 films  on Friday — won't we?\n\n"
print(WORD.findall(line))
assert "".join(WORD.findall(line)) == line
''')
md(r'''
The space belongs to the word *after* it, so that `␣on` is one thing, and spaces cost nothing. Of the two spaces before *on* only the last is its own. The pieces put together are the text again, always: each sign of a text is matched by some line of the pattern.

## Ten million bytes in seconds

To count all pairs of the training part anew for each of some thousand merges would take hours. Three ideas make it seconds.

1. **Each different word once.** The text has more than two million words, but only some forty thousand different ones. Keep each once, with its number, and let it count that often.
2. **Touch only what changes.** For each pair, remember in which words it stands. A merge rewrites those, and corrects the counts of their pairs; all others stay as they were.
3. **A queue that is corrected late.** The commonest pair comes from a heap. A merge makes some counts in the heap too large: its neighbours have lost a partner. Let them. When a pair comes to the top with a count that is out of date, it is put back with the right one. That is enough, because the count of an old pair can only *fall*: what a merge adds are pairs with the new token, and these go into the heap with their full count.

Where two pairs are equally frequent, the one with the smaller numbers is first. A convention, but without one the vocabulary would depend on the order in which a dictionary is stored. It is the library's, too.
''')
export(r'''
from collections import Counter, defaultdict
from heapq import heapify, heappop, heappush
from itertools import pairwise

def count_pairs(words, times):
    """How often each two tokens are neighbours, and in which words: pair → their places.

    `words` are lists of tokens, `times` says how often each word occurs."""
    pairs, where = Counter(), defaultdict(set)
    for place, (word, n) in enumerate(zip(words, times)):
        for pair in pairwise(word):
            pairs[pair] += n
            where[pair].add(place)
    return pairs, where
''')
export(r'''
def learn_merges(counts, number):
    """The first `number` merges that BPE learns from words: pairs of tokens, in order.

    `counts` says how often each word occurs. The merge at place i makes the token 256 + i;
    they are fewer where no two tokens are neighbours any more. Of pairs that are equally
    frequent, that with the smaller tokens is first. (Sennrich, Haddow and Birch 2016.)"""
    words = [[TOKEN_OF[byte] for byte in word.encode()] for word in counts]
    times, merges = list(counts.values()), []
    pairs, where = count_pairs(words, times)
    queue = [(-count, pair) for pair, count in pairs.items()]
    heapify(queue)
    while queue and len(merges) < number:
        count, pair = heappop(queue)
        if -count != pairs[pair]:                      # it has become rarer since
            if pairs[pair]:
                heappush(queue, (-pairs[pair], pair))
            continue
        new, born = 256 + len(merges), set()
        merges.append(pair)
        for place in where.pop(pair):
            before, n = words[place], times[place]
            words[place] = after = joined(before, pair, new)
            for other in pairwise(before):
                pairs[other] -= n
            for other in pairwise(after):
                pairs[other] += n
                if new in other:
                    where[other].add(place)
                    born.add(other)
        for other in born:
            heappush(queue, (-pairs[other], other))
    return merges
''')
code(r'''
counts = Counter(word for text in texts["train"] for word in WORD.findall(text))
result("tokens_words_counted", counts.total(), "words")
result("tokens_words_kinds", len(counts), "different words")
''')
quiet(r'''
from time import process_time

started = process_time()
merges = learn_merges(counts, 16_384 - 256)
took = process_time() - started
print(f"{len(merges):,} merges learned in {took:.1f} s, here and now")
assert took < 60
''')
md(r'''
That is more than we need, and it can be shared out: a vocabulary of four thousand tokens is the *beginning* of one of sixteen thousand, since each merge is the best at its time, whatever comes after it. All sizes come out of one run. What a token stands for follows from the merges alone:
''')
export(r'''
def spell(merges):
    """The bytes that each token stands for: the 256 bytes, then a token for each merge.

    Raises ValueError for a merge of tokens that are not there yet, and where two tokens
    would stand for the same bytes."""
    spelled = [bytes([byte]) for byte in BYTES]
    for left, right in merges:
        there = len(spelled)
        if not (0 <= left < there and 0 <= right < there):
            raise ValueError(f"merge {there - 256} joins {left} and {right}, where the "
                             f"tokens so far are 0 to {there - 1}")
        spelled.append(spelled[left] + spelled[right])
    if len(set(spelled)) < len(spelled):
        raise ValueError("two tokens stand for the same bytes")
    return spelled
''')
code(r'''
def as_shown(piece):
    """Bytes as a text in which spaces and line breaks are seen."""
    text = piece.decode("utf-8", "backslashreplace")
    return text.replace(" ", "␣").replace("\n", "⏎")

spelled = spell(merges)
for first in 256, 1000, 4085, 16_374:
    print(f"{first:6}", *map(as_shown, spelled[first:first + 10]))
''')
md(r'''
First come the commonest pairs of letters, then the small words, then longer ones, and the beginnings and ends that other words share; at sixteen thousand it is rare words. Nobody made a list.

`spell` did not complain, so no two tokens stand for the same bytes, although most words could be put together in several ways. It could not be otherwise: merges are made in one order, so the same bytes between the same two edges are put together in the same way wherever they stand, and never in a second one.

## Encoding is learning, replayed

How is a word cut that is not in the list? Not by looking for the longest token that fits. By doing what learning would have done with it: begin with its bytes; of all the merges that are possible make the *earliest*; again, until none is possible.
''')
export(r'''
NEVER = 1 << 30

def cut_word(word, ranks):
    """The tokens of a word (bytes), a list. `ranks` says which token a pair becomes."""
    tokens = [TOKEN_OF[byte] for byte in word]
    while True:
        pair = min(pairwise(tokens), key=lambda pair: ranks.get(pair, NEVER), default=None)
        if pair not in ranks:
            return tokens
        tokens = joined(tokens, pair, ranks[pair])
''')
code(r'''
ranks = {pair: token for token, pair in enumerate(merges[:4096 - 256], start=256)}
for word in " pizza", " strawberry", " 100", " 2019", " hahahaha", " pizzas", " pizzeria":
    print(" | ".join(as_shown(spelled[token]) for token in cut_word(word.encode(), ranks)))
''')
md(r'''
The first five answer the question above. How it goes, step by step, with a longer word; the number of a merge is its place in the list:
''')
figure(r'''
def draw_pieces(axes, tokens, height, fresh):
    """A row of boxes with the pieces of a word in them; `fresh` tokens are orange."""
    x = 0
    for token in tokens:
        text = as_shown(spelled[token])
        color = ORANGE if token == fresh else BLUE
        axes.add_patch(plt.Rectangle((x + 0.07, -height - 0.36), len(text) - 0.14, 0.72,
                                     facecolor=color, alpha=0.25, linewidth=0))
        axes.text(x + len(text) / 2, -height, text, family="monospace", ha="center",
                  va="center")
        x += len(text)

fig, axes = plt.subplots(figsize=(7.2, 3.3))
tokens, height, word = [TOKEN_OF[byte] for byte in b" everything"], 0, " everything"
draw_pieces(axes, tokens, 0, None)
while tokens != cut_word(word.encode(), ranks):
    pair = min(pairwise(tokens), key=lambda pair: ranks.get(pair, NEVER))
    tokens, height = joined(tokens, pair, ranks[pair]), height + 1
    draw_pieces(axes, tokens, height, ranks[pair])
    axes.text(len(word) + 0.5, -height, f"merge {ranks[pair] - 255:,}", va="center",
              color=GREY)
axes.set(xlim=(0, len(word) + 4), ylim=(-height - 0.6, 0.6), xticks=[], yticks=[])
axes.spines[:].set_visible(False)
axes.grid(False)
plt.show()
''', "How a word is put together. Of the merges that are possible, the earliest comes next.",
"fig-merges",
"Eleven rows of boxes that spell the word everything with its space. In the first row each letter has a box of its own. In each row below, two neighbouring boxes have become one, marked in orange: in by merge 4, er by 16, ing by 18, then the space and e, ver, th, very, the whole of every by 347, thing by 379. In the last row all of it is one box, by merge 809.")
md(r'''
Text has few different words, so a word that was cut once is kept. After that, encoding is finding the words and looking them up. Bytes that are no UTF-8 go through as well: Python can carry each of them through a string as a sign of its own, and give it back (the error handler `surrogateescape`).
''')
export(r'''
ANY = "utf-8", "surrogateescape"

def as_string(text):
    """A string as it is, and any bytes as a string that `.encode(*ANY)` turns back.

    Raises ValueError where a string has half of a surrogate pair in it: no UTF-8 has."""
    if isinstance(text, str):
        text.encode()
        return text
    return bytes(memoryview(text)).decode(*ANY)
''')
export(r'''
import json
import numpy as np
from practitioner.book import write_atomically

class BPE:
    """A byte-level BPE vocabulary: the 256 bytes, a token for each merge, special tokens.

    `merges` are pairs of tokens in the order of learning, `special` names the tokens that
    no text is encoded to. `token_bytes` are the bytes of each token, none for special ones;
    `vocab_size` counts all; `special` is name → token, and `ranks` pair → token."""

    def __init__(self, merges, special=()):
        self.merges = [(int(left), int(right)) for left, right in merges]
        spelled, names = spell(self.merges), list(special)
        if len(set(names)) < len(names):
            raise ValueError(f"special tokens have different names: not {names}")
        self.ranks = {pair: token for token, pair in enumerate(self.merges, start=256)}
        self.special = {name: token for token, name in enumerate(names, start=len(spelled))}
        self.token_bytes = spelled + len(names) * [b""]
        self.vocab_size, self._known = len(self.token_bytes), {}
        if self.vocab_size > 2**16:
            raise ValueError(f"there are at most 65,536 tokens, not {self.vocab_size:,}")

    def encode(self, text):
        """The tokens of a string or of any bytes: uint16 (T,)."""
        tokens, known = [], self._known
        for word in WORD.findall(as_string(text)):
            if word not in known:
                known[word] = cut_word(word.encode(*ANY), self.ranks)
            tokens += known[word]
        if len(known) > 500_000:                        # memory must not grow for ever
            known.clear()
        return np.array(tokens, np.uint16)

    def decode(self, tokens):
        """The bytes of tokens (T,). Raises ValueError for what is no token."""
        tokens = np.asarray(tokens)
        known = np.arange(self.vocab_size)
        if tokens.ndim != 1 or tokens.size and not np.isin(tokens, known).all():
            raise ValueError(f"tokens are numbers below {self.vocab_size}, not {tokens}")
        return b"".join([self.token_bytes[token] for token in tokens.astype(int).tolist()])

    def save(self, path):
        """Write merges and the names of special tokens to a file, for `load_bpe`."""
        about = {"merges": self.merges, "special": list(self.special)}
        write_atomically(path, json.dumps(about))
''')
export(r'''
def learn_bpe(texts, vocab_size):
    """The `BPE` of `vocab_size` tokens (256 to 65,536) that several texts give.

    It has fewer where the texts have no more pairs to join."""
    if isinstance(texts, (str, bytes)) or not 256 <= vocab_size <= 2**16:
        raise ValueError("learn_bpe takes a list of texts, and a size from 256 to 65,536: "
                         f"not {type(texts).__name__} and {vocab_size}")
    counts = Counter()
    for text in texts:
        counts.update(WORD.findall(text))
    return BPE(learn_merges(counts, vocab_size - 256))
''')
code(r'''
bpe = BPE(merges[:4096 - 256])
tokens = bpe.encode("Honestly, I believe that pizza is the best.")
print(tokens)
print(bpe.decode(tokens).decode())
print(" | ".join(as_shown(bpe.token_bytes[token]) for token in tokens))
assert learn_bpe(texts["train"][:50], 600).merges == learn_merges(
    Counter(word for text in texts["train"][:50] for word in WORD.findall(text)), 344)
''')
md(r'''
`decode` gives bytes and not a string, because a token may end in the middle of a character: an emoji is four bytes and may be four tokens. Exercise 2 is about it.

How fast? The first time a text is read its words have to be cut, the second time they are known.
''')
quiet(r'''
text, speeds = "".join(texts["validation"]), []
fresh = BPE(bpe.merges)
for _ in range(2):
    started = process_time()
    fresh.encode(text)
    speeds.append(len(text) / (process_time() - started) / 1e6)
print(f"{speeds[0]:.1f} MB/s the first time, {speeds[1]:.1f} MB/s the second, here and now")
assert speeds[1] > 1
''')
md(r'''
## What a model reads

Where are the boundaries? A token is a box here, with the space that belongs to it, and ⏎ is a line break. (To a program that reads the page aloud it is a list, with an entry for each token.)
''')
export(r'''
import html
from IPython.display import display

def show_tokens(bpe, tokens):
    """Show tokens one after the other, each in a box: for the eye in colours, as a list.

    Special tokens have their names, in bold; bytes that are no character, their code."""
    names = {token: name for name, token in bpe.special.items()}
    pieces, entries = [], []
    for place, token in enumerate(map(int, tokens)):
        piece = bpe.token_bytes[token].decode("utf-8", "backslashreplace")
        pieces.append(names.get(token, piece).replace("\n", "⏎"))
        color = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")[place % 4]
        style = (f"background:{color}40;border-bottom:2px solid {color};color:inherit;"
                 "display:inline-block;white-space:pre;margin:1px;padding:0 2px;"
                 "border-radius:3px;print-color-adjust:exact;"
                 + "font-weight:bold;" * (token in names))
        entries.append(f'<li style="{style}">{html.escape(pieces[-1])}</li>')
    around = (f'<ul aria-label="{len(pieces)} tokens" '
              'style="list-style:none;padding:0;margin:0">')
    display({"text/html": around + "".join(entries) + "</ul>",
             "text/plain": "|".join(pieces)}, raw=True)
''')
code(r'''
show_tokens(bpe, bpe.encode(serialise(corpus.validation[3].turns[:5])))
''')
md(r'''
Most words of a conversation are one token, a role mark is two, and whatever is rare is cut. The cuts follow frequency and not meaning. Some are where a linguist would make them, as in *accident|ally*; others, as in *abs|olute*, are where no one would.

## Tokens that nobody can type

A model needs signs that are not text. Here the conversation ends; now the other one speaks. In this book's format that is done with text: a line break, and `B: `. So whoever can put a line break into a turn can make the other one say what he likes. (In [Real conversations](10_corpus.ipynb), `serialise` refuses a turn with a line break in it.)

A **special token** is cleaner: a number beyond the learned ones, which stands for no bytes at all. The program puts it where it belongs. What makes it safe is that *no text is ever encoded to it*, and ours is so by construction: `encode` knows bytes and merges, and looks for no names. Compare what a library does.
''')
code(r'''
from tokenizers import Tokenizer

marked = BPE(bpe.merges, special=["<|end|>"])
end = marked.special["<|end|>"]
library = Tokenizer.from_file("../data/lstm/bpe-4096.json")
library.add_special_tokens(["<|end|>"])
typed = "I love <|end|>"
print(end, marked.encode(typed).tolist(), library.encode(typed).ids)
show_tokens(marked, [*marked.encode(typed), end])
assert end not in marked.encode(typed) and end in library.encode(typed).ids
assert marked.decode([*marked.encode(typed), end]) == typed.encode()
''')
md(r'''
The user of the library has *typed* the end of the conversation, and the model will take it for one. That is the library's default, meant for convenience: it can be switched off (`encode_special_tokens = True`). Whatever you build a chatbot with, make this test before anybody else does it for you. In the other direction, too: a special token that comes out of the model is decoded to nothing, and not to its name, which would be a text that the next program might read back.

## Check

Ours against the library, `tokenizers`: the vocabulary that [The LSTM](32_lstm.ipynb) trained with it from the same text, and what it makes of texts. First a reader for its files. They write bytes as printable characters, one for one, the space as `Ġ`.
''')
export(r'''
def from_library(content):
    """The `BPE` in the JSON of the library tokenizers, as dicts and lists.

    Its added tokens become special ones. Raises ValueError where it would encode otherwise
    than we do."""
    model, words = content["model"], content["pre_tokenizer"] or {}
    ours = [model.get("type", "BPE"), words.get("type"), words.get("add_prefix_space"),
            words.get("use_regex", True), content.get("normalizer")]
    odd = [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix",
                             "ignore_merges", "byte_fallback") if model.get(name)]
    if ours != ["BPE", "ByteLevel", False, True, None] or odd:
        raise ValueError(f"this is no byte-level BPE like ours: {ours} {odd}")
    signs = [chr(byte) for byte in VISIBLE] + [chr(256 + n) for n in range(68)]
    byte_of = dict(zip(signs, BYTES))
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    added = sorted(content.get("added_tokens", []), key=lambda token: token["id"])
    bpe = BPE([map(model["vocab"].get, pair) for pair in pairs],
              special=[token["content"] for token in added])
    special = {token["content"]: token["id"] for token in added}
    learned = {name: token for name, token in model["vocab"].items() if name not in special}
    spelled = {token: bytes(map(byte_of.get, name)) for name, token in learned.items()}
    if special != bpe.special or spelled != dict(enumerate(spell(bpe.merges))):
        raise ValueError("its tokens are not numbered as bytes, merges and then the rest")
    return bpe
''')
export(r'''
import pathlib

def load_bpe(path):
    """The `BPE` in a file that `BPE.save` or the library tokenizers wrote.

    Raises ValueError, with the path, where it is neither, or damaged."""
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        if "model" in content:
            return from_library(content)
        return BPE(content["merges"], content["special"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} holds no byte-level BPE: {type(error).__name__}: "
                         f"{error}") from error
''')
code(r'''
library = Tokenizer.from_file("../data/lstm/bpe-4096.json")
assert load_bpe("../data/lstm/bpe-4096.json").merges == bpe.merges

odd = "naïve café ☕ 😀👍🏽 你好吗? Привет!\tI'll\r\n\r\n  ½ 2² _x_ …\u00a0\u3000'S don't  "
for text in (*texts["validation"], odd, odd[::-1], odd.upper()):
    assert bpe.encode(text).tolist() == library.encode(text).ids
    assert bpe.decode(bpe.encode(text)).decode() == text
data = np.random.default_rng(0).integers(256, size=20_000).astype(np.uint8).tobytes()
assert bpe.decode(bpe.encode(data)) == data
print(f"{len(bpe.merges):,} merges alike, ties included; every text alike")
''')
md(r'''
The same merges from ten million bytes, in the same order, and the same tokens for every conversation of the validation part; and even random bytes come back. (A caveat for the far corners of Unicode: what counts as a letter is in a table that grows from year to year. Two programs with tables of different years may cut a text differently around a character that one of them does not know yet.)

And the speeds, as `make bench` measures them with nothing else on the machine, on one thread each:
''')
quiet(r'''
measured = json.loads(pathlib.Path("../data/speeds.json").read_text(encoding="utf-8"))
for name in ("BPE, learn 4,096 tokens", "tokenizers, learn 4,096 tokens",
             "BPE, encode a megabyte, all words known", "tokenizers, encode a megabyte"):
    print(f"{measured[name]['value']:5.2f} s  {name}")
assert measured["BPE, encode a megabyte, all words known"]["value"] < 1
''')
md(r'''
## The price of a vocabulary

How large should a vocabulary be? Larger means fewer tokens for the same text, so that a model with a window of 512 tokens sees more of it and gets through it in fewer steps. It also means more rows in the tables of a network, each of them with fewer examples to learn from. And the score that a framework prints gets *worse* with every token added, since there are more to choose from. What can be compared is, as ever,

$$\text{bits per byte} = \frac{\text{bits per token}}{\text{bytes per token}}$$

To have the number, one needs a model at each size. [Prediction](12_prediction.ipynb) built the fastest we know: Kneser–Ney n-grams, counted by sorting. Its program is for bytes. [The LSTM](32_lstm.ipynb) helped itself with a trick and wrote each token as two bytes; but half a token's number means nothing, and a context that begins in the middle of one neither. Here are the same tables with wider symbols.

The idea was to read eight bytes as one number of 64 bits, and sort. A token of a vocabulary of $V$ takes $\lceil \log_2 V \rceil$ bits, so of 4,096 kinds five go into one number. Sorted, all n-grams that begin alike stand together, at every order up to five.
''')
export(r'''
from practitioner.prediction import contexts_of, discounts, find, one_order_up, run_starts

def sorted_windows(tokens, order, width):
    """Each run of `order` tokens of `width` bits as one number: uint64 (T,), ascending.

    The first token weighs most. The text counts as followed by zeros."""
    padded = np.append(tokens, np.zeros(order, np.uint16)).astype(np.uint64)
    windows = np.zeros(len(tokens), np.uint64)
    for n in range(order):
        windows = windows << np.uint64(width) | padded[n:n + len(tokens)]
    windows.sort()
    return windows
''')
md(r'''
The rest is as in notebook 12. The key of an n-gram is the place of its context one level up, followed by its last token. Its continuation count is how many different tokens came before it.
''')
export(r'''
def token_levels(tokens, order, width):
    """Every n-gram of tokens, counted: for each level n up to `order` its keys and counts.

    As `NGramCounts` of notebook 12, with tokens of `width` bits in place of bytes."""
    windows, mask = sorted_windows(tokens, order, width), np.uint64((1 << width) - 1)
    parent = np.zeros(len(tokens), np.int32)
    yield np.zeros(1, np.int64), np.array([len(tokens)], np.int32)
    for n in range(1, order + 1):
        prefix = windows >> np.uint64(width * (order - n))
        starts = run_starts(prefix)
        last = (prefix[starts] & mask).astype(np.int64)
        counts = np.diff(np.append(starts, len(tokens))).astype(np.int32)
        yield parent[starts].astype(np.int64) << width | last, counts
        parent = np.repeat(np.arange(len(starts), dtype=np.int32), counts)

def preceding(keys, width):
    """For each level below the highest, how many different tokens precede each n-gram."""
    kinds, ending, mask = [None], np.zeros(len(keys[1]), np.int64), (1 << width) - 1
    for n in range(2, len(keys)):      # the node, one level up, of the last n − 1 tokens
        ending = find(keys[n - 1], ending[keys[n] >> width] << width | keys[n] & mask)
        before = np.bincount(ending[ending >= 0], minlength=len(keys[n - 1]))
        kinds.append(np.maximum(before, 1).astype(np.int32))
    return kinds

def token_nodes(keys, width, tokens):
    """For each level, the node of the n-gram that ends at each of `tokens`, or −1."""
    nodes = [np.zeros(len(tokens), np.int64)]
    for n in range(1, len(keys)):
        nodes.append(find(keys[n], contexts_of(nodes, n) << width | tokens))
    return nodes
''')
md(r'''
With these, the model. The discounts, and the way from one order to the next, are notebook 12's own functions.
''')
export(r'''
import functools

class TokenNGram:
    """An n-gram model of tokens (T,) of `vocab_size` kinds: modified Kneser–Ney.

    As `NGram` of notebook 12, above p_0 = 1/V. An order is at most the number of tokens
    that fit into 64 bits."""

    def __init__(self, tokens, vocab_size, order):
        self.vocab_size, self.order = vocab_size, order
        self.width = max((vocab_size - 1).bit_length(), 1)
        if not 1 <= order <= 64 // self.width:
            raise ValueError(f"of {vocab_size} tokens an order is between 1 and "
                             f"{64 // self.width}, not {order}")
        if not (len(tokens) and 0 <= np.min(tokens) <= np.max(tokens) < vocab_size):
            raise ValueError(f"a text is one token or more, all of them below {vocab_size}")
        self.keys, self.counts = zip(*token_levels(tokens, order, self.width))
        self.kinds = preceding(self.keys, self.width)

    def table(self, n, top):
        """What each n-gram of level n gets, and what each context leaves to the shorter."""
        used, parent = (self.counts if top else self.kinds)[n], self.keys[n] >> self.width
        total, off = np.bincount(parent, used), discounts(used)[np.minimum(used, 3)]
        return (used - off) / total[parent], np.bincount(parent, off) / total

    @functools.cached_property
    def tables(self):
        return [self.table(n, n == self.order) for n in range(1, self.order + 1)]

    def probabilities(self, tokens):
        """The probability of each of `tokens`, given those before it: (T,)."""
        p, nodes = np.full(len(tokens), 1 / self.vocab_size), token_nodes(
            self.keys, self.width, tokens)
        for n, table in enumerate(self.tables, start=1):
            p = one_order_up(p, nodes, n, *table)
        return p
''')
export(r'''
def each_order(model, tokens):
    """The probabilities (T,) of tokens by the model of order 1, of order 2, and so on."""
    nodes = token_nodes(model.keys, model.width, tokens)
    p = np.full(len(tokens), 1 / model.vocab_size)
    for n in range(1, model.order + 1):
        yield one_order_up(p, nodes, n, *model.table(n, top=True))
        if n < model.order:
            p = one_order_up(p, nodes, n, *model.table(n, top=False))

def next_token_probabilities(model, context):
    """The probabilities of all tokens after a list of tokens, by a `TokenNGram`: (V,)."""
    p = np.full(model.vocab_size, 1 / model.vocab_size)
    for n in range(1, min(model.order, len(context) + 1) + 1):
        node = 0
        for level, token in enumerate(context[len(context) - n + 1:], start=1):
            [node] = find(model.keys[level], np.array([node << model.width | int(token)]))
        if node < 0:                                   # what was never seen tells nothing
            continue
        children = slice(*np.searchsorted(
            model.keys[n], np.array([node, node + 1]) << model.width))
        share, left = model.tables[n - 1]
        p *= left[node]
        p[model.keys[n][children] & (1 << model.width) - 1] += share[children]
    return p
''')
md(r'''
Now the sweep, from 512 tokens to sixteen thousand. To find the words again at each size would be a waste, so each word of the text is written as a number first, and the tokens of a text are laid out from those of its words.
''')
code(r'''
from itertools import chain

SIZES, known, numbers, per_text = (512, 1024, 2048, 4096, 8192, 16_384), {}, {}, {}
for part in "train", "validation":
    rows = [[known.setdefault(word, len(known)) for word in WORD.findall(text)]
            for text in texts[part]]
    numbers[part] = np.fromiter(chain.from_iterable(rows), np.int32)
    per_text[part] = np.array([len(row) for row in rows])

def lay_out(rows, numbers):
    """The rows of these numbers one after the other, and how long each of them is."""
    lengths = np.array([len(row) for row in rows])
    starts, each = np.cumsum(lengths) - lengths, lengths[numbers]
    within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
    flat = np.fromiter(chain.from_iterable(rows), np.uint16)
    return flat[np.repeat(starts[numbers], each) + within], each
''')
code(r'''
from practitioner.book import per_conversation

swept = {}
for V in SIZES:
    ranks = BPE(merges[:V - 256]).ranks
    rows = [cut_word(word.encode(), ranks) for word in known]
    train, held_out = (lay_out(rows, numbers[part]) for part in ("train", "validation"))
    model = TokenNGram(train[0], V, 64 // (V - 1).bit_length())
    surprises = [-np.log2(p) for p in each_order(model, held_out[0])]
    bits = [each.sum() / sizes["validation"] for each in surprises]
    order = int(np.argmin(bits)) + 1
    ends = np.cumsum(per_text["validation"])
    in_text = np.add.reduceat(held_out[1], ends - per_text["validation"])
    swept[V] = dict(bits=bits, order=order, train=train[0], held_out=held_out[0],
                    costs=per_conversation(surprises[order - 1], in_text),
                    cut=np.mean(held_out[1] > 1),
                    count=np.bincount(train[0], minlength=V))
    del model
''')
code(r'''
print("tokens  order  words cut  bytes/token  bits/token  perplexity  bits/byte")
for V, found in swept.items():
    per_token = sizes["validation"] / len(found["held_out"])
    best = min(found["bits"])
    print(f"{V:6,} {found['order']:6} {found['cut']:9.1%} {per_token:12.2f}"
          f"{best * per_token:12.2f} {2 ** (best * per_token):11.0f} {best:10.3f}")
''')
md(r'''
Read the columns from left to right. Of the words, 512 tokens cut four in ten into pieces, and sixteen thousand cut hardly any. The tokens become longer, first quickly, then hardly any more, since what is left to be joined is rare. Bits per token, and the perplexity with them, grow all the way: by the number that is printed in most papers the smallest vocabulary would be by far the best model. In bits per byte it is the worst, and the rest lie close together.
''')
figure(r'''
fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3), width_ratios=[3, 2])
for (V, found), color in zip(swept.items(), (GREY, SKY, GREEN, BLUE, ORANGE, RED)):
    last, bits = len(found["bits"]), found["bits"]
    left.plot(range(2, last + 1), bits[1:], "o-", color=color, markersize=3)
    if V < 2048:
        label_line(left, f"{V:,}", last, bits[-1], color, fontsize=8)
    else:
        label_line(left, f"{V:,}", 0.8, bits[1], color, fontsize=8)
    right.plot(V, min(bits), "o", color=color)
left.set(xlabel="order, in tokens", ylabel="bits per byte of validation",
         ylim=(1.58, 1.86), xlim=(0.8, 8), xticks=range(2, 8))
bytes_alone = load_references()["ngram_validation"]["value"]
right.axhline(bytes_alone, color=PURPLE)
right.text(16_384, bytes_alone + 0.001, "12-gram of bytes", color="#85506d", ha="right")
right.set(xlabel="tokens in the vocabulary", ylim=(1.59, 1.635))
right.set_xscale("log", base=2)
right.set_xticks(SIZES, [f"{V:,}" for V in SIZES], rotation=45)
plt.show()
''', "Kneser–Ney over tokens, for six sizes of vocabulary: by order (left), and at the best order of each size (right).",
"fig-vocabulary",
"Two panels. Left, bits per byte against the order: six lines that fall steeply and level off, the larger the vocabulary the sooner. From order four on they all lie within two hundredths of each other, but for that of 512 tokens, which needs three orders more. Right, the best of each line against the size of the vocabulary: a shallow bowl, lowest at 4,096 with 2,048 next to it, highest at 512. A level line, the n-gram of bytes, lies above all of them.")
code(r'''
for V, found in swept.items():
    result(f"tokens_bits_{V}", min(found["bits"]), "bits per byte")
chosen = min(SIZES, key=lambda V: min(swept[V]["bits"]))
lengths = [len(text.encode()) for text in texts["validation"]]
for V in SIZES:
    low, high = bootstrap_interval(swept[V]["costs"] - swept[chosen]["costs"], lengths)
    print(f"{V:6,} tokens cost {low:+.4f} to {high:+.4f} bits per byte more "
          f"than {chosen:,}")
''')
md(r'''
Validation chooses 4,096, by a hair. (The intervals are of the *difference*, conversation by conversation, so that what makes a conversation hard for all of them cancels out.) Between a thousand and sixteen thousand tokens it hardly matters to a model that counts. So nothing in this book hangs on a lucky size. And what a larger vocabulary puts into its tokens, a smaller one leaves for the model to find; a table of counts finds it, with a token or two more of context.

What does matter is what a *network* pays. A row of numbers for each token has to be learned, from the examples of that token.
''')
figure(r'''
fig, axes = plt.subplots(figsize=(7.2, 2.9))
for V, color in ((1024, GREEN), (4096, BLUE), (16_384, RED)):
    times = np.sort(swept[V]["count"])[::-1]
    axes.loglog(np.arange(1, V + 1), np.maximum(times, 0.5), color=color)
    middle = int(np.median(times))
    axes.plot(V // 2, middle, "o", color=color)
    label_line(axes, f"{V:,}: half of them fewer than {middle:,} times", V // 2, middle,
               color)
axes.set(xlabel="tokens, the commonest first", ylabel="times in the training part",
         xlim=(1, 1e5))
plt.show()
''', "How often each token occurs in the training part. The point is the token in the middle of its list.",
"fig-token-counts",
"Three falling lines on logarithmic axes, how often a token occurs against its place in the list. They begin together at a hundred thousand and fall in nearly straight lines, each to the end of its own vocabulary, where it drops at once to nothing. The token in the middle of the list is marked: it occurs over a thousand times of 1,024 tokens, more than a hundred of 4,096, and some dozen of 16,384.")
code(r'''
for V in SIZES:
    times = swept[V]["count"]
    print(f"{V:6,} tokens: {256 * V / 1e6:4.1f} million numbers in an embedding of 256; "
          f"{np.mean(times < 100):4.0%} of the tokens occur fewer than 100 times")
print([as_shown(piece) for piece in np.array(spelled[:4096], object)[
    (swept[4096]["count"] == 0) & (np.arange(4096) >= 256)]])
''')
md(r'''
The tokens of the last line are in the vocabulary and never in the text. They were rungs of a ladder: `␣opportun` was needed to get to `␣opportunity` and its relatives, and since then nothing of it is left over. A network learns nothing about such a token, and may do odd things if it ever meets one. Large published models have such tokens, too ([Land and Bartolo 2024](https://doi.org/10.18653/v1/2024.emnlp-main.649) have a way to find them).

## A hard baseline

The chosen one, on the test part, once.
''')
export(r'''
def encode_each(bpe, texts):
    """The tokens of several texts, each by itself: uint16 (T,), and how many each has."""
    rows = [bpe.encode(text) for text in texts]
    return np.concatenate([np.zeros(0, np.uint16), *rows]), [len(row) for row in rows]
''')
code(r'''
order = swept[chosen]["order"]
model = TokenNGram(swept[chosen]["train"], chosen, order)
test, per_test = encode_each(bpe, texts["test"])
assert chosen == bpe.vocab_size and np.array_equal(
    encode_each(bpe, texts["validation"])[0], swept[chosen]["held_out"])

costs = per_conversation(-np.log2(model.probabilities(test)), per_test)
seconds = sum(measured[name]["value"] for name in (
    "BPE, learn 4,096 tokens", "BPE, encode the training part", "5-gram of tokens, count"))
scoreboard("ngram_tokens", f"{order}-gram of tokens", costs, [
    len(text.encode()) for text in texts["test"]], "counting", seconds=seconds,
    parameters=sum(map(len, model.keys[1:])), context=f"{order - 1} tokens of 4,096 kinds")
''')
code(r'''
scores = {name: load_references()[key]["value"] for name, key in {
    "LSTM over these tokens": "score_lstm", "12-gram of bytes": "score_ngram",
    "8-gram of token halves": "token_table_test",
    "LSTM and 8-gram of halves, mixed": "score_lstm_ngram"}.items()}
for name, score in scores.items():
    print(f"{score:.3f}  {name}")
ours = sum(costs) / sizes["test"]
assert ours < min(scores["LSTM over these tokens"], scores["8-gram of token halves"])
''')
md(r'''
Counting is in front again. With nothing but another alphabet, a table that is ready in seconds is better than the LSTM, which read the same tokens for the better part of an hour, and better than the largest table of bytes. It is also better than the table of token *halves* that was mixed with the LSTM there. An 8-gram of halves sees three tokens and a half, and most of its contexts begin or end inside a token, where to have the same half means nothing. (A small part of the difference has another reason: notebook 12 scales its discounts, by a factor that validation chose for bytes. Here they are left as they are.) Only the mixture of both kinds is still ahead.

So this is the score that a Transformer has to beat before anybody should be impressed. In one respect all scores of token models are too high: what is counted is the cost of *one* way to write the text in tokens. A model gives some probability to all the other ways, too, and they are the same text. What the text would really cost it is a little less, and hard to compute ([Cao and Rimell 2021](https://doi.org/10.18653/v1/2021.emnlp-main.161)). Exercise 4 counts the ways.
''')
md(r'''
## What a model does not see

A model gets numbers. What is inside a token, it is never told.

**Spelling.** How many times is the letter r in these words?
''')
code(r'''
for word in "strawberry", " strawberry", "Strawberry", " STRAWBERRY", " strawbery":
    show_tokens(bpe, bpe.encode(word))
''')
md(r'''
You look; a model would have to *know*, for each of these tokens, how it is spelled, and no text says so. Nor does it see that the five are the same word: no two of the rows are alike. A capital letter at the beginning of a sentence makes another word of it, and so does a slip of the finger. How much does a slip cost? Take the thousand commonest words of five letters or more that are one token, and let the third letter and the fourth change places.
''')
code(r'''
common = [word for word, _ in counts.most_common(5000) if len(word) > 5
          and word[1:].isalpha() and len(bpe.encode(word)) == 1 and word[3] != word[4]]
slips = [word[:3] + word[4] + word[3] + word[5:] for word in common[:1000]]
print(len(slips), slips[:6])
result("tokens_of_a_slip", np.mean([len(bpe.encode(slip)) for slip in slips]), "tokens")
''')
md(r'''
**Numbers.** How a number is cut depends on which numbers people happened to write. The picture has a cell for each number from 0 to 9,999, a hundred to a row.
''')
figure(r'''
from matplotlib.colors import ListedColormap

pieces = np.array([len(bpe.encode(f" {n}")) for n in range(10_000)]).reshape(100, 100)
fig, axes = plt.subplots(figsize=(7.2, 3.8))
shades = ListedColormap(["#003f5c", BLUE, SKY, "#dcebf5"])
image = axes.imshow(pieces, cmap=shades, vmin=0.5, vmax=4.5, interpolation="nearest")
bar = fig.colorbar(image, ticks=range(1, 5))
bar.set_label("tokens for the number")
axes.set(xlabel="last two digits", ylabel="hundreds")
axes.grid(False)
plt.show()
''', "Into how many tokens each number from 0 to 9,999 is cut.",
"fig-number-tokens",
"A square of a hundred by a hundred cells in four shades. A few dark cells at the top left are the small numbers of one token. The upper quarter is mostly of the shade for three tokens, with bars of two and of four in it; below, nearly all is the shade for four, but for thin lines, some level and some upright, and a ladder of them at the left edge, where the last two digits are ten or less.")
code(r'''
for n in (1984, 1987, 2000, 2016, 2019, 2020, 9999):
    print(n, "→", " | ".join(bpe.token_bytes[t].decode() for t in bpe.encode(f" {n}")))
whole = [n for n in range(100, 10_000) if pieces.flat[n] == 1]
print("whole, of three digits or more:", whole)
''')
md(r'''
A year may be two tokens, three or four, and the cut is after its first digit, after the second or after the third, as people happened to write of it. To add two numbers one has to know which digit stands for what; here the same digit is now a token, now half of one. Later vocabularies therefore give each digit a token of its own ([LLaMA](https://arxiv.org/abs/2302.13971)) or let no token have more than three ([those of OpenAI](https://github.com/openai/tiktoken) since GPT-4).

**Everybody else.** The vocabulary was learned from English chat. Another language is made of bytes that never met in training.
''')
code(r'''
for text in ("Hello, how are you? I love pizza.", "Hallo, wie geht's? Ich liebe Pizza.",
             "Привет, как дела? Я люблю пиццу.", "你好,你怎么样?我爱披萨。", "🍕❤️👍🏽"):
    tokens = bpe.encode(text)
    print(f"{len(text):3} characters, {len(text.encode()):3} bytes, "
          f"{len(tokens):3} tokens  {text}")
''')
md(r'''
Nothing is unknown, and the text comes back. But a Russian or Chinese speaker pays several times as many tokens for the same sentence, in time, in memory and in how much of a conversation the model sees, and where tokens are sold, in money. For a chatbot in English that is a fair bargain. It is one all the same, and was made by the choice of a corpus.

## Break

A chatbot gets its text in pieces: the role mark from the program, the turn from the user, the next mark from the program. Why not encode each piece as it comes, and put the tokens together? No byte is lost.
''')
code(r'''
whole, said = "A: What do you like?\nB: Pizza, of course.\n", []
for piece in "A: ", "What do you like?\n", "B: ", "Pizza, of course.\n":
    said += bpe.encode(piece).tolist()
assert bpe.decode(said).decode() == whole
show_tokens(bpe, bpe.encode(whole))
show_tokens(bpe, said)
assert said != bpe.encode(whole).tolist()
''')
md(r'''
The space has gone over to the mark. Where every text of the training had one token `␣What`, there is now a space by itself, and a word *without* its space. The model has hardly ever seen that. What does it cost, and what does it do to a reply? All validation conversations, cut behind each mark; and then what the model expects after the two forms of the prompt.
''')
code(r'''
def bits_of_pieces(pattern):
    """Bits per byte of validation, if each conversation is cut first and then encoded."""
    parts = [part for text in texts["validation"] for part in regex.split(pattern, text)]
    tokens, _ = encode_each(bpe, parts)
    assert bpe.decode(tokens).decode() == "".join(texts["validation"])
    return -np.log2(model.probabilities(tokens)).sum() / sizes["validation"]

in_pieces = bits_of_pieces(r"(?m)(?<=^[AB]: )")
result("tokens_in_pieces", in_pieces, "bits per byte")
assert in_pieces > min(swept[chosen]["bits"]) + 0.05
''')
code(r'''
before = "A: What do you like?\n"
for prompt in "B:", "B: ":
    tokens = [*bpe.encode(before), *bpe.encode(prompt)]
    p = next_token_probabilities(model, tokens)
    print(f"{prompt!r:5}", *(f"{as_shown(bpe.token_bytes[token])} {p[token]:.0%} "
                             for token in np.argsort(-p)[:7]))
''')
md(r'''
The text is the same, to the byte. The score is a good deal worse, and nothing says why. After `B:` the model expects what people say first; after `B:␣` it expects the few odd things that stood after a space by itself. And no error is raised. With a large network the reply would look better than here, and still not be what it could be.

How to see it: by the one test that such a program needs, that the tokens of the pieces are the tokens of the whole. And how to mend it: cut where the pattern of the words has an edge anyway. Before a space there is one.
''')
code(r'''
mended = bits_of_pieces(r"(?m)(?<=^[AB]:)(?= )")
assert np.isclose(mended, min(swept[chosen]["bits"]), rtol=0, atol=1e-9)
pieces = ["A:", " What do you like?\n", "B:", " Pizza, of course.\n"]
assert encode_each(bpe, pieces)[0].tolist() == bpe.encode(whole).tolist()
''')
md(r'''
## Exercises

**Exercise 1.** A planted bug. A colleague finds `joined` long, and has written a shorter one. It is right about most words, and its tokens decode to the same text.
''')
code(r'''
def suspect_joined(tokens, pair, new):
    found = list(tokens)
    for place in reversed(range(len(found) - 1)):
        if (found[place], found[place + 1]) == pair:
            found[place:place + 2] = [new]
    return found

row = [7, 1, 2, 7, 1, 2]
assert suspect_joined(row, (1, 2), 9) == joined(row, (1, 2), 9)
''')
md(r'''
Find what it does otherwise, and write `mended_joined`, with the same arguments, without calling `joined`. The list that it is given must stay as it is.
''')
exercise(r'''
def mended_joined(tokens, pair, new):
    """A list of `tokens` with `new` in place of each `pair`, found from left to right."""
    raise NotImplementedError
''')
check(r'''
def check_mended_joined(mended_joined):
    given = [5, 1, 2, 1, 2, 5]
    assert mended_joined(given, (1, 2), 9) == [5, 9, 9, 5], "both pairs, and what is around"
    assert given == [5, 1, 2, 1, 2, 5], "leave the list that you are given as it is"
    assert mended_joined([1, 1, 1], (1, 1), 9) == [9, 1], (
        "of three that are alike, the first two are joined: from left to right")
    assert mended_joined([1, 1, 1, 1], (1, 1), 9) == [9, 9], "four alike are two pairs"
    assert mended_joined([2, 1], (1, 2), 9) == [2, 1], "the order of a pair counts"
    assert mended_joined([3, 1], (1, 2), 9) == [3, 1], "the last may be half of a pair"
    for short in [], [1]:
        assert mended_joined(short, (1, 2), 9) == short, f"{short} has no pair in it"
    assert mended_joined([9, 2, 2], (9, 2), 9) == [9, 2], (
        "what was joined is not looked at again")
    rng = np.random.default_rng(0)
    for row in rng.integers(3, size=(200, 12)).tolist():
        assert mended_joined(row, (1, 1), 9) == joined(row, (1, 1), 9), f"wrong for {row}"

judge(check_mended_joined, mended_joined)
''')
solution(r'''
def mended_joined_solution(tokens, pair, new):
    found, place = list(tokens), 0
    while place < len(found) - 1:
        if (found[place], found[place + 1]) == pair:
            found[place:place + 2] = [new]
        place += 1
    return found

check_mended_joined(mended_joined_solution)
''')
md(r'''
**Exercise 2.** A chatbot shows its tokens as they come. An emoji may be four tokens, none of which is a character. Write `in_characters(pieces)`: from a list of pieces of bytes, as they come, the string that can be shown after each: as much as there is, but no half characters. What can never become a character is shown as `"\ufffd"` (�), and so is a half that is left at the end, in one more string.
''')
exercise(r'''
def in_characters(pieces):
    """What can be shown after each of some pieces of UTF-8, and at the end: strings."""
    raise NotImplementedError
''')
check(r'''
def check_in_characters(in_characters):
    assert in_characters([b"Hi", b" there"]) == ["Hi", " there", ""], (
        "whole characters are shown at once, and at the end there is nothing left")
    assert in_characters([]) == [""], "without pieces, there is the end"
    pizza = "🍕".encode()
    assert in_characters([pizza[:1], pizza[1:3], pizza[3:] + b"!"]) == ["", "", "🍕!", ""], (
        "half a character waits for the rest of it")
    assert in_characters([b"a" + pizza[:2], pizza[2:]]) == ["a", "🍕", ""], (
        "what comes before half a character does not wait")
    assert in_characters([b"a\xff", b"b"]) == ["a\ufffd", "b", ""], (
        "a byte that begins no character is shown as \ufffd, and at once")
    assert in_characters([b"a", pizza[:3]]) == ["a", "", "\ufffd"], (
        "half a character is left at the end")
    text = "naïve 你好 😀👍🏽 ok"
    parts = [bytes([byte]) for byte in text.encode()]
    assert "".join(in_characters(parts)) == text, "the strings together are the text"

judge(check_in_characters, in_characters)
''')
solution(r'''
import codecs

def in_characters_solution(pieces):
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(piece) for piece in pieces] + [decoder.decode(b"", final=True)]

check_in_characters(in_characters_solution)
''')
md(r'''
**Exercise 3.** The obvious way after all: at each place the longest token that fits. BERT's tokenizer encodes so ([Song et al. 2021](https://doi.org/10.18653/v1/2021.emnlp-main.160)). Write `longest_first(word, token_of)`, where `token_of` is a dict from bytes to token that has all single bytes in it. Then compare: with *our* vocabulary, on all words of the validation part, which way needs fewer tokens? And what would become of the scores of this notebook if you encoded so, with a model that was trained on the other way?
''')
exercise(r'''
def longest_first(word, token_of):
    """The tokens of a word (bytes), a list: at each place the longest that fits."""
    raise NotImplementedError
''')
check(r'''
def check_longest_first(longest_first):
    token_of = {bytes([byte]): token for token, byte in enumerate(BYTES)}
    token_of |= {b"he": 256, b"ello": 257, b"hell": 258, b"lo!?": 259, b"oh": 260}
    for word, known in {b"": [], b"hi": [b"h", b"i"], b"hello": [b"hell", b"o"],
                        b"hehehe": [b"he", b"he", b"he"], b"jello": [b"j", b"ello"],
                        b"helo!": [b"he", b"l", b"o", b"!"], b"h\xff": [b"h", b"\xff"],
                        b"shell": [b"s", b"hell"], b"ohello": [b"oh", b"ello"]}.items():
        found = longest_first(word, token_of)
        assert list(found) == [token_of[piece] for piece in known], (
            f"{word} is {b' | '.join(known)}: from the left, at each place the longest")

judge(check_longest_first, longest_first)
''')
solution(r'''
def longest_first_solution(word, token_of):
    tokens, start, longest = [], 0, max(map(len, token_of))
    while start < len(word):
        end = next(end for end in range(min(len(word), start + longest), start, -1)
                   if word[start:end] in token_of)
        tokens.append(token_of[word[start:end]])
        start = end
    return tokens

check_longest_first(longest_first_solution)
''')
md(r'''
**Exercise 4.** In how many ways can a word be written in tokens? Write `ways(word, pieces)`, for a word and a set of pieces (both bytes). A word of twenty letters may have thousands of ways, so do not list them. Then: in how many can ` everything` be written with the 4,096 tokens of this notebook? The model pays for one of them.
''')
exercise(r'''
def ways(word, pieces):
    """How many lists of elements of `pieces` are, put together, the word."""
    raise NotImplementedError
''')
check(r'''
def check_ways(ways):
    assert ways(b"hat", {b"h", b"a", b"t"}) == 1, "there is one way: letter by letter"
    assert ways(b"hat", {b"h", b"a", b"t", b"at"}) == 2, "h|a|t and h|at"
    assert ways(b"hat", {b"h", b"a", b"t", b"at", b"ha", b"hat"}) == 4, (
        "h|a|t, h|at, ha|t and hat")
    assert ways(b"hat", {b"ha", b"at"}) == 0, "ha leaves t over, and at leaves h"
    assert ways(b"", {b"a"}) == 1, "nothing can be written in one way: with no piece"
    assert ways(b"aaaa", {b"a", b"aa"}) == 5, "a|a|aa, a|aa|a and aa|a|a are three ways"
    many = {b"a" * n for n in range(1, 61)}
    assert ways(b"a" * 60, many) == 2 ** 59, "each of the 59 gaps is a cut, or none"

judge(check_ways, ways)
''')
solution(r'''
def ways_solution(word, pieces):
    count, longest = [1], max(map(len, pieces))             # count[i]: of the first i bytes
    for end in range(1, len(word) + 1):
        count.append(sum(count[start] for start in range(max(0, end - longest), end)
                         if word[start:end] in pieces))
    return count[-1]

check_ways(ways_solution)
''')
md(r'''
**Exercise 5 (open).** What a vocabulary learns from is a choice as well. Learn one of 4,096 tokens (a) from the first hundredth of the training part, (b) from the licence of this book, `../LICENSE`, (c) from training *and test part* together, with the words of the test part counted ten times. Score each with the n-gram, on validation and on test. Which of them would you notice? What does (c) say about published numbers whose vocabulary was trained on who knows what?

## What comes next

Text is numbers now, fewer than a third as many as it has bytes, and nothing is unknown. What should a model do with them? The LSTM had to squeeze all that it had read into one vector. [The next notebook](42_attention.ipynb) lets every token look back at all the tokens before it.

The papers: [Sennrich, Haddow and Birch 2016](https://arxiv.org/abs/1508.07909), which brought BPE to language; [Radford et al. 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf), section 2.2, for its byte-level form. For a vocabulary that is chosen by probability and not by merging, [Kudo 2018](https://arxiv.org/abs/1804.10959); for doubts about merging, [Bostrom and Durrett 2020](https://doi.org/10.18653/v1/2020.findings-emnlp.414).
''')
