import ast
import copy
import functools
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (
    HOOKS,
    LOG_PROCESSORS,
    PARAM_SCHEDULERS,
    RUNNERS,
    TRANSFORMS,
    DefaultScope,
)
from mmengine.runner import FlexibleRunner
from mmseg.structures import SegDataSample
from PIL import Image

from upernet_ext.config import (
    AXIS_KEYS,
    RUNNER_KEYS,
    ConfigError,
    config_folder,
    load_config,
)
from upernet_ext.engine import DataNotFoundError, Runner
from upernet_ext.registry import DATASETS, METRICS, MODELS
from upernet_ext.structures import GridData

EXPERIMENTS = sorted(f.stem for f in config_folder().glob('*.py'))
BASES = sorted(config_folder().glob('_base_/**/*.py'))
RECIPES = sorted(config_folder().glob('_base_/recipes/*.py'))

# DESIGN.md, section 2.3: every top-level key has one owner.
OWNERS = dict(
    backbones=['backbone', 'neck', 'normalization'],
    heads=['decode_head', 'auxiliary_head'],
    datasets=[
        *('train_dataloader', 'val_dataloader', 'test_dataloader'),
        *('val_evaluator', 'test_evaluator', 'num_classes', 'in_channels'),
        *('spatial_dims', 'crop_size', 'best_metric', 'best_rule'),
    ],
    schedules=[
        *('train_cfg', 'val_cfg', 'test_cfg', 'optim_wrapper'),
        *('param_scheduler', 'max_iters'),
    ],
)

pytestmark = pytest.mark.filterwarnings('ignore:torch.meshgrid')


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@functools.cache
def read(name):
    return load_config(name)


@pytest.fixture(params=EXPERIMENTS)
def cfg(request):
    return copy.deepcopy(read(request.param))


def build_model(cfg):
    """Build on the meta device: sizes without numbers, in no time."""
    # mmseg's Swin computes with numbers when it is built.
    swin = cfg.model.backbone.type == 'mmseg.SwinTransformer'
    device = 'cpu' if swin else 'meta'
    with torch.device(device):
        return MODELS.build(cfg.model)


# --- the files --------------------------------------------------------------


def test_the_experiments_that_were_promised_are_there():
    ade20k = (
        'vit-l vit-b vit-s deit-b mae-b swin-t swin-b convnext-t resnet50 '
        'resnet101 mobilenetv2'
    )
    promised = {f'upernet_{name}_ade20k' for name in ade20k.split()}
    deeplab = (
        'resnet50_ade20k resnet101_ade20k convnext-t_ade20k '
        'resnet50_cityscapes-512x1024 mobilenetv2_camvid'
    )
    promised |= {f'deeplabv3plus_{name}' for name in deeplab.split()}
    promised |= {
        f'upernet_{family}-{size}_ade20k'
        for family in ('dinov2', 'dinov3')
        for size in 'sbl'
    }
    promised |= {
        *('upernet_dinov3-7b_ade20k', 'upernet_retfound-l_drive'),
        *('upernet_visionfm-b_drive', 'upernet_dinov3-l-lora_ade20k'),
        *('upernet_dinov2-b-lora_camvid', 'upernet_vit-t-lora_nuclei'),
        *('upernet_resnet18_nnunet', 'upernet_resnet50_nnunet'),
        *('deeplabv3plus_resnet50_nnunet', 'upernet_dinov3-l_nnunet'),
        *('upernet_vit-t_nnunet', 'upernet_primus-s_nnunet'),
    }
    assert promised <= set(EXPERIMENTS)
    datasets = {name.split('_')[2].split('-')[0] for name in EXPERIMENTS}
    assert datasets == {
        *('ade20k', 'cityscapes', 'voc12aug', 'camvid', 'nuclei'),
        *('mni152', 'folder', 'drive', 'nnunet', 'volumes'),
    }


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_the_header_says_how_to_run_and_what_to_expect(name):
    file = config_folder() / f'{name}.py'
    header = ast.get_docstring(ast.parse(file.read_text()))
    command = re.search(r'^Run: +(\S.*)$', header, re.MULTILINE)
    assert f'configs/{name}.py' in command[1]
    expect = re.search(r'^Expect: +(\S.*)', header, re.MULTILINE | re.DOTALL)
    assert re.search(r'\d+(\.\d+)?\s+mIoU|no published|your data', expect[1])
    assert re.search(r'run\s+here', expect[1]), 'say whether it was run'


