"""The MNI152 template: real data that a package brings along."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmseg.datasets import BaseSegDataset

from ..registry import DATASETS
from .pipeline import run_pipeline

SLICES = dict(
    train=(*range(25, 69), *range(105, 141)),
    val=tuple(range(74, 85)),
    test=tuple(range(90, 100)),
)
# The same as volumes: the slices of each case; `middle` is held out.
SLABS = dict(below=(0, 69), middle=(74, 100), above=(105, 189))


@DATASETS.register_module()
class MNI152Dataset(BaseSegDataset):
    """Tissue segmentation on the 1 mm MNI152 T1 template that nilearn ships.

    Images are axial slices of the skull-stripped T1 volume, ``(233, 197)``,
    front up, one ``uint8`` channel. The template is left-right symmetric, so
    sagittal slices or hemispheres would put mirror images of the training
    data into the test; axial slices hold both sides. Slices count from the
    lowest; 25 to 140 hold the most brain. Held out is one block, 74 to 99,
    with 5 slices (5 mm) of gap to the training slices on both sides, and
    between its halves ``val`` (74 to 84) and ``test`` (90 to 99).

    Labels: 0 ``background`` is what nilearn's brain mask leaves out. Inside,
    the label is the largest of three probabilities: 2 ``grey_matter`` and 3
    ``white_matter`` are the template's tissue maps (over their maximum, as
    nilearn loads them), 1 ``csf_or_other`` is what they lack to 1. So 1 is
    mostly cerebrospinal fluid, and all else that is no grey or white matter.

    Samples carry ``img`` and ``gt_seg_map`` already: a pipeline may leave out
    ``LoadImage`` (which needs ``color='grayscale'`` here) and ``LoadMask``.
    ``img_path`` is a name such as ``mni152_axial_087``, no file.

    Source: Fonov et al., NeuroImage 54 (2011), ICBM 2009a nonlinear
    symmetric; free to use with its copyright notice.

    Args:
        split: ``'train'``, ``'val'``, ``'test'``; ``None``: all slices.
        volume: Whether to serve one sample, the whole volume ``(1, D, H, W)
            = (1, 189, 233, 197)`` with ``spacing`` (1, 1, 1) mm; axes are
            up, back, right. It cannot be split.
        pipeline: The transforms.
        test_mode: Whether samples are only predicted or measured.
        indices: Use the first ``indices`` samples, or these ones.
        lazy_init: Whether to wait with the list of samples.

    Raises:
        ImportError: nilearn is not installed.
        ValueError: There is no such split, or a volume is to be split.
    """

    METAINFO = dict(
        classes=('background', 'csf_or_other', 'grey_matter', 'white_matter'),
        palette=[[0, 0, 0], [66, 135, 245], [230, 110, 60], [245, 225, 150]],
    )

    def __init__(
        self,
        split: str | None = None,
        *,
        volume: bool = False,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        indices: int | Sequence[int] | None = None,
        lazy_init: bool = False,
    ) -> None:
        if split is not None and split not in SLICES:
            raise ValueError(
                f'MNI152Dataset: split must be one of {tuple(SLICES)} or '
                f'None, got {split!r}'
            )
        if volume and split is not None:
            raise ValueError(
                'MNI152Dataset: volume=True serves the whole volume; leave '
                f'split={split!r} out'
            )
        self.split = split
        self.volume = volume
        super().__init__(
            pipeline=list(pipeline),
            test_mode=test_mode,
            indices=indices,
            serialize_data=False,
            lazy_init=lazy_init,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Name the samples; the volume is read with the first of them."""
        if self.volume:
            return [dict(img_path='mni152_t1_volume')]
        slices = SLICES.get(self.split, range(25, 141))
        return [
            dict(img_path=f'mni152_axial_{z:03d}', slice_index=z)
            for z in slices
        ]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return sample ``idx`` with its image and labels, both copies."""
        sample = super().get_data_info(idx)
        image, labels = load_mni152()
        if self.volume:
            image = image[None]
            sample['spacing'] = (1.0, 1.0, 1.0)
        else:
            z = sample['slice_index']
            image, labels = image[z, ..., None], labels[z]
            sample['spacing'] = (1.0, 1.0)
        sample.update(
            img=image.copy(),
            gt_seg_map=labels.copy(),
            # In tests the truth keeps its grid when the image is resized.
            seg_fields=[] if self.test_mode else ['gt_seg_map'],
            img_shape=labels.shape,
            ori_shape=labels.shape,
            num_channels=1,
            num_classes=len(self.METAINFO['classes']),
            label_map=None,
            reduce_zero_label=False,
        )
        return sample

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on sample ``idx``; errors name it."""
        return run_pipeline(self.pipeline, self.get_data_info(idx))


@functools.cache
def load_mni152() -> tuple[np.ndarray, np.ndarray]:
    """Read the template once a process.

    Returns:
        T1 values 0..255 and labels (see ``MNI152Dataset``), both ``uint8``
        ``(D, H, W)``, read-only. Axes run up, back and to the right.

    Raises:
        ImportError: nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise ImportError(
            'MNI152Dataset reads the template that nilearn ships; '
            "pip install 'upernet_ext[quickstart]'"
        ) from error
    t1, grey, white, brain = (
        np.asarray(load(resolution=1).dataobj).transpose(2, 1, 0)[:, ::-1]
        for load in (
            datasets.load_mni152_template,
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_brain_mask,
        )
    )
    other = 1 - grey - white
    labels = np.argmax([other, grey, white], axis=0) + 1
    labels = np.where(brain > 0, labels, 0).astype(np.uint8)
    image = np.round(t1 * 255).astype(np.uint8)
    image.flags.writeable = labels.flags.writeable = False
    return image, labels


def write_mni152_cases(raw: str | Path) -> Path:
    """Write the template as a dataset in nnU-Net's raw format.

    Its cases are three slabs, with 5 mm between them: ``below`` and ``above``
    train, ``middle`` validates, in the only fold. Labels as in
    ``MNI152Dataset``.

    Args:
        raw: The folder of datasets; made where it is missing.

    Returns:
        The dataset's folder, ``Dataset152_MNI``.

    Raises:
        ImportError: nilearn is not installed.
    """
    image, labels = load_mni152()
    from nibabel import Nifti1Image, save
    from nilearn.datasets import load_mni152_template

    affine = load_mni152_template(resolution=1).affine
    root = Path(raw) / 'Dataset152_MNI'
    for folder, array, end in (
        ('imagesTr', image, '_0000'),
        ('labelsTr', labels, ''),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        # Back to the axes of the file: right, front, up.
        whole = Nifti1Image(array[:, ::-1].transpose(2, 1, 0), affine)
        for name, ends in SLABS.items():
            slab = whole.slicer[:, :, slice(*ends)]
            save(slab, root / folder / f'{name}{end}.nii.gz')
    names = MNI152Dataset.METAINFO['classes']
    description = dict(
        channel_names={'0': 'T1'},
        labels={name: i for i, name in enumerate(names)},
        numTraining=len(SLABS),
        file_ending='.nii.gz',
    )
    fold = dict(train=['above', 'below'], val=['middle'])
    for name, content in (
        ('dataset', description),
        ('splits_final', [fold]),
    ):
        text = json.dumps(content, indent=2)
        (root / f'{name}.json').write_text(f'{text}\n')
    return root
