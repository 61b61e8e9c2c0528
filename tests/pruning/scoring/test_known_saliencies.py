from __future__ import annotations

import re

import pytest
import torch

from pruning.errors import NirvanaError
from pruning.plans.sub_block import SubBlock
from pruning.scoring.fisher import Taylor
from pruning.scoring.known_saliencies import SALIENCIES, find_saliency, score_units
from pruning.scoring.saliency import Scores, ScoringTask
from pruning.scoring.unit_weights import Magnitude
from tests.pruning.oneshot.tiny_tasks import make_task

HERE = "tests.pruning.scoring.test_known_saliencies"


class Own:
    """A user's saliency, which changes what it wants to."""

    def __init__(self, **changes: object) -> None:
        self.changes = {SubBlock.from_name(name.strip("_")): v for name, v in changes.items()}

    def score(self, task: ScoringTask) -> Scores:
        scores = {s: torch.ones(site.num_units) for s, site in task.sites.items()} | self.changes
        return {s: score for s, score in scores.items() if score is not None}


class Picky:
    def __init__(self, strength: float) -> None:
        self.strength = strength


class Careless:
    """Leaves gradients, and another mode."""

    def score(self, task: ScoringTask) -> Scores:
        task.model.train()
        task.model(**task.batches[0]).loss.backward()
        task.model.requires_grad_(False)
        return {s: torch.zeros(site.num_units) for s, site in task.sites.items()}


own_instance = Own()
no_saliency = 3


class TestFindSaliency:
    @pytest.mark.parametrize("name", ["magnitude", "taylor", "fisher", "nirvana", "flap", "obs"])
    def test_gives_the_known_ones(self, name: str) -> None:
        assert type(find_saliency(name)) is SALIENCIES[name]
        assert type(find_saliency(name)).__name__.lower() == name

    def test_imports_a_class_or_an_instance(self) -> None:
        assert type(find_saliency(f"{HERE}:Own")) is Own
        assert find_saliency(f"{HERE}:own_instance") is own_instance

    def test_refuses_an_unknown_name(self) -> None:
        message = (
            "Saliency 'fischer' is unknown. Did you mean 'fisher'? Known: obs, nirvana, fisher, "
            "taylor, flap, magnitude; your own goes by its import path, package.module:Name"
        )
        with pytest.raises(NirvanaError, match=re.escape(message)):
            find_saliency("fischer")

    def test_has_no_suggestion_where_nothing_is_near(self) -> None:
        with pytest.raises(NirvanaError, match=r"'xyzzy' is unknown\. Known: obs"):
            find_saliency("xyzzy")

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("no_such_module:Name", "No module named"),
            (f"{HERE}:Absent", "has no attribute 'Absent'"),
            (":Name", "Empty module name"),
        ],
    )
    def test_refuses_what_cannot_be_imported(self, path: str, reason: str) -> None:
        with pytest.raises(NirvanaError, match=f"cannot be imported: .*{reason}.*PYTHONPATH"):
            find_saliency(path)

    def test_refuses_a_class_with_arguments(self) -> None:
        with pytest.raises(NirvanaError, match=r"cannot be made without arguments: .*strength"):
            find_saliency(f"{HERE}:Picky")

    @pytest.mark.parametrize(("name", "kind"), [("no_saliency", "int"), ("make_task", "make_task")])
    def test_refuses_what_does_not_score(self, name: str, kind: str) -> None:
        with pytest.raises(NirvanaError, match=rf":{name}' \({kind}\) has no method `score`"):
            find_saliency(f"{HERE}:{name}")


