"""What the configuration class of each supported model type declares, with its defaults.

usage: make_config_keys.py OUT.json

A key of `config.json` is in the table of a type if transformers reads it for that type: the fields
of the configuration class and of its base, what the class takes out of its other arguments (names
that older versions wrote), aliases, and what loading and modelling code asks a configuration for
although no class declares it. Any other key becomes an attribute that nothing reads.

A default is what a configuration has that was given nothing, and {"computed": true} where the class
makes it of other keys.
"""

import argparse
import dataclasses
import importlib
import inspect
import json
import re

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TYPES = [
    "llama",
    "olmo",
    "gemma",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "olmo2",
    "phi3",
    "gemma3_text",
    "smollm3",
    "gpt_neox",
]

COMPUTED = {"computed": True}

# What loading and modelling code asks any configuration for, though no class declares it: the
# module of transformers that does, and what counts where the key is missing.
ASKED_OF_ALL = {
    # Whether attention leaves out what comes after a token.
    "is_causal": ("masking_utils", True),
    # Counts more than the one within the parameters of the rotary embedding.
    "original_max_position_embeddings": ("modeling_rope_utils", None),
    # How weights are stored in few bits, or will be.
    "quantization_config": ("quantizers.auto", None),
    # The file that the weights are in, if it is another.
    "transformers_weights": ("modeling_utils", None),
    # Classes that take the place of others.
    "fusion_config": ("modeling_utils", None),
    # The files that the configuration may be in instead.
    "configuration_files": ("configuration_utils", None),
    # What attributes are called besides.
    "attribute_map": ("configuration_utils", {}),
    # A configuration within this one, which counts instead.
    "text_config": ("configuration_utils", None),
    "text_encoder": ("configuration_utils", None),
    "decoder": ("configuration_utils", None),
    "generator": ("configuration_utils", None),
    # Code that comes with the model, which runs if the user says so.
    "auto_map": ("models.auto.configuration_auto", None),
    # Whether the last of the hidden states that a model returns is normed.
    "tie_last_hidden_states": ("utils.output_capturing", None),
    "gradient_checkpointing": ("modeling_utils", False),
}


def fields(cls):
    """The declared fields."""
    nothing = cls()
    found = {}
    for field in dataclasses.fields(cls):
        value = getattr(nothing, field.name)
        found[field.name] = value if value == field.default else COMPUTED
    return found


def arguments(method):
    """What a method asks its other arguments for."""
    source = inspect.getsource(inspect.unwrap(method))
    taken = re.findall(r'kwargs\.(?:pop|get)\(\s*"(\w+)"', source)
    return {*taken, *re.findall(r'"(\w+)" in kwargs', source)}


def taken_out(cls):
    """What the class takes out of arguments that are no fields, and what can be set besides."""
    # Every `__post_init__` calls that of its base; of the other method only the last one counts.
    methods = [base.__dict__.get("__post_init__") for base in cls.__mro__]
    names = set().union(*map(arguments, filter(None, methods)))
    # Its base asks for these where a class has no field for the rotary embedding; all have one here.
    names -= {"rope_scaling", "rope_theta"}
    names |= arguments(cls.convert_rope_params_to_dict)
    members = inspect.getmembers(cls)
    names.update(name for name, value in members if isinstance(value, property) and value.fset)
    nothing = cls()
    theta = cls.default_theta if isinstance(cls.default_theta, dict) else {"global": cls.default_theta}
    partial = nothing.rope_parameters.get("partial_rotary_factor", 1.0)
    known = {
        "rope_theta": theta["global"],
        "rotary_emb_base": theta["global"],
        "rope_local_base_freq": theta.get("local"),
        "partial_rotary_factor": partial,
        "rotary_pct": partial,
        "sliding_window_pattern": getattr(nothing, "_sliding_window_pattern", None),
        # What their properties give is something else.
        "rope_scaling": None,
        "per_layer_config": None,
        "torch_dtype": None,
    }
    return {name: known[name] if name in known else getattr(nothing, name, None) for name in names}


def asked_for(cls):
    """What the modelling code of the type asks a configuration for that need not have it."""
    # Read as text: importing it takes torch.
    path = inspect.getsourcefile(cls).replace("configuration_", "modeling_")
    with open(path) as file:
        names = re.findall(r'(?:get|has)attr\((?:self\.)?config, "(\w+)"', file.read())
    assert names, path
    return {name: COMPUTED if name == "head_dim" else None for name in names}


def keys(model_type):
    cls = CONFIG_MAPPING[model_type]
    found = {name: default for name, (_, default) in ASKED_OF_ALL.items()}
    found |= asked_for(cls) | taken_out(cls) | fields(cls) | {"model_type": model_type}
    found |= {alias: found[name] for alias, name in cls.attribute_map.items()}
    return dict(sorted(found.items()))


def text_of(version, types):
    """JSON with a line for each key."""
    of_types = []
    for model_type, defaults in types.items():
        lines = [f"{json.dumps(key)}: {json.dumps(default)}" for key, default in defaults.items()]
        of_types.append(f"{json.dumps(model_type)}: {{\n" + ",\n".join(lines) + "\n}")
    return f'{{"transformers": {json.dumps(version)}, "types": {{\n' + ",\n".join(of_types) + "\n}}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", metavar="OUT.json")
    out = parser.parse_args().out
    for name, (module, _) in ASKED_OF_ALL.items():
        path = importlib.util.find_spec(f"transformers.{module}").origin
        with open(path) as file:
            assert f'"{name}"' in file.read(), f"{module} does not ask for {name}"
    text = text_of(transformers.__version__, {model_type: keys(model_type) for model_type in TYPES})
    json.loads(text)
    with open(out, "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
