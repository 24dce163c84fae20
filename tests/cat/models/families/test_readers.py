"""Readers of ``config.json``: old and new spellings, defaults of absent fields, refusals."""

import copy

import pytest
from golden import weights

from cat.models import families
from cat.models.config import ModelConfig, RopeScaling
from cat.models.families import llama
from routers.errors import InputError

SIZES = dict(
    hidden_size=16,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=24,
    vocab_size=40,
)


def config(architecture, **changes):
    values = SIZES | {"architectures": [f"{architecture}ForCausalLM"], "head_dim": 6} | changes
    return {name: value for name, value in values.items() if value is not ...}


def read(architecture, **changes):
    return families.read(config(architecture, **changes), "config.json")


def older(values):
    """The same file as transformers 4 wrote it: ``rope_theta`` and ``rope_scaling`` at the top."""
    values = copy.deepcopy(values)
    rope = values.pop("rope_parameters")
    far, near = rope.get("full_attention", rope), rope.get("sliding_attention")
    if near:
        values["rope_local_base_freq"] = near["rope_theta"]
        values["sliding_window_pattern"] = values.pop("_sliding_window_pattern")
    values["rope_theta"] = far.pop("rope_theta")
    kind = far.pop("rope_type")
    values["rope_scaling"] = None if kind == "default" else {"type": kind, **far}
    values.pop("layer_types", None)
    return values | {"torch_dtype": "bfloat16"}


@pytest.mark.parametrize("name", weights.names())
def test_older_spelling_of_a_golden_file_is_the_same_decoder(name):
    values = weights.about(name)["config"]
    assert families.read(older(values), "old") == families.read(values, "new")


@pytest.mark.parametrize("name", weights.names())
def test_every_golden_file_names_all_its_tensors(name):
    """The table of names covers exactly the tensors that transformers has."""
    about = weights.about(name)
    table = families.family(about["config"], name).NAMES
    layers = range(about["config"]["num_hidden_layers"])
    ours = {pattern.format(i) for pattern in table.values() for i in layers}
    assert about["tensors"].keys() <= ours


def test_the_families_are_those_of_the_golden_files():
    named = {weights.about(name)["config"]["architectures"][0] for name in weights.names()}
    assert families.families().keys() == named


# what an absent field means: the default of the configuration class in transformers 5.23
ABSENT = {
    "Llama": dict(kv_heads=4, tied_embeddings=False, windows=()),
    "Mistral": dict(windows=(4096,) * 8),
    "Qwen2": dict(qkv_bias=True, windows=(), qk_norm="none"),
    "Qwen3": dict(head_dim=128, qk_norm="head", windows=()),
    "Gemma": dict(head_dim=256, tied_embeddings=True, norms="before", attention_scale=0.0),
    "Gemma2": dict(
        head_dim=256,
        windows=(4096, 0) * 4,
        attention_scale=1 / 16,
        attention_softcap=50.0,
        logit_softcap=30.0,
    ),
    "Gemma3": dict(
        head_dim=256,
        windows=(4096,) * 5 + (0,) + (4096,) * 2,
        rope_base=1e6,
        rope_local_base=1e4,
        attention_softcap=0.0,
        logit_softcap=0.0,
    ),
    "Olmo2": dict(norm_eps=1e-5, kv_heads=4, norms="after", qk_norm="projection"),
}


@pytest.mark.parametrize("architecture", ABSENT)
def test_absent_fields_have_the_defaults_of_transformers(architecture):
    grouped = architecture not in ("Llama", "Olmo2")
    kv_heads = 2 if grouped else ...
    found = read(architecture, head_dim=..., num_key_value_heads=kv_heads)
    plain = dict(rope_base=1e4, rope_scaling=RopeScaling(), norm_eps=1e-6)
    plain |= dict(head_dim=4, kv_heads=2, tied_embeddings=architecture.startswith("Gemma"))
    for field, value in (plain | ABSENT[architecture]).items():
        assert getattr(found, field) == value, field
    if grouped:  # the library's default there is the number of one released model
        with pytest.raises(InputError, match="'num_key_value_heads' is missing"):
            read(architecture, num_key_value_heads=...)


