import pytest

from pruning.checkpoints.checkpoint import save_pruned
from pruning.checkpoints.model_skeleton import build_skeleton
from pruning.cutting.repack import read_dense, repack
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from tests.pruning.tiny_models import PLANS, make_tiny


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_a_dense_model_is_read(name: str, tmp_path) -> None:
    model = make_tiny(name)
    source = read_dense(model)
    assert source.current == PruningPlan.dense(source.dims, source.current.config_hash)
    model.config.save_pretrained(tmp_path)
    assert read_dense(build_skeleton(str(tmp_path))).dims == source.dims  # it needs no weights


@pytest.mark.parametrize("make_plan", PLANS.values(), ids=PLANS.keys())
@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_a_pruned_model_is_refused(name: str, make_plan, tmp_path) -> None:
    model = make_tiny(name)
    smaller = repack(model, make_plan(model))
    message = r"Expected a dense model .* was pruned before.*nirvana prune MODEL --plan FILE"
    with pytest.raises(NirvanaError, match=message):
        read_dense(smaller)
    save_pruned(smaller, tmp_path / "checkpoint")
    with pytest.raises(NirvanaError, match=message):
        read_dense(build_skeleton(str(tmp_path / "checkpoint")))


def test_what_cannot_be_pruned_is_refused_by_its_config(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "albert"}')
    with pytest.raises(NirvanaError, match="'albert' cannot be pruned: its layers share one set"):
        read_dense(build_skeleton(str(tmp_path)))
