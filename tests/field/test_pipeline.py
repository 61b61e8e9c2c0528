"""A pruned checkpoint in a fresh process: transformers' pipeline takes it, and says nothing."""

import os
import subprocess
import sys
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from pruning.checkpoints.checkpoint import save_pruned
from pruning.cutting.repack import repack
from tests.pruning.tiny_models import PLANS, make_tiny

CODE = """
import sys
import transformers
transformers.utils.logging.disable_progress_bar()
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
(answer,) = pipeline("text-classification", model=model, tokenizer=tokenizer)("a b a")
print(answer["label"])
"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )


def test_pipeline_takes_the_pruned_model_without_a_word(tmp_path: Path) -> None:
    model = make_tiny("bert")
    save_pruned(repack(model, PLANS["uneven"](model)), tmp_path / "pruned", make_tokenizer())
    ran = subprocess.run(
        [sys.executable, "-c", CODE, "pruned"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout.strip() in model.config.id2label.values()