def test_null_is_not_absent_where_null_switches_off():
    assert read("Mistral", sliding_window=None).windows == ()
    gemma = read("Gemma2", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert (gemma.attention_softcap, gemma.logit_softcap) == (0.0, 0.0)
    assert read("Mistral", num_key_value_heads=None).kv_heads == 4
    assert read("Llama", head_dim=None).head_dim == 4


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        (dict(sliding_window=7, max_window_layers=5), ()),
        (dict(use_sliding_window=True, sliding_window=7, max_window_layers=5), (0,) * 5 + (7,) * 3),
        (dict(use_sliding_window=True, sliding_window=7, max_window_layers=0), (7,) * 8),
        (dict(use_sliding_window=True, sliding_window=7), ()),  # from layer 28 on
        (dict(use_sliding_window=True, sliding_window=None, max_window_layers=0), ()),
        (dict(use_sliding_window=True, max_window_layers=7), (0,) * 7 + (4096,)),
        (
            dict(
                use_sliding_window=True,
                sliding_window=7,
                layer_types=["sliding_attention", "full_attention"] * 4,
            ),
            (7, 0) * 4,
        ),
    ],
)
@pytest.mark.parametrize("architecture", ["Qwen2", "Qwen3"])
def test_windows_of_qwen(architecture, fields, windows):
    assert read(architecture, **fields).windows == windows


def test_gemma3_bases_and_scaling_from_either_spelling():
    far = {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5}
    near = {"rope_type": "default", "rope_theta": 2e4}
    new = read("Gemma3", rope_parameters={"full_attention": far, "sliding_attention": near})
    old = read(
        "Gemma3",
        rope_theta=5e5,
        rope_local_base_freq=2e4,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        sliding_window_pattern=6,
    )
    assert new == old
    assert (new.rope_base, new.rope_local_base) == (5e5, 2e4)
    assert new.rope_scaling == RopeScaling("linear", 8.0)
    half = read("Gemma3", rope_parameters={"full_attention": far})
    assert (half.rope_base, half.rope_local_base) == (5e5, 1e4)


LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)
LINEAR = dict(rope_type="linear", factor=2.0)
WRONG = {
    "unknown architecture": ("Lama", {}, "'LamaForCausalLM' is not supported; did you mean 'Llama"),
    "no architecture": ("Llama", dict(architectures=...), "no 'architectures'"),
    "architectures no list": ("Llama", dict(architectures="Llama"), "no 'architectures'"),
    "a size is missing": ("Llama", dict(hidden_size=...), "'hidden_size' is missing"),
    "a size is text": ("Llama", dict(hidden_size="16"), "hidden_size='16' is not supported"),
    "a size is a fraction": ("Llama", dict(hidden_size=16.5), "hidden_size=16.5"),
    "a size is negative": ("Llama", dict(vocab_size=-1), "vocab_size=-1"),
    "a size is infinite": ("Llama", dict(vocab_size=float("inf")), "vocab_size=inf"),
    "a size is true": ("Llama", dict(vocab_size=True), "vocab_size=True"),
    "an odd head": ("Llama", dict(head_dim=5), "config.json.head_dim=5; must be even"),
    "tied is text": ("Llama", dict(tie_word_embeddings="false"), "tie_word_embeddings='false'"),
    "quantised": (
        "Llama",
        dict(quantization_config={"bits": 4}),
        "field quantization_config is not supported",
    ),
    "attention bias": ("Llama", dict(attention_bias=True), "attention_bias=True"),
    "bias in the feed-forward": ("Llama", dict(mlp_bias=True), "mlp_bias=True"),
    "activation": ("Qwen2", dict(hidden_act="gelu"), "hidden_act='gelu'"),
    "gemma's activation": ("Gemma2", dict(hidden_activation="silu"), "hidden_activation='silu'"),
    "both ways": ("Gemma3", dict(use_bidirectional_attention=True), "use_bidirectional_attention"),
    "yarn": ("Llama", dict(rope_parameters=dict(rope_type="yarn", factor=2.0)), "rope_type='yarn'"),
    "dynamic, old": (
        "Qwen3",
        dict(rope_scaling=dict(type="dynamic", factor=2.0)),
        "type='dynamic'",
    ),
    "rope is text": ("Llama", dict(rope_scaling="linear"), "rope_scaling='linear'"),
    "rope without factor": ("Llama", dict(rope_scaling=dict(type="linear")), "'factor' is missing"),
    "rope of factor zero": ("Llama", dict(rope_scaling=dict(LINEAR, factor=0)), "factor=0"),
    "rope bands crossed": (
        "Llama",
        dict(rope_scaling=dict(LLAMA3, low_freq_factor=4.0)),
        "low_freq_factor=4.0 is not supported; it must be below",
    ),
    "llama3 without its length": (
        "Llama",
        dict(rope_scaling={k: v for k, v in LLAMA3.items() if k[0] != "o"}),
        "rope_scaling: field 'original_max_position_embeddings' is missing",
    ),
    "rope with more": (
        "Llama",
        dict(rope_scaling=dict(LINEAR, attention_factor=2.0)),
        "rope_scaling: field attention_factor",
    ),
    "rope in part": ("Llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor=0.5"),
    "rope in part, new": (
        "Llama",
        dict(rope_parameters=dict(rope_type="default", partial_rotary_factor=0.5)),
        "partial_rotary_factor=0.5",
    ),
    "rope twice": (
        "Llama",
        dict(rope_parameters=dict(rope_type="default"), rope_scaling=LINEAR),
        "field rope_scaling",
    ),
    "rope by layer type": (
        "Qwen3",
        dict(rope_parameters={"full_attention": dict(rope_theta=5.0)}),
        "rope_parameters: field full_attention",
    ),
    "gemma 3 rope, not by layer type": (
        "Gemma3",
        dict(rope_parameters=dict(rope_type="default", rope_theta=5.0)),
        "rope_parameters: field rope_theta, rope_type",
    ),
    "gemma 3 local rope scaled": (
        "Gemma3",
        dict(rope_parameters={"sliding_attention": LINEAR}),
        "must have rope_type 'default'",
    ),
    "layer types too few": (
        "Gemma2",
        dict(layer_types=["full_attention"]),
        "8 of 'full_attention'",
    ),
    "layer types unknown": ("Gemma2", dict(layer_types=["linear"] * 8), "8 of 'full_attention'"),
    "layer types of mistral": (
        "Mistral",
        dict(layer_types=["full_attention"] * 8),
        "field layer_types",
    ),
    "local layers without a window": ("Gemma2", dict(sliding_window=None), "sliding_window=None"),
    "local layers, windows off": (
        "Qwen2",
        dict(sliding_window=4, layer_types=["sliding_attention"] * 8),
        "sliding_window=4 is not supported; layers with a window need one",
    ),
    "window of no tokens": ("Mistral", dict(sliding_window=0), "sliding_window=0"),
    "experts": ("Mistral", dict(num_local_experts=8), "field num_local_experts"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_honoured_is_refused_by_name(case):
    architecture, changes, said = WRONG[case]
    with pytest.raises(InputError) as error:
        read(architecture, **changes)
    assert said in str(error.value)
    assert str(error.value).startswith("config.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling(),
        RopeScaling("linear", 4.0),
        RopeScaling("llama3", 8.0, 1.0, 4.0, 64),
    ],
)
def test_a_decoder_born_here_is_written_as_a_llama(scaling):
    born = ModelConfig(24, 2, 4, 2, 10, 32, 50, False, 500.0, 1e-5, rope_scaling=scaling)
    assert families.read(llama.write(born), "config.json") == born


def test_a_decoder_that_no_llama_is_cannot_be_written_as_one():
    with pytest.raises(InputError, match="features that a Llama"):
        llama.write(ModelConfig(vocab_size=40, qkv_bias=True))


NOISE = dict(
    attention_dropout=0.0,
    bos_token_id=1,
    eos_token_id=[1, 2],
    initializer_range=0.02,
    torch_dtype="bfloat16",
    transformers_version="4.48.0",
    use_cache=True,
)
GEMMA = dict(
    attention_bias=False,
    cache_implementation="hybrid",
    head_dim=256,
    hidden_activation="gelu_pytorch_tanh",
    pad_token_id=0,
    query_pre_attn_scalar=256,
    rms_norm_eps=1e-06,
)
OURS_OF_GEMMA = dict(
    norms="both",
    norm_plus_one=True,
    activation="gelu_tanh",
    scaled_embedding=True,
    attention_scale=1 / 16,
)


def released(architecture, hidden, ffn, layers, heads, kv_heads, vocab, **fields):
    """The fields that matter of a released checkpoint's file, under the names it uses."""
    return NOISE | dict(
        architectures=[f"{architecture}ForCausalLM"],
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        **fields,
    )


RELEASED = {
    "SmolLM2-135M": (
        released(
            *("Llama", 576, 1536, 30, 9, 3, 49152),
            attention_bias=False,
            hidden_act="silu",
            is_llama_config=True,
            max_position_embeddings=8192,
            model_type="llama",
            pretraining_tp=1,
            rms_norm_eps=1e-05,
            rope_interleaved=False,
            rope_scaling=None,
            rope_theta=100000,  # a whole number
            tie_word_embeddings=True,
        ),
        ModelConfig(576, 30, 9, 3, 64, 1536, 49152, True, 1e5, 1e-5),
    ),
    "Llama-3.1-8B": (
        released(
            *("Llama", 4096, 14336, 32, 32, 8, 128256),
            mlp_bias=False,
            rms_norm_eps=1e-05,
            rope_scaling=LLAMA3,
            rope_theta=500000.0,
            tie_word_embeddings=False,
        ),
        ModelConfig(
            *(4096, 32, 32, 8, 128, 14336, 128256, False, 5e5, 1e-5),
            rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
        ),
    ),
    "Qwen2.5-0.5B": (
        released(
            *("Qwen2", 896, 4864, 24, 14, 2, 151936),
            hidden_act="silu",
            max_window_layers=24,
            rms_norm_eps=1e-06,
            rope_theta=1000000.0,
            sliding_window=32768,
            tie_word_embeddings=True,
            use_mrope=False,
            use_sliding_window=False,
        ),
        ModelConfig(896, 24, 14, 2, 64, 4864, 151936, True, 1e6, 1e-6, qkv_bias=True),
    ),
    "gemma-2-2b-it": (
        released(
            *("Gemma2", 2304, 9216, 26, 8, 4, 256000),
            **GEMMA,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            hidden_act="gelu_pytorch_tanh",
            rope_theta=10000.0,
            sliding_window=4096,
        ),
        ModelConfig(
            *(2304, 26, 8, 4, 256, 9216, 256000, True, 1e4, 1e-6),
            windows=(4096, 0) * 13,
            attention_softcap=50.0,
            logit_softcap=30.0,
            **OURS_OF_GEMMA,
        ),
    ),
    "gemma-3-1b-it": (
        released(
            *("Gemma3", 1152, 6912, 26, 4, 1, 262144),
            **GEMMA,
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            rope_local_base_freq=10000,
            rope_scaling=None,
            rope_theta=1000000,
            sliding_window=512,
            sliding_window_pattern=6,
        ),
        ModelConfig(
            *(1152, 26, 4, 1, 256, 6912, 262144, True, 1e6, 1e-6),
            windows=((512,) * 5 + (0,)) * 4 + (512,) * 2,
            rope_local_base=1e4,
            qk_norm="head",
            **OURS_OF_GEMMA,
        ),
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_files_of_released_checkpoints_are_read(name):
    values, expected = RELEASED[name]
    assert families.read(values, name) == expected
