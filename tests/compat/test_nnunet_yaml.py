import pytest
import yaml

from upernet_ext.compat.nnunet_yaml import read_yaml, write_config
from upernet_ext.config import ConfigError, load_config

FULL = dict(
    model=dict(
        model_path='models.vit_upernet',
        backbone='dinov2',
        backbone_size='base',
        checkpoint_path='weights/dinov2.pth',
        decoder=dict(hidden_size=64, pool_scales=[1, 2]),
    ),
    lora=dict(
        enabled=True,
        r=4,
        lora_alpha=32,
        target_modules=['qkv', 'proj'],
        lora_dropout=0.2,
    ),
    train=dict(
        initial_lr=2e-3,
        weight_decay=1e-4,
        gradient_clip=3,
        num_epochs=20,
        num_iterations_per_epoch=30,
        num_val_iterations_per_epoch=7,
    ),
)


@pytest.fixture
def load(tmp_path):
    def load(content):
        source = tmp_path / 'upernet.yaml'
        source.write_text(yaml.safe_dump(content))
        return load_config(write_config(source, tmp_path / 'made.py'))

    return load


def test_every_key_has_its_place(load):
    cfg = load(FULL)
    model = cfg.model
    assert model.backbone.arch == 'dinov2-b'
    assert model.backbone.pretrained == 'weights/dinov2.pth'
    assert model.decode_head.channels == 64
    assert list(model.decode_head.pool_scales) == [1, 2]
    assert model.tuning == dict(
        type='lora', targets=['qkv', 'proj'], rank=4, alpha=32, dropout=0.2
    )
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (2e-3, 1e-4)
    assert cfg.optim_wrapper.clip_grad.max_norm == 3
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 600
    assert cfg.train_cfg.val_interval == 30
    assert cfg.val_dataloader.dataset.indices == 7


def test_a_silent_file_is_the_native_config(load):
    cfg, native = load({}), load_config('upernet_dinov3-l_nnunet')
    assert cfg.model == native.model
    assert cfg.train_cfg == native.train_cfg
    assert cfg.optim_wrapper == native.optim_wrapper


def test_lora_is_left_out(load):
    assert load(dict(lora=dict(enabled=False, r=4))).model.tuning is None


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (dict(train=dict(lr=1)), "nothing reads the key 'train.lr'"),
        (
            dict(train=dict(gradient_clipp=1)),
            "did you mean 'train.gradient_clip'",
        ),
        (['model'], 'expected the sections model, lora and train, got list'),
    ],
)
def test_what_nothing_reads_is_refused(content, message, tmp_path):
    source = tmp_path / 'upernet.yaml'
    source.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        read_yaml(source)


def test_an_unknown_size_is_refused(load):
    with pytest.raises(ValueError, match='dinov2 of backbone_size='):
        load(dict(model=dict(backbone='dinov2', backbone_size='giant')))


def test_another_file_is_not_overwritten(tmp_path):
    source, target = tmp_path / 'a.yaml', tmp_path / 'a.py'
    source.write_text(yaml.safe_dump(FULL))
    write_config(source, target)
    assert write_config(source, target) == target
    target.write_text('x = 1')
    with pytest.raises(ConfigError, match='holds something else'):
        write_config(source, target)
    assert target.read_text() == 'x = 1'
