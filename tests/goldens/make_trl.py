"""What TRL's DPOTrainer tokenizes of prompts that end in different turns.

usage: make_trl.py FOLDER OUT.jsonl

FOLDER holds a tokenizer with a chat template. Needs transformers, and trl 1.16 installed (without torch:
its functions are taken out of its files, and the package is not imported).
"""

import ast
import importlib.util
import json
import pathlib
import sys
from itertools import takewhile

from transformers import AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin

# Of which file, which functions.
WANTED = {
    "data_utils.py": {"is_conversational", "_tokenize", "common_prefix_length"},
    "trainer/dpo_trainer.py": {"tokenize_fn"},
}


class Logger:
    """Nothing below may end in a warning that a prompt is no prefix."""

    def warning_once(self, text):
        raise SystemExit(text)


def trl_functions():
    names = {
        "takewhile": takewhile,
        "json": json,
        "logger": Logger(),
        "PreTrainedTokenizerBase": PreTrainedTokenizerBase,
        "ProcessorMixin": ProcessorMixin,
    }
    package = pathlib.Path(importlib.util.find_spec("trl").origin).parent
    for file, wanted in WANTED.items():
        tree = ast.parse((package / file).read_text())
        found = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name in wanted
        ]
        assert {node.name for node in found} == wanted, (file, found)
        for node in found:
            node.returns = None
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
        exec(compile(ast.Module(found, []), file, "exec"), names)
    return names


def turn(role, content):
    return {"role": role, "content": content}


PROMPTS = {
    "user": [turn("user", "Is it raining?")],
    "assistant": [turn("user", "Is it raining?"), turn("assistant", "Let me look.")],
    "assistant twice": [
        turn("system", "Be brief."),
        turn("user", "Is it raining?"),
        turn("assistant", "Let me look."),
        turn("assistant", "One moment."),
    ],
    "assistant with nothing": [turn("user", "Is it raining?"), turn("assistant", "")],
    "assistant alone": [turn("assistant", "Hello!")],
    "system": [turn("system", "Greet.")],
}


def main():
    folder, out = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenize = trl_functions()["tokenize_fn"]
    with open(out, "w") as file:
        for name, prompt in PROMPTS.items():
            row = {
                "prompt": prompt,
                "chosen": [turn("assistant", "Yes, it is.")],
                "rejected": [turn("assistant", "No.")],
            }
            ids = tokenize(row, tokenizer)
            row |= {key: ids[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}
            file.write(json.dumps({"name": name} | row) + "\n")


if __name__ == "__main__":
    main()
