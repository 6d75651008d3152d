"""What slabs promise: memory, precision, one gradient, accuracy."""

import pytest
import torch
from monai.losses import DiceCELoss as MonaiDiceCELoss
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from upernet_ext.models import (
    CrossEntropyLoss,
    DiceCELoss,
    DiceLoss,
    FocalLoss,
)
from upernet_ext.models.losses import slabs

from .conftest import IGNORED, gradients, head_and_samples, upsample

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