@pytest.mark.parametrize(
    'file',
    sorted({*BASES} - {*RECIPES}),
    ids=lambda f: f'{f.parent.stem}-{f.stem}',
)
def test_every_key_has_one_owner(file):
    cfg = Config.fromfile(file)
    others = {
        key
        for folder, keys in OWNERS.items()
        for key in keys
        if folder != file.parent.name
    }
    assert not others & set(cfg)
    owned = OWNERS.get(file.parent.name)
    if owned:
        assert set(cfg) & {*RUNNER_KEYS, *AXIS_KEYS} <= set(owned)


@pytest.mark.parametrize('file', RECIPES, ids=lambda f: f.stem)
def test_a_recipe_leaves_one_axis_to_the_experiments(file):
    cfg = Config.fromfile(file)
    lacking = [
        folder for folder, keys in OWNERS.items() if not {*keys} & {*cfg}
    ]
    assert len(lacking) == 1
    texts = [f.read_text() for f in config_folder().glob('*.py')]
    users = [t for t in texts if f'_base_/recipes/{file.name}' in t]
    assert len(users) > 1, 'what one experiment has stands in it'
    assert all(f'_base_/{lacking[0]}/' in text for text in users)


def test_mmengine_alone_reads_the_same(cfg):
    """No file of ours counts on variables being carried."""
    assert Config.fromfile(cfg.filename).to_dict() == cfg.to_dict()


def test_a_dump_reloads_equal(cfg, tmp_path):
    text = cfg.pretty_text
    assert Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    (tmp_path / 'dump.py').write_text(text)
    assert load_config(tmp_path / 'dump.py').to_dict() == cfg.to_dict()


# --- what is built from them ------------------------------------------------


def check_levels(cfg, model):
    """The levels are those of the header, of the family, or of a pyramid."""
    strides = [s[-1] for s in model.levels.strides]
    if cfg.spatial_dims == 3:
        said = ast.get_docstring(ast.parse(Path(cfg.filename).read_text()))
        said = re.search(
            r'at\s+(?:strides\s+(\d+)\s+to\s+(\d+)|stride\s+(\d+))', said
        )
        first, last = (said[1], said[2]) if said[1] else (said[3], said[3])
        used = [strides[i] for i in model.decode_head.in_index]
        assert (used[0], used[-1]) == (int(first), int(last))
        return
    # A ViT of another patch than 16 has its own strides.
    patch = getattr(model.backbone, 'patch_size', (16,))[0]
    strides = [stride * 16 / patch for stride in strides]
    header = ast.get_docstring(ast.parse(Path(cfg.filename).read_text()))
    said = re.search(r'at stride (\d+)', header)
    coarsest = int(said[1]) if said else 32
    wanted = cfg.model.backbone.get('out_indices', range(4))
    if len(wanted) != 3:  # a neck makes four of what it gets
        wanted = range(4)
    assert strides == [min(4 * 2**i, coarsest) for i in wanted]
    assert model.data_preprocessor.mean is not None


def test_the_model_and_its_optimiser_are_built(cfg):
    model = build_model(cfg)
    assert model.num_classes == cfg.num_classes
    check_levels(cfg, model)

    optim = cfg.optim_wrapper.copy()
    dtype = optim.pop('dtype', None)  # autocast knows no meta device
    if dtype is not None:
        assert optim.pop('type') == 'upernet_ext.AmpOptimWrapper'
    wrapper = build_optim_wrapper(model, optim)
    groups = wrapper.optimizer.param_groups
    count = sum(len(group['params']) for group in groups)
    assert count == sum(p.requires_grad for p in model.parameters())
    rates = [group['lr'] for group in groups]
    assert max(rates) == cfg.optim_wrapper.optimizer.lr
    decays = bool(optim.get('paramwise_cfg'))  # of layers, or by name
    assert (min(rates) < max(rates)) == decays


