"""What TRL's DPOTrainer tokenizes of prompts that end in different turns, of messages with further fields, and
beside columns of tools and of names for the template.

usage: make_trl.py FOLDER OUT.jsonl OUT.parquet BESIDE.jsonl BESIDE.parquet

FOLDER holds a tokenizer with a chat template. What is tokenized is what is in the Parquet file, so that
messages have the fields of their columns, in their order, and None where they have none. Needs pyarrow,
transformers, and trl 1.16 installed (without torch: its functions are taken out of its files, and the
package is not imported).
"""

import ast
import importlib.util
import json
import pathlib
import sys
from itertools import takewhile

import pyarrow
import pyarrow.parquet
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


# Writes further fields where they are, and the names of all.
TEMPLATE = """
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.role == 'user' %}{% for field in m %}[{{ field }}]{% endfor %}{{ m.name }} {{ m.weight }} {% endif -%}
{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif -%}
{{ m.content }}
{%- if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>
{% endfor -%}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""

ASKED = {"role": "user", "content": "Is it raining?", "name": "Ann", "weight": 0.1}
CALL = {"id": -7, "function": {"name": "look", "arguments": {"where": "out", "far": 2.0, "deep": None}}}

FIELDS = {
    "fields of prompts": {
        "prompt": [
            ASKED | {"seen": True},
            turn("assistant", "") | {"tool_calls": [CALL]},
            {"role": "tool", "content": "yes", "name": "look"},
        ],
        "chosen": [turn("assistant", "Yes, it is.")],
    },
    "reasoning of a response": {
        "prompt": [ASKED, turn("assistant", "Hm.") | {"thinking": "Look."}, ASKED | {"weight": 3.0}],
        "chosen": [turn("assistant", "Yes, it is.") | {"reasoning": "I looked."}],
    },
    "a call as a response": {
        "prompt": [ASKED],
        "chosen": [turn("assistant", "") | {"tool_calls": [CALL]}],
    },
    "fields that the template leaves out": {
        "prompt": [ASKED],
        "chosen": [turn("assistant", " Yes, it is. ") | {"name": "Bob", "weight": 1.0}],
    },
}


# Goes through the parts of a content, and writes what it finds besides.
BESIDE_TEMPLATE = """
{%- if tools is not none %}[tools]{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif -%}
{%- if think is defined %}[{{ think }} {{ level }}]{% endif -%}
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% for part in m.content %}{{ part.text }}{{ part.more }}{% endfor %}<|im_end|>
{% endfor -%}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""


def parts(role, *texts):
    more = {"more": "!"} if len(texts) > 1 else {}
    return {"role": role, "content": [{"type": "text", "text": text} | more for text in texts]}


TOOL = {"name": "look", "of": {"z": 1, "a": [0.5, 2.0], "b": None}}
BESIDE = [
    {"tools": [TOOL, TOOL], "kwargs": {"think": False, "level": None}},
    {"tools": [], "kwargs": {"think": True, "level": 3}},
    {"tools": None, "kwargs": {"think": None, "level": 4}},
]


def beside(tokenizer, tokenize, out, table):
    rows = [
        {
            "id": number,
            "prompt": [parts("system", "Be brief."), parts("user", "Is it ", "raining?")],
            "chosen": [parts("assistant", "Yes, ", "it is.")],
            "rejected": [parts("assistant", "No.")],
            "tools": json.dumps(row["tools"]),
            "tools_list": row["tools"],
            "kwargs": row["kwargs"],
            "kwargs_text": json.dumps(row["kwargs"]),
        }
        for number, row in enumerate(BESIDE)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    tokenizer.chat_template = BESIDE_TEMPLATE
    with open(out, "w") as file:
        for row in pyarrow.parquet.read_table(table).to_pylist():
            for tools in ("tools", "tools_list"):
                for kwargs in ("kwargs", "kwargs_text"):
                    given = row[kwargs]
                    given = json.loads(given) if isinstance(given, str) else given
                    ids = tokenize(row | {"tools": row[tools], "chat_template_kwargs": given}, tokenizer)
                    golden = {"id": row["id"], "tools": tools, "kwargs": kwargs}
                    golden |= {"chat_template": BESIDE_TEMPLATE}
                    golden |= {key: ids[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}
                    file.write(json.dumps(golden) + "\n")


def main():
    folder, out, table, beside_out, beside_table = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenize = trl_functions()["tokenize_fn"]
    answers = {"chosen": [turn("assistant", "Yes, it is.")]}
    rows = {name: {"prompt": prompt} | answers for name, prompt in PROMPTS.items()}
    rejected = {"rejected": [turn("assistant", "No.")]}
    rows = [{"name": name} | row | rejected for name, row in (rows | FIELDS).items()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    with open(out, "w") as file:
        for row in pyarrow.parquet.read_table(table).to_pylist():
            golden = {"name": row["name"]}
            if row["name"] in FIELDS:
                tokenizer.chat_template = golden["chat_template"] = TEMPLATE
            ids = tokenize(row, tokenizer)
            golden |= {key: ids[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}
            file.write(json.dumps(golden) + "\n")
    beside(tokenizer, tokenize, beside_out, beside_table)


if __name__ == "__main__":
    main()
