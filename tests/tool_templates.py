"""Chat templates in the manner of the families that write calls, and tools to try them with."""

from typing import Any

HERMES = """{%- if tools %}<turn>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call with <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call><eos>
{% endif %}{% for message in messages %}<turn>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<eos>
{% endfor %}{% if add_generation_prompt %}<turn>assistant
{% endif %}"""

LLAMA = """{{ bos_token }}{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}
{%- for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>
{% if 'tool_calls' in message %}{% set call = message.tool_calls[0].function %}
{{ '{"name": "' + call.name + '", ' }}{{ '"parameters": ' }}{{ call.arguments | tojson }}{{ "}" }}
{%- else %}{{ message.content }}{% endif %}<|eot_id|>{% endfor %}
{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>
{% endif %}"""

MISTRAL = """{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for message in messages %}{% if message.role == 'user' %}[INST]{{ message.content }}[/INST]
{%- elif message.tool_calls %}[TOOL_CALLS][{% for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('ids must have nine letters') }}{% endif %}
{{- {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}{% endfor %}]
{%- elif message.role == 'tool' %}[TOOL_RESULTS]{{ message.content }} {{ message.tool_call_id }}[/TOOL_RESULTS]
{%- else %}{{ message.content }}{% endif %}{% endfor %}"""

MISTRAL_ARGS = """{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for message in messages %}{% if message.role == 'user' %}[INST]{{ message.content }}[/INST]
{%- elif message.tool_calls %}{% for call in message.tool_calls %}
{{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' + (call.function.arguments | tojson) }}{% endfor %}
{%- else %}{{ message.content }}{% endif %}{% endfor %}"""

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}
