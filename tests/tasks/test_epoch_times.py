"""What a training says of the time that is left: epochs that were worked through, not the start of processes."""

from types import SimpleNamespace

import pytest
import torch

from vidact.tasks.keeping import EpochLines


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("vidact.tasks.keeping.time.perf_counter", lambda: self.now)


def lines(monkeypatch, capsys, epochs, **trainer):
    """The lines of epochs that take 10 s, after a minute in which loader processes start."""
    clock, said = Clock(monkeypatch), EpochLines()
    run = SimpleNamespace(
        current_epoch=0, global_step=0, max_steps=-1, max_epochs=10, is_global_zero=True, callback_metrics={}, **{}
    )
    vars(run).update(trainer)
    said.on_fit_start(run, None)
    for epoch in range(epochs):
        run.current_epoch = epoch
        said.on_train_epoch_start(run, None)
        clock.now += 60 if epoch == 0 else 0
        for batch in range(5):
            said.on_train_batch_start(run, None, None, batch)
            clock.now += 2
            run.global_step += 1
        run.callback_metrics = {"train_loss": torch.tensor(0.5)}
        said.on_train_epoch_end(run, None)
    return capsys.readouterr().out.splitlines()


def test_start_up_is_no_epoch(monkeypatch, capsys):
    first, second = lines(monkeypatch, capsys, 2)
    assert first == "epoch   1/10  train_loss 0.500  10.0 s an epoch, 1.5 min left"
    assert second == "epoch   2/10  train_loss 0.500  10.0 s an epoch, 1.3 min left"


@pytest.mark.parametrize("epochs", [10, -1])
def test_steps_may_end_a_training_first(epochs, monkeypatch, capsys):
    """Five steps an epoch and 20 steps in all: 3 epochs are left after the first, whatever the number of epochs."""
    (line,) = lines(monkeypatch, capsys, 1, max_epochs=epochs, max_steps=20)
    assert line.endswith("10.0 s an epoch, 0.5 min left")


def test_nothing_is_said_where_nothing_is_known(monkeypatch, capsys):
    (line,) = lines(monkeypatch, capsys, 1, max_epochs=-1)
    assert line == "epoch   1  train_loss 0.500  10.0 s an epoch"
