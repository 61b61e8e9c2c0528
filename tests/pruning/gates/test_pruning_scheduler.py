import pytest

from pruning.errors import NirvanaError
from pruning.gates.prune_config import ScheduleConfig
from pruning.gates.pruning_scheduler import PruningScheduler


def make(kind="stepwise", num_steps=100, budget=0.5, num_stages=4, prune_fraction=0.4):
    config = ScheduleConfig(kind=kind, num_stages=num_stages, prune_fraction=prune_fraction)
    return PruningScheduler(config=config, budget=budget, num_steps=num_steps)


def test_the_target_falls_in_equal_steps_and_stays() -> None:
    scheduler = make()
    assert [scheduler.target(s) for s in (0, 9, 10, 20, 30, 39, 40, 99)] == pytest.approx(
        [0.875, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5, 0.5]
    )


@pytest.mark.parametrize("kind", ["stepwise", "linear", "cubic"])
@pytest.mark.parametrize("num_steps", [10, 33, 100])
def test_the_target_never_rises_and_reaches_the_budget_while_learning(kind, num_steps) -> None:
    scheduler = make(kind, num_steps)
    targets = [scheduler.target(step) for step in range(num_steps)]
    assert targets == sorted(targets, reverse=True)
    assert targets[0] < 1
    assert targets[scheduler.num_learning_steps - 1] == pytest.approx(0.5)


def test_cubic_falls_faster_at_first_than_linear() -> None:
    assert make("cubic").target(5) < make("linear").target(5)


@pytest.mark.parametrize("num_steps", [10, 33, 100])
def test_each_stage_ends_once_and_the_last_with_the_learning(num_steps: int) -> None:
    scheduler = make(num_steps=num_steps)
    ends = [step for step in range(num_steps + 1) if scheduler.ends_stage(step)]
    assert len(ends) == 4
    assert ends[-1] == scheduler.num_learning_steps
    assert not scheduler.is_learning(ends[-1])
    assert [scheduler.stage(step - 1) for step in ends] == [1, 2, 3, 4]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(
        NirvanaError, match="kind must be one of stepwise, linear, cubic, at_budget, got 'cub'"
    ):
        ScheduleConfig(kind="cub")


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(NirvanaError, match="each of the 4 pruning stages, got 3 of 8 steps"):
        make(num_steps=8)


def test_targets_follow_their_formulas() -> None:
    # 40 steps learn; the last of 5 equal parts is left for the gates to settle: T = 32.
    cut, ramp = 0.6, 32
    for step in range(40):
        share = min(1.0, (step + 1) / ramp)
        linear, cubic = make("linear", budget=0.4), make("cubic", budget=0.4)
        assert linear.target(step) == pytest.approx(1 - cut * share)
        assert cubic.target(step) == pytest.approx(1 - cut * (1 - (1 - share) ** 3))
        stage = 1 + step // 10
        assert make(budget=0.4).target(step) == pytest.approx(1 - cut * stage / 4)
