import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from upernet_ext.apis import init_model, predict, predict_files
from upernet_ext.config import ConfigError
from upernet_ext.datasets import DataError
from upernet_ext.engine import DataNotFoundError
from upernet_ext.interop import WeightsError
from upernet_ext.registry import MODELS

CLASSES = ['sky', 'road/kerb', 'tree']


def make_config(num_classes=3, multi_label=False):
    """A random model that looks at colours, at twice the image's size."""
    pipeline = [
        dict(type='upernet_ext.LoadImage'),
        dict(type='mmseg.Resize', scale_factor=2.0, keep_ratio=True),
        dict(type='upernet_ext.LoadMask'),
        dict(type='upernet_ext.PackInputs'),
    ]
    classes = (CLASSES * 100)[:num_classes]
    return Config(
        dict(
            default_scope='mmseg',
            model=dict(
                type='upernet_ext.EncoderDecoder',
                data_preprocessor=dict(
                    type='upernet_ext.SegDataPreProcessor',
                    mean=[120.0, 110.0, 100.0],
                    std=[60.0, 60.0, 60.0],
                ),
                backbone=dict(
                    type='upernet_ext.VisionTransformer',
                    arch=dict(
                        embed_dims=8, num_layers=1, num_heads=2, mlp_ratio=2
                    ),
                    patch_size=2,
                    img_size=16,
                    out_indices=(0,),
                ),
                decode_head=dict(
                    type='upernet_ext.FCNHead',
                    channels=8,
                    in_index=0,
                    norm_cfg=None,
                    loss_decode=dict(type='upernet_ext.CrossEntropyLoss'),
                ),
                num_classes=num_classes,
                multi_label=multi_label,
            ),
            test_dataloader=dict(
                dataset=dict(
                    type='upernet_ext.FolderDataset',
                    classes=classes,
                    pipeline=pipeline,
                )
            ),
        )
    )


