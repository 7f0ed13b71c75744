"""Random convolutions of any form: `accelerate` computes what XLA computes."""

from tests.rewriting.forms import Draw, cases, check, convolution


@cases(30)
def test_convolutions_of_any_form(seed):
    draw = Draw(seed)
    for number in range(10):
        call, given = convolution(draw)
        check(call, draw, given, twice=number % 4 == 0)
