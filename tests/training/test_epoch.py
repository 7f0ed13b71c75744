"""What an epoch says of itself."""

import xml.etree.ElementTree as ElementTree

import numpy as np

import jaxnet as jn


def epoch(**changes):
    fields = {
        "number": 2,
        "epochs": 10,
        "train_state": None,
        "train": {"loss": 0.5},
        "evaluation": {"loss": 0.25, "accuracy": 1.0, "matrix": np.eye(2)},
        "losses": np.ones(3),
        "seconds": 1.5,
        "step": 6,
        "steps": 30,
        "position": jn.training.Position(epoch=2, done=0, start=0, size=4),
    }
    return jn.Epoch(**fields | changes)  # type: ignore[arg-type]


def test_scalars_have_paths_and_leave_arrays_out():
    assert epoch().scalars() == {
        "epoch": 2,
        "step": 6,
        "train/loss": 0.5,
        "evaluation/loss": 0.25,
        "evaluation/accuracy": 1.0,
        "seconds": 1.5,
    }


def test_between_passes_it_prints_the_epoch_and_inside_one_the_step():
    plain = epoch(evaluation=None)
    assert str(plain) == repr(plain) == "epoch  2/10  |  loss 0.5000  |  1.5 s"
    inside = jn.training.Position(epoch=1, done=2, start=0, size=4)
    assert str(epoch(position=inside, evaluation=None)) == "step  6/30  |  loss 0.5000  |  1.5 s"
    assert "  |  evaluation loss 0.2500" in str(epoch(evaluation={"loss": 0.25}))
    assert str(epoch(epochs=None, steps=None, evaluation=None)).startswith("step 6  |")


def test_in_a_notebook_it_is_a_table_of_train_and_test():
    root = ElementTree.fromstring(epoch(evaluation={"loss": 0.25, "accuracy": 1.0})._repr_html_())
    assert root.find("table/caption").text == "epoch  2/10  |  1.5 s"  # type: ignore[union-attr]
    assert [cell.text for cell in root.iter("th")] == [None, "loss", "accuracy"]
    cells = [cell.text for cell in root.iter("td")]
    assert cells == ["train", "0.5000", None, "evaluation", "0.2500", "1.0000"]
    root = ElementTree.fromstring(epoch(evaluation=None)._repr_html_())
    assert [cell.text for cell in root.iter("td")] == ["train", "0.5000"]
