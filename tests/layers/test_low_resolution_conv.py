"""The products that a convolution at low resolution is made of."""

import pytest
import torch

from upernet_ext.layers.low_resolution_conv import (
    kernel_of,
    product,
    product_last,
    rows_of,
    tap_matrix,
)


def test_the_matrix_of_an_unresized_axis_shifts() -> None:
    """Tap 0 of three sees the pixel before, tap 2 the one behind."""
    matrix = tap_matrix(4, 4, 3, 1, False, torch.float64, torch.device('cpu'))
    x = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    before, here, behind = (m @ x for m in matrix.split(4, 1))
    assert before.tolist() == [0, 1, 2, 3]
    assert here.tolist() == [1, 2, 3, 4]
    assert behind.tolist() == [2, 3, 4, 0]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(
    'shape', [(1, 3, 4), (3, 5, 4), (2, 18, 40), (2, 96, 300), (1, 96, 300)]
)
def test_products_are_those_of_matrices(
    shape: tuple, dtype: torch.dtype
) -> None:
    """By MKL or oneDNN, whatever the size."""
    x = torch.randn(shape, dtype=dtype)
    left = torch.randn(7, shape[1], dtype=dtype)
    right = torch.randn(shape[2], 7, dtype=dtype)
    torch.testing.assert_close(
        product(left, x), left @ x, rtol=1e-5, atol=1e-4
    )
    torch.testing.assert_close(
        product_last(x, right), x @ right, rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize('rows', [(1, 700), (9, 80)])
def test_the_product_of_the_last_axis_is_not_copied(rows: tuple) -> None:
    """What torch copies into the plain order comes back with its strides."""
    x = torch.randn(*rows, 96)
    for matrix in (torch.randn(96, 128), torch.randn(128, 96).T):
        assert product_last(x, matrix).is_contiguous()


@pytest.mark.parametrize('taps', [(3,), (3, 1), (5, 3, 1)])
def test_rows_are_the_taps_of_each_output_channel(taps: tuple) -> None:
    kernel = torch.randn(4, 6, *taps)
    rows = rows_of(kernel)
    torch.testing.assert_close(
        rows.view(4, -1, 6)[3, 0], kernel[3, :].flatten(1)[:, 0]
    )
    torch.testing.assert_close(kernel_of(rows, taps), kernel)
