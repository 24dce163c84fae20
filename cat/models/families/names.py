"""Tensor names of Hugging Face checkpoints, beside the names of our parameters.

``{}`` stands for the layer. A family whose tensors go by other names changes the table in its
own file; parameters a configuration does not have are left out.
"""

from __future__ import annotations

LAYER = "model.layers.{}."

NAMES: dict[str, str] = {
    "embed.embedding": "model.embed_tokens.weight",
    "norm.scale": "model.norm.weight",
    "head.kernel": "lm_head.weight",
    "layers.{}.attention.query.kernel": LAYER + "self_attn.q_proj.weight",
    "layers.{}.attention.query.bias": LAYER + "self_attn.q_proj.bias",
    "layers.{}.attention.key.kernel": LAYER + "self_attn.k_proj.weight",
    "layers.{}.attention.key.bias": LAYER + "self_attn.k_proj.bias",
    "layers.{}.attention.value.kernel": LAYER + "self_attn.v_proj.weight",
    "layers.{}.attention.value.bias": LAYER + "self_attn.v_proj.bias",
    "layers.{}.attention.out.kernel": LAYER + "self_attn.o_proj.weight",
    "layers.{}.attention.query_norm.scale": LAYER + "self_attn.q_norm.weight",
    "layers.{}.attention.key_norm.scale": LAYER + "self_attn.k_norm.weight",
    "layers.{}.ffn.gate.kernel": LAYER + "mlp.gate_proj.weight",
    "layers.{}.ffn.up.kernel": LAYER + "mlp.up_proj.weight",
    "layers.{}.ffn.down.kernel": LAYER + "mlp.down_proj.weight",
    "layers.{}.attention_norm.scale": LAYER + "input_layernorm.weight",
    "layers.{}.ffn_norm.scale": LAYER + "post_attention_layernorm.weight",
}
"""The Llama names, which most families use."""

AFTER: dict[str, str] = {
    "layers.{}.attention_post_norm.scale": LAYER + "post_attention_layernorm.weight",
    "layers.{}.ffn_post_norm.scale": LAYER + "post_feedforward_layernorm.weight",
}
"""Norms after each branch (OLMo 2)."""

BOTH: dict[str, str] = {
    **AFTER,
    "layers.{}.ffn_norm.scale": LAYER + "pre_feedforward_layernorm.weight",
}
"""Norms before and after (Gemma 2 and 3)."""
