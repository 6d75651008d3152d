import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample

from upernet_ext.structures import GridData


@pytest.mark.parametrize('grid', [(4, 5), (3, 4, 5)])
def test_fields_share_a_grid_of_any_rank(grid: tuple) -> None:
    data = GridData(metainfo=dict(spacing=(1.0,) * len(grid)))
    assert data.shape is None
    data.labels = torch.zeros(1, *grid)
    data.scores = np.zeros((7, *grid))
    assert data.shape == grid
    data.labels = torch.ones(2, *grid)  # the same field again
    with pytest.raises(ValueError, match=r'grid \(9,.*but (labels|scores)'):
        data.other = torch.zeros(1, *[9] * len(grid))
    sample = SegDataSample()
    sample.gt_sem_seg = data
    assert sample.gt_sem_seg.spacing == (1.0,) * len(grid)


@pytest.mark.parametrize('grid', [(4, 5), (3, 4, 5)])
def test_crops_every_field(grid: tuple) -> None:
    values = torch.arange(np.prod(grid)).reshape(1, *grid)
    data = GridData(data=values, metainfo=dict(spacing=2))
    box = (slice(1, 3),) * len(grid)
    cropped = data[box]
    assert torch.equal(cropped.data, values[(slice(None), *box)])
    assert cropped.spacing == 2
    last = data[(-1,) * len(grid)]
    assert last.data.flatten().tolist() == [values.numel() - 1]
    with pytest.raises(ValueError, match='one slice an axis'):
        data[0]


def test_refuses() -> None:
    with pytest.raises(TypeError, match='tensor or an array, got list'):
        GridData(data=[1])
    with pytest.raises(ValueError, match='add the channel axis'):
        GridData(data=torch.zeros(3, 4))


def test_moves_to_a_device_and_to_numpy() -> None:
    data = GridData(data=torch.zeros(1, 2, 3, 4))
    assert data.to('meta').data.is_meta
    assert isinstance(data.numpy().data, np.ndarray)
