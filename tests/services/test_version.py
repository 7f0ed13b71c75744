"""Test the version, which all parts of the library may ask for."""

import jaxnet as jn
from jaxnet.services.version import version


def test_the_version_is_the_public_one():
    assert version() == jn.__version__
