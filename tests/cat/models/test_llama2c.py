"""llama2.c files against its own program, once more in NumPy, and against published texts."""

import gzip
import itertools
import json
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer

from cat import mesh as meshes
from cat.decode import generate_all
from cat.models import huggingface, llama2c
from routers.errors import InputError

DIM, HIDDEN, LAYERS, HEADS, KV, VOCAB, CONTEXT = 16, 20, 2, 4, 2, 11, 12
HEAD = DIM // HEADS


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield


def random_weights(untied=False):
    """The tensors of a version 0 file, in its order."""
    rng = np.random.default_rng(0)

    def matrix(*shape):
        return rng.normal(0, shape[-1] ** -0.5, shape).astype("<f4")

    def scales(*shape):
        return rng.uniform(0.5, 1.5, shape).astype("<f4")

    weights = {
        "embedding": matrix(VOCAB, DIM),
        "rms_att": scales(LAYERS, DIM),
        "wq": matrix(LAYERS, DIM, DIM),
        "wk": matrix(LAYERS, KV * HEAD, DIM),
        "wv": matrix(LAYERS, KV * HEAD, DIM),
        "wo": matrix(LAYERS, DIM, DIM),
        "rms_ffn": scales(LAYERS, DIM),
        "w1": matrix(LAYERS, HIDDEN, DIM),
        "w2": matrix(LAYERS, DIM, HIDDEN),
        "w3": matrix(LAYERS, HIDDEN, DIM),
        "rms_final": scales(DIM),
        "freq_cis": np.full((2, CONTEXT, HEAD // 2), np.nan, "<f4"),  # run.c skips them
    }
    return weights | ({"wcls": matrix(VOCAB, DIM)} if untied else {})


def header(vocab=VOCAB, **changes):
    names = ("dim", "hidden", "layers", "heads", "kv", "vocab", "context")
    sizes = dict(zip(names, (DIM, HIDDEN, LAYERS, HEADS, KV, vocab, CONTEXT), strict=True))
    return struct.pack("<7i", *(sizes | changes).values())


def write(path, weights):
    vocab = -VOCAB if "wcls" in weights else VOCAB
    path.write_bytes(header(vocab) + b"".join(w.tobytes() for w in weights.values()))
    return path


def run_c(weights, tokens):
    """``forward`` of run.c, token by token: logits [T, V], in float64."""
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    keys, values, logits = [], [], []

    def rms(x, scale):
        return scale * x / np.sqrt(x @ x / DIM + 1e-5)

    for pos, token in enumerate(tokens):
        x = w["embedding"][token].copy()
        for i in range(LAYERS):
            h = rms(x, w["rms_att"][i])
            q, k, v = w["wq"][i] @ h, w["wk"][i] @ h, w["wv"][i] @ h
            for j in range(0, DIM, 2):  # neighbours are turned together
                angle = pos / 10000 ** ((j % HEAD) / HEAD)
                for vector in (q, k) if j < KV * HEAD else (q,):
                    a, b = vector[j], vector[j + 1]
                    vector[j] = a * np.cos(angle) - b * np.sin(angle)
                    vector[j + 1] = a * np.sin(angle) + b * np.cos(angle)
            keys.append((i, k))
            values.append((i, v))
            seen = [k for layer, k in keys if layer == i]
            held = [v for layer, v in values if layer == i]
            out = np.zeros(DIM)
            for head in range(HEADS):
                own = slice(head * HEAD, (head + 1) * HEAD)
                shared = slice(head // (HEADS // KV) * HEAD, (head // (HEADS // KV) + 1) * HEAD)
                p = np.exp([q[own] @ k[shared] / np.sqrt(HEAD) for k in seen])
                out[own] = sum(s * v[shared] for s, v in zip(p / p.sum(), held, strict=True))
            x += w["wo"][i] @ out
            h = rms(x, w["rms_ffn"][i])
            gate = w["w1"][i] @ h
            x += w["w2"][i] @ (gate / (1 + np.exp(-gate)) * (w["w3"][i] @ h))
        logits.append(w.get("wcls", w["embedding"]) @ rms(x, w["rms_final"]))
    return np.array(logits)


@jax.jit
def logits(model, tokens):
    ids = jnp.asarray(tokens)[None]
    at = jnp.arange(len(tokens))[None]
    return model.unembed(model.hidden(ids, at, jnp.ones_like(ids)).hidden)[0]


TOKENS = np.array([1, 5, 10, 0, 5, 5, 2, 7], np.int32)


@pytest.mark.parametrize("untied", [False, True])
def test_logits_are_those_of_run_c_and_survive_hugging_face(untied, tmp_path):
    weights = random_weights(untied)
    path = write(tmp_path / "model.bin", weights)
    model = llama2c.load(path)
    config = llama2c.read_config(path)
    assert config == model.config
    assert (config.tied_embeddings, config.norm_eps) == (not untied, 1e-5)
    got = logits(model, TOKENS)
    np.testing.assert_allclose(got, run_c(weights, TOKENS), rtol=0, atol=2e-6)
    huggingface.save(model, tmp_path / "exported")
    again = huggingface.load(tmp_path / "exported")
    assert again.config == config
    np.testing.assert_array_equal(logits(again, TOKENS), got)


def test_the_pairs_are_permuted_back_in_the_export(tmp_path):
    """The stored query matrix in Hugging Face's order: even rows of a head, then odd ones."""
    weights = random_weights()
    huggingface.save(llama2c.load(write(tmp_path / "model.bin", weights)), tmp_path / "out")
    stored = huggingface.tensors.listing(tmp_path / "out")
    for theirs, ours in (("q", "wq"), ("k", "wk")):
        name = f"model.layers.1.self_attn.{theirs}_proj.weight"
        heads = weights[ours][1].reshape(-1, HEAD, DIM)
        rows = np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1).reshape(-1, DIM)
        np.testing.assert_array_equal(huggingface.tensors.read(stored[name]), rows)


def test_parameters_lie_on_the_mesh(tmp_path):
    path = write(tmp_path / "model.bin", random_weights())
    with jax.set_mesh(meshes.make_mesh(data=4, fsdp=2)):
        leaves = jax.tree.leaves(nnx.state(llama2c.load(path), nnx.Param))
    assert all(len(leaf.sharding.device_set) == 8 for leaf in leaves)
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)


ALL = header() + b"".join(w.tobytes() for w in random_weights().values())
BROKEN = {
    "empty": (b"", "0 bytes are no llama2.c header"),
    "half a header": (ALL[:20], "20 bytes are no llama2.c header"),
    "cut short": (ALL[:-4], f"{len(ALL) - 4:,} bytes where its header asks for {len(ALL):,}"),
    "too long": (ALL + b"\0", "bytes where its header asks for"),
    "tied called untied": (header(vocab=-VOCAB) + ALL[28:], "bytes where its header asks for"),
    "absurd": (header(dim=2**30, heads=2) + ALL[28:], "bytes where its header asks for"),
    "zero": (header(layers=0) + ALL[28:], "sizes 16, 20, 0, 4, 2, 11, 12 make no model"),
    "negative": (header(context=-5) + ALL[28:], "make no model"),
    "heads": (header(heads=3) + ALL[28:], "make no model"),
    "shared heads": (header(kv=3) + ALL[28:], "kv_heads=3 does not divide"),
    "odd head": (header(heads=16) + ALL[28:], "head_dim=1; must be even"),
    "int8": (
        struct.pack("<2i", 0x616B3432, 2) + ALL,
        r"llama2.c version 2 \(1: float32, 2: int8\)",
    ),
    "text": (
        b"this is no model but a text, of more than 28 bytes",
        "make no model; is it a llama2.c",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_no_version_0(case, tmp_path):
    data, says = BROKEN[case]
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    for read in (llama2c.read_config, llama2c.load):
        with pytest.raises(InputError, match=says) as error:
            read(path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)


def test_no_file(tmp_path):
    for read in (llama2c.load, llama2c.tokenizer):
        with pytest.raises(InputError, match="no such file"):
            read(tmp_path)


def pieces_of(data):
    """(score, piece) of a tokenizer file, bytes as they are."""
    at, found = 4, []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        found.append((score, data[at + 8 : at + 8 + length]))
        at += 8 + length
    return found


def encode_c(pieces, text):
    """``encode`` of run.c: bytes for unknown characters, then the best pair until none is left."""
    number = {piece: i for i, (_, piece) in enumerate(pieces)}
    ids = [number[b" "]] if text else []
    for character in text:
        raw = character.encode()
        ids += [number[raw]] if raw in number else [byte + 3 for byte in raw]
    while True:
        joined = [pieces[a][1] + pieces[b][1] for a, b in itertools.pairwise(ids)]
        known = [(pieces[number[j]][0], -i) for i, j in enumerate(joined) if j in number]
        if not known:
            return ids
        i = -max(known)[1]
        ids[i : i + 2] = [number[joined[i]]]


def decode_c(pieces, ids):
    """``decode`` of run.c after BOS: byte pieces as bytes, no space at the beginning."""
    out = b""
    for i, token in enumerate(ids):
        piece = pieces[token][1]
        if i == 0 and piece.startswith(b" "):
            piece = piece[1:]
        raw = re.fullmatch(rb"<0x([0-9A-F]{2})>", piece)
        out += bytes([int(raw[1], 16)]) if raw else piece
    return out.decode(errors="replace")


def tokenizer_file(path, learned):
    """Three specials, 256 bytes, then the learned pieces with falling scores."""
    first = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{i:02X}>" for i in range(256))]
    raw = [(0.0, piece.encode()) for piece in first]
    raw += [(-float(i), piece.encode()) for i, piece in enumerate(learned)]
    data = struct.pack("<i", max(len(piece) for _, piece in raw))
    path.write_bytes(data + b"".join(struct.pack("<fi", s, len(p)) + p for s, p in raw))
    return path


LEARNED = ["ab", " a", "bc", "abc", " ab", "ca", "é", *" abcd"]


def test_tokens_are_those_of_run_c(tmp_path):
    path = tokenizer_file(tmp_path / "tok.bin", LEARNED)
    pieces, tokens = pieces_of(path.read_bytes()), llama2c.tokenizer(path)
    rng = np.random.default_rng(1)
    alphabet = list("aaabbbccc  déñ\n<>s")
    texts = ["".join(rng.choice(alphabet, rng.integers(0, 14))) for _ in range(200)]
    for text in [*texts, "", "<s>", "a\n<s>\nb", "日本 🙂"]:
        ids = tokens.encode(text).ids
        assert ids == [1, *encode_c(pieces, text)], text
        assert tokens.decode(ids) == decode_c(pieces, ids[1:]) == text
    assert tokens.encode("ab", add_special_tokens=False).ids == encode_c(pieces, "ab")
    lone = [1, 3 + 0xC3, pieces.index((-0.0, b"ab"))]  # half of a character
    assert tokens.decode(lone) == decode_c(pieces, lone[1:]) == "�ab"


def test_the_tokenizer_can_be_saved(tmp_path):
    tokens = llama2c.tokenizer(tokenizer_file(tmp_path / "tok.bin", LEARNED))
    tokens.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.encode("abc dé").ids == tokens.encode("abc dé").ids
    assert again.get_vocab() == tokens.get_vocab()
    assert [again.token_to_id(name) for name in ("<unk>", "<s>", "</s>")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: d[:-1], "piece 270 is broken or cut short"),
        (lambda d: d[:-6], "cut short in piece 270"),
        (lambda d: d[:10], "cut short in piece 0"),
        (lambda d: b"", "does not begin with <unk>, <s>, </s>"),
        (lambda d: d[:8] + struct.pack("<i", -7) + d[12:], "piece 0 is broken"),
        (lambda d: d[:8] + struct.pack("<i", 10**9) + d[12:], "piece 0 is broken"),
        (lambda d: d[:4] + struct.pack("<f", np.nan) + d[8:], "piece 0 is broken"),
        (lambda d: d.replace(b"<unk>", b"<own>"), "does not begin with <unk>"),
        (lambda d: d.replace(b"<0x01>", b"<0x02>"), "'<0x02>' occurs twice"),
        (lambda d: d.replace(b"<0x01>", b"<0x0\xff>"), "piece 4 is not UTF-8"),
    ],
)
def test_broken_tokenizer_files(spoil, says, tmp_path):
    path = tokenizer_file(tmp_path / "tok.bin", LEARNED)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=re.escape(says)) as error:
        llama2c.tokenizer(path)
    assert "\n" not in str(error.value)