class TestScoreUnits:
    @pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "t5"])
    @pytest.mark.parametrize("name", [*SALIENCIES])
    def test_leaves_the_model_as_it_was(self, family: str, name: str) -> None:
        task = make_task(family)
        model = task.model.train()
        next(iter(task.sites.values())).block.eval()  # frozen by its owner
        frozen = next(iter(model.parameters())).requires_grad_(False)
        last = [*model.parameters()][-1]
        last.grad = torch.ones_like(last)
        state = {n: t.clone() for n, t in (*model.state_dict().items(), *model.named_buffers())}
        modes = [module.training for module in model.modules()]
        needs = [p.requires_grad for p in model.parameters()]
        scores = score_units(find_saliency(name), task)
        assert [*scores] == [*task.sites]
        assert all(
            scores[s].shape == (x.num_units,) and scores[s].dtype == torch.float32
            for s, x in task.sites.items()
        )
        now = dict((*model.state_dict().items(), *model.named_buffers()))
        assert all(torch.equal(now[n], tensor) for n, tensor in state.items())
        assert [module.training for module in model.modules()] == modes
        assert [p.requires_grad for p in model.parameters()] == needs
        assert not frozen.requires_grad
        assert last.grad is not None and (last.grad == 1).all()
        assert all(p.grad is None for p in model.parameters() if p is not last)

    def test_scores_in_evaluation_mode(self) -> None:
        task = make_task("bert", hidden_dropout_prob=0.5)
        expected = score_units(Taylor(), task)
        task.model.train()
        found = score_units(Taylor(), task)
        assert all(torch.equal(found[s], expected[s]) for s in expected)

    def test_cleans_up_after_a_careless_saliency(self) -> None:
        task = make_task("bert")
        score_units(Careless(), task)
        assert not task.model.training
        assert all(p.requires_grad and p.grad is None for p in task.model.parameters())

    def test_cleans_up_after_a_failure(self) -> None:
        task = make_task("bert", num_batches=0)
        with pytest.raises(NirvanaError, match="no calibration batches"):
            score_units(Taylor(), task)
        assert all(p.requires_grad and p.grad is None for p in task.model.parameters())

    @pytest.mark.parametrize("name", ["taylor", "fisher", "nirvana", "flap", "magnitude"])
    def test_works_in_bfloat16(self, name: str) -> None:
        task = make_task("llama")
        expected = score_units(find_saliency(name), task)
        task.model.bfloat16()
        found = score_units(find_saliency(name), task)
        for sub_block, score in found.items():
            both = torch.stack((score, expected[sub_block]))
            assert torch.corrcoef(both)[0, 1] > 0.9

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"1.mlp": None}, r"Own gave no scores for 1\.mlp. Expected all 6 sub-blocks"),
            ({"7.mlp": torch.ones(3)}, r"gave scores for 7\.mlp, which the model does not have"),
            ({"1.attention": torch.ones(5)}, r"1\.attention: .* the shape \[5\]. Expected \[4\]"),
            ({"1.attention": torch.ones(4, 1)}, r"1\.attention: .* shape \[4, 1\]. Expected \[4\]"),
            ({"1.mlp": [1.0] * 48}, r"1\.mlp: the scores are a list. Expected a tensor \[48\]"),
            (
                {"2.attention": torch.tensor([0, float("nan"), 0, float("inf")])},
                r"2\.attention: 2 of 4 scores are not finite, the first of unit 1 \(nan\)",
            ),
        ],
    )
    def test_refuses_wrong_results(self, changes: dict, message: str) -> None:
        with pytest.raises(NirvanaError, match=message):
            score_units(Own(**changes), make_task("bert"))

    def test_names_no_more_than_three(self) -> None:
        absent = {f"{layer}.{part}": None for layer in (0, 1) for part in ("attention", "mlp")}
        with pytest.raises(
            NirvanaError, match=r"for 0\.attention, 0\.mlp, 1\.attention and 1 more"
        ):
            score_units(Own(**absent), make_task("bert"))

    def test_refuses_what_is_no_dict(self) -> None:
        class Lists:
            def score(self, task: ScoringTask) -> Scores:
                return [1.0]  # type: ignore[return-value]

        with pytest.raises(NirvanaError, match=r"Lists returned a list\. Expected a dict"):
            score_units(Lists(), make_task("bert"))


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "t5"])
@pytest.mark.parametrize("name", ["taylor", "fisher", "nirvana", "flap", "obs"])
def test_a_unit_that_gives_nothing_is_worth_least(family: str, name: str) -> None:
    task = make_task(family)
    for site in task.sites.values():
        with torch.no_grad():
            site.output_weight()[:, site.channels(torch.tensor([2]))] = 0
    for score in score_units(find_saliency(name), task).values():
        assert score[2] == score.min()
        assert name == "flap" or score[2] == 0


def test_magnitude_of_nothing_is_zero() -> None:
    task = make_task("bert")
    site = task.sites[SubBlock(1, "mlp")]
    with torch.no_grad():
        site.output_weight()[:, 5] = 0
        site.inputs[0][1].weight[5] = 0
    score = score_units(Magnitude(), task)[site.sub_block]
    assert score[5] == 0 and (score > 0).sum() == site.num_units - 1


@pytest.mark.parametrize("name", [*SALIENCIES])
def test_scores_move_with_their_units(name: str) -> None:
    task = make_task("llama")  # 3 KV groups of 2 query heads of 8
    expected = score_units(find_saliency(name), task)
    neurons = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    groups = torch.tensor([2, 0, 1])
    keys = torch.arange(24).view(3, 8)[groups].flatten()
    queries = torch.arange(48).view(3, 16)[groups].flatten()
    for layer in task.model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for module, rows in (
            (attention.q_proj, queries),
            (attention.k_proj, keys),
            (attention.v_proj, keys),
            (mlp.gate_proj, neurons),
            (mlp.up_proj, neurons),
        ):
            module.weight.data = module.weight.data[rows]
        attention.o_proj.weight.data = attention.o_proj.weight.data[:, queries]
        mlp.down_proj.weight.data = mlp.down_proj.weight.data[:, neurons]
    for sub_block, score in score_units(find_saliency(name), task).items():
        order = neurons if sub_block.part == "mlp" else groups
        torch.testing.assert_close(score, expected[sub_block][order], rtol=1e-3, atol=1e-5)
