"""Compare GPT-1's tokens by three programs: the authors' own, this book's, and the library's of whatever version is installed.

Needs what is not in this repository: the authors' text_utils.py and their vocabulary, from https://github.com/openai/finetune-transformer-lm, both checked by
what Git calls them. The counts are added to data/gpt1/tokens.json, under the library's version; to look at another version, install it and run this again."""
import argparse
import importlib.metadata
import importlib.util
import json
import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from practitioner.book import write_atomically  # noqa: E402
from practitioner.corpus import load_corpus  # noqa: E402
from practitioner.gpt1 import FILES, git_name, GPT1Tokenizer, library_tokenizer, read_vocabulary  # noqa: E402

PROGRAM = "48a0d502f69000e29ec54f96efa93605ba0528f0"  # text_utils.py
ODD = "ab\n \t\\+-~!\"?é…—´'.,:;()[]{}|_*/10AB\u200b😀"


def authors(program, folder):
    """The authors' encode, with spaCy's English rules of today, which by themselves are what they loaded in 2018 less the parts that they switched off."""
    import spacy
    spacy.load = lambda *arguments, **options: spacy.blank("en")
    spec = importlib.util.spec_from_file_location("text_utils", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    encoder = module.TextEncoder(str(folder / "encoder_bpe_40000.json"), str(folder / "vocab_40000.bpe"))
    return lambda texts: encoder.encode(texts, verbose=False)


def library(folder):
    """The library's ways to encode: all that the installed version has, by what they are called."""
    import transformers
    vocabulary, merges = read_vocabulary(folder / "encoder_bpe_40000.json", folder / "vocab_40000.bpe")
    kinds = {"": "OpenAIGPTTokenizer"} if int(transformers.__version__.split(".")[0]) > 4 else {", slow": "OpenAIGPTTokenizer", ", fast": "OpenAIGPTTokenizerFast"}
    ways = {}
    for kind, name in kinds.items():
        tokenizer = library_tokenizer(vocabulary, merges, name)
        ways[transformers.__version__ + kind] = lambda texts, tokenizer=tokenizer: [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    return ways


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path, help="the authors' text_utils.py")
    parser.add_argument("folder", type=pathlib.Path, help="where their encoder_bpe_40000.json and vocab_40000.bpe are")
    options = parser.parse_args()
    for file, name in {options.program: PROGRAM, **{options.folder / file: FILES[file] for file in ("encoder_bpe_40000.json", "vocab_40000.bpe")}}.items():
        if not file.exists() or git_name(file.read_bytes()) != name:
            parser.error(f"{file} is not the file that Git calls {name}")
    turns = [turn for conversation in load_corpus().validation for turn in conversation.turns]
    rng = random.Random(0)
    odd = ["".join(rng.choices(ODD, k=rng.randrange(26))) for _ in range(3000)]
    theirs, own = authors(options.program, options.folder), GPT1Tokenizer(*read_vocabulary(options.folder / "encoder_bpe_40000.json", options.folder / "vocab_40000.bpe"))
    right = theirs(turns + odd)
    differ = [mine != other for mine, other in zip(map(own.encode, turns + odd), right)]
    file = ROOT / "data" / "gpt1" / "tokens.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    counted = dict(turns=len(turns), odd=len(odd), ours_differ=sum(differ[:len(turns)]), ours_differ_odd=sum(differ[len(turns):]),
                   versions={name: importlib.metadata.version(name) for name in ("ftfy", "spacy")})
    same = all(known.get(what) == value for what, value in counted.items())  # else what was counted before is of other turns or rules
    counted["library_differs"] = known["library_differs"] if same else {}
    for name, encode in library(options.folder).items():
        counted["library_differs"][name] = sum(one != other for one, other in zip(encode(turns), right))
        print(f"transformers {name}: {counted['library_differs'][name]} of {len(turns)} turns differ from the authors'; of ours {sum(differ)}")
    write_atomically(file, json.dumps(counted, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
