"""The special tokens and token ids that AutoTokenizer finds in folders whose files say it in different ways.

usage: make_folders.py FOLDER OUT.jsonl

FOLDER holds a tokenizer. Each line of OUT has the files that are put into a copy of it (null: taken away),
the keys that are set in its tokenizer.json, texts with their ids, and the special tokens by name.
Needs transformers.
"""

import json
import pathlib
import shutil
import sys
import tempfile

from transformers import AutoTokenizer

CONFIG = "tokenizer_config.json"
MAP = "special_tokens_map.json"
LIST = "added_tokens.json"

TEXTS = [
    "<s>a <pad>b<unk> c",
    "the other<img> <x>thing <|im_end|>",
    " <sep>\n<extra><|endoftext|>",
]


def padding(token):
    return {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
        "pad_type_id": 0, "pad_token": token,
    }  # fmt: skip


def object_of(content, **flags):
    return {"__type": "AddedToken", "content": content} | flags


# What is set in tokenizer_config.json, which other files there are, what is set in tokenizer.json.
FOLDERS = {
    "as it is": ({}, {}, {}),
    "no configuration": (None, {}, {}),
    "named tokens that the vocabulary lacks": ({"pad_token": "<pad>", "unk_token": "<unk>", "sep_token": "<sep>"}, {}, {}),
    "an object": ({"unk_token": object_of("<unk>"), "mask_token": object_of("<x>")}, {}, {}),
    "extra ones with names": ({"extra_special_tokens": {"image_token": "<img>", "pad_token": "<pad>"}}, {}, {}),
    "extra ones without names": ({"extra_special_tokens": ["<x>", "th"]}, {}, {}),
    "additional ones": ({"additional_special_tokens": ["er", object_of("<img>")]}, {}, {}),
    "extra ones before additional ones": ({"extra_special_tokens": ["<x>"], "additional_special_tokens": ["<img>"]}, {}, {}),
    "names of their own": ({"image_token": "<|im_end|>", "x_token": "<x>", "none_token": None}, {}, {}),
    "a class with its own": ({"tokenizer_class": "GPT2Tokenizer"}, {}, {}),
    "a map": ({}, {MAP: {"pad_token": {"content": "<pad>"}, "image_token": "<|im_end|>", "x_token": {"content": "<x>"}}}, {}),
    "a map with lists": ({}, {MAP: {"extra_special_tokens": ["<x>"], "additional_special_tokens": ["<img>"]}}, {}),
    "a map with an older list": ({}, {MAP: {"additional_special_tokens": ["<img>", "<x>"]}}, {}),
    "a map beside a decoder": ({"added_tokens_decoder": {}}, {MAP: {"pad_token": "<pad>", "x_token": "<x>"}}, {}),
    "a list": ({}, {LIST: {"<pad>": 321, "<extra>": 320, "<s>": 0}}, {}),
    "a list with a named token": ({"pad_token": "<pad>", "unk_token": "<unk>"}, {LIST: {"<pad>": 321, "<x>": 320}}, {}),
    "a list beside a decoder": ({"added_tokens_decoder": {}}, {LIST: {"<pad>": 320}}, {}),
    "padding": ({}, {}, {"padding": padding("</s>")}),
    "padding by a token that the vocabulary lacks": ({}, {}, {"padding": padding("<pad>")}),
    "padding beside a name": ({"pad_token": "<x>"}, {}, {"padding": padding("<pad>")}),
    "padding beside none": ({"pad_token": None}, {}, {"padding": padding("<pad>")}),
}  # fmt: skip


def main():
    source, out = sys.argv[1:]
    source = pathlib.Path(source)
    own = json.loads((source / CONFIG).read_text()) if (source / CONFIG).exists() else {}
    with open(out, "w") as file, tempfile.TemporaryDirectory() as temporary:
        for at, (name, (config, files, keys)) in enumerate(FOLDERS.items()):
            folder = pathlib.Path(temporary) / str(at)
            shutil.copytree(source, folder)
            files = {CONFIG: None if config is None else own | config} | files
            for place, content in files.items():
                if content is None:
                    (folder / place).unlink(missing_ok=True)
                else:
                    (folder / place).write_text(json.dumps(content))
            tokenizer = json.loads((folder / "tokenizer.json").read_text()) | keys
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
            theirs = AutoTokenizer.from_pretrained(folder)
            golden = {"name": name, "files": files, "keys": keys}
            golden["ids"] = [[text, theirs(text, add_special_tokens=False).input_ids] for text in TEXTS]
            golden["named"] = theirs.special_tokens_map
            # Lists have no names of their own for a template.
            golden["named"].pop("extra_special_tokens", None)
            file.write(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
