"""Small datasets of volumes on disk."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from mmengine.logging import MMLogger
from scipy import ndimage

Make = Callable[..., Path]


def save_volume(
    path: Path, array: np.ndarray, spacing: Sequence[float] = (1, 1, 1)
) -> Path:
    """Write ``(z, y, x)`` with its spacing, as any of the file types."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(('.nii', '.nii.gz')):
        affine = np.diag([*spacing[::-1], 1])
        nibabel.save(nibabel.Nifti1Image(array.T, affine), path)
    else:
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing([float(mm) for mm in spacing[::-1]])
        # The same place in the world as the NIfTI's.
        image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
        SimpleITK.WriteImage(image, str(path))
    return path


def draw_case(
    shape: Sequence[int], num_labels: int, *, border: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw blobs of labels and an image of them in a frame of zeros."""
    rng = np.random.default_rng(seed)
    fields = rng.normal(size=(num_labels, *shape))
    fields = np.stack([ndimage.gaussian_filter(f, 2) for f in fields])
    labels = fields.argmax(0).astype(np.uint8)
    image = ndimage.gaussian_filter(rng.normal(size=shape), 1)
    image = (image * 300 + 100 + 50 * labels).astype(np.float32)
    inside = np.zeros(shape, bool)
    inside[tuple(slice(border, size - border) for size in shape)] = True
    return image * inside, labels * inside


@pytest.fixture
def make_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a function that writes a dataset in nnU-Net's raw format."""
    monkeypatch.setenv('nnUNet_raw', str(tmp_path / 'raw'))
    monkeypatch.setenv('nnUNet_preprocessed', str(tmp_path / 'preprocessed'))
    monkeypatch.setenv('nnUNet_results', str(tmp_path / 'results'))

    def make(
        name: str = 'Dataset004_Blobs',
        *,
        channels: Sequence[str] = ('MRI',),
        labels: dict | None = None,
        num_labels: int = 3,
        num_cases: int = 5,
        num_tests: int = 0,
        shape: Sequence[int] = (10, 12, 14),
        spacings: Sequence[Sequence[float]] = ((1, 1, 1),),
        border: int = 1,
        ending: str = '.nii.gz',
        **more: object,
    ) -> Path:
        root = tmp_path / 'raw' / name
        parts = ['Tr'] * num_cases + ['Ts'] * num_tests
        for i, part in enumerate(parts):
            case = f'case_{i:02d}'
            # Every case has a shape of its own.
            size = [s + i * (axis + 1) % 3 for axis, s in enumerate(shape)]
            spacing = spacings[i % len(spacings)]
            image, truth = draw_case(size, num_labels, border=border, seed=i)
            for c in range(len(channels)):
                path = root / f'images{part}' / f'{case}_{c:04d}{ending}'
                save_volume(path, image * (c + 1), spacing)
            if part == 'Tr':
                save_volume(
                    root / 'labelsTr' / f'{case}{ending}', truth, spacing
                )
        description = dict(
            channel_names={str(i): c for i, c in enumerate(channels)},
            labels=labels or dict(background=0, left=1, right=2),
            numTraining=num_cases,
            file_ending=ending,
            **more,
        )
        (root / 'dataset.json').write_text(json.dumps(description))
        return root

    return make


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """Return a function that tells what was logged."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: '\n'.join(r.getMessage() for r in caplog.records)
    logger.removeHandler(caplog.handler)