def test_every_parameter_that_is_trained_gets_a_gradient(cfg):
    """One without stops a training of several processes."""
    for name in ('decode_head', 'auxiliary_head'):
        head = cfg.model.get(name)
        if head is not None:
            # Of any loss; the meta device has no numbers to look at.
            head.loss_decode = dict(type='upernet_ext.CrossEntropyLoss')
    cfg.model.decode_head.sampler = None
    cfg.model.backbone.pop('drop_path_rate', None)
    model = build_model(cfg).train()
    size = [min(edge, 128) for edge in cfg.crop_size]
    device = next(model.parameters()).device
    with torch.device(device):
        image = torch.zeros(2, cfg.in_channels, *size)
        labels = torch.zeros(1, *size, dtype=torch.long)
    sample = SegDataSample(gt_sem_seg=GridData(data=labels))
    losses = model.loss(image, [sample, sample])
    sum(v for name, v in losses.items() if 'loss' in name).backward()
    assert [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.grad is None
    ] == []


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_the_learning_rate_ends_with_the_training(name):
    """Step the real schedulers through a run of 60 iterations."""
    cfg = load_config(name, overrides={'max_iters': 60})
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedulers = [
        PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer))
        for s in cfg.param_scheduler
    ]
    rates = []
    for _ in range(cfg.train_cfg.max_iters):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    peak = max(rates)
    assert peak == pytest.approx(1.0)
    fall = rates[max(i for i, rate in enumerate(rates) if rate == peak) :]
    assert all(a > b for a, b in pairwise(fall))
    assert rates[-1] < 0.05
    # One more iteration would not lower it further.
    last = optimizer.param_groups[0]['lr']
    for scheduler in schedulers:
        scheduler.step()
    assert optimizer.param_groups[0]['lr'] == last


def test_the_schedule_has_its_full_length(cfg):
    header = ast.get_docstring(ast.parse(Path(cfg.filename).read_text()))
    promised = re.findall(r'(\d+)k', header.split('\n')[0])
    if promised:
        assert cfg.train_cfg.max_iters == 1000 * int(promised[-1])
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
    # The weights at the end are validated.
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0


@pytest.mark.parametrize('max_iters', [1, 3, 10, 25])
def test_a_run_of_any_length_has_a_schedule(max_iters):
    for name in ('upernet_swin-t_ade20k', 'upernet_resnet50_ade20k'):
        cfg = load_config(name, overrides={'max_iters': max_iters})
        assert cfg.train_cfg.val_interval >= 1
        for scheduler in cfg.param_scheduler:
            assert scheduler.begin < scheduler.end <= max_iters


def test_pipelines_metrics_and_hooks_are_built(cfg):
    for loader in ('train', 'val', 'test'):
        dataset = cfg[f'{loader}_dataloader'].dataset
        for part in dataset.get('datasets', [dataset]):
            with DATASETS.switch_scope_and_registry('mmseg') as registry:
                assert registry.get(part.type)
            steps = [TRANSFORMS.build(step) for step in part.pipeline]
            assert type(steps[-1]).__name__ == 'PackInputs'
    for hook in cfg.default_hooks.values():
        HOOKS.build(hook)
    assert cfg.default_hooks.checkpoint.save_best == cfg.best_metric
    METRICS.build(cfg.val_evaluator)
    LOG_PROCESSORS.build(cfg.log_processor)
    # mmengine's strategies (FSDP) come with a runner of their own.
    expected = FlexibleRunner if 'strategy' in cfg else Runner
    assert RUNNERS.get(cfg.runner_type) is expected


@pytest.mark.parametrize('loader', ['train', 'val', 'test'])
def test_the_data_that_ship_fit_their_config(loader):
    cfg = load_config('upernet_resnet18_mni152')
    sample = DATASETS.build(cfg[f'{loader}_dataloader'].dataset)[0]
    assert sample['inputs'].shape[0] == cfg.in_channels
    if loader == 'train':
        assert tuple(sample['inputs'].shape[1:]) == cfg.crop_size
    labels = sample['data_samples'].gt_sem_seg.data
    assert labels.max() == cfg.num_classes - 1


