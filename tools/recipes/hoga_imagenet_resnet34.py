"""HOGA in ResNet-34 on ImageNet, 100 epochs (supplement, section 1).

Command    python tools/train.py --recipe hoga_imagenet_resnet34 --data-dir IMAGENET --save-dir RUN
Others     none: model=resnet34_v1b, SE: model=se_resnet34, CBAM: model=cbam_resnet34
Hardware   paper: unknown; here: not run (the data are not available)
Hours      not run
Paper      the accuracies are not at hand
Ours       not run
Deviates   Assumptions: batch size 256, momentum 0.9, weight decay 1e-4 (the supplement names none
           of them); the augmentation of "[2]" (CBAM) is the usual random area and shape with
           mirroring; the last epoch is kept (docs/autola.md)
"""

method = "baseline"
model = "hoga_resnet34"
dataset = "auto"
splits = ("train", "val", "val")
keep = "last"
score = "top1"
input_size = 224
resize = 256
augment = "inception"
area_min = 0.08
mirror = True
eval_crop = 224
keep_aspect = True
init = "msra"
epochs = 100
batch_size = 256
optimizer = "sgd"
lr = 0.1
momentum = 0.9
wd = 0.0001
schedule = "step"
lr_factor = 0.1
lr_epochs = (30, 60, 90)
lr_min = 0.0
log_interval = 100