@pytest.fixture
def weights_folder(shared_data):
    return shared_data / "weights"


@pytest.mark.shared
def test_stories260k_tells_its_published_story(weights_folder):
    """Greedy, to the character: 256 tokens after BOS, 565 characters."""
    folder = weights_folder / "stories260K"
    page = (folder / "stories260K.md").read_text()
    published = page.split("-t 0.0\n")[1].split("\n```")[0]
    model = llama2c.load(folder / "stories260K.bin")
    tokens = llama2c.tokenizer(folder / "tok512.bin")
    out = generate_all(model, [[1]], max_new=256, eos_id=1, topk=1, batch_size=1)
    assert tokens.decode(out.tokens[0].tolist()) == published
    assert len(published) == 565


@pytest.mark.shared
def test_int8_is_refused_by_name(weights_folder):
    with pytest.raises(InputError, match=r"version 2 .*int8.*only version 0 is read"):
        llama2c.load(weights_folder / "stories260K" / "stories260K-q8.bin")


@pytest.fixture
def stories(shared_data):
    """About 240 characters each of 120 stories, cut between words."""
    texts = []
    for split in ("validation", "train"):
        with gzip.open(shared_data / "lm_tinystories" / f"{split}.jsonl.gz", "rt") as file:
            texts += [json.loads(line)["targets"] for line in file]
    return [text[:240].rsplit(" ", 1)[0] for text in texts[:120]]


