"""ONNX Runtime GenAI generates what transformers does, for dense and pruned models."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from nirvana_deploy.serving.genai import check_genai, generate, package_genai
from nirvana_deploy.serving.graph_decoder import GraphDecoder
from nirvana_deploy.serving.package import package_model
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject
from tests.nirvana_deploy.serving.tiny_classifier import save_classifier
from tests.nirvana_deploy.serving.tiny_decoder import TinyDecoder, generate_greedily, save_tokenizer

genai = pytest.importorskip("onnxruntime_genai", reason="ONNX Runtime GenAI (extra genai)")
CONFIG = PackageConfig(to="genai")
PROMPTS = ([5, 6, 7, 8], [3], list(range(10, 40)))


@pytest.mark.parametrize("which", ["dense_decoder", "pruned_decoder"])
def test_it_generates_the_tokens_of_transformers(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tiny: TinyDecoder = request.getfixturevalue(which)
    result = package_model(OnnxSources(onnx=tiny.onnx), tmp_path / "package", CONFIG, check=True)
    assert result.server_check is not None and result.server_check["num_answers"] == 3
    model = genai.Model(str(tmp_path / "package"))
    for prompt in PROMPTS:
        (expected,) = tiny.generate([prompt], 20)
        assert generate(model, prompt, 20) == expected
        assert generate_greedily(tiny.onnx, prompt, 20) == expected


def test_layers_have_caches_of_their_own_sizes(pruned_decoder: TinyDecoder, tmp_path: Path) -> None:
    package_genai(OnnxSources(onnx=pruned_decoder.onnx), tmp_path / "package", CONFIG)
    cache = GraphDecoder(tmp_path / "package" / "model.onnx").inputs.cache
    heads = {each.layer: each.num_heads for each in cache}
    # Layer 1 has no attention, and the block behind the last is gone.
    assert heads == {0: 2, 2: 1}
    config = json.loads((tmp_path / "package" / "genai_config.json").read_text())["model"]
    assert config["decoder"]["num_hidden_layers"] == 3
    assert config["context_length"] == 80 and config["vocab_size"] == 99
    assert config["eos_token_id"] == [] and config["pad_token_id"] == 0


def copy(tiny: TinyDecoder, to: Path) -> Path:
    shutil.copytree(tiny.folder, to)
    return to / "model.onnx"


def test_end_tokens_come_from_the_generation_config_first(
    dense_decoder: TinyDecoder, tmp_path: Path
) -> None:
    onnx_path = copy(dense_decoder, tmp_path / "export")
    ends = {"eos_token_id": [7, 8], "bos_token_id": 4}
    (tmp_path / "export" / "generation_config.json").write_text(json.dumps(ends))
    package_genai(OnnxSources(onnx=onnx_path), tmp_path / "package", CONFIG)
    config = json.loads((tmp_path / "package" / "genai_config.json").read_text())["model"]
    assert (config["eos_token_id"], config["bos_token_id"]) == ([7, 8], 4)
    generated = generate(genai.Model(str(tmp_path / "package")), [5, 6, 7, 8], 20)
    assert not set(generated[4:-1]) & {7, 8}


def test_the_check_asks_nothing_with_pad_or_end_tokens(
    pruned_decoder: TinyDecoder, tmp_path: Path
) -> None:
    # GenAI masks a pad token wherever it stands, so that a prompt with one has other answers.
    onnx_path = copy(pruned_decoder, tmp_path / "export")
    ids = {"pad_token_id": 2, "eos_token_id": 1}
    (tmp_path / "export" / "generation_config.json").write_text(json.dumps(ids))
    package_genai(OnnxSources(onnx=onnx_path), tmp_path / "package", CONFIG)
    assert check_genai(tmp_path / "package")["num_answers"] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ray": True}, "ray adds files to a Triton package, and a package for genai has no place"),
        ({"backend": "python"}, "backend is a setting of Triton packages, and genai runs"),
    ],
)
def test_what_only_triton_has_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        PackageConfig(to="genai", **settings)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"vocab_size": "99"}, r"config\.json.*vocab_size"),
        ("config.json", {"vocab_size": 99.5}, r"config\.json.*vocab_size"),
        ("config.json", {"num_attention_heads": [4]}, r"config\.json.*num_attention_heads"),
        ("config.json", {"hidden_size": {}}, r"config\.json.*hidden_size"),
        ("generation_config.json", {"eos_token_id": "</s>"}, r"generation_config\.json.*eos_token"),
        ("generation_config.json", {"pad_token_id": True}, r"generation_config\.json.*pad_token"),
    ],
)
def test_settings_of_another_type_are_refused(
    dense_decoder: TinyDecoder, tmp_path: Path, file: str, change: JsonObject, message: str
) -> None:
    onnx_path = copy(dense_decoder, tmp_path / "export")
    path = onnx_path.parent / file
    given = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**given, **change}))
    with pytest.raises(NirvanaError, match=message):
        package_genai(OnnxSources(onnx=onnx_path), tmp_path / "package", CONFIG)
    assert not (tmp_path / "package").exists()


def test_what_genai_cannot_hold_is_refused(dense_decoder: TinyDecoder, tmp_path: Path) -> None:
    out = tmp_path / "package"
    classifier = save_classifier(tmp_path / "classifier.onnx")
    with pytest.raises(NirvanaError, match=r"input_ids, attention_mask: expected a decoder with"):
        package_genai(OnnxSources(onnx=classifier), out, CONFIG)
    with pytest.raises(NirvanaError, match=r"holds one ONNX model, and --dense is another"):
        package_genai(OnnxSources(onnx=dense_decoder.onnx, dense=dense_decoder.onnx), out, CONFIG)
    onnx_path = copy(dense_decoder, tmp_path / "export")
    (tmp_path / "export" / "tokenizer.json").unlink()
    with pytest.raises(NirvanaError, match=r"tokenizer\.json is missing: GenAI reads text by it"):
        package_genai(OnnxSources(onnx=onnx_path), out, CONFIG)
    (tmp_path / "export" / "config.json").unlink()
    with pytest.raises(NirvanaError, match=r"config\.json cannot be read"):
        package_genai(OnnxSources(onnx=onnx_path), out, CONFIG)
    model = onnx.load(onnx_path)
    (key,) = [i for i in model.graph.input if i.name == "past_key_values.0.key"]
    key.type.tensor_type.shape.dim[1].dim_param = "heads"
    onnx.save(model, onnx_path)
    with pytest.raises(NirvanaError, match=r"past_key_values\.0\.key is .* whose heads and"):
        package_genai(OnnxSources(onnx=onnx_path), out, CONFIG)
    assert not out.exists()


def change_logits(generate: Any, change: float, *given: Any) -> list[int]:
    """Generate as GenAI does, with another number in the last logits."""
    tokens: list[int] = generate(*given)
    given[-1][-1][7] += change
    return tokens


def choose_last(generate: Any, *given: Any) -> list[int]:
    """Generate as GenAI does, but for the last token, which is the unlikeliest."""
    tokens: list[int] = generate(*given)
    return [*tokens[:-1], int(given[-1][-1].argmin())]


def test_other_tokens_or_another_tokenizer_are_found(
    dense_decoder: TinyDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package_genai(OnnxSources(onnx=dense_decoder.onnx), tmp_path / "package", CONFIG)
    wrong = "nirvana_deploy.serving.genai.generate"
    with monkeypatch.context() as patched:
        for change, reason in (
            (3.0, "differ from .* by 3"),
            (float("nan"), "differ from .* by inf"),
        ):
            patched.setattr(wrong, partial(change_logits, generate, change))
            with pytest.raises(NirvanaError, match=rf"GenAI goes on from \[1\] with .*{reason}"):
                check_genai(tmp_path / "package")
        patched.setattr(wrong, partial(choose_last, generate))
        with pytest.raises(NirvanaError, match=r"with \[\d+.*with the same choice in \d\d%"):
            check_genai(tmp_path / "package")
        patched.setattr(wrong, lambda model, prompt, num_new, logits: prompt)
        with pytest.raises(NirvanaError, match=r"GenAI gives no token after \[1\]"):
            check_genai(tmp_path / "package")
    onnx_path = copy(dense_decoder, tmp_path / "export")
    save_tokenizer(tmp_path / "export", alphabet=[])
    package_genai(OnnxSources(onnx=onnx_path), tmp_path / "other", CONFIG)
    with pytest.raises(NirvanaError, match=r"GenAI's tokenizer makes .* the model's own makes"):
        check_genai(tmp_path / "other")
    path = tmp_path / "package" / "genai_config.json"
    path.write_text(path.read_text().replace('"decoder",', '"unheard-of",', 1))
    with pytest.raises(NirvanaError, match=r"genai_config\.json has SHA-256"):
        check_genai(tmp_path / "package")
