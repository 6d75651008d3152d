"""A run whose checkpoints hold adapters, neck and head alone."""

import pytest
import torch
from mmseg.structures import SegDataSample

from upernet_ext.config import ConfigError
from upernet_ext.engine import SaveTrainable
from upernet_ext.interop import WeightsError, read_checkpoint
from upernet_ext.models import EncoderDecoder, VisionTransformer
from upernet_ext.structures import GridData

ARCH = dict(embed_dims=8, num_layers=4, num_heads=2)
SIZES = dict(patch_size=4, out_indices=(0, 1, 2, 3))
LORA = dict(type='lora', rank=2, dropout=0.0)


class Halves(torch.utils.data.Dataset):
    metainfo = dict(classes=['dark', 'bright'])

    def __len__(self):
        return 6

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(3, 16, 16, generator=generator) * 50
        image[..., index + 4 :] += 150
        sample = SegDataSample()
        labels = (image[:1] > 100).long()
        sample.gt_sem_seg = GridData(data=labels)
        return dict(inputs=image, data_samples=sample)


def save_base(path, seed, img_size=16):
    torch.manual_seed(seed)
    vit = VisionTransformer(ARCH, img_size=img_size, **SIZES)
    vit.init_weights()
    for parameter in vit.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    torch.save(vit.state_dict(), path)


def build_model(pretrained, tuning=LORA):
    torch.manual_seed(7)
    norm = dict(type='BN')
    return EncoderDecoder(
        backbone=dict(
            type='upernet_ext.VisionTransformer',
            arch=ARCH,
            img_size=16,
            pretrained=pretrained and str(pretrained),
            **SIZES,
        ),
        neck=dict(type='upernet_ext.MultiLevelNeck', out_channels=8),
        decode_head=dict(
            type='upernet_ext.UPerHead',
            channels=8,
            num_classes=2,
            norm_cfg=norm,
            dropout_ratio=0.0,
        ),
        data_preprocessor=dict(
            type='upernet_ext.SegDataPreProcessor', mean=[127.5], std=[64.0]
        ),
        tuning=tuning,
    )


@pytest.fixture
def base(tmp_path):
    save_base(tmp_path / 'base.pth', 1)
    return tmp_path / 'base.pth'


@pytest.fixture
def run(make_runner):
    def run(model, iterations, **kwargs):
        loader = dict(
            dataset=Halves(),
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            collate_fn=dict(type='pseudo_collate'),
        )
        arguments = dict(
            model=model,
            train_dataloader=loader,
            default_scope='mmseg',
            custom_hooks=[dict(type='upernet_ext.SaveTrainable')],
        )
        runner = make_runner(iterations, **{**arguments, **kwargs})
        runner.train()
        return runner

    return run


@pytest.fixture
def trained(run, base, tmp_path):
    run(build_model(base), 2)
    return tmp_path / 'run' / 'iter_2.pth'


def test_the_file_holds_what_is_trained_and_all_buffers(trained, base):
    content = read_checkpoint(trained)
    saved, model = set(content['state_dict']), build_model(base)
    expected = {n for n, p in model.named_parameters() if p.requires_grad}
    expected |= {n for n, _ in model.named_buffers()}
    assert saved == expected & set(model.state_dict())
    assert any('lora_A' in name for name in saved)
    assert any('running_mean' in name for name in saved)
    assert any(name.startswith('neck') for name in saved)
    meta = content['meta']['base']
    assert meta['source'] == str(base)
    assert set(meta['names']) | saved == set(model.state_dict())
    assert len(meta['sha256']) == 64
    assert content['meta']['receipt']['source'] == str(base)


def test_a_run_resumed_from_it_equals_an_uninterrupted_one(
    run, base, trained, tmp_path
):
    whole = run(
        build_model(base),
        4,
        work_dir=str(tmp_path / 'whole'),
        custom_hooks=[],
    )
    resumed = run(build_model(base), 4, resume=True)
    assert resumed.iter == 4
    torch.testing.assert_close(
        resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0
    )
    # Frozen weights never moved; adapters did.
    saved = torch.load(base)
    state = resumed.model.state_dict()
    assert torch.equal(
        state['backbone.blocks.2.attn.qkv.base_layer.weight'],
        saved['blocks.2.attn.qkv.weight'],
    )
    assert state['backbone.blocks.2.attn.qkv.lora_B.default.weight'].any()
    again = read_checkpoint(tmp_path / 'run' / 'iter_4.pth')
    assert again['meta']['base'] == read_checkpoint(trained)['meta']['base']


def test_another_base_is_refused(make_runner, trained, tmp_path):
    save_base(tmp_path / 'other.pth', 2)
    for pretrained, message in (
        (
            tmp_path / 'other.pth',
            r'base\.pth.*other\.pth.*holds other weights',
        ),
        (
            tmp_path / 'lost.pth',
            r'base\.pth.*is not there.*lost\.pth does not',
        ),
        (None, r'base\.pth.*set model\.backbone\.pretrained'),
    ):
        runner = make_runner(
            model=build_model(pretrained), load_from=str(trained)
        )
        with pytest.raises(WeightsError, match=message):
            runner.load_or_resume()


def test_another_model_is_refused(make_runner, trained, base):
    runner = make_runner(
        model=build_model(base, tuning=None), load_from=str(trained)
    )
    with pytest.raises(WeightsError, match=r'has no .*qkv\.base_layer'):
        runner.load_or_resume()
    content = torch.load(trained, weights_only=False)
    lost = 'backbone.blocks.0.attn.qkv.lora_A.default.weight'
    del content['state_dict'][lost]
    torch.save(content, trained)
    runner = make_runner(model=build_model(base), load_from=str(trained))
    with pytest.raises(WeightsError, match=f'1 missing from it: {lost}'):
        runner.load_or_resume()


def test_what_was_resampled_is_kept_in_the_file(run, tmp_path):
    """Another machine might resample to other last digits."""
    save_base(tmp_path / 'large.pth', 1, img_size=32)
    run(build_model(tmp_path / 'large.pth'), 2)
    saved = read_checkpoint(tmp_path / 'run' / 'iter_2.pth')['state_dict']
    assert 'backbone.pos_embed' in saved
    assert 'backbone.cls_token' not in saved


def test_a_frozen_part_is_left_out_too(run, base, tmp_path):
    run(build_model(base, dict(type='freeze', what=2)), 2)
    saved = read_checkpoint(tmp_path / 'run' / 'iter_2.pth')['state_dict']
    blocks = {
        int(name.split('.')[2])
        for name in saved
        if name.startswith('backbone.blocks')
    }
    assert blocks == {2, 3}


def test_runs_without_a_base_are_refused(run, base, tmp_path):
    with pytest.raises(WeightsError, match='needs a base'):
        run(build_model(None), 1)
    with pytest.raises(WeightsError, match=r'nothing of .* is frozen'):
        run(build_model(base, None), 1)
    run(build_model(base), 2, custom_hooks=[])
    whole = str(tmp_path / 'run' / 'iter_2.pth')
    with pytest.raises(WeightsError, match='do not load a whole model'):
        run(build_model(base), 2, load_from=whole)
    with pytest.raises(ConfigError, match='not with NoneType'):
        SaveTrainable().before_train(None)
