"""Simple Baselines on CBAM-ResNet-50, COCO keypoints (AutoLA, NeurIPS 2020, supplement).

Command    python tools/train.py --recipe simple_pose_coco_cbam_resnet50 --data-dir COCO
               --save-dir RUN --base-params CBAM_RESNET50.params
Hardware   not run: neither COCO nor ImageNet weights are available here
Hours      not run
Paper      the table of the paper is not available to us; the released code of Simple Baselines
           reports AP 0.704 for plain ResNet-50 on detected boxes with flip test
Ours       not run
Deviates   what "sub-pixel refinement tricks" are is assumed, as is all that the supplement leaves
           to Simple Baselines; RGB, not BGR (docs/keypoints.md). Validation and test are val2017 on
           annotated boxes, so keep=last and nothing is chosen; detected boxes: tools/evaluate.py
           --boxes
"""

method = "simple_pose"
model = "simple_pose_cbam_resnet50_coco"
dataset = "coco_keypoints"
splits = ("train2017", "val2017", "val2017")
input_size = 256
mirror = True
epochs = 140
batch_size = 128
score = "mAP"
keep = "last"
optimizer = "adam"
lr = 0.001
wd = 0.0
schedule = "step"
lr_factor = 0.1
lr_epochs = (90, 120)
lr_min = 0.0
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
