import pytest
import torch
from mmseg.models.decode_heads.psp_head import PPM as MMSegPPM  # noqa: N811

from upernet_ext.layers import PPM


@torch.no_grad()
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.filterwarnings('ignore:When align_corners=True')
def test_equals_mmseg(align_corners: bool) -> None:
    kwargs = dict(
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='ReLU'),
        align_corners=align_corners,
    )
    theirs = MMSegPPM((1, 2, 3, 6), 5, 4, conv_cfg=None, **kwargs)
    ours = PPM((1, 2, 3, 6), 5, 4, spatial_dims=2, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 11, 7)
    torch.testing.assert_close(ours(x), theirs(x))


@torch.no_grad()
def test_3d_cells_are_averages_of_their_voxels() -> None:
    ppm = PPM((2,), 1, 1, spatial_dims=3, norm_cfg=None, act_cfg=None)
    x = torch.randn(1, 1, 4, 6, 2)
    cells = ppm[0][0](x)
    wanted = x.unflatten(2, (2, 2)).unflatten(4, (2, 3)).unflatten(6, (2, 1))
    torch.testing.assert_close(cells, wanted.mean((3, 5, 7)))


@torch.no_grad()
def test_clipping_is_per_axis() -> None:
    ppm = PPM((6,), 1, 1, spatial_dims=2, norm_cfg=None, act_cfg=None)
    assert ppm[0][0](torch.zeros(1, 1, 4, 9)).shape[2:] == (4, 6)
