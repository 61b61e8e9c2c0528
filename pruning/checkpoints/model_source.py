"""Where a model comes from: a folder, a hub id, or a folder inside an installed PyPI package.

torch and transformers are imported where a model is loaded: a wrong path is refused at once.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.checkpoints.remote_code import explain_remote_code, is_remote_code_allowed
from pruning.errors import NirvanaError, NirvanaWarning
from pruning.strict_json import JsonMapping

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PYPI_PREFIX = "pypi:"
# What transformers loads weights from, with the indexes of shards.
_WEIGHT_ENDINGS = (".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json")
# Inside a model, what is stored by some versions of transformers or for other heads, and not read.
_MAY_BE_STORED = re.compile(
    r"pooler|position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias|relative_position_index"
)
_NAMED = 4  # tensors in a message, of many


def resolve_model(source: str) -> str:
    """Return the folder of a local or packaged model, or the hub id as it is.

    Raises:
        NirvanaError: the package is not installed or has no model in it, or the source looks like
            a path and no model is there.
    """
    if source.startswith(PYPI_PREFIX):
        return str(_find_packaged_model(source.removeprefix(PYPI_PREFIX)))
    folder = Path(source)
    if folder.is_file():
        refuse_onnx(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        refuse_onnx(source)
        raise NirvanaError(
            f"Expected a Hugging Face model in {source}, found no config.json there."
        )
    if not folder.is_dir() and (source.count("/") != 1 or source.startswith((".", "/", "~"))):
        if source.count("/") == 0 and not source.startswith((".", "~")):
            return source  # a canonical hub id such as bert-base-uncased
        raise NirvanaError(
            f"There is no model folder at {source}. Expected a local folder, a hub id "
            "(owner/name), or pypi:PACKAGE."
        )
    return source


def require_weights(source: str) -> str:
    """Return what `resolve_model` does, for work that reads the weights, too.

    Raises:
        NirvanaError: besides, where `source` is ONNX, or a folder without weights.
    """
    refuse_onnx(source)
    path = resolve_model(source)
    folder = Path(path)
    if folder.is_dir() and not any(any(folder.glob(f"*{ending}")) for ending in _WEIGHT_ENDINGS):
        raise NirvanaError(
            f"Expected a model with weights in {source}, found config.json and no *.safetensors. "
            "Copy the weights there, or give the folder that has them."
        )
    return path


def fetch_model(source: str) -> Path:
    """Return the folder of a model, fetching one that is on the hub."""
    refuse_onnx(source)
    path = resolve_model(source)
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    try:
        # *.py: a pruned checkpoint's manifest has its code, which is not run.
        wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.md", "*.py"]
        return Path(snapshot_download(path, allow_patterns=wanted))
    except Exception as error:
        raise NirvanaError(_explain(source, path, error)) from error


def load_stock_model(auto_class: Any, source: str, **kwargs: object) -> Any:
    """Load a model by one of transformers' auto classes; turn its failures into clear errors.

    Code of the model's folder runs only within `allow_remote_code`, and transformers never asks.
    """
    path = resolve_model(source)
    if is_remote_code_allowed() and auto_class.__name__.startswith("Auto"):
        kwargs["trust_remote_code"] = True
    else:
        kwargs["trust_remote_code"] = False
    try:
        with quiet_transformers():
            return auto_class.from_pretrained(path, **kwargs)
    except NirvanaError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error) and not is_remote_code_allowed():
            raise NirvanaError(explain_remote_code(path)) from error
        raise NirvanaError(_explain(source, path, error)) from error


def find_own_class(config: JsonMapping, name: str, source: str) -> object:
    """Return the class `name` of the code in the folder of `source`; None where it has none.

    Raises:
        NirvanaError: the code is not allowed to run, or fails.
    """
    path = resolve_model(source)
    places = [value for value in (config.get("auto_map") or {}).values() if isinstance(value, str)]
    place = next((value for value in places if value.rpartition(".")[2] == name), None)
    if place is None:
        return None
    if not is_remote_code_allowed():
        raise NirvanaError(explain_remote_code(path))
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    try:
        return get_class_from_dynamic_module(place, path)
    except Exception as error:
        raise NirvanaError(_explain(source, path, error)) from error


def load_model(auto_class: object, source: str, **kwargs: object) -> Any:
    """Load a model as `load_stock_model` does, and compare its weights with its config.

    Tied tensors need not be stored, nor the pooler of a model without a head, whose output is not
    used. Heads of other tasks and buffers that may be stored are ignored. A warning tells of NaN.

    Raises:
        NirvanaError: besides, where a file of weights is missing, corrupt or not what the index
            says, a tensor is missing or has another size, or the model itself has more than the
            config asks for.
    """
    return load_with_head(auto_class, source, fresh=False, **kwargs)[0]


def load_with_head(
    auto_class: object, source: str, *, fresh: bool, **kwargs: Any
) -> tuple[Any, tuple[str, ...]]:
    """Load a model as `load_model` does, and return it with the names of tensors drawn at random.

    With `fresh`, a head (and pooler) that the weights lack is drawn at random, to be trained. So it
    is, with `ignore_mismatched_sizes`, for a head of another size.
    """
    from pruning.checkpoints.checkpoint_source import INDEX_FILE, SINGLE_FILE, list_tensors

    path = Path(require_weights(source))
    if (path / SINGLE_FILE).is_file() or (path / INDEX_FILE).is_file():
        list_tensors(path)
    replaces_head = kwargs.pop("ignore_mismatched_sizes", False)
    asked = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # told below, in words
    model, info = load_stock_model(auto_class, source, **asked, **kwargs)
    _check_loading(model, info, source, replaces_head, fresh)
    warn_of_nan(model.named_parameters(), source)
    replaced = [name for name, _, _ in info["mismatched_keys"]]
    return model, tuple(sorted({*info["missing_keys"], *replaced}))


def warn_of_nan(tensors: Iterable[tuple[str, torch.Tensor]], source: str) -> list[str]:
    """Warn of tensors that hold NaN or infinity, and return their names."""
    names = [name for name, tensor in tensors if has_nan(tensor)]
    if names:
        warnings.warn(
            f"{source}: {len(names)} tensors hold NaN or infinity, the first is {names[0]}. "
            "What is computed from them is worthless.",
            NirvanaWarning,
            stacklevel=2,
        )
    return names


def has_nan(tensor: torch.Tensor) -> bool:
    """Return whether a floating-point tensor holds NaN or infinity."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.element_size() == 1:
        return False
    import torch

    least, most = torch.aminmax(tensor.detach())
    return not bool(torch.isfinite(least) & torch.isfinite(most))


