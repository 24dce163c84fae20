"""Quality against hand values, sacreBLEU's corpus scores and separately written loops."""

import random

import pytest
import sacrebleu

from cat.example import Example
from cat.quality import METRICS, normalised_tokens, quality
from routers.errors import InputError


def example(target, *references):
    return Example("0", "t", "?", target, (), references)


@pytest.mark.parametrize(
    ("prediction", "target", "references", "expected"),
    [
        ("a b", "a b", (), 1.0),
        (" a \n b\t", "a b", (), 1.0),
        ("ab", "a b", (), 0.0),
        ("A b", "a b", (), 0.0),
        ("", "a", (), 0.0),
        ("c", "a", ("a", "b", "c"), 1.0),
        ("a", "a", ("b",), 1.0),  # the target counts even where the references leave it out
        ("<unk>", "a", (), 0.0),
    ],
)
def test_exact_match(prediction, target, references, expected):
    assert quality("exact_match", prediction, example(target, *references)) == expected


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("The cat.", ("a cat",), 1.0),
        ("cat sat", ("cat",), 2 / 3),  # P = 1/2, R = 1
        ("cat cat", ("cat dog dog",), 2 / 5),  # one in common of two and three
        ("x", ("cat", "x y z"), 0.5),  # the best reference counts
        ("x", ("y",), 0.0),
        ("", ("x",), 0.0),
        ("the", ("a",), 1.0),  # nothing left on both sides
    ],
)
def test_f1_by_hand(prediction, references, expected):
    found = quality("f1", prediction, example(references[0], *references))
    assert found == pytest.approx(expected, abs=1e-12)


def loop_f1(prediction, reference):
    """Token F1 by crossing off, without counters."""
    got, left = prediction.split(), reference.split()
    common = 0
    for token in got:
        if token in left:
            left.remove(token)
            common += 1
    if common == 0:
        return float(not got and not reference.split())
    precision, recall = common / len(got), common / len(reference.split())
    return 2 * precision * recall / (precision + recall)


def test_f1_equals_crossing_off_on_random_texts():
    draw = random.Random(0)
    for _ in range(300):
        texts = [" ".join(draw.choices("bcdef", k=draw.randint(0, 6))) for _ in range(2)]
        expected = loop_f1(*texts)
        assert quality("f1", texts[0], example(texts[1])) == pytest.approx(expected, abs=1e-12)


def test_normalisation_order_is_squads():
    assert normalised_tokens("The theatre, a-the AN x.") == ["theatre", "athe", "x"]
    assert normalised_tokens("«quoted»") == ["«quoted»"]  # ASCII punctuation only


TEXTS = [
    ("Es ist ungewöhnlich.", ("Es ist ungewöhnlich.",)),
    ("Wie spät ist es jetzt?", ("Wie spät ist es?", "Wie viel Uhr ist es jetzt?")),
    ("Hallo", ("Hallo an alle.",)),
    ("gar nichts davon", ("Tom hat den Bus verpasst.",)),
]


@pytest.mark.parametrize(("prediction", "references"), TEXTS)
def test_chrf_and_bleu_equal_the_corpus_score_of_one(prediction, references):
    streams = [[r] for r in references]
    chrf = sacrebleu.corpus_chrf([prediction], streams).score / 100
    bleu = sacrebleu.metrics.bleu.BLEU(effective_order=True).corpus_score([prediction], streams)
    subject = example(references[0], *references)
    assert quality("chrf", prediction, subject) == pytest.approx(chrf, abs=1e-12)
    assert quality("bleu", prediction, subject) == pytest.approx(bleu.score / 100, abs=1e-12)


def loop_chrf(prediction, reference, order=6, beta=2):
    """Mean over n-gram orders of F-beta on characters without spaces (one reference)."""
    left, right = prediction.replace(" ", ""), reference.replace(" ", "")
    scores = []
    for n in range(1, order + 1):
        got = [left[i : i + n] for i in range(len(left) - n + 1)]
        want = [right[i : i + n] for i in range(len(right) - n + 1)]
        if not got or not want:
            continue
        pool, common = list(want), 0
        for gram in got:
            if gram in pool:
                pool.remove(gram)
                common += 1
        scores.append((common / len(got), common / len(want)))
    precision = sum(p for p, _ in scores) / len(scores)
    recall = sum(r for _, r in scores) / len(scores)
    if precision + recall == 0:
        return 0.0
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def test_chrf_equals_a_loop_written_from_its_definition():
    for prediction, references in TEXTS:
        found = quality("chrf", prediction, example(references[0]))
        assert found == pytest.approx(loop_chrf(prediction, references[0]), abs=1e-12)


def test_bleu_by_hand():
    """Precisions 4/5, 2/4, 1/3 and a smoothed 1/(2*2); same length, so no brevity penalty."""
    expected = (4 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** 0.25
    found = quality("bleu", "a b c x e", example("a b c d e"))
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_one_for_the_target_and_in_range(metric):
    subject = example("the quick brown fox", "some other words here")
    assert quality(metric, "the quick brown fox", subject) == pytest.approx(1.0, abs=1e-12)
    for prediction in ("", " ", "the", "some fox", "漢字", "a" * 500):
        assert 0.0 <= quality(metric, prediction, subject) <= 1.0


def test_unknown_metric_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean 'chrf'"):
        quality("chrF", "a", example("a"))
