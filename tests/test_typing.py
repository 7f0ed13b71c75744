"""Types serve as annotations that hold for what the library returns."""

import typing

import jaxnet as jn


def test_types_of_data_and_params():
    (x, y), _ = jn.data.digits()
    assert typing.get_origin(jn.typing.Pair) is tuple
    assert all(
        isinstance(a, of) for a, of in zip((x, y), typing.get_args(jn.typing.Pair), strict=True)
    )
    assert (
        typing.get_origin(jn.typing.Params) is dict and typing.get_origin(jn.typing.State) is dict
    )


def test_functions_are_annotated_with_them():
    hints = typing.get_type_hints(jn.data.on_inputs)
    assert jn.typing.Augmentation in hints.values()
