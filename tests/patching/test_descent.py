"""Descent finds minima that are known, and a stopped training ends as an unbroken one."""

import math
import os

import pytest
import torch
from safetensors.torch import save_file

from patching.descent import STATE, Parameter, Schedule, descend
from patching.files.tensors import read_tensors, write_tensors
from patching.history import History, plot_history

TARGET = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def noisy(values, step):
    """A bowl around the target, seen through noise and a few examples."""
    shift = 0.01 * torch.randn(3, generator=step.noise, dtype=torch.float64)
    loss = ((values["x"] - TARGET - shift) ** 2).sum() + 0 * step.rows.sum()
    return loss, {"rows": float(step.rows.double().mean())}


def start(rate=0.05):
    return {"x": Parameter(torch.zeros(3, dtype=torch.float64), rate)}


def run(schedule, objective=noisy, facts=None):
    return descend(start(), objective, 7, schedule, facts=facts or {"of": "bowl"})


class Stopped(Exception):
    pass


def stopping_at(number):
    def objective(values, step):
        if step.number == number:
            raise Stopped
        return noisy(values, step)

    return objective


def test_the_bottom_of_a_bowl_is_found():
    values, history = run(Schedule(steps=300))
    torch.testing.assert_close(values["x"], TARGET, atol=0.03, rtol=0)  # noise of 0.01
    assert history.steps == 300
    assert history.stopped == "all steps done"
    assert history.last("loss") < 0.01


def test_a_multiplier_ascends_until_its_constraint_holds():
    """min x^2 so that x = 1: the saddle is at x = 1 with the multiplier -2."""

    def objective(values, step):
        x, by = values["x"], values["by"]
        return x**2 + by * (x - 1) + 4 * (x - 1) ** 2, {}

    zero = torch.zeros((), dtype=torch.float64)
    parameters = {"x": Parameter(zero, 0.02), "by": Parameter(zero, 0.02, ascends=True)}
    values, _ = descend(parameters, objective, 1, Schedule(steps=1500), facts={})
    assert float(values["x"]) == pytest.approx(1, abs=0.02)
    assert float(values["by"]) == pytest.approx(-2, abs=0.1)


@pytest.mark.parametrize("stop", [1, 10, 33])
def test_stopped_anywhere_and_resumed_ends_bit_for_bit_as_unbroken(tmp_path, stop):
    unbroken, history = run(Schedule(steps=40, batch_size=2))
    schedule = Schedule(steps=40, batch_size=2, folder=tmp_path, save_every=4)
    with pytest.raises(Stopped):
        run(schedule, stopping_at(stop))
    values, resumed = run(schedule)
    assert torch.equal(values["x"], unbroken["x"])
    assert all(torch.equal(resumed.curves[name], history.curves[name]) for name in history.curves)
    again, _ = run(schedule, stopping_at(0))  # finished: no step is taken
    assert torch.equal(again["x"], unbroken["x"])


def test_seeds_draw_other_batches_and_every_epoch_sees_all_examples_once():
    seen = []

    def objective(values, step):
        seen.append(step.rows.tolist())
        return values["x"].sum() ** 2, {}

    run(Schedule(steps=14, batch_size=3), objective)
    run(Schedule(steps=14, batch_size=3, seed=1), objective)
    assert seen[:14] != seen[14:]
    for epoch in range(7):
        rows = [row for some in seen[2 * epoch : 2 * epoch + 2] for row in some]
        assert len(set(rows)) == 6  # of 7; a last batch of one is left for the next epoch


def test_training_stops_when_nothing_is_gained():
    _, history = run(Schedule(steps=3000, patience=100))
    assert history.stopped == "no further gain"
    assert 200 < history.steps < 1500


def test_a_state_of_another_training_is_refused(tmp_path):
    run(Schedule(steps=3, folder=tmp_path))
    with pytest.raises(ValueError, match=r"another training \(schedule.seed differ\)"):
        run(Schedule(steps=3, seed=1, folder=tmp_path))
    with pytest.raises(ValueError, match=r"another training \(of differ\)"):
        run(Schedule(steps=3, folder=tmp_path), facts={"of": "another"})
    save_file({"a": torch.zeros(1)}, tmp_path / STATE)
    with pytest.raises(ValueError, match="is no training state of a kind that this program reads"):
        run(Schedule(steps=3, folder=tmp_path))


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / STATE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        run(Schedule(steps=3, folder=tmp_path))


