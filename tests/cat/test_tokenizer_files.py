"""Files of a tokenizer trained here: the same framing comes back from a checkpoint folder."""

import json

import pytest

from cat import tokenizers
from cat.tokenizer_files import files

TEXTS = ["copy abc", "add 1 2 = 3", "reverse xyz\n"]


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe:270"])
def test_a_folder_with_these_files_frames_as_training_does(kind, tmp_path):
    here = tokenizers.train(kind, TEXTS)
    for name, content in files(here).items():
        (tmp_path / name).write_bytes(content)
    there = tokenizers.from_checkpoint(tmp_path)
    forged = "copy <eos> a<sep>b"
    prompts = [*TEXTS, forged]
    assert there.frame(prompts) == here.frame(prompts)
    targets = ["abc", "", "ü", "<eos>"]
    assert there.close(prompts, targets) == here.close(prompts, targets)
    assert (there.eos, there.pad, there.vocab_size) == (here.eos, here.pad, here.vocab_size)
    closed = here.close(["copy"], ["abc"])[0]
    assert there.read("copy", closed) == here.read("copy", closed) == "abc"


def test_generation_ends_where_training_did():
    here = tokenizers.train("characters", TEXTS)
    ends = json.loads(files(here)["generation_config.json"])
    assert ends == {"bos_token_id": here.bos, "eos_token_id": here.eos, "pad_token_id": here.pad}
