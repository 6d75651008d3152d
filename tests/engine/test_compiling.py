"""Parts that are compiled compute what they did."""

import pytest
import torch
from mmseg.structures import SegDataSample
from torch import nn

from upernet_ext.engine import compile_parts
from upernet_ext.models import EncoderDecoder
from upernet_ext.structures import GridData

# dynamo looks at what torch warns of.
pytestmark = pytest.mark.filterwarnings('ignore')


def _segmentor(**kwargs) -> EncoderDecoder:
    torch.manual_seed(0)
    backbone = dict(
        type='upernet_ext.VisionTransformer',
        arch=dict(embed_dims=32, num_layers=2, num_heads=2),
        patch_size=8,
        img_size=32,
        out_indices=(0, 1),
    )
    return EncoderDecoder(
        backbone,
        dict(type='upernet_ext.UPerHead', channels=16),
        neck=dict(
            type='upernet_ext.MultiLevelNeck', out_channels=16, scales=(2, 1)
        ),
        auxiliary_head=dict(type='upernet_ext.FCNHead', channels=16),
        num_classes=3,
        **kwargs,
    )


def _losses(model: nn.Module, inputs, labels) -> list[torch.Tensor]:
    torch.manual_seed(1)
    samples = []
    for label in labels:
        sample = SegDataSample()
        sample.gt_sem_seg = GridData(data=label[None])
        samples.append(sample)
    losses = model.loss(inputs, samples)
    total = sum(v for k, v in losses.items() if 'loss' in k)
    gradients = torch.autograd.grad(total, list(model.parameters()))
    return [total, *gradients]


def test_compiled_parts_compute_the_same() -> None:
    torch._dynamo.reset()
    model, compiled = _segmentor().eval(), _segmentor().eval()
    names = compile_parts(compiled, backend='aot_eager')
    assert names == ['backbone', 'neck', 'decode_head', 'auxiliary_head']
    assert list(compiled.state_dict()) == list(model.state_dict())
    inputs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(inputs), model(inputs), rtol=1e-4, atol=1e-5
        )
    labels = torch.randint(3, (2, 32, 32))
    torch.testing.assert_close(
        _losses(compiled, inputs, labels),
        _losses(model, inputs, labels),
        rtol=1e-4,
        atol=1e-5,
    )


def test_results_of_cuda_graphs_are_copied() -> None:
    torch._dynamo.reset()
    net = nn.Module()
    net.backbone = nn.Identity()
    compile_parts(net, mode='reduce-overhead')
    x = torch.randn(2)
    y = net.backbone(x)
    assert torch.equal(x, y)
    assert y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize('setting', [dict(backend='eager'), False])
def test_a_run_compiles_its_parts_and_not_its_step(
    make_runner, setting
) -> None:
    torch._dynamo.reset()
    plain, runner = make_runner(), make_runner(cfg=dict(compile=setting))
    plain.train()
    runner.model.backbone = runner.model.layer
    runner.train()
    assert ('forward' in vars(runner.model.layer)) == bool(setting)
    assert 'train_step' not in vars(runner.model)
    torch.testing.assert_close(
        runner.model.layer.state_dict(), plain.model.layer.state_dict()
    )


@pytest.mark.parametrize('setting', [dict(target='forward'), 'yes'])
def test_other_settings_are_refused(make_runner, setting) -> None:
    with pytest.raises(ValueError, match='without `target`'):
        make_runner(cfg=dict(compile=setting)).train()


def test_a_model_without_parts_is_refused() -> None:
    with pytest.raises(ValueError, match='nothing to compile'):
        compile_parts(nn.Linear(1, 1))
