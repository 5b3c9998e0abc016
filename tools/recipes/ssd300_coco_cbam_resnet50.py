"""SSD300 on CBAM-ResNet-50, COCO (Auto Learning Attention, NeurIPS 2020, supplement, section 1).

Command    python tools/train.py --recipe ssd300_coco_cbam_resnet50 --data-dir COCO --save-dir RUN
               --base-params CBAM_RESNET50.params
Hardware   not run: neither COCO nor ImageNet weights are available here
Hours      not run
Paper      the table of the paper is not available to us
Ours       not run
Deviates   what the supplement leaves open (augmentation, anchors, loss, suppression) is assumed:
           docs/detection.md. Validation and test are val2017, so keep=last and nothing is chosen.
"""

method = "ssd"
model = "ssd300_cbam_resnet50_coco"
dataset = "coco"
splits = ("train2017", "val2017", "val2017")
input_size = 300
mirror = True
epochs = 65
batch_size = 128
score = "mAP"
keep = "last"
optimizer = "sgd"
lr = 0.01
momentum = 0.9
wd = 5e-4
schedule = "step"
lr_factor = 0.1
lr_epochs = (43, 54)
lr_min = 0.0
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
