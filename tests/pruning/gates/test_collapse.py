from dataclasses import replace

from pruning.cutting.wiring_inference import read_model
from pruning.gates.canary import CollapseWatch
from pruning.plans.plan import LayerPlan
from tests.pruning.tiny_models import make_tiny


def test_what_closed_is_told_once_kept_with_its_step_and_forgotten_when_it_opens() -> None:
    dims = read_model(make_tiny("bert")).dims
    whole = [LayerPlan.dense(stack) for stack in dims.layers]
    emptied = [replace(whole[0], kept_neurons=()), *whole[1:]]
    both = [emptied[0], replace(whole[1], kept_heads=None), whole[2]]
    watch = CollapseWatch(dims)
    assert watch.look(whole, 1) is None
    assert "Step 2 closed every gate of 0.mlp:" in (watch.look(emptied, 2) or "")
    assert watch.look(emptied, 3) is None
    assert "Step 4 closed every gate of 1.attention:" in (watch.look(both, 4) or "")
    assert watch.collapsed == {"0.mlp": 2, "1.attention": 4}
    resumed = CollapseWatch(dims)
    resumed.restore(watch.to_json())
    assert resumed.look(both, 5) is None
    assert resumed.collapsed == watch.collapsed
    assert resumed.look(whole, 6) is None
    assert resumed.collapsed == {}
    assert "Step 7 closed" in (resumed.look(emptied, 7) or "")
