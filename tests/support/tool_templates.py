"""Small chat templates of our own, each in the style of a family that calls tools.

Of an assistant's calls they print what its model writes, so that a parser must read it back.
"""

_TOOLS = "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}"
_CALLS = "{% if m.tool_calls %}{% for c in m.tool_calls %}{% set f = c.function %}"
_END = "{% endfor %}{% endif %}"
_THINK = "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
_CHATML = (
    _TOOLS
    + "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    + _THINK
    + "{% if m.content %}{{ m.content }}{% endif %}CALLS<|im_end|>\n{% endfor %}"
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HERMES = _CHATML.replace(
    "CALLS",
    _CALLS
    + '\n<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}'
    + "\n</tool_call>"
    + _END,
)
HERMES_WITHOUT_REASONING = HERMES.replace(_THINK, "")
QWEN_CODER = _CHATML.replace(
    "CALLS",
    _CALLS
    + "\n<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments.items() %}"
    + "<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}"
    + "</function>\n</tool_call>"
    + _END,
)
LLAMA = (
    _TOOLS
    + '{# Answer with {"name": function, "parameters": values} #}'
    + "{% for m in messages %}<|start|>{{ m.role }}\n"
    + "{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
    + '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
    + "{% else %}{{ m.content }}{% endif %}<|eot|>{% endfor %}"
    + "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
MISTRAL_LIST = (
    "{% set asked = messages | selectattr('role', 'equalto', 'user') | list | last %}"
    + "{% for m in messages %}{% if m.role == 'user' %}{% if tools and m == asked %}"
    + "[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    + "[INST]{{ m.content }}[/INST]"
    + "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}"
    + "{% if m.tool_call_id | length != 9 %}{{ raise_exception('ids have length 9!') }}{% endif %}"
    + "[/TOOL_RESULTS]"
    + "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}"
    + "{% if c.id | length != 9 %}{{ raise_exception('ids have length 9!') }}{% endif %}"
    + '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, '
    + '"id": "{{ c.id }}"}{{ ", " if not loop.last }}{% endfor %}]</s>'
    + "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    + "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    + "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]"
    + "{% else %}{% if m.reasoning_content %}[THINK]{{ m.reasoning_content }}[/THINK]{% endif %}"
    + "{{ m.content or '' }}"
    + _CALLS
    + "[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}"
    + _END
    + "</s>{% endif %}{% endfor %}"
)
_DEEPSEEK = (
    _TOOLS
    + "{% for m in messages %}{% if m.role == 'user' %}<USER>{{ m.content }}"
    + "{% elif m.role == 'tool' %}<RESULT>{{ m.content }}"
    + "{% elif m.content is none %}<ASSISTANT><\uff5ctool▁calls▁begin\uff5c>"
    + "{% for c in m.tool_calls %}{% set f = c.function %}<\uff5ctool▁call▁begin\uff5c>CALL"
    + "<\uff5ctool▁call▁end\uff5c>{% endfor %}<\uff5ctool▁calls▁end\uff5c><EOS>"
    + "{% else %}<ASSISTANT>{{ m.content }}<EOS>{% endif %}{% endfor %}"
    + "{% if add_generation_prompt %}<ASSISTANT>{% endif %}"
)
# It takes arguments as text, and a call's content must be none.
DEEPSEEK_V3 = _DEEPSEEK.replace(
    "CALL<",
    "function<\uff5ctool▁sep\uff5c>{{ f.name }}\n```json\n{{ '' + f.arguments }}\n```<",
)
DEEPSEEK_V31 = _DEEPSEEK.replace(
    "CALL<", "{{ f.name }}<\uff5ctool▁sep\uff5c>{{ '' + f.arguments }}<"
)
GRANITE = (
    _TOOLS
    + "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content or '' }}"
    + "{% if m.tool_calls %}<|tool_call|>[{% for c in m.tool_calls %}"
    + '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    + '{{ ", " if not loop.last }}{% endfor %}]{% endif %}<|end_of_text|>\n{% endfor %}'
    + "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
GEMMA = (
    _TOOLS
    + '{% macro gemma(v) %}{% if v is string %}<|"|>{{ v }}<|"|>'
    + "{% elif v is mapping %}{{ '{' }}{% for k, x in v.items() %}{{ k }}:{{ gemma(x) }}"
    + "{{ ',' if not loop.last }}{% endfor %}{{ '}' }}"
    + "{% elif v is sequence %}[{% for x in v %}{{ gemma(x) }}{{ ',' if not loop.last }}"
    + "{% endfor %}]{% else %}{{ v | tojson }}{% endif %}{% endmacro %}"
    + "{% for m in messages %}<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    + "{% if m.reasoning_content %}<|channel>thought\n{{ m.reasoning_content }}"
    + "<channel|>{% endif %}"
    + "{{ m.content or '' }}"
    + _CALLS
    + "<|tool_call>call:{{ f.name }}{{ gemma(f.arguments) }}<tool_call|>"
    + _END
    + "<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
_PYTHON = (
    "{% for c in m.tool_calls %}{{ c.function.name }}("
    + "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v | pyrepr }}"
    + "{{ ', ' if not loop.last }}{% endfor %}){{ ', ' if not loop.last }}{% endfor %}"
).replace("v | pyrepr", "(v | tojson) if v is string else v")
LIQUID = (
    _TOOLS
    + "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    + "{% if m.tool_calls %}<|tool_call_start|>["
    + _PYTHON
    + "]<|tool_call_end|>{% endif %}<|im_end|>\n{% endfor %}"
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PYTHONIC = (
    _TOOLS
    + "{% for m in messages %}<|header|>{{ m.role }}\n{{ m.content or '' }}"
    + "{% if m.tool_calls %}<|python_start|>["
    + _PYTHON
    + "]<|python_end|>{% endif %}<|eot|>\n{% endfor %}"
    + "{% if add_generation_prompt %}<|header|>assistant\n{% endif %}"
)
HARMONY = (
    _TOOLS
    + "{% for m in messages %}{% if m.role == 'tool' %}"
    + "<|start|>functions.{{ m.name }} to=assistant<|channel|>commentary<|message|>"
    + "{{ m.content }}<|end|>"
    + "{% else %}{% if m.thinking %}"
    + "<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    + "{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}<|start|>assistant"
    + "<|channel|>commentary to=functions.{{ f.name }} <|constrain|>json<|message|>"
    + "{{ f.arguments | tojson }}<|call|>"
    + "{% else %}<|start|>{{ m.role }}"
    + "{{ '<|channel|>final' if m.role == 'assistant' }}<|message|>{{ m.content }}<|end|>"
    + "{% endif %}{% endif %}{% endfor %}"
    + "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

# By the style that they show; what the model's answer ends with, which is no text of it.
FAMILIES = {
    "Hermes": (HERMES, "<|im_end|>\n"),
    "QwenCoder": (QWEN_CODER, "<|im_end|>\n"),
    "Llama": (LLAMA, "<|eot|>"),
    "MistralList": (MISTRAL_LIST, "</s>"),
    "Mistral": (MISTRAL, "</s>"),
    "DeepSeekV3": (DEEPSEEK_V3, "<EOS>"),
    "DeepSeekV31": (DEEPSEEK_V31, "<EOS>"),
    "Granite": (GRANITE, "<|end_of_text|>\n"),
    "Gemma": (GEMMA, "<turn|>\n"),
    "Liquid": (LIQUID, "<|im_end|>\n"),
    "Pythonic": (PYTHONIC, "<|eot|>\n"),
    "Harmony": (HARMONY, "<|call|>"),
}
ONE_CALL_ONLY = frozenset({"Llama", "Harmony"})  # of a message
NO_TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
