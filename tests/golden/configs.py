"""The tiny models of the golden files: every family, and each thing that families differ in.

Between them: MHA, GQA and MQA, tied and untied embeddings, head sizes 6 and 10 that are not
width / heads, windows shorter than the texts, and scalings that bend every frequency band.
"""

VOCABULARY = 40
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def fields(**changes) -> dict:
    """A configuration of two layers and 16 channels; a field given as ... is left out."""
    tiny = dict(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        rope_parameters=rope(100.0),
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return {name: value for name, value in (tiny | changes).items() if value is not ...}


def rope(base: float, kind: str = "default", **more: float) -> dict:
    return {"rope_type": kind, "rope_theta": base, **more}


def gemma(**changes) -> dict:
    return fields(tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh", **changes)


LLAMA3 = dict(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)

CONFIGS: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", fields()),
    "llama_llama3_mqa": (
        "Llama",
        fields(
            head_dim=10,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            rope_parameters=rope(500.0, "llama3", **LLAMA3),
        ),
    ),
    "llama_linear_mha": (
        "Llama",
        fields(
            head_dim=...,
            num_key_value_heads=4,
            rms_norm_eps=1e-2,
            rope_parameters=rope(100.0, "linear", factor=4.0),
        ),
    ),
    "mistral": ("Mistral", fields(sliding_window=5)),
    "mistral_no_window": ("Mistral", fields(head_dim=..., sliding_window=None)),
    "qwen2": ("Qwen2", fields(head_dim=..., tie_word_embeddings=True)),
    "qwen2_window": (
        "Qwen2",
        fields(head_dim=..., use_sliding_window=True, sliding_window=4, max_window_layers=1),
    ),
    "qwen3": ("Qwen3", fields(head_dim=10, rope_parameters=rope(1000.0))),
    "gemma": ("Gemma", gemma(num_key_value_heads=1, head_dim=10)),
    "gemma2": (
        "Gemma2",
        gemma(
            num_hidden_layers=3,
            sliding_window=4,
            query_pre_attn_scalar=50,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=4.0,
        ),
    ),
    "gemma3": (
        "Gemma3Text",
        gemma(
            num_hidden_layers=7,
            num_key_value_heads=1,
            sliding_window=3,
            query_pre_attn_scalar=30,
            rope_parameters={LOCAL: rope(30.0), GLOBAL: rope(3000.0, "linear", factor=2.0)},
        ),
    ),
    "olmo2": ("Olmo2", fields(rms_norm_eps=1e-4)),
    "olmo2_mha": ("Olmo2", fields(head_dim=..., num_key_value_heads=4, tie_word_embeddings=True)),
}
"""Each golden file's class prefix in transformers, and the fields it is made with."""
