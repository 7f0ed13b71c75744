import numpy as np
import pytest

from experiments import camvid


@pytest.mark.slow
def test_the_table_has_means_over_seeds():
    two = np.zeros((2, 11, 11), int)
    two[:, 0, 0] = 3
    two[1, 0, 1] = 3  # half of the first class are predicted as the second
    text = str(camvid.table({"8s": two, "32s": two}))
    # mean over the classes that occur: 1 and (1/2 + 0) / 2
    assert "sky" in text and "0.750" in text and "0.6250" in text and "66.67%" in text
