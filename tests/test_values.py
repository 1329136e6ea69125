import math

import pytest

from slab_det.errors import InputError, InputTypeError
from slab_det.values import check_count, check_flag, check_fraction, check_point, check_tolerance

WRONG_TYPE = [None, '1', [1], True]


@pytest.mark.parametrize('value', WRONG_TYPE)
@pytest.mark.parametrize('check', [check_count, check_tolerance, check_fraction, check_point])
def test_values_of_a_wrong_type_are_named(check, value):
    with pytest.raises(InputError, match='size=') as error:
        check('size', value)
    assert str(error.value).startswith(f'size={value!r}')


@pytest.mark.parametrize('check', [check_count, check_tolerance])
def test_a_wrong_type_is_a_type_error_and_a_wrong_value_is_not(check):
    with pytest.raises(InputTypeError):
        check('size', None)
    with pytest.raises(InputError) as error:
        check('size', -1)
    assert not isinstance(error.value, TypeError)


@pytest.mark.parametrize(
    'check, good, bad',
    [
        (check_count, [0, 5], [-1, 0.5, math.nan]),
        (check_tolerance, [0, 0.5, 3], [-0.1, math.nan]),
        (check_fraction, [0, 0.5, 1, 1.0], [-0.1, 1.1, 2, math.nan]),
        (check_point, [0, 7, 0.0, 0.5, 1.0], [-1, -0.5, 1.5, math.inf, math.nan]),
        (check_flag, [True, False], [0, 1, 'False', None]),
    ],
)
def test_the_range_of_each_check(check, good, bad):
    for value in good:
        check('size', value)
    for value in bad:
        with pytest.raises(InputError, match='size='):
            check('size', value)