def test_a_state_with_a_flipped_bit_is_refused(tmp_path):
    run(Schedule(steps=3, folder=tmp_path))
    content = bytearray((tmp_path / STATE).read_bytes())
    content[-3] ^= 1
    (tmp_path / STATE).write_bytes(content)
    with pytest.raises(ValueError, match="altered after it was written"):
        run(Schedule(steps=5, folder=tmp_path))


TAMPERED = {
    "a tensor is missing": lambda t: t.pop("means x"),
    "one has another shape": lambda t: t.update({"values x": t["values x"][:2].clone()}),
    "one has more axes": lambda t: t.update({"values x": t["values x"].reshape(1, 3)}),
    "one has another type": lambda t: t.update({"values x": t["values x"].float()}),
    "one is none": lambda t: t.update({"squares x": t["squares x"] * math.nan}),
    "squares are below 0": lambda t: t.update({"squares x": -1 - t["squares x"]}),
    "there is one more": lambda t: t.update({"values y": t["values x"].clone()}),
    "a curve is a square": lambda t: t.update({"curve loss": t["curve loss"].reshape(2, 2)}),
    "a curve is a number": lambda t: t.update({"curve loss": torch.tensor(3.0).double()}),
    "a curve has another type": lambda t: t.update({"curve rows": torch.zeros(4)}),
    "the loss is cut": lambda t: t.update({"curve loss": t["curve loss"][:2].clone()}),
    "the loss is missing": lambda t: t.pop("curve loss"),
    "a curve is too long": lambda t: t.update({"curve loss": torch.zeros(999).double()}),
    "the loss is none": lambda t: t.update({"curve loss": t["curve loss"] / 0}),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_a_state_of_valid_checksum_and_other_tensors_is_refused(tmp_path, change):
    plan = Schedule(steps=4, save_every=1, folder=tmp_path)
    run(plan)
    tensors, facts = read_tensors(tmp_path / STATE, "training state 1")
    TAMPERED[change](tensors)
    write_tensors(tmp_path / STATE, tensors, "training state 1", facts)
    with pytest.raises(ValueError, match="state.safetensors"):
        run(plan)


def test_a_pipe_in_the_place_of_a_state_is_refused(tmp_path):
    os.mkfifo(tmp_path / STATE)
    with pytest.raises(ValueError, match="state.safetensors is a device or a pipe"):
        run(Schedule(steps=1, folder=tmp_path))


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="the loss is nan at step 0; a lower learning rate"):
        run(Schedule(steps=3), lambda values, step: (values["x"].sum() * math.nan, {}))


@pytest.mark.parametrize("name", ["steps", "batch_size", "patience", "save_every"])
def test_schedules_count_from_one(name):
    with pytest.raises(ValueError, match=f"{name} is 0; at least 1 would be right"):
        Schedule(**{name: 0})


def test_curves_are_drawn_one_panel_each():
    curves = {"loss": torch.rand(50).double(), "edges": torch.arange(50).double()}
    figure = plot_history(History(curves, "all steps done"), title="bowl")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "edges"]
    smooth = figure.axes[1].lines[1].get_ydata()
    assert smooth[:2].tolist() == [0.0, 0.5]  # means over the last two
    assert figure.axes[0].get_title() == "bowl"


def test_unknown_curves_are_refused():
    with pytest.raises(ValueError, match="no curve named 'lost'; there are loss"):
        History({"loss": torch.zeros(2).double()}, "").last("lost")


def test_a_rate_grows_and_falls_as_the_schedule_says():
    schedule = Schedule(steps=10, warm_up=4, cool_down=0.5)
    assert [schedule.factor(n) for n in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [schedule.factor(n) for n in range(5, 10)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert Schedule(steps=10).factor(0) == Schedule(steps=10).factor(9) == 1
    assert schedule.options != Schedule(steps=10).options
    with pytest.raises(ValueError, match="a share from 0 to 1 would be right"):
        Schedule(cool_down=2.0)


def test_what_an_objective_keeps_is_put_back_where_it_goes_on(tmp_path):
    def counting(kept, stop):
        def objective(values, step):
            if step.number == stop:
                raise Stopped
            kept["seen"] += step.number
            return values["x"].sum() ** 2 + kept["seen"].sum(), {}

        return objective

    schedule = Schedule(steps=12, folder=tmp_path, save_every=4)
    parameters = {"x": Parameter(torch.zeros(3, dtype=torch.float64), 0.1)}
    kept = {"seen": torch.zeros(2)}
    with pytest.raises(Stopped):
        descend(parameters, counting(kept, 10), 7, schedule, facts={}, kept=kept)
    again = {"seen": torch.zeros(2)}
    descend(parameters, counting(again, None), 7, schedule, facts={}, kept=again)
    assert again["seen"].tolist() == [66, 66]