@pytest.mark.shared
def test_tokens_of_real_stories_are_those_of_run_c(weights_folder, stories):
    path = weights_folder / "stories260K" / "tok512.bin"
    pieces, tokens = pieces_of(path.read_bytes()), llama2c.tokenizer(path)
    for text in stories[:40]:
        ids = tokens.encode(text).ids
        assert ids == [1, *encode_c(pieces, text)]
        assert tokens.decode(ids) == text


@jax.jit
def negative_log_likelihood(model, tokens, lengths):
    at = jnp.arange(tokens.shape[1])[None] + jnp.zeros_like(tokens)
    real = (at < lengths[:, None]).astype(jnp.int32)
    logs = jax.nn.log_softmax(model.unembed(model.hidden(tokens, at, real).hidden))
    target = jnp.take_along_axis(logs[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(real[:, 1:] > 0, target, 0.0), axis=1)


def bits_per_character(model, rows, texts):
    """Mean over texts of bits a character; every row begins with its BOS."""
    tokens, lengths = np.zeros((len(rows), 256), np.int32), np.array([len(row) for row in rows])
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    nats = negative_log_likelihood(model, tokens, lengths.astype(np.int32))
    return np.mean(np.asarray(nats, np.float64) / [len(text) for text in texts]) / np.log(2)


@pytest.fixture
def optimised():
    """The suite compiles fast and runs slowly; here running is most of it."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.shared
@pytest.mark.usefixtures("optimised")
def test_babyllama_and_tinystories_predict_as_well_as_is_known(weights_folder, stories):
    """1.053 and 1.101 bits a character, as a NumPy forward pass found."""
    folder = weights_folder / "babyllama105"
    lines = (folder / "tok105.vocab").read_text().split("\n")
    number = {line.partition("\t")[0]: i for i, line in enumerate(lines) if line}
    rows = [[1, *(number.get(c.replace(" ", "▁"), 0) for c in f" {text}")] for text in stories]
    model = llama2c.load(folder / "model5000.bin")
    assert abs(bits_per_character(model, rows, stories) - 1.053) < 0.001
    folder = weights_folder / "tinystories656K"
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = [[1, *tokens.encode(text, add_special_tokens=False).ids] for text in stories]
    model = huggingface.load(folder)
    assert abs(bits_per_character(model, rows, stories) - 1.101) < 0.0005
