"""Chats of text as other programs write them: the Jinja template that gives the very ids that were trained on."""

from anyglot.lm.vocabulary import SPECIALS

NAMES = {
    name: f"<|anyglot_{name}|>" for name in SPECIALS
}  # what the special ids are called in a Hugging Face tokenizer

# `generation` marks what bears loss, so that `return_assistant_tokens_mask` gives the loss flags of the grammar.
CHAT_TEMPLATE = """\
{{- '<|anyglot_bos|>' -}}
{%- for message in messages -%}
  {%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}
  {%- if role not in ['system', 'user', 'assistant'] -%}
    {{- raise_exception('role ' ~ role ~ ' is not one of system, user, assistant') -}}
  {%- endif -%}
  {%- set said = namespace(text='') -%}
  {%- if message['content'] is string -%}
    {%- set said.text = message['content'] -%}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] not in ['text', 'input_text', 'output_text'] -%}
        {{- raise_exception('this tokenizer writes text only, not ' ~ part['type'] ~ '; use anyglot') -}}
      {%- endif -%}
      {%- set said.text = said.text ~ part['text'] -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|anyglot_' ~ role ~ '|>' -}}
  {%- if role == 'assistant' -%}
    {%- generation -%}{{- said.text ~ '<|anyglot_end_of_turn|>' -}}{%- endgeneration -%}
  {%- else -%}
    {{- said.text ~ '<|anyglot_end_of_turn|>' -}}
  {%- endif -%}
{%- endfor -%}
{{- '<|anyglot_assistant|>' if add_generation_prompt else '<|anyglot_eos|>' -}}
"""
