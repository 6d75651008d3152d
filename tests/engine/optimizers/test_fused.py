"""The schedule's AdamW runs in one kernel, and takes the same steps."""

from pathlib import Path

import torch
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

import upernet_ext.engine  # noqa: F401

SCHEDULE = Path(__file__).parents[3] / 'configs' / '_base_/schedules/adamw.py'


def test_fused_adamw_takes_the_same_steps() -> None:
    cfg = Config.fromfile(SCHEDULE).optim_wrapper
    assert cfg.optimizer.fused
    trained = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Module()
        model.backbone = nn.Sequential(nn.Linear(40, 50), nn.GELU())
        model.decode_head = nn.Linear(50, 3)
        cfg.optimizer.update(fused=fused, lr=1e-2)
        wrapper = build_optim_wrapper(
            model, Config(dict(optim_wrapper=cfg, clip=1)).optim_wrapper
        )
        for _ in range(5):
            x = torch.randn(8, 40)
            y = model.decode_head(model.backbone(x))
            wrapper.update_params(y.square().mean())
        trained.append(model.state_dict())
    torch.testing.assert_close(*trained, rtol=1e-6, atol=1e-7)
