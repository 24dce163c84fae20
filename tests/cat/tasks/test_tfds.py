"""TFDS: the mapping rule on real feature objects, and a tiny data set prepared on the spot."""

import collections

import numpy as np
import pytest
import tensorflow_datasets as datasets

from cat.config import DataConfig
from cat.example import Example
from cat.tasks import load, tfds
from cat.tasks.tfds import Mapping, mapping_of
from routers.errors import InputError

f = datasets.features


class TinyPairs(datasets.core.GeneratorBasedBuilder):
    """Sentence pairs with a yes/no label; the last test row has none."""

    VERSION = datasets.core.Version("1.0.0")

    def _info(self):
        features = {
            "hypothesis": f.Text(),
            "idx": np.int32,
            "label": f.ClassLabel(names=["no", "yes"]),
            "premise": f.Text(),
        }
        return datasets.core.DatasetInfo(builder=self, features=f.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples("r", 40), "test": self._generate_examples("x", 4)}

    def _generate_examples(self, prefix, count):
        for i in range(count):
            label = -1 if (prefix, i) == ("x", 3) else i % 2
            yield (
                i,
                {
                    "hypothesis": f"Ä {prefix}{i}",
                    "idx": i,
                    "label": label,
                    "premise": f"漢 {i}",
                },
            )


@pytest.fixture
def tiny_pairs(tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    return DataConfig(task="tfds", tfds="tiny_pairs")


def test_rows_of_a_prepared_data_set(tiny_pairs):
    found = tfds.examples(tiny_pairs, "test")
    by_prompt = {e.prompt: e for e in found}
    assert len(found) == 3  # the row without a label is left out
    example = by_prompt["hypothesis: Ä x1\npremise: 漢 1\nlabel:"]
    assert (example.target, example.choices, example.task) == ("yes", ("no", "yes"), "tiny_pairs")
    assert collections.Counter(e.target for e in found) == {"no": 2, "yes": 1}
    assert len({e.id for e in found}) == 3
    assert tfds.examples(tiny_pairs, "validation") == []


def test_load_carves_the_split_it_lacks(tiny_pairs):
    splits = load(tiny_pairs)
    assert len(splits.train) + len(splits.validation) == 40
    assert len(splits.test) == 3
    assert splits.notes[0].startswith("validation: absent, so ")


def test_names_that_do_not_lead_anywhere():
    with pytest.raises(InputError, match=r"needs data\.tfds"):
        tfds.examples(DataConfig(task="tfds"), "train")
    with pytest.raises(InputError, match="'no_such_set' is not a TFDS dataset"):
        tfds.examples(DataConfig(task="tfds", tfds="no_such_set"), "train")


TEXT, NUMBER = f.Text(), f.Scalar(np.int64)
YES_NO, THREE = f.ClassLabel(names=["no", "yes"]), f.ClassLabel(names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("features", "supervised", "expected"),
    [
        # classification (boolq, cb, rte …), with ids and numbers beside it
        (
            {"idx": NUMBER, "label": YES_NO, "passage": TEXT, "question": TEXT},
            None,
            Mapping(("passage", "question"), "label", ("no", "yes")),
        ),
        # one text (imdb, ag_news); a text id is no input
        (
            {"id": TEXT, "label": THREE, "text": TEXT},
            None,
            Mapping(("text",), "label", ("a", "b", "c")),
        ),
        # several labels: the one called label, else the supervised one
        (
            {"kind": THREE, "label": YES_NO, "text": TEXT},
            None,
            Mapping(("text",), "label", ("no", "yes")),
        ),
        (
            {"coarse": YES_NO, "fine": THREE, "text": TEXT},
            ("text", "fine"),
            Mapping(("text",), "fine", ("a", "b", "c")),
        ),
        # nested features beside a label are ignored
        (
            {"label": YES_NO, "spans": f.Sequence(NUMBER), "text": TEXT},
            None,
            Mapping(("text",), "label", ("no", "yes")),
        ),
        # text to text (summaries): supervised, else the last
        ({"article": TEXT, "highlights": TEXT}, None, Mapping(("article",), "highlights")),
        ({"article": TEXT, "zine": TEXT}, ("zine", "article"), Mapping(("zine",), "article")),
    ],
)
def test_the_rule_on_features(features, supervised, expected):
    assert mapping_of("d", f.FeaturesDict(features), supervised) == expected


def test_the_rule_on_translation():
    features = f.Translation(languages=["de", "en"])
    assert mapping_of("wmt", features, ("de", "en")) == Mapping(("de",), "en")
    assert mapping_of("wmt", features, ("en", "de")) == Mapping(("en",), "de")


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        # squad: the answer is nested; taking the last text would make the question the answer
        (
            {"answers": f.Sequence({"text": TEXT}), "context": TEXT, "question": TEXT},
            "no class label and no plain pair of texts",
        ),
        ({"text": TEXT}, "no class label and no plain pair of texts"),
        ({"label": YES_NO, "n": NUMBER}, "has no text input"),
        ({"coarse": YES_NO, "fine": THREE, "text": TEXT}, r"several labels \(coarse, fine\)"),
    ],
)
def test_features_without_a_rule_are_refused(features, reason):
    with pytest.raises(InputError, match=reason):
        mapping_of("d", f.FeaturesDict(features), None)


def test_a_row_as_text():
    mapping = Mapping(("question", "passage"), "answer")
    row = {"question": b"wer?", "passage": "ein Text", "answer": "Ärzte".encode()}
    assert mapping.example(row, "n", "t") == Example(
        "n", "t", "question: wer?\npassage: ein Text\nanswer:", "Ärzte"
    )
    assert mapping.example({**row, "answer": b" "}, "n", "t") is None
