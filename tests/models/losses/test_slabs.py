"""Losses in slabs against their plain form: upsample it all, then compare."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.structures import OHEMPixelSampler
from monai.losses import DiceCELoss as MonaiDiceCELoss
from monai.losses import DiceLoss as MonaiDiceLoss
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from upernet_ext.models import (
    CrossEntropyLoss,
    DiceCELoss,
    DiceLoss,
    FCNHead,
    FocalLoss,
)
from upernet_ext.models.losses import hard_pixels, slabs

close = torch.testing.assert_close
exact = partial(close, rtol=1e-12, atol=1e-12)
IGNORED = 255
EVERY_LOSS = [
    CrossEntropyLoss(),
    CrossEntropyLoss(label_smoothing=0.1),
    CrossEntropyLoss(use_sigmoid=True),
    DiceLoss(),
    DiceLoss(use_sigmoid=True),
    DiceCELoss(),
    DiceCELoss(use_sigmoid=True),
    FocalLoss(),
]
every_loss = pytest.mark.parametrize('loss', EVERY_LOSS)


def upsample(logits: Tensor, size: tuple, align_corners: bool) -> Tensor:
    mode = {4: 'bilinear', 5: 'trilinear'}[logits.ndim]
    return F.interpolate(logits, size, mode=mode, align_corners=align_corners)


def gradients(function, logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = function(leaf)
    value.backward()
    return value.detach(), leaf.grad


@st.composite
def problems(draw, *, regions: bool = False) -> SimpleNamespace:
    rank = draw(st.sampled_from([2, 3]))
    images, classes = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    edges = st.lists(st.integers(1, 9), min_size=rank, max_size=rank)
    low, size = draw(edges), draw(edges)
    torch.manual_seed(draw(st.integers(0, 2**20)))
    logits = 3 * torch.randn(images, classes, *low, dtype=torch.float64)
    top = (classes,) if regions else ()
    labels = torch.randint(2 if regions else classes, (images, *top, *size))
    share = draw(st.sampled_from([0, 0, 0.3, 1]))
    labels[torch.rand(labels.shape) < share] = IGNORED
    weight = None
    if draw(st.booleans()):
        weight = torch.rand(images, *size, dtype=torch.float64)
    # 1: every row a slab; 4000: a few rows, or images; then all at once.
    budget = draw(st.sampled_from([1, 4000, slabs.SLAB_BYTES_CPU]))
    return SimpleNamespace(
        logits=logits,
        labels=labels,
        weight=weight,
        budget=budget,
        align_corners=draw(st.booleans()),
        class_weight=draw(
            st.none()
            | st.lists(st.floats(0.1, 3), min_size=classes, max_size=classes)
        ),
        size=tuple(size),
    )


def assert_equals_plain(loss, plain, p: SimpleNamespace, equal=exact) -> None:
    def slabwise(logits: Tensor) -> Tensor:
        return loss(
            logits,
            p.labels,
            ignore_index=IGNORED,
            align_corners=p.align_corners,
            weight=p.weight,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, 'SLAB_BYTES_CPU', p.budget)
        found = gradients(slabwise, p.logits)
        with torch.no_grad():
            equal(slabwise(p.logits), found[0])
    expected = gradients(
        lambda x: plain(upsample(x, p.size, p.align_corners)), p.logits
    )
    for mine, theirs in zip(found, expected, strict=True):
        equal(mine, theirs)


# Equality ------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(problems(), st.sampled_from([0, 0.2]), st.booleans())
def test_cross_entropy(p, smoothing: float, average: bool) -> None:
    factor = p.class_weight and p.logits.new_tensor(p.class_weight)

    def plain(full: Tensor) -> Tensor:
        losses = F.cross_entropy(
            full,
            p.labels,
            factor,
            ignore_index=IGNORED,
            label_smoothing=smoothing,
            reduction='none',
        )
        counted = p.labels[p.labels != IGNORED]
        if factor is not None:
            count = factor[counted].sum()
        else:
            count = counted.numel() if average else p.labels.numel()
        weight = 1 if p.weight is None else p.weight
        return (losses * weight).sum() / max(count, 1e-12)

    loss = CrossEntropyLoss(
        class_weight=p.class_weight,
        label_smoothing=smoothing,
        avg_non_ignore=average,
    )
    assert_equals_plain(loss, plain, p)


@settings(max_examples=40, deadline=None)
@given(problems(regions=True), st.booleans())
def test_binary_cross_entropy(p, average: bool) -> None:
    factor = p.class_weight and p.logits.new_tensor(p.class_weight)

    def plain(full: Tensor) -> Tensor:
        mask = p.labels != IGNORED
        if factor is not None:
            factors = factor.view(-1, *[1] * len(p.size)).expand(full[0].shape)
            factors = factors.expand_as(full)[mask]
        losses = F.binary_cross_entropy_with_logits(
            full[mask],
            p.labels[mask].double(),
            pos_weight=None if factor is None else factors,
            reduction='none',
        )
        if p.weight is not None:
            losses = losses * p.weight[:, None].expand_as(full)[mask]
        count = mask.sum() if average else mask.numel()
        return losses.sum() / max(count, 1e-12)

    loss = CrossEntropyLoss(
        use_sigmoid=True, class_weight=p.class_weight, avg_non_ignore=average
    )
    assert_equals_plain(loss, plain, p)


@settings(max_examples=60, deadline=None)
@given(problems(), st.booleans(), st.booleans(), st.booleans())
def test_dice_and_cross_entropy(
    p, background: bool, per_batch: bool, alone: bool
) -> None:
    """MONAI's Dice of masked maps, and torch's cross entropy."""
    dice = MonaiDiceLoss(
        include_background=background,
        batch=per_batch,
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )

    def plain(full: Tensor) -> Tensor:
        mask = p.labels != IGNORED
        labels = p.labels.where(mask, 0)
        truth = F.one_hot(labels, full.shape[1]).movedim(-1, 1)
        weight = mask if p.weight is None else mask * p.weight
        value = dice(
            full.softmax(1) * weight[:, None], truth * weight[:, None]
        )
        if alone:
            return value
        losses = F.cross_entropy(full, labels, reduction='none') * weight
        return 0.7 * value + 0.3 * losses.sum() / max(mask.sum(), 1e-12)

    options = dict(include_background=background, batch=per_batch)
    loss = (
        DiceLoss(**options)
        if alone
        else DiceCELoss(**options, lambda_dice=0.7, lambda_ce=0.3)
    )
    assert_equals_plain(loss, plain, p)


@settings(max_examples=30, deadline=None)
@given(problems(regions=True), st.booleans())
def test_dice_and_cross_entropy_of_regions(p, per_batch: bool) -> None:
    dice = MonaiDiceLoss(batch=per_batch, smooth_nr=1e-5, smooth_dr=1e-5)

    def plain(full: Tensor) -> Tensor:
        mask = (p.labels != IGNORED).double()
        truth = p.labels.where(mask > 0, 0).double()
        weight = mask if p.weight is None else mask * p.weight[:, None]
        losses = F.binary_cross_entropy_with_logits(
            full, truth, weight=weight, reduction='none'
        )
        entropy = losses.sum() / mask.sum().clamp(min=1e-12)
        return dice(full.sigmoid() * weight, truth * weight) + entropy

    loss = DiceCELoss(use_sigmoid=True, batch=per_batch)
    assert_equals_plain(loss, plain, p)


@settings(max_examples=10, deadline=None)
@given(problems())
def test_focal(p) -> None:
    """Many slabs against one; MONAI's focal loss is of float32."""
    p.weight = None
    p.logits = p.logits.float()
    loss = FocalLoss()

    def plain(full: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(slabs, 'SLAB_BYTES_CPU', 2**30)
            return loss(full, p.labels, ignore_index=IGNORED)

    assert_equals_plain(loss, plain, p, close)


# Hard pixels ---------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    problems(),
    st.sampled_from([0.05, 0.3, 0.7, 1.0]),
    st.sampled_from([2, 10, 10**5]),
)
def test_hard_pixels_are_mmsegs(p, threshold: float, min_kept: int) -> None:
    if len(p.size) == 3:  # mmseg's sampler takes images
        return
    context = SimpleNamespace(ignore_index=IGNORED)
    sampler = OHEMPixelSampler(context, thresh=threshold, min_kept=min_kept)
    full = upsample(p.logits, p.size, p.align_corners)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, 'SLAB_BYTES_CPU', p.budget)
        found = hard_pixels(
            [CrossEntropyLoss()],
            p.logits,
            p.labels,
            threshold=threshold,
            min_kept=min_kept,
            ignore_index=IGNORED,
            align_corners=p.align_corners,
        )
    expected = sampler.sample(full, p.labels[:, None])
    # Equal scores, as behind a clamped border, may differ by a rounding.
    counts = p.labels != IGNORED
    scores = full.softmax(1).gather(1, p.labels.where(counts, 0)[:, None])[
        :, 0
    ]
    ranked = scores[counts].sort().values
    if len(ranked) == 0:
        assert found.sum() == 0
        return
    last = ranked[min(min_kept * len(full), len(ranked) - 1)]
    clear = (scores - last.clamp(min=threshold)).abs() > 1e-12
    assert torch.equal(found[clear], expected[clear])


