"""Several trained models as one: the folds of a dataset."""

from collections.abc import Sequence
from typing import Any

from mmseg.structures import SegDataSample
from torch import Tensor, nn

from .encoder_decoder import EncoderDecoder
from .lazy_logits import LazyLogits, mean_of
from .predicting_model import PredictingModel


class Ensemble(PredictingModel, nn.Module):
    """Predict with the mean of the models' logits, as nnU-Net its folds.

    The mean is taken of every window, so that a volume needs no more memory
    than with one model; the weights of all models are in memory together.

    Args:
        models: They agree in classes, rank and ``data_preprocessor``; the
            first one's ``test_cfg`` and threshold count.

    Raises:
        ValueError: There are none, or their outputs differ.
    """

    def __init__(self, models: Sequence[EncoderDecoder]) -> None:
        super().__init__()
        if not models:
            raise ValueError('an Ensemble needs at least one model')
        outputs = [(m.out_channels, m.use_sigmoid) for m in models]
        ranks = [m.spatial_dims for m in models]
        if len(set(outputs)) > 1 or len(set(ranks)) > 1:
            raise ValueError(
                'the models of an Ensemble must agree, got (logits, sigmoid) '
                f'{outputs} and spatial_dims {ranks}'
            )
        self.models = nn.ModuleList(models)
        first = models[0]
        self.test_cfg = first.test_cfg
        self.align_corners = first.align_corners
        self.out_channels, self.use_sigmoid = outputs[0]
        self.spatial_dims = first.spatial_dims

    @property
    def decode_head(self) -> nn.Module:
        """The first model's, whose threshold decides."""
        return self.models[0].decode_head

    def lazy_logits(self, inputs: Tensor) -> LazyLogits:
        """Average the logits ``(N, K, *S)``, at least float32."""
        parts = (model.lazy_logits(inputs) for model in self.models)
        return mean_of(parts, len(self.models))

    def encode_decode(
        self, inputs: Tensor, batch_img_metas: Sequence[dict] | None = None
    ) -> Tensor:
        """Compute what ``lazy_logits`` promises."""
        return self.lazy_logits(inputs).full()

    def test_step(self, data: dict[str, Any]) -> list[SegDataSample]:
        """Preprocess and segment a batch of the dataloader."""
        batch = self.models[0].data_preprocessor(data, False)
        return self.predict(batch['inputs'], batch['data_samples'])
