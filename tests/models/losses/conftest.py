"""Small logits and labels, and the plain way to compare them."""

from types import SimpleNamespace

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from upernet_ext.models import FCNHead
from upernet_ext.models.losses import slabs

IGNORED = 255


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


def head_and_samples(**kwargs) -> tuple:
    head = FCNHead(2, 4, num_classes=3, in_index=0, **kwargs)
    labels = torch.randint(3, (2, 1, 9, 9))
    labels[0, 0, :3] = IGNORED
    sample = [
        SimpleNamespace(gt_sem_seg=SimpleNamespace(data=x)) for x in labels
    ]
    return head, sample, labels[:, 0]
