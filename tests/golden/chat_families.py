"""Chat templates in the documented formats of real families, and tiny tokenizers to go with them.

``{% generation %}`` marks what the assistant writes: its answer and the end of its turn.
"""

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

CHATML = """\
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
    {%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

THINKING = """\
{%- set found = namespace(answer='') %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set found.answer = message.content.split('</think>')[-1].lstrip('\\n') %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}{{ '<think>\\n\\n</think>\\n\\n' + found.answer + '<|im_end|>' }}
        {%- endgeneration %}{{ '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

LLAMA3 = """\
{{- bos_token }}
{%- if tools is not none %}{{ raise_exception('no tools here') }}{% endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}
    {%- else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'assistant' %}
        {{- '<start_of_turn>model\\n' }}
        {%- generation %}{{ message['content'] | trim + '<end_of_turn>' }}{% endgeneration %}
    {%- else %}
        {{- '<start_of_turn>' + message['role'] + '\\n' }}
        {{- message['content'] | trim + '<end_of_turn>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""

ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}

{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

LLAMA2 = """\
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}
    {%- else %}
        {%- generation %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}
"""

TEXT = ["the answer to the question is the number four", "what is the sum of two and two ?"] * 4


def byte_level(specials: list[str]) -> tokenizers.Tokenizer:
    """As Llama 3 and Qwen: bytes, cut by an expression that keeps newlines together."""
    backend = tokenizers.Tokenizer(models.BPE())
    words, signs = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n]*"
    cut = tokenizers.Regex(rf"{words}|{signs}|\s*[\r\n]+|\s+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(cut, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([*TEXT, "\n\n\n\n\n\n\n\n"], trainer)
    backend.add_special_tokens(specials)
    return backend


def pieces(specials: list[str], *, prefix: bool) -> tokenizers.Tokenizer:
    """As SentencePiece: "▁" for spaces, bytes for what is unknown, a space in front if asked."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {piece: i for i, piece in enumerate([*specials, *fallback])}
    for letter in sorted({"▁", "\n", "\n\n", *"".join(TEXT).replace(" ", "")}):
        vocab[letter] = len(vocab)
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("▁", "f"), ("\n", "\n")]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    spaces = normalizers.Replace(" ", "▁")
    ends = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
        ends.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = spaces
    backend.decoder = decoders.Sequence(ends)
    backend.add_special_tokens([tokenizers.AddedToken(s, normalized=False) for s in specials])
    return backend


def starts_with(backend: tokenizers.Tokenizer, token: str) -> tokenizers.Tokenizer:
    """Puts that token before every text, as most tokenizers with one do."""
    backend.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, backend.token_to_id(token))]
    )
    return backend


LLAMA3_SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"]
LLAMA3_SPECIALS += ["<|end_header_id|>", "<|eot_id|>"]
GEMMA_SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
SPM_SPECIALS = ["<unk>", "<s>", "</s>"]
QWEN_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

FAMILIES = {
    "chatml": dict(
        template=CHATML,
        tokenizer=lambda: byte_level(QWEN_SPECIALS),
        config={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None},
        eos=["<|im_end|>", "<|endoftext|>"],
    ),
    "thinking": dict(
        template=THINKING,
        tokenizer=lambda: byte_level(QWEN_SPECIALS),
        config={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False},
        eos=["<|im_end|>"],
    ),
    "llama3": dict(
        template=LLAMA3,
        tokenizer=lambda: starts_with(byte_level(LLAMA3_SPECIALS), "<|begin_of_text|>"),
        config={"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
        eos=["<|end_of_text|>", "<|eot_id|>"],
    ),
    "gemma": dict(
        template=GEMMA,
        tokenizer=lambda: starts_with(pieces(GEMMA_SPECIALS, prefix=False), "<bos>"),
        config={"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        eos=["<eos>", "<end_of_turn>"],
    ),
    "zephyr": dict(
        template=ZEPHYR,
        tokenizer=lambda: starts_with(pieces(SPM_SPECIALS, prefix=True), "<s>"),
        config={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        eos=["</s>"],
    ),
    "llama2": dict(
        template=LLAMA2,
        tokenizer=lambda: starts_with(pieces(SPM_SPECIALS, prefix=True), "<s>"),
        config={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"},
        eos=["</s>"],
    ),
}
"""Template, tokenizer, ``tokenizer_config.json`` and what ends a text, by family."""

TURNS = [
    ("what is the sum of 2 and 2?", "the number four"),
    ("  spaces around  ", "  four  "),
    ("two\nlines\n", "yes\n\nno\n"),
    ("the answer", "\nstarts with a newline"),
    ("", "the"),
    ("café 漢字 🙂", "naïve ☕"),
    ("not <b>special</b> & {{ not }} a template", '{"json": [1, 2]}'),
]
"""Prompts and answers without special tokens."""
