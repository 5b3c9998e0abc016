"""Faster R-CNN with FPN on COCO (Auto Learning Attention, supplement, section 1).

Command    gluon-attn train --recipe NAME --data-dir COCO --save-dir RUN
               --base-params RESNET50_V1B.params (SE_RESNET50, CBAM_RESNET50, HOGA_RESNET50)
Hardware   not run: neither COCO nor ImageNet weights are available here
Hours      not run
Paper      the table of the paper is not available to us
Ours       not run
Deviates   what the supplement takes from mmdetection is taken as far as docs/detection.md says.
           Validation and test are val2017, so keep=last and nothing is chosen.
"""

base = "_coco"
method = "faster_rcnn"
model_options = {"long_size": 1333, "frozen_stages": 1, "norm_eval": True}
dataset = "coco"
input_size = 800
epochs = 14
batch_size = 2
optimizer = "sgd"
lr = 0.01
momentum = 0.9
wd = 1e-4
lr_epochs = (8, 11)
log_interval = 500
options = {
    "warmup_epochs": 0.0,
    "warmup_updates": 500,
    "warmup_start": 0.001,
    "rpn_samples": 256,
    "rpn_positives": 0.5,
    "samples": 512,
    "positives": 0.25,
    "overlap": 0.5,
    "beta": 1.0,
}


class faster_rcnn_coco_resnet50:
    model = "faster_rcnn_fpn_resnet50_coco"


class faster_rcnn_coco_se_resnet50:
    model = "faster_rcnn_fpn_se_resnet50_coco"


class faster_rcnn_coco_cbam_resnet50:
    model = "faster_rcnn_fpn_cbam_resnet50_coco"


class faster_rcnn_coco_hoga_resnet50:
    model = "faster_rcnn_fpn_hoga_resnet50_coco"