def _check_loading(
    model: PreTrainedModel, info: dict[str, Any], source: str, replaces_head: bool, fresh: bool
) -> None:
    prefix = f"{model.base_model_prefix}."
    has_head = hasattr(model, model.base_model_prefix)

    def is_in_body(name: str) -> bool:
        return name.startswith(prefix) or not has_head

    for name, stored, made in sorted(info["mismatched_keys"]):
        if is_in_body(name) or not replaces_head:
            raise NirvanaError(
                f"The config of {source} makes {name} {list(made)}, the weights have "
                f"{list(stored)}: they are of different models. Put the config beside the weights "
                "it belongs to."
            )
    may_lack_pooler = fresh or not has_head
    missing = [
        name
        for name in sorted(info["missing_keys"])
        if not (may_lack_pooler and "pooler" in name) and (is_in_body(name) or not fresh)
    ]
    if missing:
        raise NirvanaError(_describe_missing(model, info, source, missing, is_in_body))
    # A block that is not there has the name of one that is, but for the number.
    blocks = {_name_block(name) for name, _ in model.named_parameters()} - {""}
    extra = [
        name
        for name in sorted(info["unexpected_keys"])
        if _name_block(name) in blocks
        or prefix + _name_block(name) in blocks
        or (has_head and name.startswith(prefix) and not _MAY_BE_STORED.search(name))
    ]
    if extra:
        raise NirvanaError(
            f"The weights of {source} hold {len(extra)} tensors more than its config asks for: "
            f"{name_first(extra)}. They are of different models (put the config beside "
            "the weights it belongs to), or adapters were not merged."
        )


