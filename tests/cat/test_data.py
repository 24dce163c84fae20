"""Rows and batches: every position by an independent loop, order, epochs, exact resumption."""

import dataclasses
import itertools
import time

import grain
import numpy as np
import pytest

from cat.config import DataConfig, fingerprint
from cat.data import Rows, batches, epoch_order, tokenize
from cat.example import Example
from cat.source import taught
from cat.tasks import generated
from cat.tokenizers import train
from cat.types import Teacher
from routers.errors import InputError

CONFIG = DataConfig(train_size=203, validation_size=8, test_size=8)


@pytest.fixture(scope="module")
def examples():
    return generated.examples(CONFIG, "train")


@pytest.fixture(scope="module")
def tokenizer(examples):
    return train("characters", [e.prompt + e.target for e in examples])


@pytest.fixture(scope="module")
def rows(examples, tokenizer):
    return tokenize(examples, tokenizer, CONFIG)


def by_hand(example, tokenizer, width):
    """One row, a position at a time."""
    prompt, target = tokenizer.encode(example.prompt), tokenizer.encode(example.target)
    ids = [tokenizer.bos, *prompt, tokenizer.sep, *target, tokenizer.eos]
    out = {"tokens": [], "targets": [], "mask": [], "positions": [], "segments": []}
    for t in range(width):
        real = t + 1 < len(ids)
        out["tokens"].append(ids[t] if real else tokenizer.pad)
        out["targets"].append(ids[t + 1] if real else tokenizer.pad)
        # ids: bos, P prompt ids, sep; the first response id is number P + 2
        out["mask"].append(1.0 if real and t + 1 >= len(prompt) + 2 else 0.0)
        out["positions"].append(t if real else 0)
        out["segments"].append(1 if real else 0)
    return out


def test_every_position_of_every_row(rows, examples, tokenizer):
    assert rows.examples == examples
    for i, example in enumerate(examples):
        for name, expected in by_hand(example, tokenizer, rows.tokens.shape[1]).items():
            np.testing.assert_array_equal(getattr(rows, name)[i], expected, err_msg=name)


