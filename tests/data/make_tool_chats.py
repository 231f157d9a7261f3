"""Writes tests/data/tool_chats.json: chats with tools as Hugging Face renders and encodes them, by
jinja2 and tokenizers, with templates of the two families. Run it only to change them.
"""
import json
from pathlib import Path

from jinja2 import Environment
from tokenizers import Tokenizer

HERMES = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- "You have these functions:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\nCall one as <tool_call>\n{\"name\": ..., \"arguments\": ...}\n</tool_call>" }}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not (loop.first and tools)) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n' }}{%- endif %}
{%- endif %}
"""

LLAMA = r"""{%- if tools is none or not tools %}{%- set tools = none %}{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' and tools is not none and loop.last %}
        {{- '<|im_start|>user\n\nEnvironment: ipython. Answer with a call in JSON: ' }}
        {{- '{"name": function name, "parameters": its arguments}.\n\n' }}
        {%- for tool in tools %}{{- tool | tojson(indent=4) + '\n\n' }}{%- endfor %}
        {{- message.content | trim + '<|im_end|>' }}
    {%- elif message.tool_calls is defined %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|im_start|>assistant\n\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson + '}<|im_end|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>ipython\n\n' }}
        {%- if message.content is mapping or message.content is iterable and
               message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- '<|im_end|>' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n\n' + message.content | trim + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n\n' }}{%- endif %}
"""

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city, \"now\" <b> & in °C.",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "Its name"},
        "days": {"type": "integer", "default": 1, "minimum": 0.5}}}}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}


def call(name, arguments, number=1):
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


ASK = {"role": "user", "content": "What is the weather in Köln?"}
CALLS = {"role": "assistant", "content": None,
         "tool_calls": [
             call("get_weather", '{"city": "Köln", "days": 2, "deep": {"a": [1, null]}}'),
             call("clock", "{}", 2)]}
ANSWERS = [{"role": "tool", "tool_call_id": "call_1", "content": "12 degrees\n"},
           {"role": "tool", "tool_call_id": "call_2", "content": '{"hour": 12}'}]
SYSTEM = {"role": "system", "content": "The system says."}
CHATS = [
    ([ASK], [WEATHER, CLOCK], {}),
    ([SYSTEM, ASK, CALLS, *ANSWERS], [WEATHER, CLOCK], {}),
    ([SYSTEM, ASK, CALLS, *ANSWERS, {"role": "assistant", "content": "12."}, ASK], [CLOCK], {}),
    ([ASK], [], {"enable_thinking": False}),
]


def parsed(message):
    """As Hugging Face's users must give it: arguments as objects."""
    if "tool_calls" not in message:
        return message
    calls = [call | {"function": call["function"] | {
        "arguments": json.loads(call["function"]["arguments"])}} for call in message["tool_calls"]]
    return message | {"tool_calls": calls}


def to_json(value, indent=None):
    return json.dumps(value, ensure_ascii=False, indent=indent)


folder = Path(__file__).parent
tokenizer = Tokenizer.from_file(str(folder / "tiny_tokenizer" / "tokenizer.json"))
environment = Environment(trim_blocks=True, lstrip_blocks=True)
environment.filters["tojson"] = to_json
reference = {"templates": {"hermes": HERMES, "llama3": LLAMA}, "chats": []}
for family, template in reference["templates"].items():
    for messages, tools, arguments in CHATS:
        text = environment.from_string(template).render(
            messages=[parsed(message) for message in messages], tools=tools or None,
            add_generation_prompt=True, **arguments)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        reference["chats"].append({"template": family, "messages": messages, "tools": tools,
                                   "arguments": arguments, "text": text, "ids": ids})
(folder / "tool_chats.json").write_text(json.dumps(reference, indent=1) + "\n")