def _describe_missing(
    model: PreTrainedModel,
    info: dict[str, Any],
    source: str,
    missing: list[str],
    is_in_body: Callable[[str], bool],
) -> str:
    told = (
        f"The weights of {source} lack {len(missing)} tensors that its config asks for: "
        f"{name_first(missing)}."
    )
    if any(is_in_body(name) and "pooler" not in name for name in missing):
        return f"{told} Fetch or save the model again."
    stored = [n for n in sorted(info["unexpected_keys"]) if not _MAY_BE_STORED.search(n)]
    instead = f" They hold {name_first(stored)} instead." if stored else ""
    return (
        f"{told}{instead} {type(model).__name__} would compute with random values there. Save the "
        "fine-tuned model again with its head, name the class that was saved in `architectures` of "
        "config.json, or have a head trained: nirvana deploy --model MODEL."
    )


def name_first(names: Sequence[str]) -> str:
    """Return the first names of many."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" (and {rest} more)" if rest > 0 else "")


def refuse_onnx(source: str) -> None:
    """Raise NirvanaError where a path names ONNX, or another file, instead of a checkpoint."""
    path = Path(source)
    is_export = path.is_dir() and any(path.glob("*.onnx")) and not any(path.glob("*.safetensors"))
    if is_export or (path.is_file() and path.suffix.lower() == ".onnx"):
        raise NirvanaError(
            f"{source} is {'a folder of ONNX files' if is_export else 'an ONNX file'}. Expected a "
            "checkpoint: a folder with config.json and *.safetensors, a hub id (owner/name), or "
            "pypi:PACKAGE. Give the checkpoint that it was exported from; `nirvana surgeon` prunes "
            "an ONNX file, `nirvana build` makes an engine of it, `nirvana verify` and `nirvana "
            "profile` take it as it is."
        )
    if path.is_file():
        of_folder = path.suffix in (".json", ".safetensors")
        raise NirvanaError(
            f"{source} is a file. Expected a checkpoint: a folder with config.json and "
            "*.safetensors, a hub id (owner/name), or pypi:PACKAGE. "
            + (
                "Give the folder that it is in."
                if of_folder
                else "Load its model in transformers and save it by save_pretrained to a folder."
            )
        )


def _name_block(name: str) -> str:
    """Return what comes before the first number in a name, "" where there is none."""
    found = re.match(r"(.*?\.)\d+\.", "." + name)
    return found[1].removeprefix(".") if found else ""


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from reporting what is meant (a fresh head), and from drawing bars."""
    from transformers.utils import logging as hf_logging

    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def _find_packaged_model(package: str) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise NirvanaError(
            f"The model of {PYPI_PREFIX}{package} needs that package. Install it: "
            f"pip install {package} (the demo's comes with pip install 'nirvana-deploy[demo]')"
        ) from error
    folders = {Path(str(file.locate())).parent for file in files if file.name == "config.json"}
    models = sorted(f for f in folders if any(f.glob("*.safetensors")))
    if not models:
        raise NirvanaError(f"The package {package} holds no config.json beside a *.safetensors.")
    return models[0]


def _explain(source: str, path: str, error: Exception) -> str:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "Safetensor" in type(error).__name__:
        return (
            f"The weights in {path} are corrupt: {first_line}. Expected whole *.safetensors files; "
            "fetch or save the model again."
        )
    if Path(path).is_dir():
        return f"The model in {path} cannot be loaded: {first_line}"
    return (
        f"Cannot load the model {source!r}: {first_line} Expected a local folder, a hub id that is "
        "reachable or cached, or pypi:PACKAGE."
    )
