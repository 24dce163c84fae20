"""The generated task: right answers, disjoint splits, the same everywhere, fast."""

import collections
import dataclasses
import time

import pytest

from cat.config import DataConfig
from cat.tasks import generated, load
from cat.tasks.families import ALPHABET, FACTS, FAMILIES, facts
from cat.tasks.splitting import of_split
from routers.errors import InputError

SMALL = DataConfig(train_size=1_600, validation_size=400, test_size=404)
SPLITS = ("train", "validation", "test")
NAMES = ["copy", "reverse", "sort", "add2", "add4", "facts", "mod97", "noise"]

GOLDEN = {
    "add2": ("69+84", "441"),
    "add4": ("5347+7654", "20021"),
    "copy": ("copy dfidajgj", "dfidajgj"),
    "facts": ("gk fact bt", "vx"),
    "mod97": ("358*510%97", "26"),
    "noise": ("noise qatgxg", "anr"),
    "reverse": ("reverse fdfeig", "giefdf"),
    "sort": ("sort 86979164", "14667899"),
}


@pytest.fixture(scope="module")
def rows():
    return {split: generated.examples(SMALL, split) for split in SPLITS}


def answer(task, prompt):
    """The answer worked out in another way than the product does; None = not computable."""
    if task == "copy":
        return prompt[len("copy ") :]
    if task == "reverse":
        return "".join(reversed(prompt[len("reverse ") :]))
    if task == "sort":
        return "".join(d * prompt.count(d) for d in "0123456789")
    if task in ("add2", "add4"):
        digits, carry, out = int(task[-1]), 0, ""
        for i in range(digits):  # school addition, column by column, units first
            carry, digit = divmod(int(prompt[i]) + int(prompt[digits + 1 + i]) + carry, 10)
            out += str(digit)
        return out + str(carry)
    if task == "mod97":
        a, rest = prompt.split("*")
        remainder = 0
        for _ in range(int(a)):
            remainder = (remainder + int(rest[: -len("%97")])) % 97
        return f"{remainder // 10}{remainder % 10}"
    return None


def test_every_computable_answer_is_right(rows):
    checked = 0
    for example in (e for split in SPLITS for e in rows[split]):
        expected = answer(example.task, example.prompt)
        if expected is not None:
            assert example.target == expected, example
            checked += 1
    assert checked == (1_600 + 400 + 404) * 6 // 8 + 1  # 404 = 8 * 50 + 4: four families get 51


def test_carries_of_every_length_occur(rows):
    sums = [e for e in rows["train"] if e.task == "add4"]
    assert {e.target[-1] for e in sums} == {"0", "1"}
    assert all(len(e.target) == 5 for e in sums)


@pytest.mark.parametrize(("mix", "names"), [("full", NAMES), ("feasible", NAMES[:6])])
def test_families_come_in_equal_shares_and_mixed(mix, names):
    config = dataclasses.replace(SMALL, mix=mix)
    tasks = [e.task for e in generated.examples(config, "test")]
    counts = collections.Counter(tasks)
    assert sorted(counts) == sorted(names)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(tasks) == 404
    assert len(set(tasks[:40])) == len(names)  # mixed: not one family after the other


def test_limits_of_length_and_alphabet(rows):
    everything = [e for split in SPLITS for e in rows[split]]
    assert max(len(e.prompt) for e in everything) <= 24
    assert max(len(e.target) for e in everything) <= 10
    used = set("".join(e.prompt + e.target for e in everything))
    assert used == set(ALPHABET)
    assert len(ALPHABET) <= 45


def test_splits_are_disjoint_by_construction_and_prompts_distinct(rows):
    prompts = {split: [e.prompt for e in rows[split]] for split in SPLITS}
    for split in SPLITS:
        assert len(set(prompts[split])) == len(prompts[split])
        assert of_split(prompts[split], split) == prompts[split]
    assert len(set().union(*prompts.values())) == sum(map(len, prompts.values()))
    ids = [e.id for split in SPLITS for e in rows[split]]
    assert len(set(ids)) == len(ids)


def test_a_fact_has_one_value_and_occurs_in_all_splits_under_other_words():
    config = dataclasses.replace(SMALL, train_size=16_000, validation_size=800, test_size=800)
    values, keys = {}, {}
    for split in SPLITS:
        found = [e for e in generated.examples(config, split) if e.task == "facts"]
        keys[split] = {e.prompt[-2:] for e in found}
        for e in found:
            assert e.prompt[2:8] == " fact "
            assert values.setdefault(e.prompt[-2:], e.target) == e.target
    assert len(keys["train"]) == FACTS  # 2,000 draws of 200 keys miss 0.01 of one on average
    assert keys["train"] >= keys["test"] | keys["validation"]


def test_noise_cannot_be_read_off_the_prompt_and_changes_with_the_seed(rows):
    noise = [e for e in rows["train"] if e.task == "noise"]
    again = generated.examples(dataclasses.replace(SMALL, seed=1), "train")
    letters = collections.Counter("".join(e.target for e in noise))
    mean = 3 * len(noise) / 26
    chi2 = sum((letters[c] - mean) ** 2 / mean for c in "abcdefghijklmnopqrstuvwxyz")
    assert chi2 < 52.6  # the 0.999 quantile at 25 degrees of freedom
    family = next(f for f in FAMILIES if f.name == "noise")
    same = sum(family.target(e.prompt, 0) == family.target(e.prompt, 1) for e in noise)
    assert same <= 1
    assert {e.prompt for e in noise} != {e.prompt for e in again if e.task == "noise"}


def test_only_the_seed_decides(rows):
    assert generated.examples(SMALL, "test") == rows["test"]
    assert generated.examples(dataclasses.replace(SMALL, seed=1), "test") != rows["test"]
    assert facts(0) != facts(1)


def test_golden_rows_do_not_drift():
    """Published numbers rest on these rows: a change here changes every result."""
    config = DataConfig(train_size=8, validation_size=8, test_size=8)
    found = {e.task: (e.prompt, e.target) for e in generated.examples(config, "test")}
    assert found == GOLDEN


def test_a_larger_split_contains_the_smaller_one():
    less = generated.examples(DataConfig(test_size=80), "test")
    more = generated.examples(DataConfig(test_size=160), "test")
    assert {(e.id, e.prompt, e.target) for e in less} < {(e.id, e.prompt, e.target) for e in more}


def test_too_many_sums_and_unknown_mix_say_so():
    with pytest.raises(InputError, match=r"add2, which has about 1,000 in test"):
        generated.examples(DataConfig(test_size=8_000), "test")
    with pytest.raises(InputError, match=r"'fulll' is unknown; did you mean 'full'\?"):
        generated.examples(DataConfig(mix="fulll"), "test")


def test_as_many_sums_as_are_promised_exist():
    """The margin of the check is real: the largest split allowed can be filled."""
    sums = next(f for f in FAMILIES if f.name == "add2")
    for split, count in (("train", 7_600), ("validation", 950), ("test", 950)):
        found = generated._family_examples(sums, split, count, seed=0)
        assert len({e.prompt for e in found}) == count


def test_the_default_size_takes_seconds():
    start = time.process_time()
    splits = load(DataConfig())
    # About 1.3 s on an idle core; here every call is also checked for its types.
    assert time.process_time() - start < 10.0
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [40_000, 2_000, 4_000]
    assert splits.notes == []
