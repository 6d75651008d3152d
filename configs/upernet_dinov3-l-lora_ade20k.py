"""UPerNet, DINOv3 ViT-L/16 with LoRA, ADE20K 512 x 512, 80k iterations.

Run:    tools/dist_train.sh configs/upernet_dinov3-l-lora_ade20k.py 8
        (2 images a GPU)
Expect: no published number for this head; the learning rate is untuned, not
        yet run here. A checkpoint holds adapters, neck and heads alone.
"""

_base_ = 'upernet_dinov3-l_ade20k.py'
model = dict(
    backbone=dict(gradient_checkpointing=True),
    tuning=dict(
        type='lora', targets=['qkv'], rank=8, alpha=16.0, dropout=0.05
    ),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4), paramwise_cfg=None)
custom_hooks = [dict(type='upernet_ext.SaveTrainable')]