@pytest.mark.parametrize('loader', ['train', 'val'])
def test_drive_is_read_as_it_is_downloaded(loader, tmp_path):
    vessel = np.zeros((584, 565), np.uint8)
    vessel[100:300, 50:60] = 255
    for split, number in (('training', 21), ('test', 1)):
        for folder in ('images', '1st_manual', 'mask'):
            (tmp_path / split / folder).mkdir(parents=True)
        name = f'{number:02}'
        Image.fromarray(np.stack([vessel] * 3, -1)).save(
            tmp_path / split / 'images' / f'{name}_{split}.tif'
        )
        Image.fromarray(vessel).save(
            tmp_path / split / '1st_manual' / f'{name}_manual1.gif'
        )
    cfg = load_config(
        'upernet_visionfm-b_drive', overrides={'data_root': str(tmp_path)}
    )
    dataset = cfg[f'{loader}_dataloader'].dataset
    if loader == 'train':  # without what is random
        steps = dataset.pipeline
        dataset.pipeline = [*steps[:2], steps[-1]]
    sample = DATASETS.build(dataset)[0]
    labels = sample['data_samples'].gt_sem_seg.data
    assert labels.tolist() == (vessel[None] > 0).astype(int).tolist()


# --- the numbers flow -------------------------------------------------------


def swap(name, tmp_path, **bases):
    """Write an experiment with other bases, as a user would."""
    text = (config_folder() / f'{name}.py').read_text()
    for folder, base in bases.items():
        text = re.sub(rf'_base_/{folder}/[\w-]+\.py', base, text)
    text = text.replace("'_base_/", f"'{config_folder().as_posix()}/_base_/")
    path = tmp_path / 'swapped.py'
    path.write_text(text)
    return load_config(path)


def test_swapping_the_dataset_base_changes_the_classes(tmp_path):
    cfg = swap(
        'upernet_resnet50_ade20k',
        tmp_path,
        datasets='_base_/datasets/cityscapes.py',
    )
    assert cfg.model.num_classes == 19
    assert cfg.model.data_preprocessor.size == (512, 1024)
    assert build_model(cfg).auxiliary_head.conv_seg.out_channels == 19


def test_swapping_the_dataset_base_changes_the_channels(tmp_path):
    cfg = swap(
        'upernet_resnet50_ade20k',
        tmp_path,
        datasets='_base_/datasets/mni152.py',
    )
    assert build_model(cfg).backbone.stem[0].in_channels == 1


def test_swapping_the_backbone_base_is_enough(tmp_path):
    cfg = swap(
        'upernet_resnet50_ade20k',
        tmp_path,
        backbones='_base_/backbones/vit-t16_mln.py',
    )
    model = build_model(cfg)
    assert model.levels.channels == (192,) * 4
    assert cfg.model.data_preprocessor.mean == [127.5] * 3


def test_the_flagship_is_what_it_says():
    cfg = load_config('upernet_vit-l_ade20k')
    model = build_model(cfg)
    assert len(model.backbone.blocks) == 24
    assert model.backbone.out_channels == (1024,) * 4
    assert tuple(model.backbone.grid) == (32, 32)
    assert model.decode_head.channels == 512
    assert model.levels.channels == (1024,) * 4
    assert cfg.train_cfg.max_iters == 160000
    assert cfg.optim_wrapper.dtype == 'bfloat16'
    assert cfg.model.test_cfg.stride == [341, 341]


def test_a_crop_size_reaches_pipeline_model_and_windows():
    cfg = load_config(
        'upernet_vit-l_ade20k', overrides={'crop_size': (384, 640)}
    )
    crops = [
        step.crop_size
        for step in cfg.train_dataloader.dataset.pipeline
        if step.type == 'upernet_ext.RandomResizeCrop'
    ]
    assert crops == [(384, 640)]
    assert cfg.model.data_preprocessor.size == (384, 640)
    assert cfg.model.test_cfg.crop_size == (384, 640)
    assert cfg.model.test_cfg.stride == [256, 426]
    assert build_model(cfg).backbone.grid == (24, 40)


def test_the_folder_template_asks_to_be_edited():
    cfg = load_config('upernet_resnet50_folder')
    with pytest.raises(DataNotFoundError, match='data/CHANGE_ME does not'):
        Runner.build_dataloader(cfg.train_dataloader)
    edited = load_config(
        'upernet_resnet50_folder',
        overrides=dict(data_root='mine', classes=['a', 'b', 'c']),
    )
    assert edited.model.num_classes == 3
    assert edited.test_dataloader.dataset.data_root == 'mine'
    with pytest.raises(ConfigError, match='num_classes=2, but train_data'):
        load_config(
            'upernet_resnet50_folder',
            overrides={'model.num_classes': 2, 'classes': ['a', 'b', 'c']},
        )
