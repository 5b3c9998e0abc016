"""Simple Baselines on COCO keypoints (AutoLA, NeurIPS 2020, supplement).

Command    gluon-attn train --recipe NAME --data-dir COCO --save-dir RUN
               --base-params RESNET50.params (SE_RESNET50, CBAM_RESNET50, HOGA_RESNET50)
Hardware   not run: neither COCO nor ImageNet weights are available here
Hours      not run
Paper      the table of the paper is not available to us; the released code of Simple Baselines
           reports AP 0.704 for plain ResNet-50 on detected boxes with flip test
Ours       not run
Deviates   what "sub-pixel refinement tricks" are is assumed, as is all that the supplement leaves
           to Simple Baselines; RGB, not BGR (docs/keypoints.md). Validation and test are val2017 on
           annotated boxes, so keep=last and nothing is chosen; detected boxes: gluon-attn evaluate
           --boxes
"""

base = "_coco"
method = "simple_pose"
dataset = "coco_keypoints"
input_size = 256
epochs = 140
batch_size = 128
optimizer = "adam"
lr = 0.001
wd = 0.0
lr_epochs = (90, 120)
init = "msra"
log_interval = 100
options = {
    "sigma": 2.0,
    "encoding": "rounded",
    "margin": 1.25,
    "scale": 0.3,
    "rotation": 40.0,
    "rotated": 0.6,
    "refine": "dark",
    "flip_test": True,
    "flip_shift": "subpixel",
    "suppression": 0.9,
}


class simple_pose_coco_resnet50:
    model = "simple_pose_resnet50_coco"


class simple_pose_coco_se_resnet50:
    model = "simple_pose_se_resnet50_coco"


class simple_pose_coco_cbam_resnet50:
    model = "simple_pose_cbam_resnet50_coco"


class simple_pose_coco_hoga_resnet50:
    model = "simple_pose_hoga_resnet50_coco"
