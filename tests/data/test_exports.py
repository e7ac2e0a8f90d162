import pytest

import brainvq.data


@pytest.mark.parametrize("name", brainvq.data.__all__)
def test_every_name_of_the_package_can_be_had(name):
    value = getattr(brainvq.data, name)
    assert getattr(value, "__name__", name) == name
    assert name in dir(brainvq.data)


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="has no attribute 'no_such_thing'"):
        _ = brainvq.data.no_such_thing