@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_without_threshold_the_largest_losses_are_hard(spatial_dims) -> None:
    logits = torch.randn(2, 3, *[4] * spatial_dims)
    labels = torch.randint(3, (2, *[8] * spatial_dims))
    labels[:, 0] = IGNORED
    factor = [1.0, 5.0, 0.2]
    found = hard_pixels(
        [CrossEntropyLoss(class_weight=factor)],
        logits,
        labels,
        threshold=None,
        min_kept=5,
        ignore_index=IGNORED,
        align_corners=False,
    )
    losses = F.cross_entropy(
        upsample(logits, labels.shape[1:], False),
        labels,
        torch.tensor(factor),
        ignore_index=IGNORED,
        reduction='none',
    )
    assert found.sum() == 10
    assert losses[found == 1].min() > losses[found == 0].max()


@pytest.mark.parametrize(
    ('loss', 'threshold', 'words'),
    [
        (CrossEntropyLoss(use_sigmoid=True), 0.7, 'softmax'),
        (DiceLoss(), None, 'set thresh'),
    ],
)
def test_hard_pixels_need_a_softmax_and_a_rank(loss, threshold, words) -> None:
    with pytest.raises(ValueError, match=words):
        hard_pixels(
            [loss],
            torch.randn(1, 2, 2, 2),
            torch.zeros(1, 4, 4, dtype=torch.long),
            threshold=threshold,
            min_kept=5,
            ignore_index=IGNORED,
            align_corners=False,
        )


