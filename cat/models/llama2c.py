"""Checkpoints of llama2.c: its float32 file (version 0) and its tokenizer.

``huggingface.save(load(file), folder)`` and ``tokenizer(file).save(folder / "tokenizer.json")``
turn them into a folder that ``transformers`` loads.

Source: karpathy/llama2.c, ``export.py`` (legacy_export), ``tokenizer.py`` and ``run.c``.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tokenizers
from flax import nnx
from jax.sharding import NamedSharding
from tokenizers import decoders, models, normalizers, processors

from cat.mesh import param_spec
from cat.models.config import ModelConfig, check_model
from cat.models.decoder import Decoder
from routers.errors import InputError

MAGIC = 0x616B3432  # "ak42", which later versions begin with
HEADER = struct.Struct("<7i")
PIECE = struct.Struct("<fi")
SPECIALS = {"<unk>": "<unk>", "\n<s>\n": "<s>", "\n</s>\n": "</s>"}
"""The first three pieces as the file spells them, and their names."""


class _Part(NamedTuple):
    """Where one tensor, or one of every layer, lies in the file."""

    offset: int  # bytes from the beginning
    shape: tuple[int, ...]


def read_config(path: Path) -> ModelConfig:
    """The decoder that the file's header describes: Llama, RoPE base 10,000, eps 1e-5.

    Raises:
        InputError: not a file of version 0, or of another length than its header says.
    """
    return _read(path)[0]


def load(path: Path) -> Decoder:
    """The file as a decoder on the current mesh, float32.

    Query and key rows change places: llama2.c turns the channel pairs (2 i, 2 i + 1), ours
    are (i, i + C/2). The tables of sines and cosines in the file are not read, as in ``run.c``.

    Raises:
        InputError: as ``read_config``.
    """
    config, parts = _read(path)
    skeleton = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    mesh = jax.sharding.get_mesh()

    def put(keys: tuple[Any, ...], leaf: Any) -> jax.Array:
        ours = jax.tree_util.keystr(keys, simple=True, separator=".").removesuffix(".value")
        value = _tensor(path, config, parts, ours).reshape(leaf.shape)
        return jax.device_put(value, NamedSharding(mesh, param_spec(keys, leaf.shape)))

    params = jax.tree_util.tree_map_with_path(put, nnx.state(skeleton, nnx.Param))
    return nnx.merge(nnx.graphdef(skeleton), params)


def _read(path: Path) -> tuple[ModelConfig, dict[str, _Part]]:
    """The configuration, and each tensor's place; the length of the file must fit both."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .bin file of llama2.c")
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise InputError(f"{path}: {len(header)} bytes are no llama2.c header; download it again")
    dim, hidden, layers, heads, kv_heads, vocab, context = HEADER.unpack(header)
    if dim == MAGIC:
        raise InputError(
            f"{path}: llama2.c version {hidden} (1: float32, 2: int8); only version 0 is read, "
            "write it with export.py --version 0"
        )
    if min(dim, hidden, layers, heads, kv_heads, abs(vocab), context) < 1 or dim % heads:
        numbers = f"{dim}, {hidden}, {layers}, {heads}, {kv_heads}, {vocab}, {context}"
        raise InputError(f"{path}: sizes {numbers} make no model; is it a llama2.c checkpoint?")
    config = ModelConfig(
        width=dim,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim // heads,
        ffn=hidden,
        vocab_size=abs(vocab),
        tied_embeddings=vocab > 0,  # a negative size says that the unembedding is stored too
        norm_eps=1e-5,
    )
    check_model(str(path), config)
    parts, end = _layout(config, context)
    if path.stat().st_size != end:
        raise InputError(
            f"{path}: {path.stat().st_size:,} bytes where its header asks for {end:,}; "
            "download it again, if it is a float32 checkpoint of llama2.c"
        )
    return config, parts


