"""A matrix an axis is torch's interpolation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upernet_ext.layers.linear_resize import resize_matrix
from upernet_ext.layers.rank import resize

EDGE = st.integers(1, 17)


@given(
    low=st.lists(EDGE, min_size=2, max_size=3), high=EDGE, align=st.booleans()
)
def test_a_matrix_an_axis_is_the_interpolation(low, high, align):
    torch.manual_seed(sum(low) + high)
    x = torch.randn(2, 3, *low, dtype=torch.float64)
    size = [high + i for i in range(len(low))]
    found = x
    for axis, (small, large) in enumerate(zip(low, size, strict=True), 2):
        matrix = resize_matrix(small, large, align, torch.float64)
        found = torch.tensordot(matrix, found, ([1], [axis])).movedim(0, axis)
    torch.testing.assert_close(
        found, resize(x, size, align), rtol=1e-12, atol=1e-12
    )


def test_the_matrix_serves_training_after_inference():
    with torch.inference_mode():
        matrix = resize_matrix(5, 23)
    x = torch.randn(5, requires_grad=True)
    (matrix @ x).sum().backward()
    assert x.grad.sum() == pytest.approx(23, rel=1e-6)
