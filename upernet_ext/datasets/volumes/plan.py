"""How a dataset is to be prepared and cut."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .labels import Labels
from .shared_work import digest
from .splits import Split

# Changes with the arithmetic of preprocessing, so that old caches are left.
VERSION = 1


@dataclass(frozen=True)
class Plan:
    """Everything that follows from a dataset and a configuration.

    Attributes:
        dataset: The dataset's name.
        configuration: ``'3d_fullres'``, ``'2d'``, or what nnUNetPlans.json
            calls it.
        channel_names: Of the input channels.
        labels: Classes and the values in files.
        axes: The source axis that becomes each axis: ``source.transpose(
            axes)``; the coarsest comes first.
        spacing: To resample to, in mm, of the transposed axes: ``(z, y,
            x)``, or ``(y, x)`` for 2D, where the first axis stays.
        patch_size: Of the transposed axes, as long as ``spacing``.
        batch_size: Patches in a batch.
        median_shape: Of the prepared cases, as long as ``spacing``.
        normalization: A key of ``normalization.SCHEMES`` a channel.
        use_mask_for_norm: Whether to normalise non-zero voxels only, a
            channel.
        intensities: Statistics of the foreground, a channel.
        file_ending: Of the volumes.
        source: The nnUNetPlans.json, or ``'fingerprint'``.
        folds: The names of cases to train and validate on, a fold.
    """

    dataset: str
    configuration: str
    channel_names: tuple[str, ...]
    labels: Labels
    axes: tuple[int, ...]
    spacing: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    median_shape: tuple[float, ...]
    normalization: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    intensities: tuple[Mapping[str, float], ...]
    file_ending: str
    source: str
    folds: tuple[Split, ...] = ()

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.spacing)

    @property
    def in_channels(self) -> int:
        """The number of input channels."""
        return len(self.channel_names)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes: with background, or regions without."""
        return self.labels.classes

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return len(self.classes)

    @property
    def multi_label(self) -> bool:
        """Whether classes are regions, each on its own."""
        return self.labels.multi_label

    @property
    def digest(self) -> str:
        """Ten characters that stand for all that preprocessing depends on."""
        content = self.to_dict()
        for key in ('patch_size', 'batch_size', 'median_shape', 'source'):
            del content[key]
        if 'ct' not in self.normalization:
            del content['intensities']
        return digest([VERSION, content])

    def to_dict(self) -> dict[str, Any]:
        """Return all but the folds as numbers, strings, lists and dicts."""
        content = asdict(replace(self, folds=()))
        del content['folds']
        return _to_lists(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> 'Plan':
        """Read what ``to_dict`` wrote.

        Raises:
            ValueError: Keys are missing or unknown.
        """
        needed = {field.name for field in fields(cls)} - {'folds'}
        if content.keys() != needed:
            raise ValueError(
                'a plan needs the keys '
                f'{", ".join(sorted(needed))}; differing: '
                f'{", ".join(sorted(needed ^ content.keys()))}'
            )
        values = {key: _to_tuples(value) for key, value in content.items()}
        values['labels'] = Labels(
            **{k: _to_tuples(v) for k, v in content['labels'].items()}
        )
        return cls(**values)


def _to_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_lists(item) for item in value]
    return value


def _to_tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_to_tuples(item) for item in value)
    return value
