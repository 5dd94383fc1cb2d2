"""Chat templates of several families, shortened to what differs, and a byte tokenizer that has their marks."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

QWEN = """\
{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {%- if messages[0].role == 'system' -%}{{- messages[0].content + '\\n\\n' -}}{%- endif -%}
    {{- '# Tools' -}}{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}{{- '<|im_end|>\\n' -}}
{%- elif messages[0].role == 'system' -%}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
    {%- elif message.role == 'assistant' -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if message.reasoning_content is string and loop.last -%}{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' -}}{%- endif -%}
        {%- if message.content -%}{{- message.content -}}{%- endif -%}
        {%- for call in message.tool_calls or [] -%}
            {{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' -}}
            {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}{{- '}</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif message.role == 'tool' -%}{{- '<|im_start|>user\\n<tool_response>' + message.content + '</tool_response><|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""As Qwen3's: tools, calls, results and reasoning; unknown roles are dropped."""

DEEPSEEK = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}{{- message['content'] -}}
    {%- elif message['role'] == 'user' -%}{{- '<｜User｜>' + message['content'] -}}
    {%- elif message['role'] == 'assistant' and message['content'] is none -%}
        {{- '<｜Assistant｜>' -}}
        {%- for call in message['tool_calls'] -%}{{- 'CALL ' + call['function']['name'] + '\\n' + call['function']['arguments'] -}}{%- endfor -%}
        {{- '<｜end▁of▁sentence｜>' -}}
    {%- elif message['role'] == 'assistant' -%}{{- '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' -}}
    {%- elif message['role'] == 'tool' -%}{{- 'RESULT ' + message['content'] -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<｜Assistant｜>' -}}{%- endif -%}
"""
"""As DeepSeek-V3's: a call has null as its content and its arguments as text; tools are ignored."""

PLAIN = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""ChatML without tools; every role is rendered."""

NO_SYSTEM = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{{- '[INST] ' + message.content + ' [/INST]' -}}
    {%- elif message.role == 'assistant' -%}{{- message.content + eos_token -}}{%- endif -%}
{%- endfor -%}
"""
"""As Mistral's first: words, no system message, and no generation prompt of its own."""

LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""

VICUNA = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}{{- message.content + ' ' -}}
    {%- elif message.role == 'user' -%}{{- 'USER: ' + message.content -}}
    {%- else -%}{{- ' ASSISTANT: ' + message.content + eos_token -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ' ASSISTANT:' -}}{%- endif -%}
"""

MARKS = (
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
)
ENDS = {QWEN: "<|im_end|>", PLAIN: "<|im_end|>", DEEPSEEK: "<｜end▁of▁sentence｜>", LLAMA3: "<|eot_id|>"}


def tokenizer_with(template: str | None, eos_token: str | None = None) -> PreTrainedTokenizerFast:
    """Bytes and all marks, with this chat template and the end token of its family."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={entry: index for index, entry in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(list(MARKS))
    end = eos_token or ENDS.get(template or "", "</s>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token=end, chat_template=template)
