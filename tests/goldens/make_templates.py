"""What transformers renders by chat templates that use the features of real ones.

usage: make_templates.py OUT.json

The templates are our own; each uses what the templates of a line of models use.
"""

import datetime
import json
import sys

from transformers.utils import chat_template_utils

# What strftime_now says, so that scores do not depend on the day.
NOW = datetime.datetime(2024, 7, 26)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Clock

TEMPLATES = {
    # Turns in brackets, a system turn put into the first user turn, roles that must alternate.
    "brackets": """{%- if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{%- else %}{% set loop_messages = messages %}{% set system = false %}{% endif -%}
{% for message in loop_messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if loop.index0 == 0 and system != false %}
{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}
{% else %}
{% set content = message['content'] %}
{% endif %}
{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}
{{ ' ' + content.strip() + ' ' + eos_token }}
{% endif %}
{% endfor %}""",
    # Headers, a date, tools that are none.
    "headers": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}""",
    # No system turn, the assistant under another name.
    "model_turns": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    # ChatML with a default system turn, tools as JSON, a look at the neighbours.
    "chatml": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
    {%- if loop.last or (messages[loop.index0 + 1].role != "user") %}
        {{- '' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}""",
    # Thinking that is taken out of earlier turns, with a namespace and string methods.
    "thinking": """{%- set ns = namespace(last=-1, found=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if not ns.found and message.role == "user" %}
        {%- set ns.found = true %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "assistant" and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|' + message.role|upper + '|>' + content.rstrip() + ('!' if loop.index0 == ns.last else '') + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|ASSISTANT|>' }}{%- endif %}""",
    # Tokens of its own, a macro, break.
    "macro": """{%- macro turn(role, content) -%}
<|{{ role }}|>
{{ content }}<|end|>
{% endmacro -%}
{% for message in messages %}{% if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('Unknown role ' ~ message['role']) }}{% endif %}{{ turn(message['role'], message['content']) }}{% if loop.index > 5 %}{% break %}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% else %}{{ eos_token }}{% endif %}""",
    # The assistant's part marked for training.
    "generation": """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|assistant|>\\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}

{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}
{%- generation -%}  {%- endgeneration -%}
{% endfor %}""",
    # JSON of turns, in several shapes.
    "json": """{% for message in messages %}{{ message | tojson }}
{{ {'a': [1, 2.5, true, none], "b": message.content} | tojson(indent=2) }}{% endfor %}{{ strftime_now('%Y-%m-%d %H:%M %B %A %j') }}""",
    # Items, dictionary methods, filters, tests, slices, conditional expressions.
    "expressions": """{% set names = {'user': 'Q', 'assistant': 'A'} %}{% for message in messages %}{{ names.get(message.role, message.role|title) }}{{ ': ' if not loop.last else '> ' }}{{ message['content'][:20]|replace('a', 'o') }}{% for key, value in message.items() %}{{ ' ' ~ key ~ '=' ~ value|length }}{% endfor %}{{ message.content.startswith('W') }}{{ message.name is defined }}
{% endfor %}{{ messages|map(attribute='role')|join(',') }}{{ (messages|selectattr('role', 'equalto', 'user')|list)|length }}""",
}
CONVERSATIONS = [
    [("user", "Why is the sky blue?")],
    [("system", " Be brief. "), ("user", "Why?\n"), ("assistant", "Because.")],
    [("user", "  a  "), ("assistant", "<think>hm</think>\n\nWell, 'a' & \"b\" <c>"), ("user", "Größe 😀")],
    [("user", "x"), ("user", "y")],
    [("critic", "z"), ("user", "y"), ("assistant", "w")],
]


def main(out):
    golden = []
    for name, template in TEMPLATES.items():
        cases = []
        for turns in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in turns]
            for prompt in (True, False):
                case = {"messages": messages, "add_generation_prompt": prompt}
                try:
                    rendered, _ = chat_template_utils.render_jinja_template(
                        conversations=[messages],
                        chat_template=template,
                        add_generation_prompt=prompt,
                        bos_token="<s>",
                        eos_token="</s>",
                    )
                    case["text"] = rendered[0]
                except Exception as error:
                    case["error"] = str(error)
                cases.append(case)
        golden.append({"name": name, "template": template, "cases": cases})
    with open(out, "w") as file:
        json.dump(golden, file, ensure_ascii=False, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
