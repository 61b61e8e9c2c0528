import pytest
import torch

from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.gates.attach_gates import warm_start
from pruning.gates.gate_kinds import GateUnits, HardConcrete, SoftSigmoid, StraightThrough
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.one_shot_start import draw_start_batches, make_start_task
from pruning.plans.cost import MacCost, dense_cost, group_cost
from pruning.plans.sub_block import SubBlock
from pruning.scoring.fisher import Fisher
from pruning.scoring.known_saliencies import find_saliency, score_units
from pruning.scoring.saliency import ScoringTask
from pruning.tasks.text_data import collate, load_text
from pruning.wirings.sites import find_sites
from tests.pruning.tiny_models import make_tiny
from tests.pruning.training.tiny_tasks import make_headed, make_tokenizer, write_rows

# A plain encoder, grouped queries, a cross-attention.
FAMILIES = pytest.mark.parametrize("name", ["bert", "llama", "bart"])
KINDS = pytest.mark.parametrize(
    "kind", [StraightThrough(), HardConcrete(), SoftSigmoid()], ids=["ste", "hc", "soft"]
)


def score_start(model, saliency: str, batches: list) -> dict:
    return score_units(find_saliency(saliency), make_start_task(model, batches))


def draw_scores(registry: GateRegistry) -> dict[SubBlock, torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    return {
        s: torch.rand(gates.units.logit.shape, generator=draw)
        for s, gates in registry.sub_block_gates()
    }


@KINDS
@FAMILIES
def test_a_warm_start_prunes_in_order_of_score_per_cost(name: str, kind) -> None:
    registry = GateRegistry.attach(make_tiny(name), MacCost(32), kind)
    scores = draw_scores(registry)
    blocks = registry.mlp_block_gate.logit.detach().clone()
    warm_start(registry, scores)
    logits, worth = [], []
    for sub_block, gates in registry.sub_block_gates():
        dims = registry.dims.layers[sub_block.layer]
        is_mlp = sub_block.part == "mlp"
        price = registry.cost.neuron_cost(dims) if is_mlp else group_cost(dims, registry.cost)
        logits.append(gates.units.logit.detach())
        worth.append(scores[sub_block] / price)
    assert torch.equal(torch.cat(logits).argsort(), torch.cat(worth).argsort())
    assert torch.cat(logits).min() > 0, "all gates start open"
    assert torch.cat(logits).max() == pytest.approx(registry.spread)
    assert torch.equal(registry.mlp_block_gate.logit.detach(), blocks)
    # A shift of half the spread closes half of the cost.
    for _, gates in registry.sub_block_gates():
        gates.units.logit.data -= registry.spread / 2
    if kind == StraightThrough():
        dearest = max(group_cost(dims, registry.cost) for dims in registry.dims.layers)
        unit = dearest / dense_cost(registry.dims, registry.cost)
        assert abs(float(registry.kept_density().detach()) - 0.5) < unit


def test_gates_that_do_not_learn_stay_open() -> None:
    registry = GateRegistry.attach(make_tiny("bert"), MacCost(32), units=GateUnits(neurons=False))
    warm_start(registry, draw_scores(registry))
    assert float(registry.mlps[0].gate_N.logit.min()) == 10.0
    assert float(registry.attentions[0].gate_H.logit.max().detach()) <= 12.0
    blocks_only = GateUnits(heads=False, neurons=False)
    warm_start(GateRegistry.attach(make_tiny("bert"), MacCost(32), units=blocks_only), {})


@pytest.mark.parametrize("task", ["classification", "question-answering", "seq2seq"])
def test_scores_come_of_training_rows_without_padding(task: str, tmp_path) -> None:
    tokenizer, model = make_tokenizer(tmp_path / "tokenizer"), make_headed(task)
    text = load_text(write_rows(tmp_path / "rows", task), tokenizer)
    scores = score_start(model, "fisher", draw_start_batches(text, tokenizer, 10, 1))
    rows = sorted(
        (text.train[i] for i in range(10)),
        key=lambda row: (
            len(row["input_ids"]),
            len(row["labels"]) if isinstance(row.get("labels"), list) else 0,
        ),
    )
    batches = [collate(tokenizer, [row]) for row in rows]
    sites = find_sites(model, read_model(model))
    expected = score_units(Fisher(), ScoringTask(model, sites, batches))
    for sub_block, score in expected.items():
        assert torch.equal(scores[sub_block], score)


def test_batches_are_not_padded(tmp_path) -> None:
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    text = load_text(write_rows(tmp_path / "rows", "classification"), tokenizer)
    batches = draw_start_batches(text, tokenizer, 20, 4)
    assert all(bool(batch["attention_mask"].all()) for batch in batches)
    sizes = [len(batch["labels"]) for batch in batches]
    assert sum(sizes) == 20
    assert max(sizes) > 1
    assert max(sizes) <= 4


def test_a_saliency_of_ones_own(tmp_path) -> None:
    own = "tests.pruning.scoring.test_known_saliencies:Own"
    scores = score_start(make_tiny("bert"), own, [])
    assert all(torch.equal(score, torch.ones_like(score)) for score in scores.values())
    with pytest.raises(NirvanaError, match="'fischer' is unknown"):
        score_start(make_tiny("bert"), "fischer", [])
