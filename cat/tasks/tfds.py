"""Any TensorFlow Datasets text dataset by name (--data.tfds), read without TensorFlow.

The features of the dataset decide how a row becomes text:

* target: the name of its ClassLabel (the one called ``label``, or the one that the dataset's
  ``supervised_keys`` name, if there are several); without a ClassLabel the text that
  ``supervised_keys`` name, else the last text feature;
* prompt: the other text features in their order, one ``name: value`` line each, then
  ``<target name>:``. Text features called id, idx, guid or uid are left out.

Datasets whose answer is nested (lists, dictionaries) have no such rule: convert them with
``task="jsonl"``. Rows without a label (class -1, as in hidden test sets) are left out.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cat.config import DataConfig
from cat.example import Example
from routers.errors import InputError

_IDS = {"id", "idx", "guid", "uid"}


@dataclasses.dataclass(frozen=True)
class Mapping:
    """Which features make the prompt, which one is the target; ``choices`` of a ClassLabel."""

    inputs: tuple[str, ...]
    target: str
    choices: tuple[str, ...] = ()

    def example(self, row: dict[str, Any], name: str, task: str) -> Example | None:
        """The row as text; None where it has no label or its target is empty."""
        if self.choices:
            label = int(row[self.target])
            target = self.choices[label] if label >= 0 else ""
        else:
            target = _text(row[self.target])
        lines = [f"{key}: {_text(row[key])}" for key in self.inputs]
        prompt = "\n".join([*lines, f"{self.target}:"])
        return Example(name, task, prompt, target, self.choices) if target.strip() else None


def examples(config: DataConfig, split: str) -> list[Example]:
    """The rows of a split of ``config.tfds``; empty if the dataset has no such split.

    Downloads and prepares the dataset on first use (``TFDS_DATA_DIR`` says where).

    Raises:
        InputError: no or unknown name, features without a text rule, or TensorFlow needed to
            prepare this dataset and not installed.
    """
    source, mapping = _open(config.tfds, split)
    name = config.tfds
    rows = (mapping.example(row, f"{name}/{split}/{i}", name) for i, row in enumerate(source))
    return [example for example in rows if example is not None]


def _open(name: str, split: str) -> tuple[Any, Mapping]:
    """The rows of a split (random access) and how to read them."""
    if not name:
        raise InputError("task 'tfds' needs data.tfds: a dataset name such as super_glue/boolq")
    import tensorflow_datasets as tfds

    try:
        builder: Any = tfds.builder(name, file_format="array_record")
        builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        raise InputError(
            f"data.tfds '{name}' is not a TFDS dataset; see tfds.list_builders()"
        ) from None
    except ImportError as error:
        raise InputError(
            f"data.tfds '{name}' cannot be prepared ({error}); install tensorflow-cpu once"
        ) from None
    mapping = mapping_of(name, builder.info.features, builder.info.supervised_keys)
    present = split in builder.info.splits
    return (builder.as_data_source(split=split) if present else []), mapping


def mapping_of(name: str, features: Any, supervised: Any) -> Mapping:
    """The rule at the top of this file, applied to one dataset's features.

    Args:
        name: for messages.
        features: ``builder.info.features``.
        supervised: ``builder.info.supervised_keys``: None or (input, target).
    """
    import tensorflow_datasets as tfds

    kinds = tfds.features
    flat = dict(features.items())
    texts = [k for k, f in flat.items() if isinstance(f, kinds.Text) and k not in _IDS]
    labels = [k for k, f in flat.items() if isinstance(f, kinds.ClassLabel)]
    wanted = supervised[1] if supervised and isinstance(supervised[1], str) else None
    if labels:
        target = _only_label(name, labels, wanted)
        choices = tuple(flat[target].names)
    else:
        nested = [k for k, f in flat.items() if isinstance(f, kinds.Sequence | kinds.FeaturesDict)]
        if nested or len(texts) < 2:
            raise InputError(
                f"data.tfds '{name}' has no class label and no plain pair of texts "
                f"(features: {', '.join(flat)}); convert it to JSON lines, see docs/data.md"
            )
        target = wanted if wanted is not None and wanted in texts else texts[-1]
        choices = ()
    inputs = tuple(k for k in texts if k != target)
    if not inputs:
        raise InputError(f"data.tfds '{name}' has no text input; its features: {', '.join(flat)}")
    return Mapping(inputs, target, choices)


def _only_label(name: str, labels: list[str], wanted: str | None) -> str:
    chosen = [k for k in labels if len(labels) == 1 or k in ("label", wanted)]
    if len(chosen) != 1:
        raise InputError(
            f"data.tfds '{name}' has several labels ({', '.join(labels)}); "
            "convert the one you want to JSON lines, see docs/data.md"
        )
    return chosen[0]


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