# Precision -----------------------------------------------------------------


def large(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    logits = 4 * torch.randn(2, 14, 10, 9, 7)
    return logits.to(dtype), torch.randint(14, (2, 37, 36, 28))


@pytest.mark.parametrize('dice', [False, True])
def test_float32_is_at_most_twice_as_far_off(dice: bool, monkeypatch) -> None:
    monkeypatch.setattr(slabs, 'SLAB_BYTES_CPU', 2**18)
    logits, labels = large()
    monai = MonaiDiceCELoss(softmax=True, to_onehot_y=True)

    def plain(x: Tensor) -> Tensor:
        full = upsample(x, labels.shape[1:], False)
        if dice:
            return monai(full, labels[:, None])
        return F.cross_entropy(full, labels)

    loss = CrossEntropyLoss()
    if dice:
        loss = DiceCELoss(include_background=True)
    mine = gradients(lambda x: loss(x, labels), logits)
    theirs = gradients(plain, logits)
    truth = gradients(plain, logits.double())
    for found, other, true in zip(mine, theirs, truth, strict=True):
        tiny = torch.finfo(torch.float32).eps * true.abs().max()
        error = (found - true).abs().max()
        assert error <= 2 * (other - true).abs().max() + tiny
        torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_logits(dtype: torch.dtype) -> None:
    """The value is float32's; a scaled gradient does not underflow."""
    logits, labels = large(dtype)
    loss = DiceCELoss()
    with torch.autocast('cpu', torch.bfloat16):
        value, gradient = gradients(
            lambda x: 2.0**16 * loss(x, labels), logits
        )
    true = gradients(lambda x: 2.0**16 * loss(x, labels), logits.float())
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, true[0])
    torch.testing.assert_close(gradient, true[1].to(dtype))


# Contract ------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Remember the bytes of the largest tensor that any operation made."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor):
                self.bytes = max(self.bytes, x.numel() * x.element_size())
        return out


@every_loss
def test_no_tensor_is_larger_than_a_slab(loss, monkeypatch) -> None:
    monkeypatch.setattr(slabs, 'SLAB_BYTES_CPU', 2**15)
    torch.manual_seed(0)
    logits = torch.randn(2, 30, 8, 8, requires_grad=True)
    labels = torch.randint(2, (2, 64, 64))
    if loss.use_sigmoid:
        labels = torch.randint(2, (2, 30, 64, 64), dtype=torch.uint8)
    whole = 2 * 30 * 64 * 64 * 4
    with Largest() as largest:
        loss(logits, labels).backward()
    # A slab, the gradient, the labels (which are the caller's) as they come.
    low = logits.numel() * 4
    most = max(2**15, low, labels.numel() * labels.element_size())
    assert largest.bytes <= most < whole / 3


