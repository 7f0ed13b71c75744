"""What a script of small steps may be; tests/rewriting/test_scripts.py has what it computes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.native import instructions
from jaxnet.ops.native.script import COMBINE, MAP, MOVE, REDUCE, SELECT, TIMES, Script, run
from tests.helpers import close

pytestmark = pytest.mark.skipif(instructions() is None, reason="there are no kernels in C")

X = np.arange(6, dtype=np.float32)
FIRST, RESULT = 1 << 40, 2 << 40  # places of the operand and of the result
FAR = 1 << 30


def test_steps_read_what_steps_before_them_wrote():
    script = Script(operands=1)
    x, middle, y = script.operand(0), script.memory(6), script.result(0)
    script.map("neg", 6, x, middle)
    script.combine("mul", 6, (middle, 6), (script.operand(0, 2), 1), y)
    close(run(script, [(2, 3)], [jnp.asarray(X)])[0], (-2 * X).reshape(2, 3))


WRONG = {
    "an unknown kind": [6, 0, 0, 0],
    "a negative kind": [-1, 0, 0, 0],
    "too few numbers": [MAP, 0, 6, FIRST],
    "an unknown function": [MAP, 8, 6, FIRST, RESULT],
    "a negative function": [MAP, -1, 6, FIRST, RESULT],
    "more than the operand has": [MAP, 0, 7, FIRST, RESULT],
    "a place behind the operand": [MAP, 0, 6, FIRST + 1, RESULT],
    "more than the memory has": [MAP, 0, 6, FIRST, 0],
    "a space that is not there": [MAP, 0, 6, 3 << 40, RESULT],
    "a negative place": [MAP, 0, 6, -1, RESULT],
    "a negative count": [MAP, 0, -6, FIRST, RESULT],
    "a huge count": [MAP, 0, 1 << 62, FIRST, RESULT],
    "a second operand that is too long": [COMBINE, 0, 6, FIRST, 1, FIRST + 1, 1, RESULT],
    "a choice of too many": [SELECT, 7, FIRST, FIRST, RESULT],
    "a copy that goes too far": [MOVE, FIRST, RESULT, 1, 1, 2, 3, 0, 0, 3, 2, 0, 0, 3, 1],
    "a copy backwards": [MOVE, FIRST, RESULT, 1, 1, 1, 3, 0, 0, 0, -1, 0, 0, 0, 1],
    "sizes whose product overflows": [MOVE, FIRST, RESULT, FAR, FAR, FAR, FAR, *[0] * 8],
    "sums of too many": [REDUCE, 0, 2, 4, FIRST, RESULT],
    "a product of too many": [TIMES, 0, 1, 2, 3, 4, FIRST, FIRST, 0, RESULT],
    "another step by batch": [TIMES, 0, 1, 1, 2, 1, FIRST, FIRST, 1, RESULT],
    "sizes of a product that overflow": [TIMES, 0, FAR, FAR, FAR, FAR, FIRST, FIRST, 0, RESULT],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_step_outside_of_its_arrays_is_an_error(name):
    script = Script(operands=1)
    script.numbers = WRONG[name]
    with pytest.raises(Exception, match="jaxnet: not good"):
        np.asarray(run(script, [(6,)], [jnp.asarray(X)])[0])


def test_only_float32_is_read():
    script = Script(operands=1)
    script.map("neg", 6, script.operand(0), script.result(0))
    with pytest.raises(Exception, match="all_float32"):
        np.asarray(run(script, [(6,)], [jnp.arange(6)])[0])
