"""Every family against ``transformers`` itself, where it is installed with torch.

The golden files hold what transformers said once; here it reads what we write, and we read what
it writes, with other weights. vLLM, which reads the same folders, needs a GPU and is not run.
"""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from golden import configs

from cat import mesh as meshes
from cat.decode import generate_all
from cat.models import families, huggingface

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers are not ours

CLOSE = 2e-5  # maximum absolute difference of float32 logits
SEED = 1  # other weights and texts than the golden files'


@pytest.fixture(scope="module")
def theirs():
    """transformers, torch, and the functions that wrote the golden files."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    from golden import make_goldens

    return SimpleNamespace(lib=transformers, torch=torch, make=make_goldens)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield


@jax.jit
def logits(model, tokens, positions, segments):
    return model.unembed(model.hidden(tokens, positions, segments).hidden)


def ours(model, rows):
    """Logits of left-padded rows; 0 at pads."""
    width = max(map(len, rows))
    real = np.array([[0] * (width - len(row)) + [1] * len(row) for row in rows], np.int32)
    tokens = np.array([[0] * (width - len(row)) + row for row in rows], np.int32)
    positions = np.maximum(real.cumsum(1) - 1, 0).astype(np.int32)
    return np.asarray(logits(model, tokens, positions, real)) * real[:, :, None]


def greedy(model, rows, new):
    never = model.config.vocab_size
    out = generate_all(model, rows, max_new=new, eos_id=never, topk=1, batch_size=len(rows))
    return out.tokens.tolist()


@pytest.mark.parametrize("name", configs.CONFIGS)
def test_folders_go_both_ways(theirs, tmp_path, name):
    """Their folder (in shards) to ours, ours to theirs: the same logits and greedy tokens."""
    rows = theirs.make.texts(name, SEED)
    first = theirs.make.build(name, SEED)
    first.save_pretrained(tmp_path / "theirs", max_shard_size="5KB")
    assert (tmp_path / "theirs/model.safetensors.index.json").is_file()

    model = huggingface.load(tmp_path / "theirs")
    expected, grown = theirs.make.compute(first, rows)
    got = ours(model, rows)
    np.testing.assert_allclose(got, expected["padded"], rtol=0, atol=CLOSE)
    assert greedy(model, rows, theirs.make.NEW) == grown

    huggingface.save(model, tmp_path / "ours", like=tmp_path / "theirs")
    auto = theirs.lib.AutoModelForCausalLM
    second, report = auto.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    assert type(second) is type(first)
    again, grown_again = theirs.make.compute(second, rows)
    np.testing.assert_array_equal(again["padded"], expected["padded"])
    assert grown_again == grown


SIZES = dict(
    hidden_size=16,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=24,
    vocab_size=40,
)


@pytest.mark.parametrize("prefix", sorted({prefix for prefix, _ in configs.CONFIGS.values()}))
def test_absent_fields_mean_what_they_mean_there(theirs, prefix):
    """A file with sizes alone, and the same file with every default written out by them."""
    architecture = f"{prefix.removesuffix('Text')}ForCausalLM"
    short = SIZES | {"architectures": [architecture]}
    full = getattr(theirs.lib, f"{prefix}Config")(**short)
    written = json.loads(full.to_json_string(use_diff=False))
    assert len(written) > len(short) + 10
    read = families.read(written, "written out")
    assert read == families.read(short, "short")


@pytest.mark.shared
def test_the_real_tiny_model(theirs, shared_data, tmp_path):
    """tinystories656K: logits of real text, and what it goes on to say."""
    folder = shared_data / "weights" / "tinystories656K"
    model = huggingface.load(folder)
    words = theirs.lib.AutoTokenizer.from_pretrained(folder)
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside"
    rows = [words(text)["input_ids"] for text in (story, story[:30])]
    huggingface.save(model, tmp_path / "ours", like=folder, dtype="float32")
    for source in (folder, tmp_path / "ours"):
        auto = theirs.lib.AutoModelForCausalLM
        peer = auto.from_pretrained(source, dtype="float32", attn_implementation="eager").eval()
        batch = theirs.make.left_padded(rows)
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        with theirs.torch.no_grad():
            expected = peer(**batch, position_ids=positions).logits
            expected = (expected * batch["attention_mask"][:, :, None]).numpy()
            grown = peer.generate(**batch, do_sample=False, max_new_tokens=40, min_new_tokens=40)
        np.testing.assert_allclose(ours(model, rows), expected, rtol=0, atol=CLOSE)
        assert greedy(model, rows, 40) == grown[:, batch["input_ids"].shape[1] :].tolist()
