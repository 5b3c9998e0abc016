"""SSD300 on COCO (Auto Learning Attention, NeurIPS 2020, supplement, section 1).

Command    gluon-attn train --recipe NAME --data-dir COCO --save-dir RUN
               --base-params RESNET50_V1B.params (SE_RESNET50, CBAM_RESNET50, HOGA_RESNET50)
Hardware   not run: neither COCO nor ImageNet weights are available here
Hours      not run
Paper      the table of the paper is not available to us
Ours       not run
Deviates   what the supplement leaves open (augmentation, anchors, loss, suppression) is assumed:
           docs/detection.md. Validation and test are val2017, so keep=last and nothing is chosen.
"""

base = "_coco"
method = "ssd"
dataset = "coco"
input_size = 300
epochs = 65
batch_size = 128
optimizer = "sgd"
lr = 0.01
momentum = 0.9
wd = 5e-4
lr_epochs = (43, 54)
log_interval = 50
options = {
    "warmup_epochs": 1.0,
    "warmup_updates": 0,
    "warmup_start": 0.0,
    "overlap": 0.5,
    "negative_ratio": 3.0,
    "normalize": "image",
    "decay_vectors": False,
    "expand": 4.0,
    "crop": True,
    "colour": True,
}


class ssd300_coco_resnet50:
    model = "ssd300_resnet50_coco"


class ssd300_coco_se_resnet50:
    model = "ssd300_se_resnet50_coco"


class ssd300_coco_cbam_resnet50:
    model = "ssd300_cbam_resnet50_coco"


class ssd300_coco_hoga_resnet50:
    model = "ssd300_hoga_resnet50_coco"
