"""ONNX's own node cases: all that jaxnet can say agree."""

import numpy as np
import pytest

from tools import onnx_cases as cases


def test_wrong_outputs_are_seen():
    """The comparison itself: a wrong value, a wrong shape and a missing output."""
    x, w = np.ones((2, 3), np.float32), np.full((3, 4), 2, np.float32)
    assert cases.say("Gemm", {}, [x, w], [x @ w]) == 0
    assert cases.say("Gemm", {}, [x, w], [x @ w + 0.01]) > 10
    with pytest.raises(AssertionError):
        cases.say("Gemm", {}, [x, w], [(x @ w)[:1]])
    with pytest.raises(cases.Unsaid, match="an output that the layer does not give"):
        cases.say("Dropout", {}, [x], [x, x > 0])


@pytest.mark.slow
def test_all_cases_that_can_be_said_agree(capsys):
    pytest.importorskip("onnx", reason="the cases are those of onnx 1.23")
    assert cases.main([]) == 0
    said, of = capsys.readouterr().out.split("in all")[1].split(";")[0].split("of")
    assert int(said) >= 314 and int(of) >= 368