def _layout(config: ModelConfig, context: int) -> tuple[dict[str, _Part], int]:
    """Each tensor's place under our name, all layers of a kind together, and the file's length."""
    n, D, F, V, C = config.layers, config.width, config.ffn, config.vocab_size, config.head_dim
    q, kv = config.heads * C, config.kv_heads * C
    order: dict[str, tuple[int, ...]] = {
        "embed.embedding": (V, D),
        "layers.{}.attention_norm.scale": (n, D),
        "layers.{}.attention.query.kernel": (n, q, D),
        "layers.{}.attention.key.kernel": (n, kv, D),
        "layers.{}.attention.value.kernel": (n, kv, D),
        "layers.{}.attention.out.kernel": (n, D, q),
        "layers.{}.ffn_norm.scale": (n, D),
        "layers.{}.ffn.gate.kernel": (n, F, D),
        "layers.{}.ffn.down.kernel": (n, D, F),
        "layers.{}.ffn.up.kernel": (n, F, D),
        "norm.scale": (D,),
        "cosines and sines": (2, context, C // 2),
    }
    if not config.tied_embeddings:
        order["head.kernel"] = (V, D)
    parts, offset = {}, HEADER.size
    for name, shape in order.items():
        parts[name] = _Part(offset, shape)
        offset += 4 * math.prod(shape)
    return parts, offset


def _tensor(path: Path, config: ModelConfig, parts: dict[str, _Part], ours: str) -> np.ndarray:
    """One parameter of ours, [in, out] with RoPE pairs half-split; only its bytes are read."""
    words = ours.split(".")
    in_layer = words[0] == "layers"
    part = parts[".".join(["layers", "{}", *words[2:]]) if in_layer else ours]
    shape = part.shape[1:] if in_layer else part.shape
    count = math.prod(shape)
    offset = part.offset + 4 * count * (int(words[1]) if in_layer else 0)
    value = np.fromfile(path, "<f4", count, offset=offset).reshape(shape)
    if words[-2] in ("query", "key"):
        pairs = value.reshape(-1, config.head_dim // 2, 2, config.width)
        value = pairs.swapaxes(1, 2).reshape(shape)
    return np.ascontiguousarray(value.T) if words[-1] == "kernel" else value


def tokenizer(path: Path) -> tokenizers.Tokenizer:
    """A llama2.c tokenizer file as a tokenizer of the ``tokenizers`` library.

    Text gets a space in front; characters without a piece become their UTF-8 bytes; of all
    neighbours that make a piece, the pair whose piece scores highest is joined first, the
    leftmost of equals. ``<s>`` comes first unless special tokens are switched off.

    Raises:
        InputError: not such a file, or one that is cut short.

    Source: the merging of ``run.c`` (encode), as a list of merges in the order of scores
    (transformers, ``SentencePieceExtractor``); only where one piece can be made in two ways
    from the same overlapping neighbours may the two differ.
    """
    pieces = _pieces(path)
    if list(pieces)[:3] != list(SPECIALS):
        raise InputError(f"{path}: does not begin with <unk>, <s>, </s>; is it a tokenizer file?")
    scores = {SPECIALS.get(piece, piece.replace(" ", "▁")): s for piece, s in pieces.items()}
    vocab = {piece: number for number, piece in enumerate(scores)}
    splits = [(piece, i) for piece in vocab for i in range(1, len(piece))]
    pairs = [(p[:i], p[i:]) for p, i in splits if p[:i] in vocab and p[i:] in vocab]
    pairs.sort(key=lambda pair: -scores["".join(pair)])
    model = models.BPE(vocab, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend: Any = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(list(SPECIALS.values()))
    backend.encode_special_tokens = True  # "<s>" in a text is text
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return backend


def _pieces(path: Path) -> dict[str, float]:
    """Each piece's score, in the order of ids."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a tokenizer .bin file of llama2.c")
    data, at = path.read_bytes(), 4
    longest = int.from_bytes(data[:4], "little")
    pieces: dict[str, float] = {}
    while at < len(data):
        if at + PIECE.size > len(data):
            raise InputError(f"{path}: cut short in piece {len(pieces)}; download it again")
        score, length = PIECE.unpack_from(data, at)
        raw = data[at + PIECE.size : at + PIECE.size + max(length, 0)]
        if not 0 < length <= longest or len(raw) < length or math.isnan(score):
            raise InputError(
                f"{path}: piece {len(pieces)} is broken or cut short; is it a whole tokenizer file "
                "of llama2.c?"
            )
        try:
            piece = raw.decode()
        except UnicodeDecodeError:
            raise InputError(f"{path}: piece {len(pieces)} is not UTF-8; is it the file?") from None
        if piece in pieces:
            raise InputError(f"{path}: piece {piece!r} occurs twice; which id it has is unclear")
        pieces[piece] = score
        at += PIECE.size + length
    return pieces
