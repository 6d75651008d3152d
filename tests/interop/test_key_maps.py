"""Maps of names, against the libraries' own models."""

import pytest
import torch
from mmseg.models import MobileNetV2
from torch import Tensor, nn

from upernet_ext.interop import load_pretrained
from upernet_ext.models import TransformersBackbone


def _randomise(net: nn.Module) -> nn.Module:
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.normal_(std=0.2)
        if 'running_var' in name:
            value.uniform_(0.5, 2)
    return net.eval()


@pytest.mark.needs_torchvision
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@torch.no_grad()
def test_mobilenet_v2_of_torchvision(tmp_path) -> None:
    from torchvision import models

    theirs = _randomise(models.mobilenet_v2(width_mult=0.25))
    torch.save(theirs.state_dict(), tmp_path / 'a.pth')
    ours = MobileNetV2(widen_factor=0.25, out_indices=(1, 2, 4, 6))
    # torchvision never narrows the last convolution; mmseg has none.
    receipt = load_pretrained(
        ours,
        dict(
            checkpoint=str(tmp_path / 'a.pth'),
            key_map='torchvision.mobilenet_v2',
        ),
    )
    assert {k.split('.')[0] for k in receipt.unused} == {
        'features',
        'classifier',
    }
    assert receipt.renamed['features.18.1.weight'] == 'conv2.bn.weight'
    ours.eval()
    x = torch.randn(1, 3, 64, 96)
    wanted, ends = [], (3, 6, 13, 17)
    y: Tensor = x
    for i, layer in enumerate(theirs.features):
        y = layer(y)
        if i in ends:
            wanted.append(y)
    for mine, yours in zip(ours(x), wanted, strict=True):
        torch.testing.assert_close(mine, yours)


@pytest.mark.filterwarnings('ignore::FutureWarning')
@torch.no_grad()
def test_convnext_classifier_of_transformers(tmp_path) -> None:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    sizes = dict(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 2, 1])
    theirs = _randomise(
        ConvNextForImageClassification(ConvNextConfig(**sizes))
    )
    torch.save(theirs.state_dict(), tmp_path / 'a.pth')
    ours = TransformersBackbone('convnext', sizes)
    receipt = load_pretrained(ours, str(tmp_path / 'a.pth'))
    assert set(receipt.unused) == {
        'classifier.weight',
        'classifier.bias',
        'convnext.layernorm.weight',
        'convnext.layernorm.bias',
    }
    ours.eval()
    x = torch.randn(1, 3, 64, 64)
    hidden = theirs(x, output_hidden_states=True).hidden_states
    for mine, yours in zip(ours(x), hidden[1:], strict=True):
        # the backbone adds a fresh layer norm over channels to each level
        mean, var = (
            yours.mean(1, keepdim=True),
            yours.var(1, keepdim=True, correction=0),
        )
        torch.testing.assert_close(
            mine, (yours - mean) / (var + 1e-6).sqrt(), rtol=1e-4, atol=1e-4
        )


def test_stage_wise_depth_of_convnext() -> None:
    net = TransformersBackbone(
        'convnext', dict(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
    )
    depths = {n: net.get_layer_depth(n)[0] for n, _ in net.named_parameters()}
    assert {d for n, d in depths.items() if 'embeddings' in n} == {0}
    assert {d for n, d in depths.items() if 'downsampling' in n} == {0}
    for stage in range(4):
        found = {d for n, d in depths.items() if f'stages.{stage}.layers' in n}
        assert found == {stage + 1}
    assert {d for n, d in depths.items() if 'hidden_states' in n} == {7}


def test_unknown_transformers_type_and_unknown_depth() -> None:
    with pytest.raises(ValueError, match="no model type 'convnxet'"):
        TransformersBackbone('convnxet')
    resnet = TransformersBackbone(
        'resnet',
        dict(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4),
    )
    with pytest.raises(ValueError, match='resnet is not known'):
        resnet.get_layer_depth('model.x')
