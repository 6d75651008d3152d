"""UPerNet, ViT-Ti/16 with LoRA on nuclei 256 x 256, 1k iterations.

The base is the backbone that upernet_vit-t_nuclei.py trained, which is taken
out of its checkpoint.

Run:    python tools/train.py configs/upernet_vit-t-lora_nuclei.py
        (8 images, one device)
Expect: 81.5 mIoU on val after 400 iterations from a base of 400, run here
        (seed 0, --amp); no published number. A checkpoint holds adapters,
        neck and heads alone.
"""

_base_ = 'upernet_vit-t_nuclei.py'
model = dict(
    backbone=dict(pretrained='work_dirs/upernet_vit-t_nuclei/iter_1000.pth'),
    tuning=dict(
        type='lora', targets=['qkv'], rank=8, alpha=16.0, dropout=0.05
    ),
)
custom_hooks = [dict(type='upernet_ext.SaveTrainable')]