@every_loss
def test_each_pixel_is_shown_once(loss, monkeypatch) -> None:
    """At full size, also where there are two passes."""
    monkeypatch.setattr(slabs, 'SLAB_BYTES_CPU', 200)
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.randint(2, (2, 3, 9, 9) if loss.use_sigmoid else (2, 9, 9))
    parts = []
    loss(logits, labels, on_slab=lambda x, _: parts.append(x.clone()))
    shown = torch.cat(parts, 2).detach()
    assert len(parts) > 2
    expected = upsample(logits, (9, 9), False)
    torch.testing.assert_close(
        shown.flatten().sort()[0], expected.detach().flatten().sort()[0]
    )


@every_loss
def test_is_differentiated_once(loss) -> None:
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    labels = torch.randint(2, (1, 2, 6, 6) if loss.use_sigmoid else (1, 6, 6))
    value = loss(logits, labels)
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    (again,) = torch.autograd.grad(3 * value, logits, retain_graph=True)
    torch.testing.assert_close(again, 3 * first)
    with pytest.raises(RuntimeError, match='differentiated once'):
        torch.autograd.grad(value, logits, create_graph=True)


def test_logits_of_full_size_are_left_alone() -> None:
    logits = torch.randn(1, 3, 6, 6, requires_grad=True)
    before = logits.detach().clone()
    for loss in EVERY_LOSS:
        shape = (1, 3, 6, 6) if loss.use_sigmoid else (1, 6, 6)
        loss(logits, torch.randint(2, shape)).backward()
    assert torch.equal(logits, before)


def test_labels_out_of_range_are_refused() -> None:
    for loss in (CrossEntropyLoss(), DiceLoss(), DiceCELoss(), FocalLoss()):
        logits = torch.randn(1, 3, 4, 4, requires_grad=True)
        with pytest.raises((IndexError, RuntimeError), match='out of bounds'):
            loss(logits, torch.full((1, 8, 8), 3))


@pytest.mark.filterwarnings('ignore:The .grad attribute')  # dynamo's own
def test_channels_last_and_compiled() -> None:
    logits, labels = torch.randn(2, 3, 5, 5), torch.randint(3, (2, 9, 9))
    loss = DiceCELoss()
    expected = gradients(lambda x: loss(x, labels), logits)
    ordered = logits.to(memory_format=torch.channels_last)
    compiled = torch.compile(loss, backend='eager')
    for function, x in ((loss, ordered), (compiled, logits)):
        found = gradients(lambda x, f=function: f(x, labels), x)
        torch.testing.assert_close(found, expected)


# The head ------------------------------------------------------------------


def head_and_samples(**kwargs) -> tuple:
    head = FCNHead(2, 4, num_classes=3, in_index=0, **kwargs)
    labels = torch.randint(3, (2, 1, 9, 9))
    labels[0, 0, :3] = IGNORED
    sample = [
        SimpleNamespace(gt_sem_seg=SimpleNamespace(data=x)) for x in labels
    ]
    return head, sample, labels[:, 0]


@pytest.mark.parametrize('loss', ['DiceCELoss', 'CrossEntropyLoss'])
@pytest.mark.parametrize('ties', [False, True])
def test_accuracy_is_that_of_argmax(
    loss: str, ties: bool, monkeypatch
) -> None:
    monkeypatch.setattr(slabs, 'SLAB_BYTES_CPU', 200)
    head, samples, labels = head_and_samples(
        loss_decode=dict(type=f'upernet_ext.{loss}')
    )
    logits = torch.randn(2, 3, 4, 4)
    if ties:
        logits = torch.zeros_like(logits)
    found = head.loss_by_feat(logits, samples)['acc_seg']
    full = upsample(logits, (9, 9), False)
    counts = labels != IGNORED
    right = (full.argmax(1) == labels)[counts].float().mean()
    torch.testing.assert_close(found, 100 * right)


@pytest.mark.filterwarnings('ignore:.*build_pixel_sampler')
def test_ohem_of_a_head_makes_no_full_logits() -> None:
    sampler = dict(type='mmseg.OHEMPixelSampler', thresh=0.4, min_kept=3)
    head, samples, labels = head_and_samples(sampler=sampler)
    logits = torch.randn(2, 3, 4, 4)
    full = upsample(logits, (9, 9), False)
    weight = head.sampler.sample(full, labels[:, None])
    assert 0 < weight.mean() < 0.7
    losses = F.cross_entropy(
        full, labels, ignore_index=IGNORED, reduction='none'
    )
    expected = (losses * weight).sum() / (labels != IGNORED).sum()
    head.sampler.sample = None  # mmseg's own is not asked
    found = head.loss_by_feat(logits, samples)['loss_ce']
    torch.testing.assert_close(found, expected)
