"""Random convolutions and products of any form: `accelerate` computes what XLA computes."""

import pytest

from tests.rewriting.forms import Draw, cases, check, convolution, product


@pytest.mark.slow
@cases(30)
def test_convolutions_of_any_form(seed):
    draw = Draw(seed)
    for number in range(10):
        call, given = convolution(draw)
        check(call, draw, given, twice=number % 4 == 0)


@pytest.mark.slow
@cases(2)
def test_products_in_16_bits(seed):
    draw = Draw(2000 + seed)
    for _ in range(4):
        call, given = product(draw)
        check(call, draw, given, twice=False)
