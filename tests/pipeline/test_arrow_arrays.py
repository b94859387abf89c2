import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.pipeline.arrow_arrays import of_numbers, of_values
from speechmill.pipeline.tokenize.schema import ROW_SCHEMA

VALUES = {
    pa.string(): st.text(st.characters(exclude_categories=["Cs"])),
    pa.float64(): st.floats(allow_nan=False),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.uint8(): st.integers(0, 2**8 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
}


def test_every_type_of_a_row_is_compared_here():
    assert {field.type for field in ROW_SCHEMA if field.name != "metadata"} == set(VALUES)


@pytest.mark.parametrize("type", VALUES, ids=str)
@given(data=st.data())
def test_values_become_the_array_that_pyarrow_makes(type, data):
    values = data.draw(st.lists(st.none() | VALUES[type], max_size=20))
    made = of_values(values, type)
    made.validate(full=True)
    assert made.equals(pa.array(values, type))


@pytest.mark.parametrize("value", [-1, 2**8])
def test_a_number_that_the_type_cannot_hold_is_refused(value):
    with pytest.raises(OverflowError):
        of_values([value], pa.uint8())


def test_a_part_of_an_array_becomes_its_numbers():
    numbers = np.arange(20, dtype=np.int64)
    for part in (numbers, numbers[3:], numbers[::2], numbers[:0]):
        made = of_numbers(part)
        made.validate(full=True)
        assert made.equals(pa.array(part))