def save(path, cfg, meta=None):
    torch.manual_seed(2)
    model = MODELS.build(cfg.model)
    with torch.no_grad():  # no class may win everywhere
        model.decode_head.conv_seg.weight.mul_(100)
    torch.save(dict(meta=meta or {}, state_dict=model.state_dict()), path)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    cfg = make_config()
    meta = dict(
        cfg=cfg.pretty_text,
        dataset_meta=dict(
            classes=tuple(CLASSES),
            palette=[[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        ),
    )
    return save(tmp_path / 'model.pth', cfg, meta)


@pytest.fixture
def image():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def labels_of(sample):
    return sample.pred_sem_seg.data


def test_file_and_rgb_array_agree_at_the_size_of_the_image(
    checkpoint, image, tmp_path
):
    Image.fromarray(image).save(tmp_path / 'image.png')
    model = init_model(checkpoint, device='cpu')
    from_file = labels_of(predict(model, tmp_path / 'image.png'))
    assert from_file.shape == (1, 12, 20)
    assert len(from_file.unique()) > 1
    assert torch.equal(labels_of(predict(model, image)), from_file)
    swapped = labels_of(predict(model, image[..., ::-1]))
    assert not torch.equal(swapped, from_file)


def test_prediction_is_that_of_the_model_by_hand(checkpoint, image):
    model = init_model(checkpoint, device='cpu')
    resized = cv2.resize(image, (40, 24), interpolation=cv2.INTER_LINEAR)
    x = torch.from_numpy(resized).permute(2, 0, 1)[None].float()
    x = (x - torch.tensor([120.0, 110, 100]).view(3, 1, 1)) / 60
    with torch.no_grad():
        logits = model.encode_decode(x)
    logits = torch.nn.functional.interpolate(
        logits, (12, 20), mode='bilinear', align_corners=False
    )
    expected = logits.argmax(1)
    actual = labels_of(predict(model, image))
    assert torch.equal(actual, expected)


def test_exif_orientation_is_applied(checkpoint, image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(image)))
    turned.save(tmp_path / 'phone.png', exif=exif)
    model = init_model(checkpoint, device='cpu')
    sample = predict(model, str(tmp_path / 'phone.png'))
    assert torch.equal(labels_of(sample), labels_of(predict(model, image)))


def test_16_bit_grey_equals_8_bit(checkpoint, image, tmp_path):
    model = init_model(checkpoint, device='cpu')
    grey = image[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / '16.png')
    sample = predict(model, tmp_path / '16.png')
    assert torch.equal(labels_of(sample), labels_of(predict(model, grey)))


def test_batches_of_mixed_sizes_equal_single_images(checkpoint, image):
    model = init_model(checkpoint, device='cpu')
    images = [image, image[::-1].copy(), image[:6], image[:, :8], image]
    batched = predict(model, images, batch_size=2)
    assert len(batched) == 5
    for one, sample in zip(images, batched, strict=True):
        alone = labels_of(predict(model, one))
        assert torch.equal(labels_of(sample), alone)
    assert predict(model, []) == []


def test_names_and_config_travel_in_the_checkpoint(checkpoint, tmp_path):
    model = init_model(checkpoint, device='cpu')
    assert model.dataset_meta['classes'] == CLASSES
    assert model.dataset_meta['palette'][1] == [0, 255, 0]
    assert model.cfg.model.num_classes == 3
    assert not model.training
    assert set(model.receipt.matched) == set(model.state_dict())


def test_a_saved_folder_predicts_as_its_checkpoint(
    checkpoint, image, tmp_path
):
    model = init_model(checkpoint, device='cpu')
    saved = init_model(model.save_pretrained(tmp_path / 'a'), device='cpu')
    assert torch.equal(
        labels_of(predict(saved, image)), labels_of(predict(model, image))
    )
    assert saved.dataset_meta == model.dataset_meta


def test_config_names_the_classes_of_bare_weights(image, tmp_path):
    cfg = make_config()
    weights = save(tmp_path / 'bare.pth', cfg)
    config = tmp_path / 'config.py'
    cfg.dump(config)
    expected = predict(init_model(cfg, weights, device='cpu'), image)
    model = init_model(
        config,
        weights,
        device='cpu',
        cfg_options={'model.test_cfg': dict(keep_logits=True)},
    )
    assert model.dataset_meta['classes'] == CLASSES
    assert len(model.dataset_meta['palette']) == 3
    sample = predict(model, image)
    assert torch.equal(labels_of(sample), labels_of(expected))
    assert 'seg_logits' in sample
    assert 'seg_logits' not in expected


def test_what_is_missing_is_said(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match='has no weights'):
        init_model('configs/upernet_vit-l_ade20k.py')
    with pytest.raises(ConfigError, match='no config in it'):
        init_model(save(tmp_path / 'bare.pth', make_config()))
    content = torch.load(checkpoint)
    name = next(iter(content['state_dict']))
    content['state_dict']['other'] = content['state_dict'].pop(name)
    torch.save(content, checkpoint)
    with pytest.raises(WeightsError, match=name.replace('.', r'\.')):
        init_model(checkpoint)


def test_broken_image_is_named(checkpoint, tmp_path):
    (tmp_path / 'broken.png').write_bytes(b'no image')
    model = init_model(checkpoint, device='cpu')
    with pytest.raises(DataError, match=r'broken\.png'):
        predict(model, tmp_path / 'broken.png')


def test_folder_gives_overlays_and_label_maps(checkpoint, image, tmp_path):
    folder, out = tmp_path / 'images', tmp_path / 'out'
    for name in ('a', 'b/c'):
        (folder / name).mkdir(parents=True)
    Image.fromarray(image).save(folder / 'a/1.png')
    Image.fromarray(image).save(folder / 'a/1.bmp')
    Image.fromarray(image[:6]).save(folder / 'b/c/2.png')
    (folder / 'broken.jpg').write_bytes(b'no image')
    (folder / 'notes.txt').write_text('no image')
    model = init_model(checkpoint, device='cpu')
    with pytest.raises(ValueError, match='3 of 4 images predicted, 1 failed'):
        predict_files(model, folder, out)
    for kind in ('labels', 'overlays'):
        names = {
            str(f.relative_to(out / kind)) for f in (out / kind).rglob('*.png')
        }
        assert names == {'a/1.png.png', 'a/1.bmp.png', 'b/c/2.png'}
    with Image.open(out / 'labels/b/c/2.png') as written:
        expected = labels_of(predict(model, image[:6]))[0].numpy()
        np.testing.assert_array_equal(np.asarray(written), expected)
        assert written.getpalette()[3:6] == [0, 255, 0]
    with Image.open(out / 'overlays/b/c/2.png') as overlay:
        assert overlay.height >= 6
        assert overlay.width > 20
    predict_files(model, f'{folder}/*/*.png', tmp_path / 'some')
    assert [f.name for f in (tmp_path / 'some/labels').rglob('*.png')] == [
        '1.png'
    ]
    with pytest.raises(DataNotFoundError, match='no images at'):
        predict_files(model, tmp_path / 'none', out)


@pytest.mark.parametrize(
    ('num_classes', 'multi_label', 'files'),
    [
        (1, False, {'x.png': 'P'}),
        (2, True, {'x.sky.png': 'P', 'x.road_kerb.png': 'P'}),
        (300, False, {'x.png': 'I;16'}),
    ],
)
def test_label_maps_of_every_kind(
    image, tmp_path, num_classes, multi_label, files
):
    cfg = make_config(num_classes, multi_label)
    model = init_model(cfg, save(tmp_path / 'model.pth', cfg), device='cpu')
    Image.fromarray(image).save(tmp_path / 'x.png')
    predict_files(model, tmp_path / 'x.png', tmp_path / 'out')
    expected = labels_of(predict(model, image)).numpy()
    folder = tmp_path / 'out/labels'
    assert {f.name for f in folder.iterdir()} == set(files)
    for plane, (name, mode) in zip(expected, files.items(), strict=True):
        with Image.open(folder / name) as written:
            assert written.mode == mode
            np.testing.assert_array_equal(np.asarray(written), plane)
    assert expected.max() <= max(num_classes - 1, 1)


@pytest.mark.parametrize(
    'key',
    [
        'model.decode_head.norm_cfg',
        'test_dataloader.dataset.pipeline.0',
    ],
)
def test_a_checkpoint_builds_nothing_but_what_is_registered(key, tmp_path):
    trace = tmp_path / 'it-ran'
    cfg = make_config()
    path = save(tmp_path / 'model.pth', cfg)
    cfg.merge_from_dict(
        {key: dict(_delete_=True, type='os.makedirs', name=str(trace))}
    )
    content = torch.load(path, weights_only=True)
    content['meta'] = dict(
        cfg=cfg.pretty_text, dataset_meta=dict(classes=CLASSES)
    )
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"type='os.makedirs' is no "):
        init_model(path, device='cpu')
    assert not trace.exists()