def test_one_row_written_out():
    tokenizer = train("characters", ["ab"])
    row = tokenize([Example("0", "t", "ab", "b")], tokenizer, CONFIG)
    bos, a, b, sep, eos, pad = 1, 5, 6, 3, 2, 0
    assert row.tokens[0].tolist() == [bos, a, b, sep, b, pad, pad, pad]
    assert row.targets[0].tolist() == [a, b, sep, b, eos, pad, pad, pad]
    assert row.mask[0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert row.positions[0].tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    assert row.segments[0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert (row.prompt_lengths.tolist(), row.response_lengths.tolist()) == ([4], [2])


def test_a_model_that_copies_the_labels_hits_everywhere_and_one_step_off_does_not(rows):
    """The off-by-one trap: hits are counted at the position that predicts, not at the label's."""
    counted = rows.mask == 1
    perfect = rows.targets
    assert (perfect == rows.targets)[counted].all()
    one_late = rows.tokens  # what a model that repeats its input would say
    assert (one_late == rows.targets)[counted].mean() < 0.2


def test_masked_targets_are_the_response_and_nothing_else(rows, tokenizer):
    for i, example in enumerate(rows.examples):
        kept = rows.targets[i][rows.mask[i] == 1]
        assert kept[-1] == tokenizer.eos
        assert tokenizer.decode(kept) == example.target
        assert len(kept) == rows.response_lengths[i] == len(example.target) + 1


def test_the_prompt_to_continue_never_shows_the_answer(rows, tokenizer):
    for i, example in enumerate(rows.examples):
        given = rows.tokens[i, : rows.prompt_lengths[i]]
        assert given[0] == tokenizer.bos
        assert given[-1] == tokenizer.sep
        assert tokenizer.decode(given) == example.prompt
        assert rows.mask[i, : rows.prompt_lengths[i] - 1].sum() == 0


def test_pads_are_in_no_mask_and_no_segment(rows, tokenizer):
    pad = rows.tokens == tokenizer.pad
    assert pad.any()
    assert not rows.mask[pad].any()
    assert not rows.segments[pad].any()
    np.testing.assert_array_equal((~pad).sum(1), rows.prompt_lengths + rows.response_lengths - 1)
    assert rows.mask.sum() == rows.response_lengths.sum()


def test_types_and_width(rows, examples, tokenizer):
    for name in ("tokens", "targets", "positions", "segments"):
        assert getattr(rows, name).dtype == np.int32
    assert rows.mask.dtype == np.float32
    longest = max(rows.prompt_lengths + rows.response_lengths) - 1
    assert rows.tokens.shape[1] == -(-longest // 8) * 8
    assert tokenize(examples, tokenizer, CONFIG, pad_multiple=1).tokens.shape[1] == longest
    assert tokenize(examples, tokenizer, CONFIG, pad_multiple=32).tokens.shape[1] == 32


@pytest.mark.parametrize(
    ("prompt", "response", "kept"), [(5, 3, 1), (4, 3, 0), (5, 2, 0), (9, 9, 1)]
)
def test_limits_count_bos_sep_and_eos(prompt, response, kept):
    """'abc' is 5 prompt tokens with bos and sep; 'de' is 3 response tokens with eos."""
    tokenizer = train("characters", ["abcde"])
    config = DataConfig(max_prompt_tokens=prompt, max_response_tokens=response)
    data = [Example("0", "t", "abc", "de"), Example("1", "t", "a", "b")]
    found = tokenize(data, tokenizer, config)
    assert [e.id for e in found.examples] == (["0", "1"] if kept else ["1"])
    assert found.left_out == 1 - kept
    said = ["1 of 2 examples left out as longer than the token limits"]
    assert found.notes == ([] if kept else said)


def test_nothing_within_the_limits_says_what_to_raise(examples, tokenizer):
    with pytest.raises(InputError, match=r"raise data\.max_prompt_tokens"):
        tokenize(examples, tokenizer, DataConfig(max_prompt_tokens=3))
    with pytest.raises(InputError, match="none of 0 examples"):
        tokenize([], tokenizer, CONFIG)


def stream(rows, steps=23, dispatch=4, seed=0, size=10, **kwargs):
    sizes = {"batch_size": size, "steps": steps, "steps_per_dispatch": dispatch}
    return batches(rows, seed=seed, **sizes, **kwargs)


def flat(dataset):
    """Every row of tokens in the order of training."""
    return np.concatenate([b.tokens.reshape(-1, b.tokens.shape[-1]) for b in dataset])


def test_shapes_and_the_shorter_last_dispatch(rows):
    shapes = [b.tokens.shape[:2] for b in stream(rows)]
    assert shapes == [(4, 10)] * 5 + [(3, 10)]
    assert [b.mask.shape[:2] for b in stream(rows, steps=8)] == [(4, 10)] * 2


def test_all_columns_of_a_batch_belong_to_the_same_row(rows):
    known = {tuple(rows.tokens[i]): i for i in range(len(rows))}
    for batch in stream(rows):
        for s, b in np.ndindex(batch.tokens.shape[:2]):
            i = known[tuple(batch.tokens[s, b])]
            for name in ("targets", "mask", "positions", "segments"):
                np.testing.assert_array_equal(getattr(batch, name)[s, b], getattr(rows, name)[i])


def test_every_example_once_per_epoch_and_epochs_differ(rows):
    seen = flat(stream(rows, steps=61))  # 610 rows: three passes of 203 and one row
    passes = [seen[i : i + 203] for i in range(0, 609, 203)]
    everything = sorted(map(tuple, rows.tokens))
    for one in passes:
        assert sorted(map(tuple, one)) == everything
    assert not np.array_equal(passes[0], passes[1])
    assert not np.array_equal(passes[1], passes[2])


def test_a_batch_may_be_larger_than_the_data(rows):
    (batch,) = stream(rows, steps=1, dispatch=1, size=500)
    counts = np.unique(flat([batch]), axis=0, return_counts=True)[1]
    assert counts.min() >= 2
    assert counts.max() <= 3


def test_order_depends_on_the_seed_alone(rows):
    """Every arm sees the same rows at the same step, whatever its dispatches."""
    reference = flat(stream(rows))
    for dispatch in (1, 5, 23, 100):
        np.testing.assert_array_equal(flat(stream(rows, dispatch=dispatch)), reference)
    np.testing.assert_array_equal(flat(stream(rows, steps=40))[:230], reference)
    assert not np.array_equal(flat(stream(rows, seed=1)), reference)


def test_order_is_the_permutations_end_to_end(rows):
    order = np.concatenate([epoch_order(203, 7, e) for e in range(3)])
    expected = rows.tokens[order[:230]]
    np.testing.assert_array_equal(flat(stream(rows, seed=7)), expected)


def test_resuming_after_any_dispatch_equals_going_on(rows):
    whole = list(stream(rows))
    for done in range(len(whole) + 1):
        iterator = iter(stream(rows))
        for _ in itertools.islice(iterator, done):
            pass
        state = iterator.get_state()
        again = iter(stream(rows))
        again.set_state(state)
        rest = list(again)
        assert len(rest) == len(whole) - done
        for a, b in zip(rest, whole[done:], strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_array_equal(a.mask, b.mask)


def test_resumption_by_grains_own_helper(rows):
    teacher = Teacher(rows.mask == 1, *[np.zeros((*rows.tokens.shape, 0), t) for t in "if"])
    dataset = stream(taught(rows, teacher))
    grain.experimental.assert_equal_output_after_checkpoint(dataset)


def test_teacher_columns_travel_with_their_row(rows):
    N, T = rows.tokens.shape
    ids = np.arange(N * T * 2, dtype=np.int32).reshape(N, T, 2)
    teacher = Teacher(rows.targets % 2 == 0, ids, ids.astype(np.float32))
    known = {tuple(rows.tokens[i]): i for i in range(N)}
    for batch in stream(taught(rows, teacher), steps=3):
        assert batch.teacher.hit.shape == batch.tokens.shape
        for s, b in np.ndindex(batch.tokens.shape[:2]):
            i = known[tuple(batch.tokens[s, b])]
            np.testing.assert_array_equal(batch.teacher.hit[s, b], teacher.hit[i])
            np.testing.assert_array_equal(batch.teacher.topk_ids[s, b], ids[i])
            np.testing.assert_array_equal(batch.teacher.topk_logprob[s, b], ids[i])
    assert next(iter(stream(rows))).teacher is None


def test_the_order_is_numpys_own_permutation():
    """In 4 bytes a row, where NumPy's takes 8; runs of earlier versions go on in their order."""
    for count in (1, 2, 203, 5_000):
        expected = np.random.default_rng([7, 3]).permutation(count)
        found = epoch_order(count, 7, 3)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int32


class Watched(Rows):
    """Rows that remember how many of them were asked for."""

    asked = 0

    def batch(self, rows):
        object.__setattr__(self, "asked", self.asked + rows.size)
        return super().batch(rows)


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_read_their_own_columns_of_the_global_order(rows, processes):
    whole = list(stream(rows))
    fields = {field.name: getattr(rows, field.name) for field in dataclasses.fields(rows)}
    watched = [Watched(**fields) for _ in range(processes)]
    parts = [list(stream(w, process=p, processes=processes)) for p, w in enumerate(watched)]
    for batch, *mine in zip(whole, *parts, strict=True):
        for name in ("tokens", "targets", "mask", "positions", "segments"):
            joined = np.concatenate([getattr(part, name) for part in mine], axis=1)
            np.testing.assert_array_equal(joined, getattr(batch, name))
    assert [w.asked for w in watched] == [230 // processes] * processes


def test_processes_must_divide_the_batch(rows):
    with pytest.raises(InputError, match="batch_size 10 does not divide over 4 processes"):
        stream(rows, processes=4)


def test_what_a_source_says_of_its_rows(rows):
    lengths = rows.prompt_lengths + rows.response_lengths - 1
    np.testing.assert_array_equal(rows.lengths, lengths)
    np.testing.assert_array_equal(rows.counted, rows.response_lengths)
    assert (rows.width, rows.response_width) == (rows.tokens.shape[1], rows.response_lengths.max())
    assert rows.signals == {}


def test_the_fingerprint_of_rows_is_what_runs_of_earlier_versions_wrote_down(rows):
    assert rows.fingerprint == fingerprint(rows.tokens, rows.targets, rows.mask)
    targets = rows.targets.copy()
    targets[3, 2] += 1
    assert dataclasses.replace(rows, targets=targets).fingerprint != rows.fingerprint


def test_bad_sizes_say_so(rows):
    with pytest.raises(InputError, match="batch_size is 0"):
        stream(rows, size=0)
    with pytest.raises(InputError, match="steps_per_dispatch is 0"):
        stream(rows, dispatch=0)


def test_batches_are_fast(rows):
    """A million rows a second on an idle core; the bound leaves room for a busy machine."""
    dataset = stream(rows, steps=3_000, dispatch=25, size=64)
    start = time.perf_counter()
    count = sum(b.tokens.shape[0] * b.tokens.shape[1] for b in dataset)
    assert count == 3_000 * 64
    assert count / (time.perf_counter() - start) > 50_000
