import numpy as np
import pytest
import torch

from upernet_ext.structures import CaseGeometry

CASES = {
    'identity': dict(
        ori_shape=(3, 4, 5),
        axes=(0, 1, 2),
        crop_box=((0, 3), (0, 4), (0, 5)),
    ),
    'transposed': dict(
        ori_shape=(3, 4, 5),
        axes=(2, 0, 1),  # no permutation that is its own inverse
        crop_box=((0, 5), (0, 3), (0, 4)),
    ),
    'cropped': dict(
        ori_shape=(3, 4, 5),
        axes=(0, 1, 2),
        crop_box=((1, 3), (0, 1), (2, 4)),
    ),
    'both': dict(
        ori_shape=(3, 4, 5),
        axes=(1, 2, 0),
        crop_box=((1, 3), (2, 5), (0, 2)),
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_what_was_cut_out_comes_back_to_its_place(name: str) -> None:
    metainfo = CASES[name]
    geometry = CaseGeometry.from_metainfo(metainfo)
    source = torch.arange(1, 61).reshape(1, 3, 4, 5)
    transposed = source[0].numpy().transpose(metainfo['axes'])
    box = tuple(slice(*ends) for ends in metainfo['crop_box'])
    cut = torch.from_numpy(transposed[box].copy())[None]
    assert geometry.box_shape == cut.shape[1:]
    pasted = geometry.paste(cut)
    assert pasted.shape == source.shape
    there = torch.isin(source, cut)
    assert torch.equal(pasted, torch.where(there, source, 0))
    assert pasted.is_contiguous()


def test_channels_and_dtypes_stay() -> None:
    geometry = CaseGeometry.from_metainfo(CASES['both'])
    labels = torch.randint(2, (3, *geometry.box_shape), dtype=torch.uint8)
    pasted = geometry.paste(labels)
    assert pasted.dtype == torch.uint8
    assert pasted.shape == (3, 3, 4, 5)
    for one, three in zip(labels, pasted, strict=True):
        assert torch.equal(geometry.paste(one[None])[0], three)


def test_metainfo_of_other_samples() -> None:
    assert CaseGeometry.from_metainfo(dict(ori_shape=(4, 5))) is None
    given = CaseGeometry.from_metainfo(
        dict(ori_shape=np.array([3, 4]), crop_box=np.array([[0, 2], [1, 4]]))
    )
    assert given.axes == (0, 1)
    assert given.box_shape == (2, 3)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(crop_box=((0, 3), (0, 4), (0, 6))), r'c1: crop_box=.*\(3, 4, 5'),
        (dict(crop_box=((0, 3), (0, 4), (5, 5))), 'c1: crop_box='),
        (dict(crop_box=((-1, 3), (0, 4), (0, 5))), 'c1: crop_box='),
        (dict(crop_box=((0, 3), (0, 4))), 'c1: crop_box='),
        (dict(axes=(0, 2, 1)), r'c1: crop_box=.*must lie in .*\(3, 5, 4\)'),
        (dict(axes=(0, 1, 1)), r'c1: axes=\(0, 1, 1\) must be a permutation'),
    ],
)
def test_wrong_geometry_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaseGeometry.from_metainfo(
            {**CASES['identity'], **change, 'case': 'c1'}
        )
